"""Coloured tokens R, G, B, O, Y between P and Q: in every snapshot there is exactly one of each.

A global state put together without care doubles some of them and loses others: it sees a token in P
that is on its way already, or has left Q and is not yet looked for in P. The markers of a snapshot
prevent it. ``python -m flowsnap.examples.tokens`` shows where each token is.
"""

from __future__ import annotations

from flowsnap import Pipeline
from flowsnap.connectors import JsonLinesFiles
from flowsnap.examples import token_pair
from flowsnap.snapshot.network import Network, NetworkSnapshot

COLOURS = ("R", "G", "B", "O", "Y")


def network(turns: int = 20_000) -> Network:
    """Return two processes with five tokens."""
    return token_pair.network(COLOURS, turns)


def places(snapshot: NetworkSnapshot) -> str:
    """Return where each token is."""
    return ", ".join(f"{colour} {token_pair.place(snapshot, colour)}" for colour in COLOURS)


def pipeline(turns: int = 20_000, output: str = "tokens-out") -> Pipeline:
    """Return the network as a pipeline."""
    return token_pair.network(COLOURS, turns, JsonLinesFiles(output, existing="replace")).pipeline()


def main() -> None:
    """Take snapshots while the tokens travel."""
    with network().start() as run:
        for number in range(8):
            snapshot = run.snapshot(initiators=["pq"[number % 2]])
            print(f"snapshot {snapshot.checkpoint_id}: {places(snapshot)}")
        print(f"at the end: {places(run.wait())}")


if __name__ == "__main__":
    main()
