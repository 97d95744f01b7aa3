"""Distributed object references: which objects can nobody reach any more?

Every site keeps objects, uses some of them (its roots), and sends references to others, which let
go of theirs. An object is garbage if no root leads to it, at no site, by any way, and no reference
on its way does: nobody can get hold of it again, so being garbage is a stable property, and what a
snapshot shows as garbage may be collected now. ``python -m flowsnap.examples.garbage`` shows it.
"""

from __future__ import annotations

from typing import Any

from flowsnap import Pipeline
from flowsnap.connectors import JsonLinesFiles
from flowsnap.core.operator import Sink
from flowsnap.snapshot.network import Network, NetworkSnapshot, Process
from flowsnap.snapshot.properties import unreachable

STEP = "step"
ROOTS_MAX = 3


class Site(Process):
    """Makes objects, lets them refer to others, hands references on, and lets go of its roots.

    ``objects``: each object that is kept here, and those that it refers to, wherever they are;
    ``roots``: the objects that are in use here. Nothing is ever done with an object that is not in
    use: that is why garbage stays garbage.
    """

    def __init__(self, steps: int, seed: int) -> None:
        self.objects: dict[str, list[str]] = {}
        self.roots: list[str] = []
        self.steps = steps
        self.seed = seed

    def on_start(self) -> None:
        self._make()
        self.send(self.name, STEP)

    def on_message(self, channel: str, message: Any) -> None:
        if channel != self.name:
            self.roots.append(message)
        elif self.steps:
            self.steps -= 1
            self._step()
            self.send(self.name, STEP)
        else:
            self.emit({"site": self.name, "objects": len(self.objects), "roots": self.roots})

    def _step(self) -> None:
        if not self.roots:
            self._make()
        chosen = self.roots[self._draw(len(self.roots))]
        match self._draw(4):
            case 0:
                self._make()
            case 1:
                others = [name for name in self.outputs if name != self.name]
                self.send(others[self._draw(len(others))], chosen)
            case 2 if chosen in self.objects:
                self.objects[chosen].append(self.roots[self._draw(len(self.roots))])
            case _:
                pass
        while len(self.roots) > ROOTS_MAX:
            self.roots.pop(0)

    def _make(self) -> None:
        made = f"{self.name}{len(self.objects) + 1}"
        self.objects[made] = []
        self.roots.append(made)

    def _draw(self, count: int) -> int:
        self.seed = (self.seed * 1_103_515_245 + 12_345) % 2**31
        return self.seed // 2**16 % count


def network(steps: int = 3_000, sites: str = "ABC", output: Sink | None = None) -> Network:
    """Return sites that all know each other."""
    made = Network("garbage", output=output)
    for number, name in enumerate(sites):
        made.add(name, Site(steps, seed=number))
        made.connect(name, name)
        for other in sites[:number]:
            made.connect(other, name)
    return made


def garbage(snapshot: NetworkSnapshot) -> frozenset[str]:
    """Return the objects that nobody can reach."""
    return unreachable(snapshot, carried=lambda message: [] if message == STEP else [message])


def pipeline(steps: int = 3_000, output: str = "garbage-out") -> Pipeline:
    """Return the network as a pipeline."""
    return network(steps, output=JsonLinesFiles(output, existing="replace")).pipeline()


def main() -> None:
    """Take snapshots, and see that garbage stays garbage."""
    former: frozenset[str] = frozenset()
    with network().start() as run:
        for number in range(6):
            snapshot = run.snapshot(initiators=["ABC"[number % 3]])
            found = garbage(snapshot)
            kept = sum(len(state["objects"]) for state in snapshot.states.values())
            print(
                f"snapshot {snapshot.checkpoint_id}: {kept} objects, {len(found)} garbage, "
                f"{'as before and more' if found >= former else 'some came back'}"
            )
            former = found


if __name__ == "__main__":
    main()
