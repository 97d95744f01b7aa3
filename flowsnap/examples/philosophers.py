"""Dining philosophers who really deadlock; a snapshot shows who waits for whom.

Each philosopher takes the fork to the left, and then the one to the right. When all have the one
and wait for the other, nobody will ever eat again: the circle of the wait-for graph is a stable
property, so the snapshot that shows it is right about the philosophers as they are now. With
``polite=True`` the last of them begins with the other fork, and no circle can come about.
``python -m flowsnap.examples.philosophers`` runs both.
"""

from __future__ import annotations

from typing import Any

from flowsnap import Pipeline
from flowsnap.connectors import JsonLinesFiles
from flowsnap.core.operator import Sink
from flowsnap.snapshot.network import Network, NetworkSnapshot, Process
from flowsnap.snapshot.properties import Deadlock, deadlocked

TAKE, PUT = "take", "put"
HUNGRY = "hungry"


class Fork(Process):
    """Lies there, or is held by one while others queue for it; ``waits_for`` is who holds it."""

    def __init__(self) -> None:
        self.waits_for: str | None = None
        self.queue: list[str] = []

    def on_message(self, channel: str, message: Any) -> None:
        if message == TAKE:
            self.queue.append(channel)
        else:
            self.waits_for = None
        if self.waits_for is None and self.queue:
            self.waits_for = self.queue.pop(0)
            self.send(self.waits_for, TAKE)


class Philosopher(Process):
    """Takes one fork after the other, eats, puts both down, and thinks; ``meals`` times."""

    def __init__(self, forks: tuple[str, str], meals: int) -> None:
        self.forks = forks
        self.meals = meals
        self.held: list[str] = []
        self.waits_for: str | None = None

    def on_start(self) -> None:
        self.send(self.name, HUNGRY)

    def on_message(self, channel: str, message: Any) -> None:
        if channel != self.name:
            self.held.append(channel)
            self.waits_for = None
        if len(self.held) < len(self.forks):
            self.waits_for = self.forks[len(self.held)]
            self.send(self.waits_for, TAKE)
            return
        self.meals -= 1
        while self.held:
            self.send(self.held.pop(), PUT)
        if self.meals:
            self.send(self.name, HUNGRY)
        else:
            self.emit({"philosopher": self.name, "is": "full"})


def network(
    count: int = 5, meals: int = 100_000, *, polite: bool = False, output: Sink | None = None
) -> Network:
    """Return ``count`` philosophers and as many forks, in a circle."""
    made = Network("philosophers", output=output)
    for seat in range(count):
        made.add(f"fork-{seat}", Fork())
    for seat in range(count):
        left, right = f"fork-{seat}", f"fork-{(seat + 1) % count}"
        is_last = seat == count - 1
        forks = (right, left) if polite and is_last else (left, right)
        name = f"philosopher-{seat}"
        made.add(name, Philosopher(forks, meals))
        for other in (name, left, right):
            made.connect(name, other)
    return made


def deadlock(snapshot: NetworkSnapshot) -> Deadlock | None:
    """Return the circle of those who wait for each other; forks wait for who holds them."""
    return deadlocked(snapshot)


def pipeline(
    count: int = 5, meals: int = 1_000, polite: bool = True, output: str = "philosophers-out"
) -> Pipeline:
    """Return the network as a pipeline."""
    sink = JsonLinesFiles(output, existing="replace")
    return network(count, meals, polite=polite, output=sink).pipeline()


def main() -> None:
    """Let impolite philosophers dine until a snapshot shows that they never will again."""
    with network().start() as run:
        found = None
        while found is None:
            snapshot = run.snapshot(initiators=["fork-0"])
            found = deadlock(snapshot)
            left = {state["meals"] for state in snapshot.states.values() if "meals" in state}
            print(
                f"snapshot {snapshot.checkpoint_id}: {min(left):,} to {max(left):,} meals left: "
                f"{found or 'no deadlock'}"
            )
    with network(meals=100, polite=True).start() as run:
        print(f"polite: {deadlock(run.wait()) or 'no deadlock'}, {len(run.emitted)} are full")


if __name__ == "__main__":
    main()
