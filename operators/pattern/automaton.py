"""The automaton of a pattern: where a partial match can stand, and which ways lead on from there.

A place is the step that took the last record, and how many it has taken. A way is a step that may
take the next one; ways are independent of each other, so that each may wait for its own record.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple

from flowsnap.operators.pattern.condition import Condition
from flowsnap.operators.pattern.definition import Contiguity, Element, Group, Pattern
from flowsnap.operators.pattern.layout import Layout

BEFORE_ALL = (-1, 0)
"""The place where nothing has been taken."""


class Way(NamedTuple):
    """A step that may take a record, as the ``nth``; ``bit`` is set while the way is open."""

    bit: int
    step: int
    nth: int
    contiguity: Contiguity
    is_loop: bool


@dataclass(frozen=True)
class Place:
    """Where a partial match can stand.

    ``ways`` are in the order of their steps. ``is_match``: nothing is missing; it comes out at
    once unless ``decided`` says what it waits for: the next record, or the end of its time.
    ``refused`` must not be the very next record, ``banned`` no record at all. ``waiting`` is the
    bit that is set while a match waits to be decided, ``opening`` the bits of a partial match that
    has just come here: 0 where nothing can follow and nothing is to be waited for.
    """

    ways: tuple[Way, ...]
    is_match: bool
    decided: str
    refused: tuple[Condition, ...]
    banned: tuple[Condition, ...]
    waiting: int
    opening: int


class Automaton:
    """The places of one pattern, made as they are asked for."""

    def __init__(self, pattern: Pattern) -> None:
        self._layout = layout = Layout(pattern)
        self.steps = tuple(layout.steps)
        self._refused, self._banned = layout.refused, layout.banned
        self.shape = zlib.crc32(repr([_shape(step) for step in pattern.steps]).encode())
        self._places: dict[tuple[int, int], Place] = {}

    def place(self, step: int, count: int) -> Place:
        """Return the place where ``step`` has taken ``count`` records."""
        place = self._places.get((step, count))
        if place is None:
            place = self._places[step, count] = self._made(step, count)
        return place

    @property
    def has_decisions(self) -> bool:
        """Whether a match may wait to be decided."""
        is_trailing = any(self._refused[step] or self._banned[step] for step in self._layout.ends)
        return is_trailing or any(step.is_greedy for step in self.steps)

    def _made(self, step: int, count: int) -> Place:
        ways: list[Way] = []
        entries = self._layout.starts
        may_leave = False
        if step >= 0:
            own = self.steps[step]
            if own.high is None or count < own.high:
                after = min(count + 1, own.low) if own.high is None else count + 1
                ways.append(Way(1, step, after, own.inner, True))
            may_leave = count >= own.low
            entries = self._layout.following[step] if may_leave else []
        for entry in entries:
            ways.append(Way(1 << len(ways), entry.step, 1, entry.contiguity, False))
        is_match = may_leave and step in self._layout.ends
        decided = self._decided(step, ways)
        waiting = 1 << len(ways)
        return Place(
            tuple(ways),
            is_match,
            decided,
            self._refused[step] if may_leave else (),
            self._banned[step] if step >= 0 else (),
            waiting,
            (2 if is_match and decided != "at once" else 1) * waiting - 1,
        )

    def _decided(self, step: int, ways: list[Way]) -> str:
        is_last = step in self._layout.ends
        if is_last and self._banned[step]:
            return "at the end"
        is_greedy = any(self.steps[way.step].is_greedy for way in ways)
        return "by the next" if is_greedy or (is_last and self._refused[step]) else "at once"


def _shape(element: Element) -> tuple[object, ...]:
    """Return what must not change while there are partial matches: all but the conditions."""
    quantity = (element.low, element.high, element.is_optional, element.is_greedy)
    closeness = (element.contiguity.value, element.inner.value)
    if isinstance(element, Group):
        return (*closeness, *quantity, *map(_shape, element.steps))
    return (element.name, *closeness, element.is_not, *quantity)
