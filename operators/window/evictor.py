"""Which records of a window are still there when it fires?

With an evictor all records of a window are kept in state, also where an aggregate is computed.

Source: Flink, "Evictors".
"""

from __future__ import annotations

from typing import Any

from flowsnap.config import Duration, duration_ms
from flowsnap.errors import ConfigError
from flowsnap.operators.window.assigner import Window, check_count

Timed = tuple[int | None, Any]
"""The event time of a record, and the record."""


class Evictor:
    """Base of all evictors; ``is_after``: it removes records after the window has been computed.

    What it removes is gone for good: a later firing does not see it.
    """

    def __init__(self, *, is_after: bool = False) -> None:
        self.is_after = is_after

    def keep(self, records: list[Timed], window: Window) -> list[Timed]:
        """Return the records that stay, in their order; ``records`` are in order of arrival."""
        raise NotImplementedError(f"{type(self).__name__}.keep")


class CountEvictor(Evictor):
    """Keeps the last ``n`` records.

    Raises:
        ConfigError: ``n`` is no positive int.
    """

    def __init__(self, n: int, *, is_after: bool = False) -> None:
        super().__init__(is_after=is_after)
        self.n = check_count(n, "count evictor")

    def keep(self, records: list[Timed], window: Window) -> list[Timed]:
        return records[-self.n :]


class TimeEvictor(Evictor):
    """Keeps the records less than ``span`` older, in event time, than the newest of the window.

    Raises:
        ConfigError: the span is no positive duration.
    """

    def __init__(self, span: Duration, *, is_after: bool = False) -> None:
        super().__init__(is_after=is_after)
        self.span_ms = duration_ms(span, "time evictor", at_least_ms=1)

    def keep(self, records: list[Timed], window: Window) -> list[Timed]:
        times = [at for at, _ in records if at is not None]
        if len(times) != len(records):
            raise ConfigError("a time evictor was given records without event time").hint(
                "call assign_timestamps(...) on the stream, before key_by"
            )
        cut_ms = max(times) - self.span_ms
        return [record for record, at in zip(records, times, strict=True) if at > cut_ms]


def check_evictor(evictor: object) -> Evictor:
    """Return ``evictor``.

    Raises:
        ConfigError: it is no evictor.
    """
    if not isinstance(evictor, Evictor):
        raise ConfigError(f"evictor: {evictor!r} is not an evictor").hint(
            "pass an instance, such as CountEvictor(100)"
        )
    return evictor
