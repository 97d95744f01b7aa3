"""How long an entry of state lives: the one setting of a state with a time to live.

Source: Flink, "State Time-To-Live (TTL)". Deviation: the moment of expiry is fixed when the entry
is written, so that another duration in a later version of the job holds for what is written then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from flowsnap.config import Duration, duration_ms
from flowsnap.errors import ConfigError

Renewal = Literal["write", "read-write"]
"""What begins the life of an entry anew: a write, or a read as well."""


@dataclass(frozen=True)
class TTL:
    """An entry expires ``duration`` of processing time after it was last renewed, see ``on``.

    From that moment on it is never returned, and some time later it is gone from state.

    Raises:
        ConfigError: ``duration`` is no duration or shorter than 1 ms, or ``on`` is unknown.
    """

    duration: Duration
    on: Renewal = "write"

    def __post_init__(self) -> None:
        duration_ms(self.duration, "ttl", at_least_ms=1)
        if self.on not in get_args(Renewal):
            raise ConfigError(f'ttl: on={self.on!r} is not "write" or "read-write"').hint(
                'on="read-write" begins the life of an entry anew whenever it is read'
            )

    @property
    def ms(self) -> int:
        """The duration in ms."""
        return duration_ms(self.duration, "ttl")
