"""A seeded world: virtual time, a scheduler, and every source of chance.

One root seed feeds independent streams, so that a change in one (more faults, say) does not shuffle
the others. Events are carried out in the order of virtual time; ties are broken by chance. Nothing
sleeps and nothing runs beside: the whole cluster is one loop in one thread.

What a process does to others is an *effect*: a message, a frame, a call of the disk, a commit.
Effects are numbered, and a crash can be put before or after any of them.

Source: TigerBeetle's VOPR and FoundationDB's simulation (Zhou et al., SIGMOD 2021, section 4).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import islice
from typing import Protocol

from flowsnap.testing.clock import VirtualTime
from flowsnap.testing.faults import SimulatedCrash
from flowsnap.testing.trace import Trace

STREAMS = ("topology", "workload", "schedule", "network", "disk", "faults", "sinks")


class Actor(Protocol):
    """What the world knows of a process."""

    name: str
    is_alive: bool


@dataclass(slots=True)
class Point:
    """A place that is known by its name: the effects that begin and contain what it says."""

    begins: str
    contains: str
    hits_left: int

    def passes(self, what: str) -> bool:
        """Count an effect; return whether it is the one."""
        if not what.startswith(self.begins) or self.contains not in what:
            return False
        self.hits_left -= 1
        return self.hits_left == 0


class World:
    """Time, chance, the trace, and what has gone wrong."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.time = VirtualTime()
        self.trace = Trace()
        streams = (random.Random(f"{seed}/{stream}") for stream in STREAMS)
        self.topology, self.workload, self.schedule, self.network, self.disk = islice(streams, 5)
        self.faults, self.sinks = streams
        self.effects = 0
        self.steps = 0
        self.violation = ""
        self.before_effect: dict[int, Callable[[Actor], None]] = {}
        self.after_effect: dict[int, Callable[[Actor], None]] = {}
        self.points: list[tuple[Point, bool, Callable[[Actor], None]]] = []  # bool: after it
        self._heap: list[tuple[int, float, int, Callable[[], None]]] = []
        self._count = 0

    @property
    def now_us(self) -> int:
        """The virtual time in us."""
        return self.time.now_us

    def at(self, when_us: int, action: Callable[[], None]) -> None:
        """Have ``action`` called at a moment, or now if that has passed."""
        self._count += 1
        now_us = self.time.now_us
        moment = when_us if when_us > now_us else now_us
        heappush(self._heap, (moment, self.schedule.random(), self._count, action))

    def after(self, delay_us: int, action: Callable[[], None]) -> None:
        """Have ``action`` called later."""
        self.at(self.time.now_us + delay_us, action)

    def advance(self) -> bool:
        """Carry the next event out; return False where there is none."""
        if not self._heap:
            return False
        when_us, _, _, action = heappop(self._heap)
        self.time.now_us = when_us
        self.steps += 1
        action()
        return True

    def note(self, who: str, what: str) -> None:
        """Append to the trace."""
        self.trace.note(self.time.now_us, who, what)

    def fail(self, violation: str) -> None:
        """Note that a property does not hold; the first one counts, and ends the run."""
        if not self.violation:
            self.violation = violation
            self.note("checker", violation)

    # --- effects ------------------------------------------------------------------------------

    def begin_effect(self, actor: Actor, what: str) -> int:
        """Pass the place before an effect; return its number.

        Raises:
            SimulatedCrash: ``actor`` is dead, or dies here.
        """
        if not actor.is_alive:
            raise SimulatedCrash(actor.name)
        self.effects += 1
        number = self.effects
        self.trace.entries.append((self.time.now_us, actor.name, what))
        if number in self.before_effect:
            self._strike(self.before_effect.pop(number), actor)
        if self.points:
            self._pass_points(actor, what, number)
        return number

    def end_effect(self, actor: Actor, number: int) -> None:
        """Pass the place after an effect.

        Raises:
            SimulatedCrash: ``actor`` dies here.
        """
        if number in self.after_effect:
            self._strike(self.after_effect.pop(number), actor)

    def _pass_points(self, actor: Actor, what: str, number: int) -> None:
        for armed in list(self.points):
            point, is_after, blow = armed
            if point.passes(what):
                self.points.remove(armed)
                if is_after:
                    self.after_effect[number] = blow
                else:
                    self._strike(blow, actor)

    def _strike(self, blow: Callable[[Actor], None], actor: Actor) -> None:
        blow(actor)
        if not actor.is_alive:
            raise SimulatedCrash(actor.name)
