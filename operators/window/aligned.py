"""Tumbling and sliding windows of incremental aggregates: the fast path, and by far the usual one.

Time is cut into slices, of which every window is made (a tumbling window is one slice). A record is
folded once, into its slice; the slices of a window are merged when it fires. So a sliding window
costs no more per record than a tumbling one.

A batch is folded into columns outside state (``Partials``). They go into keyed state before a
barrier, or when there are too many of them. What a key has in state is one flat tuple::

    (slice, ..., accumulator, ...)     n slices, then m accumulators for each of them

Beside it stands an index, from slice to the keys that have it in state. It is made from state when
the operator opens, and says without a timer what fires when event time reaches the end of a
window: all keys at once, in a loop over a dict.

Invariant: a key is in ``_stored[slice]`` exactly if its tuple has the slice. A window has fired
exactly if its last instant is at or below the watermark.

Source: Flink's ``SlicingWindowOperator`` and "Allowed Lateness". Deviation: records within their
lateness make a window fire once per batch and key, not once per record.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from heapq import heappop, heappush
from itertools import islice, repeat
from operator import itemgetter
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.operator import MISSING, OperatorContext
from flowsnap.operators.rolling import PAGE_RECORDS
from flowsnap.operators.window.aggregate import Aggregates, Column
from flowsnap.operators.window.assigner import Sliding, Window
from flowsnap.operators.window.lateness import LateRecords, outside_gaps, timestamps_of
from flowsnap.operators.window.partials import Partials, rows_of
from flowsnap.operators.window.result import results
from flowsnap.operators.window.scheduled import ScheduledWindows

KEYS_MAX = 32_768
"""So many accumulators are outside state at most: at a barrier they are put into it at once, which
takes 10 ms, or 70 ms where state has something for each of their keys already."""

Row = tuple[Any, ...]

_SLICE = itemgetter(0)


class AlignedWindows(ScheduledWindows):
    """Emits a ``WindowResult`` per key when event time reaches the end of a window.

    ``late`` is the tag of the side output for late records. If ``is_merging``, what comes in are
    the rows of a ``CombineWindows``, of which no single record can be told apart any more.
    """

    keys_max = KEYS_MAX

    def __init__(
        self,
        assigner: Sliding,
        aggregates: Aggregates,
        *,
        lateness_ms: int = 0,
        late: str | None = None,
        is_merging: bool = False,
    ) -> None:
        assert late is None or not is_merging, "late records cannot be told apart in rows"
        self.assigner = assigner
        self.aggregates = aggregates
        self.lateness_ms = lateness_ms
        self.late = late
        self.is_merging = is_merging

    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._table = context.table("windows")
        self._width = len(self.aggregates.parts)
        self._partials = Partials(self.aggregates)
        self.late_records = LateRecords(context, self.late)
        self._stored: dict[int, set[Any]] = {}
        self._unfired: list[int] = []  # a heap of ends
        self._expiring: list[tuple[int, int]] = []  # a heap of (last instant of use, slice)
        self._tracked: set[int] = set()
        self._ends: set[int] = set()
        for key, row in self._table.items():
            for start in row[: self._slices_in(row)]:
                self._stored.setdefault(start, set()).add(key)
        self._track(self._stored, context.watermark_ms)

    def process(self, batch: Batch) -> Batch:
        watermark_ms = self._context.watermark_ms
        first_kept_ms = self.assigner.first_kept_ms(watermark_ms, self.lateness_ms)
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        if self.is_merging:
            starts = list(map(_SLICE, batch.values))
            kept = self.late_records.split(batch, starts, first_kept_ms)
            if kept is not batch:
                batch, starts = kept, list(map(_SLICE, kept.values))
            self._partials.merge(starts, batch.keys or [], batch.values)
        else:
            batch = outside_gaps(self.assigner, batch)
            batch = self.late_records.split(batch, timestamps_of(batch), first_kept_ms)
            starts = self.assigner.slices(timestamps_of(batch))
            self._partials.fold(starts, batch.keys or [], batch.values)
        self._track(self._partials.slices, watermark_ms)
        refired = self._refire(starts, batch.keys or [], watermark_ms)
        if len(self._partials) > self.keys_max:
            self._store()
        return refired

    def advance(self, watermark_ms: int) -> Iterator[Batch]:
        size_ms = self.assigner.size_ms
        while self._unfired and self._unfired[0] - 1 <= watermark_ms:
            end = heappop(self._unfired)
            self._ends.discard(end)
            yield from self._fire(Window(end - size_ms, end))
        while self._expiring and self._expiring[0][0] <= watermark_ms:
            self._clear(heappop(self._expiring)[1])

    def next_ms(self) -> int | None:
        ends = [self._unfired[0] - 1] if self._unfired else []
        return min([*ends, *(at_ms for at_ms, _ in self._expiring[:1])], default=None)

    def before_barrier(self) -> Iterator[Batch]:
        self._store()
        return iter(())

    # --- which windows there are --------------------------------------------------------------

    def _track(self, slices: Collection[int], watermark_ms: int) -> None:
        """Take note of slices that are new, and of the windows that they belong to."""
        for start in slices:
            if start in self._tracked:
                continue
            self._tracked.add(start)
            last_ms = start
            for begin in self.assigner.starts(start):
                end = begin + self.assigner.size_ms
                last_ms = end - 1
                if last_ms > watermark_ms and end not in self._ends:
                    self._ends.add(end)
                    heappush(self._unfired, end)
            heappush(self._expiring, (last_ms + self.lateness_ms, start))

    # --- firing -------------------------------------------------------------------------------

    def _fire(self, window: Window, keys: Collection[Any] | None = None) -> Iterator[Batch]:
        """Yield the results of a window, in pages: of these keys, or of all that have one."""
        columns = self._gathered(window, keys)
        values = self.aggregates.values([column.values() for column in columns])
        rest = iter(results(columns[0], window, values))
        while page := list(islice(rest, PAGE_RECORDS)):
            yield Batch(page, [window.last_ms] * len(page))

    def _refire(self, starts: list[int], keys: list[Any], watermark_ms: int) -> Batch:
        """Return the results of windows that have fired before and were just added to."""
        values: list[Any] = []
        times: list[int] = []
        touched: dict[Window, dict[Any, None]] = {}
        first_end = self.assigner.first_end
        for start in sorted(set(starts)):
            if self.lateness_ms and first_end(start) - 1 <= watermark_ms:
                own = [key for key, at in zip(keys, starts, strict=True) if at == start]
                for window in self.assigner.windows(start, None):
                    if window.last_ms <= watermark_ms < window.last_ms + self.lateness_ms:
                        touched.setdefault(window, {}).update(dict.fromkeys(own))
        for window, own_keys in touched.items():
            for batch in self._fire(window, own_keys):
                values += batch.values
                times += batch.timestamps or []
        return Batch(values, times)

    def _gathered(self, window: Window, keys: Collection[Any] | None) -> list[Column]:
        """Return the accumulators of a window, which are not to be changed."""
        step = self.assigner.slice_ms
        slices = [
            start
            for start in range(window.start, window.end, step)
            if start in self._partials.slices or start in self._stored
        ]
        if len(slices) == 1:
            return self._slice(slices[0], keys)
        merged = self.aggregates.columns()
        for start in slices:
            _merge(self.aggregates, merged, self._slice(start, keys))
        return merged

    def _slice(self, start: int, keys: Collection[Any] | None) -> list[Column]:
        """Return the accumulators of a slice, those in state and those outside."""
        partials = self._partials.slices.get(start)
        stored = self._stored.get(start)
        if partials is not None and keys is not None:
            partials = _restricted(self.aggregates, partials, keys)
        if not stored:
            return partials or self.aggregates.columns()
        columns = self.aggregates.columns()
        wanted = stored if keys is None else stored.intersection(keys)
        if wanted:
            for column, part in zip(columns, self._parts(wanted, start), strict=True):
                dict.update(column, zip(wanted, part, strict=True))
        if partials is not None:
            _merge(self.aggregates, columns, partials)
        return columns

    # --- state --------------------------------------------------------------------------------

    def _store(self) -> None:
        """Put what is outside state into it."""
        for start, columns in self._partials.slices.items():
            keys = columns[0].keys()
            rows = dict(zip(keys, rows_of(start, columns), strict=True))
            stored = self._stored.setdefault(start, set())
            here = stored.intersection(keys)
            if here:
                merged = [
                    map(aggregate.merge, part, map(column.__getitem__, here))
                    for aggregate, part, column in zip(
                        self.aggregates.parts, self._parts(here, start), columns, strict=True
                    )
                ]
                rows.update(zip(here, zip(repeat(start), *merged, strict=False), strict=True))
            others = [known for at, known in self._stored.items() if at != start]
            elsewhere = set().union(*[other.intersection(rows) for other in others])
            for key, row in zip(elsewhere, self._rows(elsewhere), strict=True):
                rows[key] = self._joined(row, start, rows[key][1:])
            self._table.young.update(rows)
            stored.update(rows)
        self._partials.slices.clear()

    def _clear(self, start: int) -> None:
        """Forget a slice that no window needs any more."""
        table, width = self._table, self._width
        self._tracked.discard(start)
        self._partials.slices.pop(start, None)
        stored = self._stored.pop(start, set())
        for key, row in zip(stored, self._rows(stored), strict=True):
            if len(row) == 1 + width:
                table.delete(key)
                continue
            count = self._slices_in(row)
            index = row.index(start, 0, count)
            at = count + index * width
            table.put(key, (*row[:index], *row[index + 1 : at], *row[at + width :]))

    def _rows(self, keys: Collection[Any]) -> list[Row]:
        """Return what each of ``keys`` has in state."""
        young, load = self._table.young, self._table.load
        rows: list[Any] = list(map(young.get, keys, repeat(MISSING)))
        if MISSING in rows:
            rows = [
                load(key) if row is MISSING else row for key, row in zip(keys, rows, strict=True)
            ]
        return rows

    def _slices_in(self, row: Row) -> int:
        return len(row) // (1 + self._width)

    def _parts(self, keys: Collection[Any], start: int) -> Iterable[Row]:
        """Return for each aggregate what each of ``keys`` has in state for a slice."""
        part_of, single = self._part, 1 + self._width
        rows = self._rows(keys)
        return zip(
            *[row[1:] if len(row) == single else part_of(row, start) for row in rows], strict=True
        )

    def _part(self, row: Row, start: int) -> Row:
        """Return the accumulators that a row has for a slice."""
        count, width = self._slices_in(row), self._width
        at = count + row.index(start, 0, count) * width
        return row[at : at + width]

    def _joined(self, row: Row, start: int, part: Row) -> Row:
        """Return a row with these accumulators for a slice, which it may have already."""
        count, width = self._slices_in(row), self._width
        if start not in row[:count]:
            return (*row[:count], start, *row[count:], *part)
        at = count + row.index(start, 0, count) * width
        return (*row[:at], *part, *row[at + width :])


def _merge(aggregates: Aggregates, columns: list[Column], others: list[Column]) -> None:
    aggregates.merge_into(columns, others[0], [column.values() for column in others])


def _restricted(aggregates: Aggregates, columns: list[Column], keys: Iterable[Any]) -> list[Column]:
    """Return the columns of these keys alone."""
    own = [key for key in keys if key in columns[0]]
    restricted = aggregates.columns()
    for column, full in zip(restricted, columns, strict=True):
        dict.update(column, zip(own, map(full.__getitem__, own), strict=True))
    return restricted
