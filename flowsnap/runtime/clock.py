"""The only place that looks at a clock; everything else is told the time."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic time for deadlines, wall time for people."""

    def now_ms(self) -> int:
        """Return monotonic time in ms."""
        ...

    def wall_ms(self) -> int:
        """Return wall-clock time in ms since the epoch."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


def now_ns() -> int:
    """Return a monotonic time in ns, for measuring how long something took."""
    return time.perf_counter_ns()
