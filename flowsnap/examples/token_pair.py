"""A token that travels between two processes: every snapshot shows it exactly once.

The system of the first example of Chandy and Lamport 1985 (section 2.1): processes p and q, a
channel c from p to q and a channel c' back. It has four global states, which the token goes through
in turn: in-p, in-c, in-q, in-c'. ``python -m flowsnap.examples.token`` takes snapshots of it.
"""

from __future__ import annotations

from typing import Any

from flowsnap import Pipeline
from flowsnap.connectors import JsonLinesFiles
from flowsnap.core.operator import Sink
from flowsnap.snapshot.network import Network, NetworkSnapshot, Process
from flowsnap.snapshot.properties import token_count

TOKEN = "token"
PASS_ON = "pass on"


class Holder(Process):
    """Keeps the tokens that come, and passes them on one by one, ``turns`` times.

    That it is to pass one on it tells itself, through a channel to itself: so it keeps a token for
    a while, and takes other messages meanwhile.
    """

    def __init__(self, *tokens: str, turns: int) -> None:
        self.tokens = list(tokens)
        self.turns = turns

    def on_start(self) -> None:
        for _ in self.tokens:
            self.send(self.name, PASS_ON)

    def on_message(self, channel: str, message: Any) -> None:
        if channel != self.name:
            self.tokens.append(message)
            self.send(self.name, PASS_ON)
        elif self.turns:
            self.turns -= 1
            (other,) = set(self.outputs) - {self.name}
            self.send(other, self.tokens.pop(0))
        else:
            self.emit({"process": self.name, "tokens": self.tokens})


def network(
    tokens: tuple[str, ...] = (TOKEN,), turns: int = 10_000, output: Sink | None = None
) -> Network:
    """Return p with all the tokens, and q with none; each passes on ``turns`` of them."""
    made = Network("tokens" if len(tokens) > 1 else "token", output=output)
    for name, own in (("p", tokens), ("q", ())):
        made.add(name, Holder(*own, turns=turns))
        made.connect(name, name)
    made.connect("p", "q")

    @made.invariant(on_violation="fail")
    def every_token_is_there_once(snapshot: NetworkSnapshot) -> bool:
        return tokens_of(snapshot) == dict.fromkeys(tokens, 1)

    return made


def tokens_of(snapshot: NetworkSnapshot) -> dict[str, int]:
    """Return how often each token is there."""
    return token_count(snapshot, carried=lambda message: [] if message == PASS_ON else [message])


def place(snapshot: NetworkSnapshot, token: str = TOKEN) -> str:
    """Return which of the four global states a snapshot shows."""
    found = [f"in-{name}" for name in "pq" if token in snapshot.states[name]["tokens"]]
    for name, (source, target) in {"c": ("p", "q"), "c'": ("q", "p")}.items():
        if token in snapshot.channel(source, target).messages:
            found.append(f"in-{name}")
    return " and ".join(found) or "nowhere"


def pipeline(turns: int = 10_000, output: str = "token-out") -> Pipeline:
    """Return the network as a pipeline."""
    return network(turns=turns, output=JsonLinesFiles(output, existing="replace")).pipeline()


def main() -> None:
    """Take snapshots, begun by p, by q and by both, until the token is where it stays."""
    with network().start() as run:
        for number in range(8):
            snapshot = run.snapshot(initiators=[["p"], ["q"], ["p", "q"]][number % 3])
            print(f"snapshot {snapshot.checkpoint_id}: {place(snapshot)}")
        print(f"at the end: {place(run.wait())}")


if __name__ == "__main__":
    main()
