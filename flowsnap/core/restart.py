"""Again, when, or give up?

A failed attempt is followed by another one after a delay, so that a fault that goes away is
survived and one that stays does not burn the machine. Strategies:

- exponential: the delay doubles with every failure up to a bound and is spread by chance, so that
  many jobs which failed together do not come back together. A run without failure that was long
  enough starts anew, with the first delay and all restarts.
- fixed: always the same delay, a bounded number of times.
- rate: the same delay, while failures are rare enough.
- none: never.

The policy outlives the attempts and knows nothing of the job: it hears of failures that a restart
could help, and answers with a delay. Chance is an argument, as time is.

Source: Flink, "Task Failure Recovery", its four restart strategies, and
``ExponentialDelayRestartBackoffTimeStrategy``. Deviation: the spread delay, too, keeps the bound.

>>> from flowsnap.config import Restart
>>> policy = RestartPolicy(Restart(delay_ms=100, delay_ms_max=300, attempts_max=3))
>>> [policy.failed(now_ms, draw=0.5) for now_ms in (0, 1_000, 2_000, 3_000)]
[100, 200, 300, None]
"""

from __future__ import annotations

from collections import deque

from flowsnap.config import Restart
from flowsnap.errors import ConfigError, LocalProtocolError


class RestartPolicy:
    """When is the next attempt, if any? One per job; it counts the failures of all attempts."""

    def __init__(self, config: Restart) -> None:
        _check(config)
        self._config = config
        self._restarts = 0
        self._delay_ms = config.delay_ms
        self._resumed_at_ms: int | None = None
        self._failed_at_ms: deque[int] = deque()

    def failed(self, now_ms: int, draw: float) -> int | None:
        """Count a failure and return the delay in ms until the next attempt; None: give up.

        ``now_ms`` is monotonic. ``draw`` in [0, 1) is the chance that spreads the delay.

        Raises:
            LocalProtocolError: ``draw`` is not in [0, 1).
        """
        if not 0 <= draw < 1:
            raise LocalProtocolError(f"draw {draw} is not in [0, 1)")
        match self._config.strategy:
            case "exponential":
                return self._failed_exponential(now_ms, draw)
            case "fixed":
                return self._config.delay_ms if self._has_restart() else None
            case "rate":
                return self._failed_rate(now_ms)
            case _:  # "none"
                return None

    def _failed_exponential(self, now_ms: int, draw: float) -> int | None:
        config = self._config
        resumed = self._resumed_at_ms
        if resumed is not None and now_ms - resumed >= config.reset_after_ms:
            self._restarts = 0
            self._delay_ms = config.delay_ms
        if not self._has_restart():
            return None
        spread = 1 + config.jitter * (2 * draw - 1)
        delay_ms = min(round(self._delay_ms * spread), config.delay_ms_max)
        self._delay_ms = min(2 * self._delay_ms, config.delay_ms_max)
        self._resumed_at_ms = now_ms + delay_ms  # the delay itself is no run without failure
        return delay_ms

    def _failed_rate(self, now_ms: int) -> int | None:
        config = self._config
        self._failed_at_ms.append(now_ms)
        while self._failed_at_ms[0] <= now_ms - config.interval_ms:
            self._failed_at_ms.popleft()
        return config.delay_ms if len(self._failed_at_ms) <= config.attempts_max else None

    def _has_restart(self) -> bool:
        """Return whether a restart is left, and take it."""
        if self._restarts >= self._config.attempts_max:
            return False
        self._restarts += 1
        return True


def _check(config: Restart) -> None:
    if config.strategy not in _STRATEGIES:
        raise ConfigError(f"restart.strategy: there is no {config.strategy!r}").hint(
            f"use one of {', '.join(_STRATEGIES)}"
        )
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if value < least:
            raise ConfigError(f"restart.{name}: {value} is less than {least}")
    if config.jitter > 1:
        raise ConfigError(f"restart.jitter: {config.jitter} is more than 1").hint(
            "it is a share of the delay: 0.1 spreads a delay by a tenth to both sides"
        )
    if config.strategy == "exponential" and config.delay_ms > config.delay_ms_max:
        raise ConfigError(
            f"restart.delay_ms: {config.delay_ms} is more than delay_ms_max {config.delay_ms_max}"
        )


_STRATEGIES = ("exponential", "fixed", "rate", "none")

_LEAST = {
    "attempts_max": 0,
    "delay_ms": 0,
    "delay_ms_max": 0,
    "jitter": 0,
    "reset_after_ms": 0,
    "interval_ms": 1,
}
