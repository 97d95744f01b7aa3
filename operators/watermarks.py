"""``assign_timestamps``: gives every record an event time, and says how far event time has come."""

from __future__ import annotations

import copy
import operator
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice, repeat
from typing import Any

from flowsnap.config import Duration, duration_ms
from flowsnap.core.element import Batch
from flowsnap.core.event_time import (
    EVENT_TIME_MAX,
    Bounded,
    EventTime,
    Strategy,
    WatermarkStrategy,
    promised,
)
from flowsnap.core.operator import Operator, OperatorContext
from flowsnap.core.watermark import MIN_WATERMARK
from flowsnap.errors import ConfigError
from flowsnap.operators.selector import Selector, check_selector, selected

__all__ = [
    "AssignTimestamps",
    "Punctuated",
    "Stamp",
    "WatermarkStrategy",
    "bounded",
    "event_time_of",
    "monotonous",
    "punctuated",
    "strategy_of",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_ONLY_INT = {int}


class Stamp(Operator):
    """Gives every record the event time that ``selector`` selects from it.

    That is an int, in ms since the epoch, or an aware datetime, of which whole ms count.
    """

    def __init__(self, selector: Selector) -> None:
        if selector is None:
            raise ConfigError("a timestamp must be selected from the record").hint(
                "pass a function, a field name, an index, or a tuple of those"
            )
        check_selector(selector, "timestamp")
        self.selector = selector

    def process(self, batch: Batch) -> Batch:
        """Return the batch with its event times.

        Raises:
            TypeError: what is selected from a record is missing, or no point in time.
            ValueError: it is a naive datetime, or out of range.
        """
        return Batch(batch.values, self._timestamps(batch), batch.keys)

    def _timestamps(self, batch: Batch) -> list[int]:
        self.cursor = iter(batch.values)
        found = list(selected(self.selector, batch.values, self.cursor))
        if set(map(type, found)) <= _ONLY_INT and (not found or _is_in_range(found)):
            return found
        remaining = iter(found)
        try:
            return list(map(epoch_ms, remaining))
        except (TypeError, ValueError):
            index = len(found) - operator.length_hint(remaining)
            self.cursor = iter(batch.values)
            deque(islice(self.cursor, index), maxlen=0)  # up to the record that is to blame
            raise


class AssignTimestamps(Stamp):
    """Gives every record an event time, and promises after each batch what is not to follow.

    The watermark of a subtask never goes back. It is part of every checkpoint: all subtasks begin
    again at the least of them, because a restart may have dealt the input out anew. ``idle_ms``: a
    subtask without a record for so long holds nobody back, until the next one. ``max_future_ms``:
    for the watermark, no record is further ahead of the wall clock than this.
    """

    generates_watermarks = True
    uses_processing_time = True

    def __init__(
        self,
        selector: Selector,
        strategy: Strategy,
        *,
        idle_ms: int | None = None,
        max_future_ms: int | None = None,
    ) -> None:
        super().__init__(selector)
        self.strategy = strategy
        self.idle_ms = idle_ms
        self.max_future_ms = max_future_ms

    def open(self, context: OperatorContext) -> None:
        self._strategy = copy.copy(self.strategy)
        self._wall_ms = context.processing_time_ms
        self._state = context.operator_state("watermark", "union")
        marks = self._state.get()
        self.watermark_ms = min(marks) if marks and None not in marks else None
        self._state.update([self.watermark_ms])
        self._active_at_ms = self._wall_ms()
        self._has_looked = False

    def process(self, batch: Batch) -> Batch:
        timestamps = self._timestamps(batch)
        if not timestamps:
            return batch
        if self.idle_ms is not None:
            self._active_at_ms = self._wall_ms()
            self.is_idle = self._has_looked = False
        seen = timestamps
        if self.max_future_ms is not None:
            limit = self._wall_ms() + self.max_future_ms
            if max(seen) > limit:
                seen = list(map(min, seen, repeat(limit)))
        watermark_ms = promised(self._strategy, batch.values, seen)
        reached = MIN_WATERMARK if self.watermark_ms is None else self.watermark_ms
        if watermark_ms is not None and watermark_ms > reached:
            self.watermark_ms = watermark_ms
        return Batch(batch.values, timestamps, batch.keys)

    def next_processing_time_ms(self) -> int | None:
        if self.idle_ms is None or self.is_idle:
            return None
        return self._active_at_ms + self.idle_ms

    def on_processing_time(self, now_ms: int) -> Iterable[Batch]:
        # At the first call there may be records that have been waiting while those downstream held
        # us back. They are taken before the second.
        self.is_idle = self._has_looked
        self._has_looked = True
        return ()

    def before_barrier(self) -> Iterable[Batch]:
        self._state.update([self.watermark_ms])
        return ()


class Punctuated:
    """Records say themselves how far event time has come: those of which ``fn`` returns ms."""

    def __init__(self, fn: Callable[[Any], int | None]) -> None:
        self.fn = fn

    def on_records(self, values: list[Any], timestamps: list[int]) -> int | None:
        """Return the greatest point in time that one of the records declares to be complete."""
        return max((t for t in map(self.fn, values) if t is not None), default=None)


def bounded(
    out_of_orderness: Duration = "0ms",
    *,
    timestamp: Selector = None,
    idle: Duration | None = None,
    group: str = "",
    max_drift: Duration = "1m",
) -> EventTime:
    """Return a strategy for records that are at most ``out_of_orderness`` late.

    In ``Pipeline.source`` it applies to each split by itself, and the rest is for there alone.
    ``timestamp``: what selects the event time from a record; it may be left out if the source knows
    it. ``idle``: a split without a record for so long does not count. ``group``: sources with the
    same are aligned: none reads on that is ahead of the slowest by more than ``max_drift``.

    Raises:
        ConfigError: an argument is wrong.
    """
    delay_ms = duration_ms(out_of_orderness, "out_of_orderness")
    return _event_time(Bounded(delay_ms), timestamp, idle, group, max_drift)


def monotonous(
    *,
    timestamp: Selector = None,
    idle: Duration | None = None,
    group: str = "",
    max_drift: Duration = "1m",
) -> EventTime:
    """Return a strategy for records in order, equal times included; see ``bounded``."""
    return _event_time(Bounded(0), timestamp, idle, group, max_drift)


def punctuated(
    fn: Callable[[Any], int | None],
    *,
    timestamp: Selector = None,
    idle: Duration | None = None,
    group: str = "",
    max_drift: Duration = "1m",
) -> EventTime:
    """Return a strategy where records say themselves how far event time has come.

    ``fn(record)`` returns t in ms, if no record at or before t follows, or None. For the rest see
    ``bounded``.
    """
    if not callable(fn):
        raise ConfigError(f"punctuated: {fn!r} is not a function")
    return _event_time(Punctuated(fn), timestamp, idle, group, max_drift)


def event_time_of(watermark: object) -> EventTime:
    """Return the settings that ``Pipeline.source`` was given as ``watermark``.

    Raises:
        ConfigError: they are none.
    """
    if isinstance(watermark, EventTime):
        return watermark
    return EventTime(strategy_of(watermark))


def strategy_of(watermarks: object) -> Strategy:
    """Return the strategy that ``assign_timestamps`` was given as ``watermarks``.

    Raises:
        ConfigError: it is none, or has settings that are for a source only.
    """
    if isinstance(watermarks, EventTime):
        if watermarks.stamp is not None or watermarks.group or watermarks.idle_ms is not None:
            raise ConfigError(
                "watermarks: timestamp, idle and group of a strategy are for a source"
            ).hint("give them to assign_timestamps itself, or write source(..., watermark=...)")
        return watermarks.strategy
    is_strategy = hasattr(watermarks, "on_batch") or hasattr(watermarks, "on_records")
    if not is_strategy or isinstance(watermarks, type):
        raise ConfigError(f"{watermarks!r} is not a watermark strategy").hint(
            "bounded(...), monotonous(), punctuated(fn), or an object with on_batch(timestamps)"
        )
    return watermarks  # type: ignore[return-value]


def epoch_ms(moment: object) -> int:
    """Return a point in time in ms since the epoch; a datetime is rounded down.

    Raises:
        TypeError: it is none.
        ValueError: it is a naive datetime, or out of range.
    """
    if isinstance(moment, datetime):
        if moment.utcoffset() is None:
            raise ValueError(f"the timestamp {moment.isoformat()} has no time zone")
        found = (moment - _EPOCH) // _MS
    elif moment is None:
        raise TypeError("the record has no timestamp: None was selected from it")
    elif isinstance(moment, bool | float) or not hasattr(moment, "__index__"):
        raise TypeError(
            f"the timestamp is a {type(moment).__name__}, not an int of ms or an aware datetime"
        )
    else:
        found = operator.index(moment)
    if not -EVENT_TIME_MAX <= found <= EVENT_TIME_MAX:
        raise ValueError(f"the timestamp {found} is out of range")
    return found


def _is_in_range(timestamps: list[int]) -> bool:
    return min(timestamps) >= -EVENT_TIME_MAX and max(timestamps) <= EVENT_TIME_MAX


def _event_time(
    strategy: Strategy,
    timestamp: Selector,
    idle: Duration | None,
    group: str,
    max_drift: Duration,
) -> EventTime:
    if not isinstance(group, str):
        raise ConfigError(f"group: {group!r} is not a name")
    return EventTime(
        strategy,
        None if timestamp is None else Stamp(timestamp),
        None if idle is None else duration_ms(idle, "idle", at_least_ms=1),
        group,
        duration_ms(max_drift, "max_drift"),
    )
