"""How long to bear a server that is away: again after how long, and when not any more?"""

from __future__ import annotations

import time
from collections.abc import Callable

RETRY_S, RETRY_S_MAX = 0.05, 5.0


class Patience:
    """Back-off of one reader: each failure doubles the pause, a success ends it.

    ``clock`` is monotonic, in seconds.
    """

    def __init__(self, timeout_ms: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_ms / 1000
        self._clock = clock
        self.succeeded()
        self._again_at_s = clock()

    @property
    def wait_ms(self) -> int:
        """In how many ms it is worth trying again; 0: now."""
        return max(0, round((self._again_at_s - self._clock()) * 1000))

    def succeeded(self) -> None:
        """Take note that the server has answered."""
        self._delay_s = RETRY_S
        self._failing_since_s: float | None = None

    def may_go_on(self) -> bool:
        """Take note of a failure; return whether to try again, after ``wait_ms``."""
        now_s = self._clock()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        self._again_at_s = now_s + self._delay_s
        self._delay_s = min(2 * self._delay_s, RETRY_S_MAX)
        return now_s - self._failing_since_s < self._timeout_s
