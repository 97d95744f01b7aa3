"""A diffusing computation: when has it terminated?

Work begins at one process and spreads: who has a piece of work does it, and may hand parts of it to
others, who may do the same. Nobody sees when all of it is done. A snapshot does: if nobody is
active in it, and nothing is on its way, then it is over, for this is a stable property. Beside that
the processes find it out themselves, by acknowledgements along the tree in which they were called:
the two must agree. ``python -m flowsnap.examples.diffusing`` takes snapshots until it is over.

Source: Dijkstra and Scholten, "Termination Detection for Diffusing Computations", 1980.
"""

from __future__ import annotations

from typing import Any

from flowsnap import Pipeline
from flowsnap.connectors import JsonLinesFiles
from flowsnap.core.operator import Sink
from flowsnap.snapshot.network import Network, Process
from flowsnap.snapshot.properties import terminated

ROOT = "P0"
DONE = "done"
WORK = "work"


class Worker(Process):
    """Does its work piece by piece, and hands a part of each piece on to others.

    ``work``: the sizes of the pieces to be done; ``deficit``: how many parts that were handed on
    are not acknowledged; ``parent``: who is told when all is done.
    """

    def __init__(self, size: int = 0) -> None:
        self.work = [size] if size else []
        self.deficit = 0
        self.parent = ""
        self.pieces = 0

    def on_start(self) -> None:
        if self.work:
            self.parent = self.name
            self.send(self.name, WORK)

    def on_message(self, channel: str, message: Any) -> None:
        if channel == self.name:
            self._do_a_piece()
        elif message == DONE:
            self.deficit -= 1
        else:
            self._take(channel, message)
        if self.parent and not self.work and self.deficit == 0:
            self._finish()

    def _take(self, sender: str, size: int) -> None:
        if not self.work:
            self.send(self.name, WORK)
        self.work.append(size)
        if self.parent:
            self.send(sender, DONE)
        else:
            self.parent = sender

    def _do_a_piece(self) -> None:
        size = self.work.pop(0)
        self.pieces += 1
        others = [name for name in self.outputs if name != self.name]
        for number in range(size):
            self.deficit += 1
            self.send(others[(self.pieces + number) % len(others)], size - 1)
        if self.work:
            self.send(self.name, WORK)

    def _finish(self) -> None:
        parent, self.parent = self.parent, ""
        if parent == self.name:
            self.emit({"process": self.name, "found": "terminated"})
        else:
            self.send(parent, DONE)


def is_active(_: str, state: dict[str, Any]) -> bool:
    """Return whether a process has work left."""
    return bool(state["work"])


def network(size: int = 7, processes: int = 4, output: Sink | None = None) -> Network:
    """Return processes that all know each other; the first has work of ``size``.

    Work of size n is n parts of size n - 1: so there are about e times n! pieces of it.
    """
    made = Network("diffusing", output=output)
    names = [f"P{number}" for number in range(processes)]
    for name in names:
        made.add(name, Worker(size if name == ROOT else 0))
        made.connect(name, name)
    for number, name in enumerate(names):
        for other in names[:number]:
            made.connect(other, name)
    return made


def pipeline(size: int = 7, output: str = "diffusing-out") -> Pipeline:
    """Return the network as a pipeline."""
    return network(size, output=JsonLinesFiles(output, existing="replace")).pipeline()


def main() -> None:
    """Take snapshots until one shows that the computation has terminated."""
    with network().start() as run:
        is_over = False
        while not is_over:
            snapshot = run.snapshot(initiators=[ROOT])
            is_over = terminated(snapshot, is_active=is_active)
            active = [name for name, state in snapshot.states.items() if is_active(name, state)]
            print(
                f"snapshot {snapshot.checkpoint_id}: {len(active)} active, "
                f"{len(snapshot.in_transit)} messages in transit, "
                f"{'terminated' if is_over else 'not terminated'}"
            )
        run.wait()
        print(f"the processes themselves: {run.emitted}")


if __name__ == "__main__":
    main()
