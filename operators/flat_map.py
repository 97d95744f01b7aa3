"""``flat_map``: any number of records out for one record in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from flowsnap.core.operator import LazyOperator


class FlatMap(LazyOperator):
    """Replaces every record by the records of the iterable ``fn(record)``."""

    shape = "flat_map"

    def __init__(self, fn: Callable[[Any], Iterable[Any]]) -> None:
        self.fn = fn

    def lazy(self, values: Iterable[Any]) -> Iterable[Any]:
        return chain.from_iterable(map(self.fn, values))
