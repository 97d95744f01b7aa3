"""Interval join: pairs of records whose event times are close.

A left record l and a right record r of one key make a pair if
``l.time + lower <= r.time <= l.time + upper``. Whichever comes second finds the other in state.

State is cut along event time: the records of a key and a side lie in buckets as wide as the
interval, each sorted by time, so that a probe looks into two buckets and bisects them. A bucket is
forgotten as a whole once no record that is not late can reach into it; when exactly is invisible,
because only late records could tell. As in Flink, a record is late if it is older than the
watermark.

Source: Flink, "Interval Join" of the DataStream API, and IntervalJoinOperator. Deviation: Flink
keeps one list per time and scans all of them for each probe.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Any

from flowsnap.core.context import MapState, Timers
from flowsnap.core.element import Batch
from flowsnap.core.operator import Operator, OperatorContext
from flowsnap.errors import ConfigError
from flowsnap.operators.join.pairing import Pairing, Rows, Timeline, event_times, late_records

Buckets = dict[tuple[Any, int], Timeline | None]


class IntervalJoin(Operator):
    """Pairs every left record with the right ones of its key from ``lower_ms`` to ``upper_ms``.

    Both bounds are relative to the time of the left record, and included; either may be negative.
    A pair has the later of the two event times. Late records go to the side outputs "late-left"
    and "late-right".
    """

    needs_event_time = True

    def __init__(self, pairing: Pairing, lower_ms: int, upper_ms: int) -> None:
        if lower_ms > upper_ms:
            raise ConfigError(
                f"interval_join: no time is between lower ({lower_ms} ms) and upper ({upper_ms} ms)"
            ).hint("an exclusive bound moves its end of the interval by 1 ms")
        self.pairing = pairing
        self.lower_ms = lower_ms
        self.upper_ms = upper_ms
        self._width_ms = upper_ms - lower_ms + 1
        # By port: the times of partners, relative to a record; it is kept until the last of them.
        self._reach = ((lower_ms, upper_ms), (-upper_ms, -lower_ms))

    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._late = late_records(context)
        self._sides: tuple[MapState[int, Timeline], ...] = (
            context.map_state("left"),
            context.map_state("right"),
        )
        self._timers: tuple[Timers, ...] = (
            context.event_timers("left"),
            context.event_timers("right"),
        )

    def process(self, batch: Batch) -> Batch:
        return self.process_port(batch, 0)

    def process_port(self, batch: Batch, port: int) -> Batch:
        """Return the pairs that the records of one side make with those that were there.

        Raises:
            ConfigError: the records have no event time.
        """
        times = event_times(batch, port, "interval_join")
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        watermark_ms, width = self._context.watermark_ms, self._width_ms
        below, above = self._reach[port]
        own: Buckets = {}
        other: Buckets = {}
        rows = Rows(self.pairing)
        self.cursor = cursor = iter(batch.values)
        for key, time, value in zip(batch.keys, times, cursor, strict=True):
            if time < watermark_ms:
                self._late[port].add(value, time)
                continue
            first, last = time + below, time + above
            for number in range(first // width, last // width + 1):
                bucket = self._bucket(other, 1 - port, key, number)
                if bucket is not None:
                    self._probe(rows, (port, time, value), bucket, bucket.between(first, last))
            if last >= watermark_ms:  # Otherwise whatever could be its partner would be late.
                self._own_bucket(own, port, key, time // width).insert(time, value)
        return rows.take()

    def advance(self, watermark_ms: int) -> Iterable[Batch]:
        """Forget the buckets that only late records could reach; nothing comes out."""
        for side, timers in zip(self._sides, self._timers, strict=True):
            for _, key, number in timers.due(watermark_ms):
                self._context.key = key
                side.remove(number)
        return ()

    def _probe(
        self, rows: Rows, record: tuple[int, int, Any], bucket: Timeline, found: slice
    ) -> None:
        port, time, value = record
        times, values = bucket.times[found], bucket.values[found]
        if values:
            later = [at if at > time else time for at in times]
            if port == 0:
                rows.add(later, repeat(value), values)
            else:
                rows.add(later, values, repeat(value))

    def _bucket(self, seen: Buckets, port: int, key: Any, number: int) -> Timeline | None:
        """Return a bucket, or None; state is asked once in a batch for each."""
        try:
            return seen[key, number]
        except KeyError:
            self._context.key = key
            bucket = seen[key, number] = self._sides[port].get(number)
            return bucket

    def _own_bucket(self, seen: Buckets, port: int, key: Any, number: int) -> Timeline:
        bucket = self._bucket(seen, port, key, number)
        if bucket is None:
            bucket = seen[key, number] = Timeline()
            self._sides[port].put(number, bucket)
            # One more ms: a record as old as the watermark is not late, and may still pair.
            forget_ms = (number + 1) * self._width_ms + self._reach[port][1]
            self._timers[port].register(forget_ms, key, number)
        return bucket
