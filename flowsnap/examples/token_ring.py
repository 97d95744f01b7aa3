"""A token ring that loses its token, and a snapshot that knows.

The token goes round from process to process; after some rounds one of them drops it. Whether it is
lost cannot be seen by looking at one process after the other: it might always be where one is not
looking. In a snapshot it is with a process, in a channel, or lost for good.
``python -m flowsnap.examples.token_ring`` takes snapshots until it is.
"""

from __future__ import annotations

from typing import Any

from flowsnap import Pipeline
from flowsnap.connectors import JsonLinesFiles
from flowsnap.core.operator import Sink
from flowsnap.snapshot.network import Network, NetworkSnapshot, Process
from flowsnap.snapshot.properties import tokens_lost

TOKEN = "token"


class Station(Process):
    """Passes the token on to the next; ``drops_at`` is the round in which it does not."""

    def __init__(self, *, begins: bool = False, drops_at: int = 0) -> None:
        self.tokens = [TOKEN] if begins else []
        self.rounds = 0
        self.drops_at = drops_at

    def on_start(self) -> None:
        if self.tokens:
            self._pass_on()

    def on_message(self, channel: str, message: Any) -> None:
        self.tokens.append(message)
        self.rounds += 1
        if self.rounds == self.drops_at:
            self.tokens.clear()
            self.emit({"station": self.name, "round": self.rounds, "did": "drop the token"})
        else:
            self._pass_on()

    def _pass_on(self) -> None:
        self.send(self.outputs[0], self.tokens.pop())


def network(stations: int = 5, drops_at: int = 500, output: Sink | None = None) -> Network:
    """Return a ring whose last station drops the token; 0: it never does."""
    made = Network("token_ring", output=output)
    names = [f"S{number}" for number in range(stations)]
    for number, name in enumerate(names):
        own = drops_at if number == stations - 1 else 0
        made.add(name, Station(begins=number == 0, drops_at=own))
    for name, following in zip(names, [*names[1:], names[0]], strict=True):
        made.connect(name, following, one_way=True)
    return made


def is_lost(snapshot: NetworkSnapshot) -> bool:
    """Return whether the token is nowhere."""
    return tokens_lost(snapshot, [TOKEN]) == [TOKEN]


def pipeline(stations: int = 5, drops_at: int = 500, output: str = "token_ring-out") -> Pipeline:
    """Return the network as a pipeline."""
    return network(stations, drops_at, JsonLinesFiles(output, existing="replace")).pipeline()


def main() -> None:
    """Take snapshots until the token is lost."""
    with network().start() as run:
        snapshot = run.snapshot(initiators=["S0"])
        while not is_lost(snapshot):
            print(f"snapshot {snapshot.checkpoint_id}: the token is {_place(snapshot)}")
            snapshot = run.snapshot(initiators=["S0"])
        print(f"snapshot {snapshot.checkpoint_id}: the token is lost")


def _place(snapshot: NetworkSnapshot) -> str:
    held = [f"with {name}" for name, state in snapshot.states.items() if state["tokens"]]
    moving = [f"on its way from {channel}" for channel in snapshot.channels if channel.messages]
    return " and ".join(held + moving)


if __name__ == "__main__":
    main()
