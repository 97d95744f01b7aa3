"""Trying again what a service refused for the moment: bounded, and further and further apart.

Half of each pause is chance: workers that failed together do not come back together ("Exponential
Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

R = TypeVar("R")


class Transient(Exception):
    """What a call raises that may succeed the next time; ``__cause__`` is what happened."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and how far apart, a call is repeated.

    ``sleep``, ``now_s`` and ``chance`` are the outside world; ``chance`` returns from [0, 1).
    """

    tries_max: int = 8
    pause_ms_first: int = 100
    pause_ms_max: int = 5_000
    total_ms_max: int = 60_000
    sleep: Callable[[float], None] = time.sleep
    now_s: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random

    def pause_ms(self, tries: int) -> float:
        """Return how long to wait after the ``tries``-th try that has failed."""
        longest: int = min(self.pause_ms_max, self.pause_ms_first << (tries - 1))
        return longest * (0.5 + self.chance() / 2)

    def run(self, call: Callable[[], R], *, from_failure: bool = False) -> R:
        """Call until it does not raise ``Transient``; no pause begins that would end too late.

        ``from_failure``: ``total_ms_max`` counts from the first failure, and not from the
        beginning: for a call that takes long by itself, such as an upload in many requests.

        Raises:
            Transient: the last one.
        """
        begun_s, tries = self.now_s(), 1
        while True:
            try:
                return call()
            except Transient:
                failed_s, pause_s = self.now_s(), self.pause_ms(tries) / 1000
                if tries == 1 and from_failure:
                    begun_s = failed_s
                until_s = begun_s + self.total_ms_max / 1000
                if tries >= self.tries_max or failed_s + pause_s > until_s:
                    raise
            self.sleep(pause_s)
            tries += 1
