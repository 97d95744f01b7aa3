"""``over``: every record with aggregates of those before it, of its key.

What is aggregated of the records in reach is kept in columns, one list for each aggregate, so that
an aggregate is one call into C, and a sum is always a sum of what is in reach: no drift, as there
would be where leaving values were subtracted. The price is that a record costs as much as there is
in reach.

Source: SQL's window functions; Flink SQL, "Over Aggregation".
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from flowsnap.config import Duration, duration_ms
from flowsnap.core.element import Batch
from flowsnap.core.operator import MISSING, Operator, OperatorContext
from flowsnap.errors import ConfigError, StateIncompatible
from flowsnap.operators.rolling import PAGE_RECORDS
from flowsnap.operators.selector import Selector, check_selector, selected
from flowsnap.operators.window.lateness import LateRecords

ROWS_MAX = 1_000_000
GONE = "gone"
"""The name of the timer that forgets a key which has had no record for as long as the range."""

LATE = "late"
"""The side output for records that come after event time has passed them."""


def _sum(values: list[Any]) -> Any:
    first = values[0]
    return sum(islice(values, 1, None), int(first) if isinstance(first, bool) else first)


def _mean(values: list[Any]) -> Any:
    if all(isinstance(value, int | float) for value in values):
        return math.fsum(values) / len(values)
    return _sum(values) / len(values)


FUNCTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "sum": _sum,
    "count": len,
    "min": min,
    "max": max,
    "mean": _mean,
}

Aggregates = Mapping[str, str | tuple[str, Selector]]
"""``{"total": ("sum", "amount"), "n": "count"}``: under each name an aggregate of a field."""

Columns = dict[str, list[Any]]


class Over(Operator):
    """Base of both: which aggregates there are, and their columns in state."""

    def __init__(self, aggregates: Aggregates) -> None:
        self.aggregates = _checked(aggregates)

    def _lifted(self, values: list[Any]) -> Iterator[tuple[Any, ...]]:
        """Yield what each aggregate takes of each record; the cursor walks the records."""
        columns: list[list[Any]] = []
        for kind, selector in self.aggregates.values():
            self.cursor = iter(values)
            is_bare = (
                kind == "count" and selector is None
            )  # It looks at nothing, and keeps nothing.
            columns.append(
                [None] * len(values) if is_bare else list(selected(selector, values, self.cursor))
            )
        return zip(*columns, strict=True)

    def _aggregated(self, columns: Columns) -> dict[str, Any]:
        return {name: FUNCTIONS[kind](columns[name]) for name, (kind, _) in self.aggregates.items()}

    def _new(self) -> Columns:
        return {name: [] for name in self.aggregates}

    def _check(self, columns: Columns, context: OperatorContext) -> None:
        """Check that what is in state has the columns we want.

        Raises:
            StateIncompatible: the aggregates had other names when it was written.
        """
        if columns.keys() != self.aggregates.keys():
            raise StateIncompatible(
                f"operator {context.operator!r} keeps aggregates {list(self.aggregates)}, "
                f"but the checkpoint has {list(columns)}"
            ).hint("give the step another name when its aggregates change, or start fresh")


class OverRows(Over):
    """Emits ``(record, aggregates)`` for each record: of it and the ``rows - 1`` before it.

    Records count in the order in which they come.
    """

    def __init__(self, aggregates: Aggregates, rows: int) -> None:
        super().__init__(aggregates)
        if not isinstance(rows, int) or isinstance(rows, bool) or not 1 <= rows <= ROWS_MAX:
            raise ConfigError(f"over: rows={rows!r} is not an int from 1 to {ROWS_MAX}").hint(
                "rows=10: the record itself and the nine before it"
            )
        self.rows = rows

    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._table = context.table("over-rows")

    def process(self, batch: Batch) -> Batch:
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        young, load = self._table.young, self._table.load
        outputs, names = [], list(self.aggregates)
        lifted = self._lifted(batch.values)
        for key, value, parts in zip(batch.keys, batch.values, lifted, strict=True):
            columns = young.get(key, MISSING)
            if columns is MISSING:
                columns = load(key)
                young[key] = columns = self._new() if columns is MISSING else columns
            self._check(columns, self._context)
            for name, part in zip(names, parts, strict=True):
                column = columns[name]
                column.append(part)
                if len(column) > self.rows:
                    del column[: -self.rows]
            outputs.append((value, self._aggregated(columns)))
        return Batch(outputs, batch.timestamps)


class OverRange(Over):
    """Emits ``(record, aggregates)``: of the records of the last ``range_ms`` of event time.

    A record leaves when the watermark has passed its time, in the order of the times. In reach are
    all records from ``range_ms`` before it, that moment included, up to its own time, those of the
    very same time included. A record whose time event time has passed when it comes is late: it is
    dropped, and goes to the side output "late".
    """

    needs_event_time = True

    def __init__(self, aggregates: Aggregates, range: Duration) -> None:
        super().__init__(aggregates)
        self.range_ms = duration_ms(range, "range", at_least_ms=1)

    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._waiting = context.map_state("waiting")
        self._reach = context.value_state("over-range")
        self._timers = context.event_timers("over")
        self._late = LateRecords(context, LATE)

    def process(self, batch: Batch) -> Batch:
        """Keep the records until event time has passed them.

        Raises:
            TypeError: the records have no event times.
        """
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        if batch.timestamps is None:
            error = TypeError("over: a range of event time needs records with event times")
            error.add_note("assign event times before, or use rows=")
            raise error
        passed_ms, context, waiting = self._context.watermark_ms, self._context, self._waiting
        lifted = self._lifted(batch.values)
        for key, value, at, parts in zip(
            batch.keys, batch.values, batch.timestamps, lifted, strict=True
        ):
            if at <= passed_ms:
                self._late.add(value, at)
                continue
            context.key = key
            records = waiting.get(at)
            if records is None:
                waiting.put(at, [(value, parts)])
                self._timers.register(at, key)
            else:
                records.append((value, parts))
        return Batch([])

    def advance(self, watermark_ms: int) -> Iterator[Batch]:
        outputs: list[Any] = []
        times: list[int] = []
        for at, key, name in self._timers.due(watermark_ms):
            self._context.key = key
            if name == GONE:
                self._forget(at)
                continue
            outputs += self._emitted(at, key)
            times += [at] * (len(outputs) - len(times))
            if len(outputs) >= PAGE_RECORDS:
                yield Batch(outputs, times)
                outputs, times = [], []
        if outputs:
            yield Batch(outputs, times)

    def _forget(self, at: int) -> None:
        """Forget what no later record of the current key can reach, if that is all there is."""
        reach = self._reach.value()
        newest = reach[0][-1]
        if newest + self.range_ms < at:
            self._reach.clear()
        else:
            self._timers.register(newest + self.range_ms + 1, self._context.key, GONE)

    def _emitted(self, at: int, key: Any) -> list[Any]:
        """Return the outputs of the records of the current key at one time."""
        records = self._waiting.get(at) or []
        self._waiting.remove(at)
        reach = self._reach.value()
        if reach is None:
            self._timers.register(at + self.range_ms + 1, key, GONE)
        empty: list[int] = []
        times, columns = reach or (empty, self._new())
        self._check(columns, self._context)
        for _, parts in records:
            times.append(at)
            for name, part in zip(self.aggregates, parts, strict=True):
                columns[name].append(part)
        gone = bisect_left(times, at - self.range_ms)
        for column in (times, *columns.values()):
            del column[:gone]
        self._reach.update((times, columns))
        aggregated = self._aggregated(columns)
        return [(value, dict(aggregated)) for value, _ in records]


def _checked(aggregates: Aggregates) -> dict[str, tuple[str, Selector]]:
    if not isinstance(aggregates, Mapping) or not aggregates:
        raise ConfigError(f"over: {aggregates!r} names no aggregates").hint(
            'pass a mapping: over({"total": ("sum", "amount"), "n": "count"}, rows=10)'
        )
    checked: dict[str, tuple[str, Selector]] = {}
    for name, aggregate in aggregates.items():
        parts = aggregate if isinstance(aggregate, tuple) else (aggregate, None)
        if not isinstance(name, str) or len(parts) != 2 or parts[0] not in FUNCTIONS:
            raise ConfigError(f"over: {name!r}: {aggregate!r} is no aggregate").hint(
                f"one of {', '.join(FUNCTIONS)}, or a pair of it and a selector"
            )
        check_selector(parts[1], f"over: {name!r}")
        checked[name] = (parts[0], parts[1])
    return checked
