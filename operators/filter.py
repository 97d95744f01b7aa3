"""``filter``: keeps some records and drops the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.operator import LazyOperator, select


class Filter(LazyOperator):
    """Keeps the records for which ``fn(record)`` is true."""

    shape = "filter"

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self.fn = fn

    def lazy(self, values: Iterable[Any]) -> Iterable[Any]:
        return filter(self.fn, values)

    def process(self, batch: Batch) -> Batch:
        """Apply ``fn`` to one batch; the event times of the kept records stay with them."""
        if batch.timestamps is None:
            return super().process(batch)
        self.cursor = iter(batch.values)
        return select(Batch(batch.values, batch.timestamps), list(map(self.fn, self.cursor)))
