"""Triggers that fire again and again while a window is open.

The times are the multiples of the interval. If time jumps over several of them, they fire once.

Source: Flink's ``ContinuousEventTimeTrigger`` and ``ContinuousProcessingTimeTrigger``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowsnap.config import Duration
from flowsnap.operators.window.assigner import Window
from flowsnap.operators.window.trigger import (
    CONTINUE,
    FIRE,
    Trigger,
    TriggerContext,
    TriggerResult,
    interval_ms,
)

_NEXT = "next"


class ContinuousEventTimeTrigger(Trigger):
    """Fires at every multiple of ``interval`` in event time, and at the end of the window.

    The first is that after the window's first record. A late record makes it fire at once.

    Raises:
        ConfigError: the interval is no positive duration.
    """

    def __init__(self, interval: Duration) -> None:
        self.interval_ms = interval_ms(interval)

    def on_records(
        self,
        values: Sequence[Any],
        timestamps: Sequence[int | None],
        window: Window,
        context: TriggerContext,
    ) -> TriggerResult:
        if window.last_ms <= context.watermark_ms:
            return FIRE
        context.register_event_timer(window.last_ms)
        if context.get(_NEXT) is None:
            self._arm(max(timestamps[0] or 0, context.watermark_ms), window, context)
        return CONTINUE

    def on_event_time(self, at_ms: int, window: Window, context: TriggerContext) -> TriggerResult:
        if at_ms == window.last_ms:
            return FIRE
        if at_ms != context.get(_NEXT) or window.last_ms <= context.watermark_ms:
            return CONTINUE  # In the second case the end is about to come.
        self._arm(max(at_ms, context.watermark_ms), window, context)
        return FIRE

    def on_merge(self, window: Window, context: TriggerContext) -> None:
        if window.last_ms > context.watermark_ms:
            context.register_event_timer(window.last_ms)
        armed = context.merged(_NEXT)
        if armed:
            context.put(_NEXT, min(armed))
            context.register_event_timer(min(armed))

    def clear(self, window: Window, context: TriggerContext) -> None:
        context.delete_event_timer(window.last_ms)
        if context.get(_NEXT) is not None:
            context.delete_event_timer(context.get(_NEXT))
            context.put(_NEXT, None)

    def _arm(self, after_ms: int, window: Window, context: TriggerContext) -> None:
        at_ms = after_ms - after_ms % self.interval_ms + self.interval_ms
        context.put(_NEXT, at_ms)
        if at_ms < window.last_ms:
            context.register_event_timer(at_ms)


class ContinuousProcessingTimeTrigger(Trigger):
    """Fires at every multiple of ``interval`` by the wall clock, while there are records.

    At the end of the window it does not fire by itself:
    ``EventTimeTrigger(early=ContinuousProcessingTimeTrigger("1s"))`` does.

    Raises:
        ConfigError: the interval is no positive duration.
    """

    uses_processing_time = True

    def __init__(self, interval: Duration) -> None:
        self.interval_ms = interval_ms(interval)

    def on_records(
        self,
        values: Sequence[Any],
        timestamps: Sequence[int | None],
        window: Window,
        context: TriggerContext,
    ) -> TriggerResult:
        if context.get(_NEXT) is None:
            self._arm(context.processing_time_ms(), context)
        return CONTINUE

    def on_processing_time(
        self, at_ms: int, window: Window, context: TriggerContext
    ) -> TriggerResult:
        if at_ms != context.get(_NEXT):
            return CONTINUE
        self._arm(max(at_ms, context.processing_time_ms()), context)
        return FIRE

    def on_merge(self, window: Window, context: TriggerContext) -> None:
        armed = context.merged(_NEXT)
        if armed:
            context.put(_NEXT, min(armed))
            context.register_processing_timer(min(armed))

    def clear(self, window: Window, context: TriggerContext) -> None:
        if context.get(_NEXT) is not None:
            context.delete_processing_timer(context.get(_NEXT))
            context.put(_NEXT, None)

    def _arm(self, after_ms: int, context: TriggerContext) -> None:
        at_ms = after_ms - after_ms % self.interval_ms + self.interval_ms
        context.put(_NEXT, at_ms)
        context.register_processing_timer(at_ms)
