"""What comes out of a window."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Any, Generic, TypeVar

import msgspec

from flowsnap.operators.window.assigner import Window

K = TypeVar("K")
V = TypeVar("V")


class WindowResult(msgspec.Struct, Generic[K, V], frozen=True):
    """The result of one window of one key; ``[start, end)`` in ms since the epoch.

    ``value`` is that of the aggregate; of several it is a dict by name, and each is an attribute
    too: ``result.total`` is ``result.value["total"]``.
    """

    key: K
    start: int
    end: int
    value: V

    def __getattr__(self, name: str) -> Any:
        value = self.value
        if isinstance(value, dict) and name in value:
            return value[name]
        raise AttributeError(f"a window result has no attribute {name!r}", name=name, obj=self)


def results(keys: Iterable[Any], window: Window, values: Iterable[Any]) -> list[Any]:
    """Return one result for each of ``keys``."""
    return list(map(WindowResult, keys, repeat(window.start), repeat(window.end), values))
