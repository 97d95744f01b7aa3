"""Which records of a batch still have a window? The others are counted, and go to a side output."""

from __future__ import annotations

from operator import not_
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.operator import OperatorContext, select
from flowsnap.errors import ConfigError
from flowsnap.operators.window.assigner import Sliding

LATE = "late"
"""The counter of records that event time had passed when they came, whoever gets them then."""


def timestamps_of(batch: Batch) -> list[int]:
    """Return the event times of a batch.

    Raises:
        ConfigError: its records have none.
    """
    if batch.timestamps is None:
        raise ConfigError("a window was given records without event time").hint(
            "call assign_timestamps(...) on the stream, before key_by"
        )
    return batch.timestamps


def outside_gaps(assigner: Sliding, batch: Batch) -> Batch:
    """Return the records that do not lie between two windows."""
    if assigner.every_ms <= assigner.size_ms or batch.timestamps is None:
        return batch
    return select(batch, list(map(not_, assigner.in_gap(batch.timestamps))))


class LateRecords:
    """Takes the records for which every window is over, and counts them."""

    def __init__(self, context: OperatorContext, tag: str | None) -> None:
        self._count = context.counter(LATE)
        self._output = None if tag is None else context.side_output(tag)

    def take(self, batch: Batch) -> None:
        """Take the records of a batch, all of them late."""
        self._count.increase(len(batch))
        if self._output is not None:
            self._output.add_all(batch.values, batch.timestamps)

    def add(self, value: Any, timestamp_ms: int) -> None:
        """Take one record, which is late."""
        self._count.increase()
        if self._output is not None:
            self._output.add(value, timestamp_ms)

    def split(self, batch: Batch, times: list[int], first_kept_ms: int) -> Batch:
        """Return what is not late, and take the rest; ``times`` are those to be judged."""
        if not times or min(times) >= first_kept_ms:
            return batch
        is_late = [at < first_kept_ms for at in times]
        self.take(select(batch, is_late))
        return select(batch, list(map(not_, is_late)))
