"""What the user's own steps are told, and may ask for, while they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NoReturn

from flowsnap.core.context import (
    Aggregate,
    AggregatingState,
    Counter,
    KeyedTable,
    ListState,
    MapState,
    OperatorContext,
    OperatorState,
    ReducingState,
    SideOutput,
    Timers,
    ValueState,
)
from flowsnap.errors import ConfigError
from flowsnap.operators.side_output import OutputTag, tag_name

TimerKind = Literal["event", "processing"]


class ProcessContext:
    """What ``open``, ``process`` and ``on_timer`` are handed: an ``OperatorContext``, and more.

    ``key``: the key of the record or timer, to be read only. ``timestamp``: the event time of the
    record, or None; the time of the timer. ``kind`` and ``timer_name`` are those of the timer in
    ``on_timer``, and None elsewhere. ``watermark``: the event time that has been reached, in ms.
    """

    def __init__(self, inner: OperatorContext, timers: ProcessTimers | None) -> None:
        self.key: Any = None
        self.timestamp: int | None = None
        self.timer_name: Any = None
        self.kind: TimerKind | None = None
        self.job = inner.job
        self.operator = inner.operator
        self.subtask = inner.subtask
        self.parallelism = inner.parallelism
        self.attempt = inner.attempt
        self._inner = inner
        self._timers = timers
        self._sides: dict[str, SideOutput] = {}

    @property
    def watermark(self) -> int:
        """The event time that has been reached; ``MIN_WATERMARK`` before the first watermark."""
        return self._inner.watermark_ms

    @property
    def watermark_ms(self) -> int:
        """The same as ``watermark``."""
        return self._inner.watermark_ms

    @watermark_ms.setter
    def watermark_ms(self, watermark_ms: int) -> NoReturn:
        raise AttributeError(f"event time comes with the records; {watermark_ms} cannot be set")

    # --- timers -------------------------------------------------------------------------------

    def register_event_timer(self, timestamp: int, name: Any = None) -> None:
        """Have ``on_timer`` called for this key when event time has passed ``timestamp``, in ms.

        ``name`` tells timers of one key and time apart. Registering one again changes nothing.
        """
        self._own_timers().event.register(_checked(timestamp), self._inner.key, name)

    def delete_event_timer(self, timestamp: int, name: Any = None) -> None:
        """Forget a timer of this key, which may be absent."""
        self._own_timers().event.delete(timestamp, self._inner.key, name)

    def register_processing_timer(self, timestamp: int, name: Any = None) -> None:
        """Have ``on_timer`` called for this key when the wall clock has reached ``timestamp``."""
        self._own_timers().processing.register(_checked(timestamp), self._inner.key, name)

    def delete_processing_timer(self, timestamp: int, name: Any = None) -> None:
        """Forget a timer of this key, which may be absent."""
        self._own_timers().processing.delete(timestamp, self._inner.key, name)

    def _own_timers(self) -> ProcessTimers:
        if self._timers is None:
            raise ConfigError(f"step {self.operator!r} uses timers, but has no on_timer").hint(
                "timers need a key and a method on_timer(self, timestamp, context)"
            )
        return self._timers

    # --- beside the main output ---------------------------------------------------------------

    def output(self, tag: OutputTag[Any] | str, value: Any) -> None:
        """Emit a record to a side output, with the time of the record or timer at hand."""
        name = tag if isinstance(tag, str) else tag_name(tag)
        side = self._sides.get(name)
        if side is None:
            side = self._sides[name] = self.side_output(tag_name(tag))
        side.add(value, self.timestamp)

    # --- as of the operator -------------------------------------------------------------------

    def processing_time_ms(self) -> int:
        """Return the wall clock, in ms since the epoch."""
        return self._inner.processing_time_ms()

    def event_timers(self, name: str) -> Timers:
        """Return the timers in event time that this operator keeps under ``name``."""
        return self._inner.event_timers(name)

    def processing_timers(self, name: str) -> Timers:
        """Return the timers in processing time that this operator keeps under ``name``."""
        return self._inner.processing_timers(name)

    def side_output(self, tag: str) -> SideOutput:
        """Return the side output ``tag`` of this operator."""
        return self._inner.side_output(tag)

    def counter(self, name: str) -> Counter:
        """Return the counter ``name`` of this operator, which the status of the job shows."""
        return self._inner.counter(name)

    def operator_state(
        self, name: str, kind: Literal["list", "union", "broadcast"] = "list"
    ) -> OperatorState:
        """Return the non-keyed state ``name`` of this operator."""
        return self._inner.operator_state(name, kind)

    def table(self, name: str) -> KeyedTable:
        """Return the raw table ``name`` of this operator."""
        return self._inner.table(name)

    # The settings of a state are those of ``OperatorContext``.

    def value_state(self, name: str, default: Any = None, **settings: Any) -> ValueState[Any]:
        """Return a value per key; a mutable ``default`` must be a function that makes one."""
        return self._inner.value_state(name, default, **settings)

    def list_state(self, name: str, **settings: Any) -> ListState[Any]:
        """Return a list per key."""
        return self._inner.list_state(name, **settings)

    def map_state(self, name: str, **settings: Any) -> MapState[Any, Any]:
        """Return a mapping per key."""
        return self._inner.map_state(name, **settings)

    def reducing_state(
        self, name: str, reduce: Callable[[Any, Any], Any], **settings: Any
    ) -> ReducingState[Any]:
        """Return a value per key into which others are folded."""
        return self._inner.reducing_state(name, reduce, **settings)

    def aggregating_state(
        self, name: str, aggregate: Aggregate, **settings: Any
    ) -> AggregatingState:
        """Return an accumulator per key, into which values are folded."""
        return self._inner.aggregating_state(name, aggregate, **settings)


class ProcessTimers:
    """The timers of both kinds of one step."""

    def __init__(self, context: OperatorContext) -> None:
        self.event = context.event_timers("process")
        self.processing = context.processing_timers("process")


def _checked(timestamp: Any) -> int:
    if type(timestamp) is not int:
        raise TypeError(f"a timer is set for an int of ms, not for a {type(timestamp).__name__}")
    return timestamp
