"""Regular join: every record meets all that the other side has kept for its key.

Records are kept for ``ttl`` after they came, in processing time, or for ever. A record without a
partner comes out (of outer joins) only when it can have none any more: when its time is up, or
at the end of input. So nothing that came out ever has to be taken back, as it has in SQL on
streams, where the row padded with nulls is emitted at once and retracted later.

The records of a key that have met a partner are always the first ones of their side: a partner
meets all that are there, and a record that finds a partner finds one that the records before it
have met as well. So one number for each key says which they are.

Source: Flink SQL, "Regular Joins", and StreamingJoinOperator. Deviation: no retractions, see above.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any, ClassVar

import msgspec

from flowsnap.core.element import Batch
from flowsnap.core.operator import MISSING, KeyedTable, Operator, OperatorContext
from flowsnap.errors import ConfigError
from flowsnap.operators.join.pairing import How, Pairing, Rows, check_how

_OUTER = {"inner": (), "left": (0,), "right": (1,), "full": (0, 1)}


class Kept(msgspec.Struct):
    """The records of one key and side, as they came; the first ``paired`` have met a partner.

    ``written_ms``: when each came; empty where records are kept for ever. ``times``: event times.
    """

    values: list[Any] = []
    times: list[int | None] = []
    written_ms: list[int] = []
    paired: int = 0


class StreamJoin(Operator):
    """Joins the records of two inputs by key; a pair has the later of their event times.

    A record that came at t meets those that come before ``t + ttl_ms``; ``ttl_ms=None``: all.
    """

    uses_processing_time: ClassVar[bool] = True

    def __init__(self, pairing: Pairing, how: How = "inner", ttl_ms: int | None = None) -> None:
        check_how(how)
        if ttl_ms is not None and ttl_ms < 1:
            raise ConfigError(f"ttl: {ttl_ms} ms is less than 1 ms")
        self.pairing = pairing
        self.how = how
        self.ttl_ms = ttl_ms
        self._is_over = False

    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._sides: tuple[KeyedTable, ...] = (context.table("left"), context.table("right"))
        self._timers = context.processing_timers("ttl")
        self._is_over = False

    def process(self, batch: Batch) -> Batch:
        return self.process_port(batch, 0)

    def process_port(self, batch: Batch, port: int) -> Batch:
        """Return the pairs that the records of one side make with those that are kept."""
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        now_ms = self._context.processing_time_ms() if self.ttl_ms is not None else 0
        rows = Rows(self.pairing)
        self._expire(rows, now_ms)
        own_side, other_side = self._sides[port], self._sides[1 - port]
        self.cursor = cursor = iter(batch.values)
        times = repeat(None) if batch.timestamps is None else batch.timestamps
        for key, time, value in zip(batch.keys, times, cursor, strict=False):
            own = own_side.get(key)
            if own is MISSING:
                own = Kept()
                own_side.put(key, own)
            own.values.append(value)
            own.times.append(time)
            partners = other_side.get(key)
            if partners is not MISSING:
                own.paired = len(own.values)
                partners.paired = len(partners.values)
                _pair(rows, (port, time, value), partners)
        if self.ttl_ms is not None:
            self._note_expiry(batch.keys, port, now_ms, self.ttl_ms)
        return rows.take()

    def next_processing_time_ms(self) -> int | None:
        if self.ttl_ms is None or self._is_over:
            return None
        return self._timers.next_ms()

    def on_processing_time(self, now_ms: int) -> Iterator[Batch]:
        if self.next_processing_time_ms() is not None:
            rows = Rows(self.pairing)
            self._expire(rows, now_ms)
            yield rows.take()

    def end_input(self) -> Iterator[Batch]:
        """Yield the records that have met no partner, where the join is outer; forget all."""
        self._is_over = True  # What is put out here must not expire as well.
        rows = Rows(self.pairing)
        for port, side in enumerate(self._sides):
            keys = []
            for key, kept in side.items():
                keys.append(key)
                self._alone(rows, port, kept, len(kept.values))
                if rows.is_full():
                    yield rows.take()
            for key in keys:
                side.delete(key)
        if rows.values:
            yield rows.take()

    def _note_expiry(self, keys: list[Any], port: int, now_ms: int, ttl_ms: int) -> None:
        side, register = self._sides[port], self._timers.register
        for key in dict.fromkeys(keys):
            kept = side.get(key)
            written = kept.written_ms
            # The wall clock may go back, the order of what was written may not.
            at_ms = max(now_ms, written[-1]) if written else now_ms
            written += repeat(at_ms, len(kept.values) - len(written))
            register(at_ms + ttl_ms, key, port)

    def _expire(self, rows: Rows, now_ms: int) -> None:
        """Forget the records whose time is up; those without a partner come out."""
        if self.ttl_ms is None:
            return
        for at_ms, key, port in self._timers.due(now_ms):
            kept = self._sides[port].get(key)
            if kept is MISSING:
                continue  # The input had ended before the restore: what was kept came out then.
            count = bisect_right(kept.written_ms, at_ms - self.ttl_ms)
            self._alone(rows, port, kept, count)
            kept.paired = max(0, kept.paired - count)
            del kept.values[:count], kept.times[:count], kept.written_ms[:count]
            if not kept.values:
                self._sides[port].delete(key)

    def _alone(self, rows: Rows, port: int, kept: Kept, end: int) -> None:
        """Put out the records before ``end`` that have met no partner."""
        if port in _OUTER[self.how] and kept.paired < end:
            values, times = kept.values[kept.paired : end], kept.times[kept.paired : end]
            _add(rows, port, times, (values, repeat(None)))


def _pair(rows: Rows, record: tuple[int, int | None, Any], partners: Kept) -> None:
    port, time, value = record
    times = [None if time is None or at is None else max(time, at) for at in partners.times]
    _add(rows, port, times, (repeat(value), partners.values))


def _add(
    rows: Rows, port: int, times: Iterable[int | None], own_other: tuple[Iterable[Any], ...]
) -> None:
    own, other = own_other
    if port == 0:
        rows.add(times, own, other)
    else:
        rows.add(times, other, own)
