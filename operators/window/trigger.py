"""When does a window put out its result?

A trigger is asked when records have been added to a window, and when a timer that it has registered
for the window is due. It answers with a ``TriggerResult``. A trigger itself holds nothing that
changes: what it wants to remember of a window goes through its ``TriggerContext``.

Source: Flink, "Triggers"; early and late firings: Akidau et al., "The Dataflow Model" (VLDB 2015),
section 2.3. Deviation: records come in lists, and ``reach`` says how long one may be.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from flowsnap.config import Duration, duration_ms
from flowsnap.errors import ConfigError
from flowsnap.operators.window.assigner import Window, check_count


class TriggerResult(enum.Enum):
    """What becomes of a window: whether its result is put out, and whether it is emptied then."""

    CONTINUE = (False, False)
    FIRE = (True, False)
    PURGE = (False, True)
    FIRE_AND_PURGE = (True, True)

    def __init__(self, is_fire: bool, is_purge: bool) -> None:
        self.is_fire = is_fire
        self.is_purge = is_purge


CONTINUE, FIRE = TriggerResult.CONTINUE, TriggerResult.FIRE


class TriggerContext(Protocol):
    """What a trigger may use: time, timers, and values by name, all of one window of one key."""

    @property
    def watermark_ms(self) -> int:
        """How far event time has come."""

    def processing_time_ms(self) -> int:
        """Return the wall clock."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return a value that was put."""

    def put(self, name: str, value: Any) -> None:
        """Keep a value, None to forget it."""

    def merged(self, name: str) -> list[Any]:
        """Return the values of the windows that are being merged (see ``Trigger.on_merge``)."""

    def register_event_timer(self, at_ms: int) -> None:
        """Have ``on_event_time`` called; a repeat changes nothing."""

    def delete_event_timer(self, at_ms: int) -> None:
        """Forget a timer, which may be absent."""

    def register_processing_timer(self, at_ms: int) -> None:
        """Have ``on_processing_time`` called; a repeat changes nothing."""

    def delete_processing_timer(self, at_ms: int) -> None:
        """Forget a timer, which may be absent."""

    def scoped(self, name: str) -> TriggerContext:
        """Return a context whose values are apart from ours: for a trigger inside a trigger."""


class Trigger:
    """Base of all triggers.

    Subclass it for one of your own::

        class OnLarge(Trigger):
            def reach(self, window, context):
                return 1  # asked after every single record

            def on_records(self, values, timestamps, window, context):
                return TriggerResult.FIRE if values[-1] > 100 else TriggerResult.CONTINUE

    It is pickled, and shared by all keys.
    """

    uses_processing_time: ClassVar[bool] = False
    """Whether it registers timers in processing time."""

    def needs_processing_time(self) -> bool:
        """Return whether it, or a trigger inside it, registers timers in processing time."""
        return self.uses_processing_time

    def can_merge(self) -> bool:
        """Return whether it can be used with sessions."""
        return type(self).on_merge is not Trigger.on_merge

    def reach(self, window: Window, context: TriggerContext) -> int | None:
        """Return after how many further records it must be asked; None: as many as there are."""
        return None

    def on_records(
        self,
        values: Sequence[Any],
        timestamps: Sequence[int | None],
        window: Window,
        context: TriggerContext,
    ) -> TriggerResult:
        """Answer after records were added, at most ``reach`` of them; times may be None."""
        return CONTINUE

    def on_event_time(self, at_ms: int, window: Window, context: TriggerContext) -> TriggerResult:
        """Answer when a timer in event time is due."""
        return CONTINUE

    def on_processing_time(
        self, at_ms: int, window: Window, context: TriggerContext
    ) -> TriggerResult:
        """Answer when a timer in processing time is due."""
        return CONTINUE

    def on_merge(self, window: Window, context: TriggerContext) -> None:
        """Take over values and timers for a session that others have become.

        ``context.merged`` has the values of the others; their timers are deleted by ``clear``.
        """
        raise NotImplementedError(f"{type(self).__name__}.on_merge")

    def clear(self, window: Window, context: TriggerContext) -> None:
        """Delete the timers of a window that is no more; its values are forgotten anyway."""


class EventTimeTrigger(Trigger):
    """Fires when event time reaches the end of the window, and for late records at once.

    ``early`` is asked before that, ``late`` instead of firing at once thereafter::

        EventTimeTrigger(early=ContinuousProcessingTimeTrigger("1s"), late=CountTrigger(10))
    """

    def __init__(self, early: Trigger | None = None, late: Trigger | None = None) -> None:
        self.early = None if early is None else check_trigger(early)
        self.late = None if late is None else check_trigger(late)

    @property
    def is_plain(self) -> bool:
        """Whether the end of the window is all that matters."""
        return type(self) is EventTimeTrigger and self.early is None and self.late is None

    def needs_processing_time(self) -> bool:
        return any(
            inner is not None and inner.needs_processing_time() for inner in (self.early, self.late)
        )

    def can_merge(self) -> bool:
        return all(inner is None or inner.can_merge() for inner in (self.early, self.late))

    def reach(self, window: Window, context: TriggerContext) -> int | None:
        inner, scope = self._phase(window, context)
        return None if inner is None else inner.reach(window, scope)

    def on_records(
        self,
        values: Sequence[Any],
        timestamps: Sequence[int | None],
        window: Window,
        context: TriggerContext,
    ) -> TriggerResult:
        inner, scope = self._phase(window, context)
        is_over = window.last_ms <= context.watermark_ms
        if not is_over:
            context.register_event_timer(window.last_ms)
        if inner is None:
            return FIRE if is_over else CONTINUE
        return inner.on_records(values, timestamps, window, scope)

    def on_event_time(self, at_ms: int, window: Window, context: TriggerContext) -> TriggerResult:
        if at_ms == window.last_ms:
            if self.early is not None:
                self.early.clear(window, context.scoped("early"))
            return FIRE
        inner, scope = self._phase(window, context)
        return CONTINUE if inner is None else inner.on_event_time(at_ms, window, scope)

    def on_processing_time(
        self, at_ms: int, window: Window, context: TriggerContext
    ) -> TriggerResult:
        inner, scope = self._phase(window, context)
        return CONTINUE if inner is None else inner.on_processing_time(at_ms, window, scope)

    def on_merge(self, window: Window, context: TriggerContext) -> None:
        if window.last_ms > context.watermark_ms:
            context.register_event_timer(window.last_ms)
        if self.early is not None:
            self.early.on_merge(window, context.scoped("early"))
        if self.late is not None:
            self.late.on_merge(window, context.scoped("late"))

    def clear(self, window: Window, context: TriggerContext) -> None:
        context.delete_event_timer(window.last_ms)
        if self.early is not None:
            self.early.clear(window, context.scoped("early"))
        if self.late is not None:
            self.late.clear(window, context.scoped("late"))

    def _phase(
        self, window: Window, context: TriggerContext
    ) -> tuple[Trigger | None, TriggerContext]:
        if window.last_ms <= context.watermark_ms:
            return self.late, context.scoped("late")
        return self.early, context.scoped("early")


class ProcessingTimeTrigger(Trigger):
    """Fires when the wall clock reaches the end of the window."""

    uses_processing_time = True

    def on_records(
        self,
        values: Sequence[Any],
        timestamps: Sequence[int | None],
        window: Window,
        context: TriggerContext,
    ) -> TriggerResult:
        context.register_processing_timer(window.last_ms)
        return CONTINUE

    def on_processing_time(
        self, at_ms: int, window: Window, context: TriggerContext
    ) -> TriggerResult:
        return FIRE if at_ms == window.last_ms else CONTINUE

    def on_merge(self, window: Window, context: TriggerContext) -> None:
        context.register_processing_timer(window.last_ms)

    def clear(self, window: Window, context: TriggerContext) -> None:
        context.delete_processing_timer(window.last_ms)


class CountTrigger(Trigger):
    """Fires with every ``n``-th record of the window.

    Raises:
        ConfigError: ``n`` is no positive int.
    """

    def __init__(self, n: int) -> None:
        self.n = check_count(n, "count trigger")

    def reach(self, window: Window, context: TriggerContext) -> int | None:
        return max(1, self.n - int(context.get("count", 0)))

    def on_records(
        self,
        values: Sequence[Any],
        timestamps: Sequence[int | None],
        window: Window,
        context: TriggerContext,
    ) -> TriggerResult:
        count = context.get("count", 0) + len(values)
        if count >= self.n:
            context.put("count", None)
            return FIRE
        context.put("count", count)
        return CONTINUE

    def on_merge(self, window: Window, context: TriggerContext) -> None:
        context.put("count", sum(context.merged("count")) or None)


class PurgingTrigger(Trigger):
    """Does as another trigger says, and empties the window whenever it fires."""

    def __init__(self, trigger: Trigger) -> None:
        self.trigger = check_trigger(trigger)

    def needs_processing_time(self) -> bool:
        return self.trigger.needs_processing_time()

    def can_merge(self) -> bool:
        return self.trigger.can_merge()

    def reach(self, window: Window, context: TriggerContext) -> int | None:
        return self.trigger.reach(window, context)

    def on_records(
        self,
        values: Sequence[Any],
        timestamps: Sequence[int | None],
        window: Window,
        context: TriggerContext,
    ) -> TriggerResult:
        return _purging(self.trigger.on_records(values, timestamps, window, context))

    def on_event_time(self, at_ms: int, window: Window, context: TriggerContext) -> TriggerResult:
        return _purging(self.trigger.on_event_time(at_ms, window, context))

    def on_processing_time(
        self, at_ms: int, window: Window, context: TriggerContext
    ) -> TriggerResult:
        return _purging(self.trigger.on_processing_time(at_ms, window, context))

    def on_merge(self, window: Window, context: TriggerContext) -> None:
        self.trigger.on_merge(window, context)

    def clear(self, window: Window, context: TriggerContext) -> None:
        self.trigger.clear(window, context)


def check_trigger(trigger: object) -> Trigger:
    """Return ``trigger``.

    Raises:
        ConfigError: it is no trigger.
    """
    if not isinstance(trigger, Trigger):
        raise ConfigError(f"trigger: {trigger!r} is not a trigger").hint(
            "pass an instance, such as CountTrigger(100)"
        )
    return trigger


def interval_ms(interval: Duration) -> int:
    """Return the interval of a trigger.

    Raises:
        ConfigError: it is no positive duration.
    """
    return duration_ms(interval, "trigger interval", at_least_ms=1)


def _purging(result: TriggerResult) -> TriggerResult:
    return TriggerResult.FIRE_AND_PURGE if result.is_fire else result
