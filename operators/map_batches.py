"""``map_batches``: the user's function on whole batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.operator import Operator
from flowsnap.errors import ConfigError


class MapBatches(Operator):
    """Replaces the records of every batch by the list ``fn(records)``.

    ``fn`` is given a list of its own, which it may change. How records are batched is nobody's
    promise: it depends on the load. If as many records come out as went in, each takes over the
    event time at its place; otherwise nobody knows whose time is whose, and the outputs have none.
    """

    def __init__(self, fn: Callable[[list[Any]], list[Any]]) -> None:
        if not callable(fn):
            raise ConfigError(f"map_batches: {fn!r} is not a function").hint(
                "pass a function from a list of records to a list of records"
            )
        self.fn = fn

    def process(self, batch: Batch) -> Batch:
        """Apply ``fn`` to one batch.

        Raises:
            TypeError: it returned something else than a list.
        """
        outputs = self.fn(list(batch.values))
        if not isinstance(outputs, list):
            raise TypeError(
                f"map_batches: the function returned a {type(outputs).__name__}, no list"
            )
        return Batch(outputs, batch.timestamps if len(outputs) == len(batch) else None)
