"""``map``: one record out for one record in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flowsnap.core.operator import LazyOperator


class Map(LazyOperator):
    """Replaces every record by ``fn(record)``."""

    shape = "map"

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        self.fn = fn

    def lazy(self, values: Iterable[Any]) -> Iterable[Any]:
        return map(self.fn, values)
