"""State that expires: every value is stored with its time of expiry, in processing time.

A value is gone from the very millisecond of its expiry on: whoever reads it finds nothing. What
nobody reads again is removed by a ``Sweep``, which goes through the table from time to time, some
milliseconds' worth at once, and holds nothing in memory for it. So an expired value stays in state
for at most about a quarter of its ttl longer (at least 1 s, at most 10 min), plus the time of one
pass.

Source: Flink, "State Time-To-Live (TTL)", with ``NeverReturnExpired`` and incremental cleanup.
Deviation: the sweep is driven by the clock instead of by accesses, so that it goes on when no
records come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from flowsnap.core.expiry import TTL
from flowsnap.core.operator import MISSING
from flowsnap.state.migration import Layout, Legacy
from flowsnap.state.registry import is_expiring

if TYPE_CHECKING:
    from flowsnap.state.keyed import MapTable, Tables, ValueTable

PERIOD_MS_MIN, PERIOD_MS_MAX = 1_000, 600_000
SLICE_ROWS = 1_024
PAUSE_MS = 10
"""Between two slices of one pass, so that a sweep never takes more than some tenths of the time."""

Clock = Callable[[], int]


class ExpiringTable:
    """A value table whose values are gone once they have expired."""

    def __init__(self, table: ValueTable, ttl: TTL, clock: Clock) -> None:
        self._table = table
        self._ttl_ms = ttl.ms
        self._is_renewed_by_reads = ttl.on == "read-write"
        self._clock = clock

    def get(self, key: Any) -> Any:
        """Return the value of ``key``, or ``MISSING``; a read renews it, if that was asked for."""
        stored = self._table.get(key)
        if stored is MISSING:
            return MISSING
        now_ms = self._clock()
        if stored[0] <= now_ms:
            self._table.delete(key)
            return MISSING
        if self._is_renewed_by_reads:
            self._table.put(key, (now_ms + self._ttl_ms, stored[1]))
        return stored[1]

    def put(self, key: Any, value: Any) -> None:
        """Set the value of ``key``, whose life begins now."""
        self._table.put(key, (self._clock() + self._ttl_ms, value))

    def delete(self, key: Any) -> None:
        """Forget ``key``."""
        self._table.delete(key)


class ExpiringMapTable:
    """A map table, each of whose entries is gone once it has expired."""

    def __init__(self, table: MapTable, ttl: TTL, clock: Clock) -> None:
        self._table = table
        self._ttl_ms = ttl.ms
        self._is_renewed_by_reads = ttl.on == "read-write"
        self._clock = clock

    def get(self, key: Any, entry: Any) -> Any:
        """Return the value of an entry, or ``MISSING``; a read renews it, if that was asked for."""
        return self._read(key, entry, self._table.get(key, entry))

    def put(self, key: Any, entry: Any, value: Any) -> None:
        """Set the value of an entry, whose life begins now."""
        self._table.put(key, entry, (self._clock() + self._ttl_ms, value))

    def remove(self, key: Any, entry: Any) -> None:
        """Forget an entry."""
        self._table.remove(key, entry)

    def entries(self, key: Any) -> Iterator[Any]:
        """Yield the entries of ``key`` that live; this renews none."""
        for entry, stored in self._table.items(key):
            if stored[0] > self._clock():
                yield entry

    def items(self, key: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the entries of ``key`` that live, with their values."""
        for entry, stored in self._table.items(key):
            value = self._read(key, entry, stored)
            if value is not MISSING:
                yield entry, value

    def is_empty(self, key: Any) -> bool:
        """Return whether no entry of ``key`` lives."""
        return next(self.entries(key), MISSING) is MISSING

    def clear(self, key: Any) -> None:
        """Forget all entries of ``key``."""
        self._table.clear(key)

    def all_items(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield every key, entry and value that lives."""
        for key, entry, stored in self._table.all_items():
            if stored[0] > self._clock():
                yield key, entry, stored[1]

    def _read(self, key: Any, entry: Any, stored: Any) -> Any:
        if stored is MISSING:
            return MISSING
        now_ms = self._clock()
        if stored[0] <= now_ms:
            self._table.remove(key, entry)
            return MISSING
        if self._is_renewed_by_reads:
            self._table.put(key, entry, (now_ms + self._ttl_ms, stored[1]))
        return stored[1]


class Sweep:
    """Removes what has expired of one state, and moves to it what a legacy has without a time.

    ``next_ms`` says when ``run`` is wanted next; None: never again. ``remove`` is ``remove_key`` or
    ``remove_entry``.
    """

    def __init__(self, tables: Tables, remove: Callable[..., None], opened_ms: int) -> None:
        self.next_ms: int | None = None
        self._tables = tables
        self._remove = remove
        self._visits: list[tuple[Any, Callable[..., None]]] = []
        self._once: list[tuple[Any, Callable[..., None]]] = []
        self._pass: Iterator[None] | None = None
        self._opened_ms = opened_ms
        self._now_ms = opened_ms
        self._period_ms: int | None = None

    def expire(self, table: Any, ttl: TTL) -> None:
        """Keep ``table`` free of what has expired."""
        self._period_ms = min(max(ttl.ms // 4, PERIOD_MS_MIN), PERIOD_MS_MAX)
        self._visits.append((table, self._expired_in(table, self._is_due)))
        self._schedule(self._opened_ms + self._period_ms)

    def settle(self, legacy: Legacy, layout: Layout, move: Callable[..., Any]) -> None:
        """Do once what a legacy needs: nobody may ever read it.

        Its values expire, or had expired before the task was opened, or get a time by ``move``.
        """
        if is_expiring(legacy.spec):
            is_due = layout.is_gone if layout.ttl is None else self._is_due
            visit = (legacy.table, self._expired_in(legacy.table, is_due))
            (self._once if layout.ttl is None else self._visits).append(visit)
            self._schedule(self._opened_ms)
        elif layout.ttl is not None:
            self._once.append((legacy.table, lambda *row: move(*row[:-1])))
            self._schedule(self._opened_ms)

    def run(self, now_ms: int) -> None:
        """Do one slice of a pass."""
        self._now_ms = now_ms
        if self._pass is None:
            self._pass = self._steps()
        rows = sum(1 for _ in islice(self._pass, SLICE_ROWS))
        self._tables.relieve()  # What is removed takes room too until it is written.
        if rows == SLICE_ROWS:
            self.next_ms = now_ms + PAUSE_MS
            return
        self._pass = None
        self._once.clear()
        self.next_ms = None if self._period_ms is None else now_ms + self._period_ms

    def _steps(self) -> Iterator[None]:
        for table, visit in (*self._once, *self._visits):
            for row in self._tables.rows(table):
                visit(*row)
                yield

    def _is_due(self, stored: Any) -> bool:
        return bool(stored[0] <= self._now_ms)

    def _expired_in(self, table: Any, is_due: Callable[[Any], bool]) -> Callable[..., None]:
        remove = self._remove

        def visit(*row: Any) -> None:
            if is_due(row[-1]):
                remove(table, is_due, *row[:-1])

        return visit

    def _schedule(self, at_ms: int) -> None:
        self.next_ms = at_ms if self.next_ms is None else min(self.next_ms, at_ms)


def remove_key(table: Any, is_due: Callable[[Any], bool], key: Any) -> None:
    """Remove a value that looks as if it were due."""
    stored = table.get(key)  # A younger generation may have renewed what was seen.
    if stored is not MISSING and is_due(stored):
        table.delete(key)


def remove_entry(table: Any, is_due: Callable[[Any], bool], key: Any, entry: Any) -> None:
    """Remove an entry of a map that looks as if it were due."""
    stored = table.get(key, entry)
    if stored is not MISSING and is_due(stored):
        table.remove(key, entry)


def next_sweep_ms(sweeps: Sequence[Sweep]) -> int | None:
    """Return when the first of ``sweeps`` is wanted."""
    return min((sweep.next_ms for sweep in sweeps if sweep.next_ms is not None), default=None)
