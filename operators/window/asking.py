"""What a trigger sees of one window of one key: see ``trigger.TriggerContext``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flowsnap.core.operator import OperatorContext
from flowsnap.operators.window.assigner import Window


class Asked:
    """The context of a trigger that is being asked about one window.

    ``values`` is what it remembers of the window, ``others`` what it does of those that are being
    merged. A timer later than ``last_use_ms`` would find no window any more, and is not registered.
    """

    def __init__(self, context: OperatorContext) -> None:
        self._context = context
        self.processing_time_ms = context.processing_time_ms
        self._event = context.event_timers("trigger")
        self._processing = context.processing_timers("trigger")
        self.values: dict[str, Any] = {}
        self.others: list[dict[str, Any]] = []
        self._key: Any = None
        self._window: tuple[int, int] = (0, 0)
        self._last_use_ms: int | None = None

    def about(
        self, key: Any, window: Window, values: dict[str, Any], last_use_ms: int | None
    ) -> Asked:
        """Return this context, now about another window."""
        self._key, self._window, self._last_use_ms = key, (window.start, window.end), last_use_ms
        self.values, self.others = values, []
        return self

    @property
    def watermark_ms(self) -> int:
        return self._context.watermark_ms

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)

    def put(self, name: str, value: Any) -> None:
        if value is None:
            self.values.pop(name, None)
        else:
            self.values[name] = value

    def merged(self, name: str) -> list[Any]:
        return [values[name] for values in self.others if name in values]

    def register_event_timer(self, at_ms: int) -> None:
        if self._last_use_ms is None or at_ms <= self._last_use_ms:
            self._event.register(at_ms, self._key, self._window)

    def delete_event_timer(self, at_ms: int) -> None:
        self._event.delete(at_ms, self._key, self._window)

    def register_processing_timer(self, at_ms: int) -> None:
        self._processing.register(at_ms, self._key, self._window)

    def delete_processing_timer(self, at_ms: int) -> None:
        self._processing.delete(at_ms, self._key, self._window)

    def scoped(self, name: str) -> Scoped:
        return Scoped(self, name + ".")

    def due(self, until_ms: int) -> Iterable[tuple[int, Any, Any]]:
        """Yield and forget the timers in event time that are due."""
        return self._event.due(until_ms)

    def due_by_clock(self, until_ms: int) -> Iterable[tuple[int, Any, Any]]:
        """Yield and forget the timers in processing time that are due."""
        return self._processing.due(until_ms)

    def next_ms(self) -> int | None:
        """Return when the next timer in event time is due."""
        return self._event.next_ms()

    def next_by_clock_ms(self) -> int | None:
        """Return when the next timer in processing time is due."""
        return self._processing.next_ms()


class Scoped:
    """A context whose names are prefixed."""

    def __init__(self, whole: Asked, prefix: str) -> None:
        self._whole = whole
        self._prefix = prefix
        self.processing_time_ms = whole.processing_time_ms
        self.register_event_timer = whole.register_event_timer
        self.delete_event_timer = whole.delete_event_timer
        self.register_processing_timer = whole.register_processing_timer
        self.delete_processing_timer = whole.delete_processing_timer

    @property
    def watermark_ms(self) -> int:
        return self._whole.watermark_ms

    def get(self, name: str, default: Any = None) -> Any:
        return self._whole.get(self._prefix + name, default)

    def put(self, name: str, value: Any) -> None:
        self._whole.put(self._prefix + name, value)

    def merged(self, name: str) -> list[Any]:
        return self._whole.merged(self._prefix + name)

    def scoped(self, name: str) -> Scoped:
        return Scoped(self._whole, f"{self._prefix}{name}.")
