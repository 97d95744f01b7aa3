"""``rate_limit``: lets so many records a second pass, and holds the rest back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from flowsnap.errors import ConfigError
from flowsnap.operators.holding import Held, Holding

BURST_MS = 50
"""What was not used in so many ms may be made up for at once; older chances are gone."""


class RateLimit(Holding):
    """Lets at most ``per_second`` records a second pass in each subtask, in their order.

    While records are held, no further batch is accepted, so that the sources slow down; nothing
    waits. In any span of time at most as many pass as the rate allows, and those of 50 ms more.

    Source: the generic cell rate algorithm (ATM Forum, "Traffic Management", 1996).
    """

    def __init__(self, per_second: float) -> None:
        if isinstance(per_second, bool) or not isinstance(per_second, int | float):
            raise ConfigError(f"rate_limit: {per_second!r} is not a number")
        if not 0.001 <= per_second <= 1e9:
            raise ConfigError(f"rate_limit: {per_second!r} records a second is no rate").hint(
                "give a number from 0.001 to 1e9: rate_limit(500)"
            )
        self.per_second = per_second

    def can_accept(self) -> bool:
        return not self._waiting

    def _start(self) -> None:
        self._waiting: deque[Held] = deque()
        self._interval_ms = 1000 / self.per_second
        self._free_ms = float(self._context.processing_time_ms())
        self._delayed = self._context.counter("delayed")
        self._counted = 0

    def _take(
        self, values: list[Any], timestamps: list[int | None], *, restored: bool = False
    ) -> None:
        self._waiting.extend(zip(values, timestamps, strict=True))
        self._next += len(values)

    def _release(self) -> list[Held]:
        now_ms = self._context.processing_time_ms()
        free_ms = max(self._free_ms, now_ms - BURST_MS)
        free_ms = min(free_ms, now_ms + self._interval_ms)  # The clock may have been set back.
        self._free_ms = free_ms
        count = min(len(self._waiting), int((now_ms - free_ms) / self._interval_ms) + 1)
        if now_ms < free_ms:
            count = 0
        if count:
            self._free_ms = free_ms + count * self._interval_ms
        leaving = [self._waiting.popleft() for _ in range(count)]
        self._count_delayed()
        self._announce()
        return leaving

    def _count_delayed(self) -> None:
        """Count what is still here after it might have left; each record once."""
        self._delayed.increase(self._next - max(self._counted, self._oldest()))
        self._counted = self._next

    def _held(self) -> Iterable[Held]:
        return self._waiting

    def _oldest(self) -> int:
        return self._next - len(self._waiting)
