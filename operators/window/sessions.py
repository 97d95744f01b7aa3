"""Sessions of incremental aggregates: the fast path for windows that grow.

What a key has in state is one flat tuple, its sessions in the order of time::

    (start, end, accumulator, ..., start, end, accumulator, ...)

A batch is cut into *runs* first: records of one key that follow one another in the batch and make
one session. A run is folded outside state, one loop over the batch for each aggregate, and then
added to the sessions of its key as if it were a record. A record whose own window is over already
is a run by itself, since the session that it makes, or is taken in by, comes out at once.

That gives what record by record would, however the input is cut into batches. Where the order of
the records matters it does as long as a run goes on with one session at most; a run that makes one
of several is taken apart.

Source: Flink's ``WindowOperator`` and ``MergingWindowSet``. Deviation: runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

from flowsnap.core.element import Batch
from flowsnap.core.operator import MISSING, OperatorContext, select
from flowsnap.operators.rolling import PAGE_RECORDS
from flowsnap.operators.window.aggregate import Aggregate, Aggregates
from flowsnap.operators.window.assigner import Session
from flowsnap.operators.window.lateness import LateRecords, timestamps_of
from flowsnap.operators.window.result import WindowResult
from flowsnap.operators.window.scheduled import ScheduledWindows
from flowsnap.operators.window.wake_ups import WakeUps

Row = tuple[Any, ...]
"""``(start, end, accumulator, ...)`` for each session."""

_HEAD = 2  # start, end


class Runs(NamedTuple):
    """The runs of a batch, as columns: run n has ``keys[n]`` and spans ``[starts[n], ends[n])``.

    ``first`` is the index of its first record; ``of_record`` has the run of each record.
    """

    keys: list[Any]
    starts: list[int]
    ends: list[int]
    first: list[int]
    of_record: list[int]


class SessionWindows(ScheduledWindows):
    """Emits a ``WindowResult`` per key and session when event time reaches its end.

    ``late`` is the tag of the side output for late records.
    """

    def __init__(
        self,
        assigner: Session,
        aggregates: Aggregates,
        *,
        lateness_ms: int = 0,
        late: str | None = None,
    ) -> None:
        self.assigner = assigner
        self.aggregates = aggregates
        self.lateness_ms = lateness_ms
        self.late = late

    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._table = context.table("sessions")
        self._late = LateRecords(context, self.late)
        self._absorbs = [_absorb(part) for part in self.aggregates.parts]
        self._width = _HEAD + len(self._absorbs)
        self._wake_ups = WakeUps()
        self._fired: list[tuple[Any, Row]] = []
        self._refired: list[WindowResult[Any, Any]] = []
        for key, row in self._table.items():
            for session in self._sessions(row):
                self._wake_ups.plan(key, self._next_ms(session[1] - 1, context.watermark_ms))

    def process(self, batch: Batch) -> Batch:
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        times, watermark_ms = timestamps_of(batch), self._context.watermark_ms
        ends = self.assigner.ends(times, batch.values)
        runs = _runs(batch.keys, times, ends, watermark_ms)
        late = []
        for number, folded in enumerate(self._folded(runs.of_record, batch.values)):
            span = (runs.starts[number], runs.ends[number], *folded)
            if not self._take(runs, number, span, batch, ends):
                late.append(runs.first[number])
        if late:
            chosen = set(late)
            self._late.take(select(batch, [at in chosen for at in range(len(batch))]))
        refired, self._refired = self._refired, []
        return Batch(refired, [result.end - 1 for result in refired])

    def advance(self, watermark_ms: int) -> Iterator[Batch]:
        for at_ms, key in self._wake_ups.due(watermark_ms):
            self._wake(key, at_ms)
            if len(self._fired) >= PAGE_RECORDS:
                yield self._taken()
        if self._fired:
            yield self._taken()

    def next_ms(self) -> int | None:
        return self._wake_ups.next_ms()

    # --- records ------------------------------------------------------------------------------

    def _folded(self, numbers: Sequence[int], values: list[Any]) -> Iterable[Row]:
        """Return the accumulators of each run, in the order of the runs."""
        columns = self.aggregates.columns()
        self.aggregates.fold_into(columns, numbers, values)
        return zip(*[column.values() for column in columns], strict=True)

    def _take(self, runs: Runs, number: int, span: Row, batch: Batch, ends: Sequence[int]) -> bool:
        """Add a run; False: it is a late record."""
        key = runs.keys[number]
        if not self.aggregates.is_ordered or self._is_simple(key, span):
            return self._add(key, span)
        times = timestamps_of(batch)
        own = [at for at, run in enumerate(runs.of_record) if run == number]
        for at in own:  # One by one: what merges in between has its place between them.
            (folded,) = self._folded([0], [batch.values[at]])
            self._add(key, (times[at], ends[at], *folded))
        return True

    def _is_simple(self, key: Any, span: Row) -> bool:
        """Return whether a run goes on with one session at most, from its first record on."""
        row = self._row(key)
        if row is MISSING:
            return True
        touching = [one for one in self._sessions(row) if one[0] <= span[1] and span[0] <= one[1]]
        return not touching or (len(touching) == 1 and touching[0][0] <= span[0])

    def _add(self, key: Any, span: Row) -> bool:
        """Add a span of one key to its sessions; False: it is late."""
        row = self._row(key)
        if row is MISSING:
            return self._add_new(key, (), span)
        start, end = span[0], span[1]
        if len(row) == self._width and start <= row[1] and row[0] <= end:
            grown = self._merged(row, span)
            self._table.young[key] = grown
            self._fire_late(key, grown)
            return True
        return self._add_among(key, row, span)

    def _add_new(self, key: Any, others: Row, span: Row) -> bool:
        """Add a session that touches none of the ``others``; False: it is late."""
        last_ms, watermark_ms = span[1] - 1, self._context.watermark_ms
        if last_ms + self.lateness_ms <= watermark_ms:
            return False
        if not others or others[1 - self._width] < span[0]:
            self._table.young[key] = others + span
        else:
            self._table.young[key] = self._joined([*self._sessions(others), span])
        self._wake_ups.plan(key, self._next_ms(last_ms, watermark_ms))
        self._fire_late(key, span)
        return True

    def _add_among(self, key: Any, row: Row, span: Row) -> bool:
        if row[1 - self._width] < span[0]:
            return self._add_new(key, row, span)  # The usual case: behind all the others.
        sessions = self._sessions(row)
        touching = [one for one in sessions if one[0] <= span[1] and span[0] <= one[1]]
        if not touching:
            return self._add_new(key, row, span)
        grown = touching[0]
        for other in (*touching[1:], span):
            grown = self._merged(grown, other)
        rest = [one for one in sessions if one[0] > span[1] or span[0] > one[1]]
        self._table.young[key] = self._joined([*rest, grown])
        self._fire_late(key, grown)
        return True

    def _merged(self, one: Row, other: Row) -> Row:
        """Return one session of two; the accumulators of the first may be changed in place."""
        absorbed = [
            absorb(mine, yours)
            for absorb, mine, yours in zip(self._absorbs, one[_HEAD:], other[_HEAD:], strict=True)
        ]
        start = one[0] if one[0] < other[0] else other[0]
        end = one[1] if one[1] > other[1] else other[1]
        return (start, end, *absorbed)

    def _fire_late(self, key: Any, session: Row) -> None:
        """Put out a session that event time has passed already, as it is now."""
        start, end, *accumulators = session
        if end - 1 <= self._context.watermark_ms:
            value = self.aggregates.result(tuple(accumulators))
            self._refired.append(WindowResult(key, start, end, value))

    # --- time ---------------------------------------------------------------------------------

    def _wake(self, key: Any, at_ms: int) -> None:
        """Do what is due for a key at one instant, and plan the next."""
        row = self._row(key)
        if not self.lateness_ms:
            self._wake_first(key, row, at_ms)
            return
        kept = []
        for session in self._sessions(row):
            last_ms = session[1] - 1
            if last_ms == at_ms:
                self._fired.append((key, session))
            if last_ms + self.lateness_ms > at_ms:
                kept.append(session)
                self._wake_ups.plan(key, self._next_ms(last_ms, at_ms))
        if not kept:
            self._table.delete(key)
        elif len(kept) * self._width < len(row):
            self._table.put(key, self._joined(kept))

    def _wake_first(self, key: Any, row: Row, at_ms: int) -> None:
        """Do the same without lateness: sessions end in their order, so it is about the first."""
        last_ms = row[1] - 1
        if last_ms > at_ms:
            self._wake_ups.plan(key, last_ms)
            return
        width = self._width
        self._fired.append((key, row[:width]))
        if len(row) == width:
            self._table.delete(key)
            return
        self._table.put(key, row[width:])
        self._wake_ups.plan(key, row[width + 1] - 1)

    def _next_ms(self, last_ms: int, passed_ms: int) -> int:
        """Return what is due next for a session: to come out, or to be forgotten."""
        return last_ms if last_ms > passed_ms else last_ms + self.lateness_ms

    def _taken(self) -> Batch:
        """Return the results of what has fired, and begin anew."""
        fired, self._fired = self._fired, []
        columns = zip(*[session[_HEAD:] for _, session in fired], strict=True)
        values = self.aggregates.values(list(columns))
        results = [
            WindowResult(key, session[0], session[1], value)
            for (key, session), value in zip(fired, values, strict=True)
        ]
        return Batch(results, [session[1] - 1 for _, session in fired])

    # --- rows ---------------------------------------------------------------------------------

    def _row(self, key: Any) -> Row:
        row = self._table.young.get(key, MISSING)
        return self._table.load(key) if row is MISSING else row  # type: ignore[no-any-return]

    def _sessions(self, row: Row) -> list[Row]:
        width = self._width
        if len(row) == width:
            return [row]
        return [row[at : at + width] for at in range(0, len(row), width)]

    def _joined(self, sessions: list[Row]) -> Row:
        sessions.sort(key=itemgetter(0))
        return tuple(chain.from_iterable(sessions))


def _absorb(part: Aggregate) -> Callable[[Any, Any], Any]:
    """Return what puts one accumulator into another, at the least price."""
    return part.merge if type(part).absorb is Aggregate.absorb else part.absorb


def _runs(keys: list[Any], starts: list[int], ends: Sequence[int], watermark_ms: int) -> Runs:
    """Cut the windows of records into runs; one that ends at the watermark is a run by itself."""
    over_ms = watermark_ms + 1
    latest: dict[Any, int] = {}
    run_keys: list[Any] = []
    run_starts: list[int] = []
    run_ends: list[int] = []
    first: list[int] = []
    of_record: list[int] = []
    for at, (key, start, end) in enumerate(zip(keys, starts, ends, strict=True)):
        run = latest.get(key, -1)
        if (
            run >= 0
            and start <= run_ends[run]
            and run_starts[run] <= end
            and end > over_ms
            and run_ends[run] > over_ms
        ):
            run_starts[run] = min(run_starts[run], start)
            run_ends[run] = max(run_ends[run], end)
        else:
            latest[key] = run = len(run_keys)
            run_keys.append(key)
            run_starts.append(start)
            run_ends.append(end)
            first.append(at)
        of_record.append(run)
    return Runs(run_keys, run_starts, run_ends, first, of_record)
