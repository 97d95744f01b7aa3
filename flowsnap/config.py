"""Settings: frozen, with units and bounds, checked when they are made."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal

import msgspec

from flowsnap.errors import ConfigError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)")
_DURATION_UNITS_MS = {
    "ms": 1,
    "s": 1000,
    "m": 60_000,
    "min": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}

Duration = str | timedelta
"""``"500ms"``, ``"10s"``, ``"5m"``, ``"2h"``, ``"1d"``, or a timedelta."""

Size = str | int
"""``"64MB"`` (units of 1,024), or a number of bytes."""


def duration_ms(value: Duration, what: str, *, at_least_ms: int = 0) -> int:
    """Return a duration in ms; ``what`` names the setting in the error.

    Raises:
        ConfigError: it is no duration, or shorter than ``at_least_ms``.
    """
    if isinstance(value, timedelta):
        parsed = round(value.total_seconds() * 1000)
    else:
        match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ConfigError(f"{what}: {value!r} is not a duration").hint(
                'write a number with a unit: "500ms", "10s", "5m", "2h", "1d", or pass a timedelta'
            )
        parsed = round(float(match[1]) * _DURATION_UNITS_MS[match[2]])
    if parsed < at_least_ms:
        raise ConfigError(f"{what}: {value!r} is shorter than {at_least_ms} ms")
    return parsed


def size_bytes(value: Size, what: str, *, at_least: int = 0) -> int:
    """Return a size in bytes; ``what`` names the setting in the error.

    Raises:
        ConfigError: it is no size, or smaller than ``at_least``.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        parsed = value
    else:
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ConfigError(f"{what}: {value!r} is not a size").hint(
                'write a number of bytes, or "64MB", "2GB"'
            )
        parsed = round(float(match[1]) * _SIZE_UNITS[(match[2] or "").lower().rstrip("i")])
    if parsed < at_least:
        raise ConfigError(f"{what}: {value!r} is smaller than {at_least} bytes")
    return parsed


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """When a failed job is started again: see ``core/restart.py``.

    ``exponential``: after ``delay_ms``, doubled up to ``delay_ms_max``, spread by ``jitter`` (a
    share of the delay); a run of ``reset_after_ms`` without failure starts anew. ``fixed``: always
    after ``delay_ms``. ``rate``: as fixed, while there are at most ``attempts_max`` failures in
    ``interval_ms``. ``none``: never. ``attempts_max`` bounds the restarts of the first two.
    """

    strategy: Literal["exponential", "fixed", "rate", "none"] = "exponential"
    attempts_max: int = 6
    delay_ms: int = 100
    delay_ms_max: int = 60_000
    jitter: float = 0.1
    reset_after_ms: int = 60_000
    interval_ms: int = 300_000


ALIGNMENT_TIMEOUT_MS_MAX = 3_600_000

CAPACITY_BATCHES_MAX = 1_000
"""Well below the high-water mark that ``transport/connection.py`` sets for a channel."""


class JobConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a run can be told, with bounds; times in ms, sizes in bytes."""

    workers: int = 0
    checkpoint_interval_ms: int = 10_000
    checkpoint_timeout_ms: int = 600_000
    checkpoint_pause_ms_min: int = 0
    checkpoint_failures_max: int = 10
    checkpoints_retained: int = 3
    checkpoint_mode: Literal["exactly-once", "at-least-once"] = "exactly-once"
    checkpoint_alignment: Literal["aligned", "unaligned"] = "aligned"
    alignment_timeout_ms: int = 0
    checkpoints_concurrent: int = 1
    trace: bool = False
    restart: Restart = Restart()
    state_memory_bytes: int = 256 * 2**20
    batch_bytes: int = 65_536
    batch_linger_ms: int = 10
    channel_capacity_batches: int = 8
    heartbeat_interval_ms: int = 1_000
    heartbeat_timeout_ms: int = 15_000
    stall_timeout_ms: int = 600_000
    start_timeout_ms: int = 60_000
    cancel_timeout_ms: int = 10_000

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"{name}: {value} is less than {least}")
        if self.channel_capacity_batches > CAPACITY_BATCHES_MAX:
            raise ConfigError(
                f"channel_capacity_batches: {self.channel_capacity_batches} is more than "
                f"{CAPACITY_BATCHES_MAX}"
            ).hint("what waits in a channel is memory, and delays every barrier")
        self._check_alignment()

    def _check_alignment(self) -> None:
        is_aligned = self.checkpoint_alignment == "aligned"
        if self.alignment_timeout_ms > ALIGNMENT_TIMEOUT_MS_MAX:
            raise ConfigError(
                f"alignment_timeout_ms: {self.alignment_timeout_ms} is more than "
                f"{ALIGNMENT_TIMEOUT_MS_MAX}"
            )
        if self.alignment_timeout_ms and not is_aligned:
            raise ConfigError(
                "alignment_timeout_ms says when an aligned checkpoint becomes unaligned, and "
                "checkpoint_alignment is unaligned from the beginning"
            ).hint("leave one of them out")
        if self.checkpoint_mode == "at-least-once" and not (
            is_aligned and not self.alignment_timeout_ms
        ):
            raise ConfigError("checkpoints that are at-least-once are never unaligned").hint(
                "nothing waits at a barrier then: leave checkpoint_alignment as it is"
            )
        if self.checkpoints_concurrent > 1 and not (is_aligned and not self.alignment_timeout_ms):
            raise ConfigError(
                f"checkpoints_concurrent: {self.checkpoints_concurrent} unaligned checkpoints "
                f"cannot be under way at once"
            ).hint("each would record what the others record: set checkpoints_concurrent to 1")

    def barrier_timeout_of(self, alignment: str | None) -> int | None:
        """Return what a barrier carries: None, it waits for ever; 0, it overtakes at once.

        ``alignment`` is that of one checkpoint; None: as the job's.
        """
        if (alignment or self.checkpoint_alignment) == "unaligned":
            return 0
        return None if alignment else self.alignment_timeout_ms or None


_LEAST = {
    "workers": 0,
    "checkpoint_interval_ms": 1,
    "checkpoint_timeout_ms": 1,
    "checkpoint_pause_ms_min": 0,
    "checkpoint_failures_max": 0,
    "checkpoints_retained": 1,
    "alignment_timeout_ms": 0,
    "checkpoints_concurrent": 1,
    "state_memory_bytes": 2**20,
    "batch_bytes": 1024,
    "batch_linger_ms": 0,
    "channel_capacity_batches": 2,
    "heartbeat_interval_ms": 10,
    "heartbeat_timeout_ms": 100,
    "stall_timeout_ms": 1_000,
    "start_timeout_ms": 1_000,
    "cancel_timeout_ms": 100,
}
