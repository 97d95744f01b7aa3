"""The clocks of simulated processes: virtual time, monotonic for each, and a wall that jumps."""

from __future__ import annotations


class VirtualTime:
    """The time of the world, in us since its beginning; only the scheduler moves it."""

    def __init__(self) -> None:
        self.now_us = 0
        self.wall_offset_ms = 1_700_000_000_000


class ProcessClock:
    """A ``Clock``: monotonic time begins anywhere in each process; the wall clock is shared."""

    def __init__(self, time: VirtualTime, offset_ms: int) -> None:
        self._time = time
        self._offset_ms = offset_ms

    def now_ms(self) -> int:
        return self._time.now_us // 1000 + self._offset_ms

    def wall_ms(self) -> int:
        return self._time.now_us // 1000 + self._time.wall_offset_ms
