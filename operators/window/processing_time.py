"""Windows in processing time: those in event time, with the wall clock in the place of the records.

A record belongs to the window of the moment in which it is processed. What the operator inside is
told of event time is that all before this moment has passed: so a window comes out as soon as its
end is there, and nothing is ever late. The clock never goes back in here, whatever the wall clock
does. At the end of input every window that is open comes out.

Source: Flink's ``TumblingProcessingTimeWindows`` and its kin. Deviation: what is open at the end of
input is not dropped.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, cast

from flowsnap.core.element import Batch
from flowsnap.core.operator import Operator, OperatorContext
from flowsnap.core.watermark import MAX_WATERMARK, MIN_WATERMARK
from flowsnap.operators.window.scheduled import ScheduledWindows


class ProcessingTimeWindows(Operator):
    """Runs windows whose time is the wall clock; ``windows`` is made for event time."""

    uses_processing_time = True

    def __init__(self, windows: ScheduledWindows) -> None:
        self.windows = windows

    def open(self, context: OperatorContext) -> None:
        self._windows = copy.copy(self.windows)
        self._clock = _Clock(context)
        self._windows.open(cast(OperatorContext, self._clock))

    def process(self, batch: Batch) -> Batch:
        now_ms = self._clock.now_ms()
        return self._windows.process(Batch(batch.values, [now_ms] * len(batch), batch.keys))

    def advance(self, watermark_ms: int) -> Iterable[Batch]:
        return self._passed(MAX_WATERMARK) if watermark_ms == MAX_WATERMARK else ()

    def on_processing_time(self, now_ms: int) -> Iterable[Batch]:
        yield from self._passed(now_ms - 1)
        yield from self._windows.on_processing_time(now_ms)

    def next_processing_time_ms(self) -> int | None:
        due_ms = self._windows.next_ms()
        asked_ms = self._windows.next_processing_time_ms()
        times = [] if due_ms is None else [due_ms + 1]
        return min(times if asked_ms is None else [*times, asked_ms], default=None)

    def before_barrier(self) -> Iterable[Batch]:
        return self._windows.before_barrier()

    def close(self) -> None:
        if hasattr(self, "_windows"):
            self._windows.close()

    def _passed(self, until_ms: int) -> Iterable[Batch]:
        if until_ms > self._clock.watermark_ms:
            self._clock.watermark_ms = until_ms
            return self._windows.advance(until_ms)
        return ()


class _Clock:
    """The context of the operator inside: that of the one outside, but for its event time."""

    def __init__(self, context: OperatorContext) -> None:
        self._context = context
        self.watermark_ms = MIN_WATERMARK  # What came due during a restart is still to come out.

    def now_ms(self) -> int:
        """Return the wall clock, which is always ahead of what has passed."""
        return max(self._context.processing_time_ms(), self.watermark_ms + 1)

    @property
    def key(self) -> Any:
        return self._context.key

    @key.setter
    def key(self, key: Any) -> None:
        self._context.key = key

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)
