"""As-of join: every left record meets the right row as it was at the record's event time.

The right input is the history of a table: a record is the version of its key's row from its event
time on, or says that there is no row from then on. A left record waits until the watermark
has reached its time, because until then the version that it must meet may still come. So the result
depends on event times alone, and not on the order of arrival.

Of the versions at or before the watermark only the newest can be met by a record that is not late:
older ones are forgotten. Every key with something to do has a timer at the next time that matters
to it: that of its first waiting record, or that at which its oldest version becomes useless.

Source: Flink SQL, "Event Time Temporal Join", and TemporalRowTimeJoinOperator. Deviation: a left
record at or before the watermark is late and does not meet whatever happens to be left.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import compress
from typing import Any, Literal

from flowsnap.core.element import Batch
from flowsnap.core.operator import MISSING, KeyedTable, Operator, OperatorContext
from flowsnap.errors import ConfigError
from flowsnap.operators.join.pairing import (
    Pairing,
    Rows,
    Timeline,
    check_how,
    event_times,
    late_records,
)


class TemporalJoin(Operator):
    """Joins every left record with the version of the right row that is valid at its time.

    The output has the time of the left record. ``how="left"``: a record that meets no row comes
    out with None. Late left records go to the side output "late-left". Of two versions of one
    key and time the one that came last is valid. A version is never late, or one that came a
    moment after the watermark would be missing for ever; records that have left do not see it.
    A version for which ``deleted(version)`` is true says that there is no row from its time on.
    """

    needs_event_time = True

    def __init__(
        self,
        pairing: Pairing,
        how: Literal["inner", "left"] = "inner",
        deleted: Callable[[Any], object] | None = None,
    ) -> None:
        check_how(how, ("inner", "left"))
        if deleted is not None and not callable(deleted):
            raise ConfigError(f"as_of_join: deleted {deleted!r} is not a function")
        self.pairing = pairing
        self.how = how
        self.deleted = deleted

    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._late = late_records(context)[0]
        self._waiting: KeyedTable = context.table("waiting")
        self._versions: KeyedTable = context.table("versions")
        self._timers = context.event_timers("next")

    def process(self, batch: Batch) -> Batch:
        return self.process_port(batch, 0)

    def process_port(self, batch: Batch, port: int) -> Batch:
        """Keep the records; what comes out does so when event time goes on.

        Raises:
            ConfigError: the records have no event time.
        """
        times = event_times(batch, port, "as_of_join")
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        if port == 0:
            touched = self._keep_waiting(batch.keys, times, batch.values)
        else:
            touched = self._keep_versions(batch.keys, times, batch)
        for key in touched:
            self._schedule(key)
        return Batch([])

    def advance(self, watermark_ms: int) -> Iterator[Batch]:
        """Yield the records whose time has come, with what they meet."""
        rows = Rows(self.pairing)
        for _, key, _ in self._timers.due(watermark_ms):
            self._release(rows, key, watermark_ms)
            self._schedule(key)
            if rows.is_full():
                yield rows.take()
        if rows.values:
            yield rows.take()

    def _keep_waiting(self, keys: list[Any], times: list[int], values: list[Any]) -> set[Any]:
        watermark_ms, table = self._context.watermark_ms, self._waiting
        touched = set()
        for key, time, value in zip(keys, times, values, strict=True):
            if time <= watermark_ms:
                self._late.add(value, time)
                continue
            _timeline(table, key).insert(time, value)
            touched.add(key)
        return touched

    def _keep_versions(self, keys: list[Any], times: list[int], batch: Batch) -> set[Any]:
        table, deleted = self._versions, self.deleted
        self.cursor = cursor = iter(batch.values)
        rows = cursor if deleted is None else (None if deleted(row) else row for row in cursor)
        for key, time, row in zip(keys, times, rows, strict=True):
            _timeline(table, key).insert(time, row)
        self.cursor = None
        return set(keys)

    def _release(self, rows: Rows, key: Any, watermark_ms: int) -> None:
        waiting = self._waiting.get(key)
        count = 0 if waiting is MISSING else bisect_right(waiting.times, watermark_ms)
        if count == 0:
            return
        times, lefts = waiting.times[:count], waiting.values[:count]
        if count == len(waiting.times):
            self._waiting.delete(key)
        else:
            waiting.drop(count)
        rights = _as_of(self._versions.get(key), times)
        if self.how == "inner":
            is_met = [right is not None for right in rights]
            times, lefts = list(compress(times, is_met)), list(compress(lefts, is_met))
            rights = list(compress(rights, is_met))
        rows.add(times, lefts, rights)

    def _schedule(self, key: Any) -> None:
        """Forget the versions of ``key`` that nobody can meet, and set its next timer."""
        versions = self._trimmed(key)
        waiting = self._waiting.get(key)
        times = [] if waiting is MISSING else waiting.times[:1]
        if versions is not MISSING:
            times += versions.times[1:2]  # The first becomes useless when the second begins.
        if times:
            self._timers.register(min(times), key)

    def _trimmed(self, key: Any) -> Any:
        versions = self._versions.get(key)
        if versions is MISSING:
            return versions
        useless = bisect_right(versions.times, self._context.watermark_ms) - 1
        if useless > 0:
            versions.drop(useless)
        if useless >= 0 and versions.values[0] is None:
            versions.drop(1)  # That there is no row is what an empty history says as well.
        if versions.times:
            return versions
        self._versions.delete(key)
        return MISSING


def _timeline(table: KeyedTable, key: Any) -> Timeline:
    timeline = table.get(key)
    if timeline is MISSING:
        timeline = Timeline()
        table.put(key, timeline)
    assert isinstance(timeline, Timeline)
    return timeline


def _as_of(versions: Any, times: list[int]) -> list[Any]:
    """Return the version that is valid at each of ``times``, or None."""
    if versions is MISSING:
        return [None] * len(times)
    starts, values = versions.times, versions.values
    found = [bisect_right(starts, time) for time in times]
    return [values[index - 1] if index else None for index in found]
