"""Which windows are there, of which key, and what do they hold?

In state are, for each key, a flat tuple ``(start, end, id, ...)`` of its windows, and below the ids
what each holds: its contents, and what its trigger remembers. A window keeps its id when it grows.

The *schedule* beside it says what is due when event time reaches a certain instant. It is made from
the tuples when the operator opens, and it has one entry for each instant, however many keys have
a window that ends there: what is due is a loop over a list. An entry may be of a window that has
grown or gone meanwhile; who takes it looks it up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from typing import Any, NamedTuple

from flowsnap.core.operator import MISSING, OperatorContext
from flowsnap.operators.window.assigner import Window

_FIELDS, _ID = 3, 2

Instants = Callable[[Window], Iterable[int]]
"""At which instants of event time something is due for a window."""


class Live(NamedTuple):
    """One window of a key, and under which id its state is kept."""

    window: Window
    id: int


class LiveWindows:
    """The windows of all keys. ``context.key`` is to be set before contents are asked for.

    ``has_memory``: there is a trigger that remembers something.
    """

    def __init__(self, context: OperatorContext, instants: Instants, *, has_memory: bool) -> None:
        self._table = context.table("open")
        self._contents = context.map_state("contents")
        self._remembered = context.map_state("triggers")
        self._instants = instants
        self._has_memory = has_memory
        self._schedule: dict[int, list[tuple[Any, Window]]] = {}
        self._times: list[int] = []
        for key, row in self._table.items():
            for live in _lives(row):
                self._plan(key, live.window)

    def of(self, key: Any) -> list[Live]:
        """Return the windows of a key, earliest first unless they overlap."""
        row = self._row(key)
        return [] if row is MISSING else _lives(row)

    def find(self, key: Any, window: Window) -> Live | None:
        """Return a window of a key, if it is there."""
        row = self._row(key)
        if row is MISSING:
            return None
        for at in range(0, len(row), _FIELDS):
            if row[at] == window[0] and row[at + 1] == window[1]:
                return Live(window, row[at + _ID])
        return None

    def add(self, key: Any, window: Window) -> Live:
        """Add a window that the key does not have; its id is its start, or the next free one."""
        row = self._row(key)
        own_id = window.start
        if row is MISSING:
            row = ()
        while row and own_id in row[_ID::_FIELDS]:
            own_id += 1
        live = Live(window, own_id)
        self._table.put(key, (*row, *window, own_id))
        self._plan(key, window)
        return live

    def replace(self, key: Any, gone: Iterable[Live], grown: Live) -> None:
        """Put ``grown`` in the place of windows of a key."""
        ids = {live.id for live in gone}
        row = [field for live in self.of(key) if live.id not in ids for field in _fields(live)]
        self._table.put(key, (*row, *_fields(grown)))
        self._plan(key, grown.window)

    def remove(self, key: Any, live: Live) -> None:
        """Forget a window and what it holds."""
        self._contents.remove(live.id)
        if self._has_memory:
            self._remembered.remove(live.id)
        row = self._row(key)
        if len(row) == _FIELDS:
            self._table.delete(key)
            return
        at = _FIELDS * row[_ID::_FIELDS].index(live.id)
        self._table.put(key, row[:at] + row[at + _FIELDS :])

    def contents(self, live: Live) -> Any:
        """Return what a window holds, or ``MISSING``."""
        return self._contents.get(live.id, MISSING)

    def put(self, live: Live, contents: Any) -> None:
        """Set what a window holds; ``MISSING``: nothing."""
        if contents is MISSING:
            self._contents.remove(live.id)
        else:
            self._contents.put(live.id, contents)

    def remembered(self, live: Live) -> dict[str, Any]:
        """Return a copy of what the trigger remembers of a window."""
        return dict(self._remembered.get(live.id) or {})

    def remember(self, live: Live, values: dict[str, Any]) -> None:
        """Set what the trigger remembers of a window."""
        if values:
            self._remembered.put(live.id, values)
        else:
            self._remembered.remove(live.id)

    def due(self, until_ms: int) -> Iterator[tuple[int, Any, Window]]:
        """Yield ``(instant, key, window)`` in order of the instants; each comes once."""
        while self._times and self._times[0] <= until_ms:
            at_ms = heappop(self._times)
            for key, window in self._schedule.pop(at_ms):
                yield at_ms, key, window

    def next_ms(self) -> int | None:
        """Return the next instant at which something is due, if there is one."""
        return self._times[0] if self._times else None

    def _row(self, key: Any) -> Any:
        row = self._table.young.get(key, MISSING)
        return self._table.load(key) if row is MISSING else row

    def _plan(self, key: Any, window: Window) -> None:
        for at_ms in self._instants(window):
            try:
                self._schedule[at_ms].append((key, window))
            except KeyError:
                self._schedule[at_ms] = [(key, window)]
                heappush(self._times, at_ms)


def _lives(row: tuple[int, ...]) -> list[Live]:
    return [Live(Window(row[at], row[at + 1]), row[at + _ID]) for at in range(0, len(row), _FIELDS)]


def _fields(live: Live) -> tuple[int, int, int]:
    return (*live.window, live.id)
