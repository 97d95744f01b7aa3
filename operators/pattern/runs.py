"""What is under way for one key: partial matches, which share their beginnings.

In memory a path is a linked list that nobody changes, so that two partial matches which part ways
have one beginning, and what none needs any more goes by itself. As bytes it is a flat table, in
which each record is written once: a linked list would be as deep as a loop is long.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

VERSION = 1


class Taken(NamedTuple):
    """A record that a step has taken, and the path to it.

    ``nth`` is how many the step has taken by now; of a step without limit no more than it needs.
    ``number`` is that of the record among those of its key.
    """

    before: Taken | None
    step: int
    nth: int
    number: int
    at_ms: int
    record: Any

    def path(self) -> list[Taken]:
        """Return all that has been taken, in order."""
        found: list[Taken] = []
        taken: Taken | None = self
        while taken is not None:
            found.append(taken)
            taken = taken.before
        found.reverse()
        return found


class Partial(NamedTuple):
    """A partial match: what it has taken last, and which of its ways on are still open.

    ``open`` has a bit for each way of its place in the automaton. ``start`` is the number of its
    first record, ``start_ms`` the time of that.
    """

    last: Taken
    open: int
    start: int
    start_ms: int


class Held(NamedTuple):
    """A match that is complete, and waits for others that began before it."""

    last: Taken
    start: int


class Runs:
    """The partial matches of one key, in the order of their beginnings, and the matches held back.

    ``shape`` tells the pattern, ``next_number`` is the number of the next record. ``is_timed``:
    times are event times, and not those of the wall clock.
    """

    __slots__ = ("held", "is_timed", "next_number", "partials", "shape")

    def __init__(self, shape: int, *, is_timed: bool = True) -> None:
        self.shape = shape
        self.is_timed = is_timed
        self.next_number = 0
        self.partials: list[Partial] = []
        self.held: list[Held] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to remember."""
        return not (self.partials or self.held)

    def __getstate__(self) -> tuple[Any, ...]:
        table = _Table()
        partials = [(table.row(one.last), *one[1:]) for one in self.partials]
        held = [(table.row(one.last), one.start) for one in self.held]
        numbers, records = list(table.records), list(table.records.values())
        columns = (table.rows, numbers, records, partials, held)
        return (VERSION, self.shape, self.is_timed, self.next_number, *columns)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.is_timed, self.next_number, *columns = state
        rows, numbers, records, partials, held = columns
        by_number = dict(zip(numbers, records, strict=True))
        paths: list[Taken] = []
        for before, step, nth, number, at_ms in rows:
            linked = None if before < 0 else paths[before]
            paths.append(Taken(linked, step, nth, number, at_ms, by_number[number]))
        self.partials = [Partial(paths[row], *rest) for row, *rest in partials]
        self.held = [Held(paths[row], start) for row, start in held]


class _Table:
    """Paths as rows, each after the one before it."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, int, int]] = []
        self.records: dict[int, Any] = {}
        self._known: dict[int, int] = {}

    def row(self, last: Taken) -> int:
        """Return the row of a path, after adding what is not there yet."""
        for taken in reversed(list(self._unknown(last))):
            before = -1 if taken.before is None else self._known[id(taken.before)]
            self._known[id(taken)] = len(self.rows)
            self.rows.append((before, *taken[1:5]))
            self.records[taken.number] = taken.record
        return self._known[id(last)]

    def _unknown(self, last: Taken) -> Iterator[Taken]:
        taken: Taken | None = last
        while taken is not None and id(taken) not in self._known:
            yield taken
            taken = taken.before
