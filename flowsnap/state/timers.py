"""Timers as state: a map per key of (time, name), and a heap in memory that says which is next.

The map is the truth: it is part of every snapshot and goes with its key over a rescale. The heap is
made from it when it is first asked for anything, and may hold timers that have been deleted since:
what comes off it is looked up in the map.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count
from typing import Any

from flowsnap.core.key import encode_key
from flowsnap.core.operator import MISSING
from flowsnap.state.keyed import MapTable

Entry = tuple[int, bytes, int, Any, Any]


class TimerQueue:
    """The timers of one operator under one name; see ``core.context.Timers``.

    Timers of one time come in the order of their keys' bytes, so that the order does not depend on
    when they were registered, nor on a restore.
    """

    def __init__(self, table: MapTable) -> None:
        self._table = table
        self._heap: list[Entry] | None = None
        self._numbers = count()  # so that keys and names are never compared

    def register(self, timestamp_ms: int, key: Any, name: Any = None) -> None:
        """Have the timer come out of ``due`` once its time has come."""
        heap = self._loaded()
        entry = (timestamp_ms, name)
        if self._table.get(key, entry) is MISSING:
            self._table.put(key, entry, None)
            heapq.heappush(heap, self._entry(timestamp_ms, key, name))

    def delete(self, timestamp_ms: int, key: Any, name: Any = None) -> None:
        """Forget a timer, which may be absent."""
        self._loaded()
        self._table.remove(key, (timestamp_ms, name))

    def due(self, until_ms: int) -> Iterator[tuple[int, Any, Any]]:
        """Yield and forget every timer at or before ``until_ms``, in order."""
        heap = self._loaded()
        while heap and heap[0][0] <= until_ms:
            timestamp_ms, _, _, key, name = heapq.heappop(heap)
            if self._table.get(key, (timestamp_ms, name)) is not MISSING:
                self._table.remove(key, (timestamp_ms, name))
                yield timestamp_ms, key, name

    def next_ms(self) -> int | None:
        """Return the earliest time at which a timer is due."""
        heap = self._loaded()
        while heap:
            timestamp_ms, _, _, key, name = heap[0]
            if self._table.get(key, (timestamp_ms, name)) is not MISSING:
                return timestamp_ms
            heapq.heappop(heap)
        return None

    def _loaded(self) -> list[Entry]:
        if self._heap is None:
            self._heap = [
                self._entry(timestamp_ms, key, name)
                for key, (timestamp_ms, name), _ in self._table.all_items()
            ]
            heapq.heapify(self._heap)
        return self._heap

    def _entry(self, timestamp_ms: int, key: Any, name: Any) -> Entry:
        return (timestamp_ms, encode_key((key, name)), next(self._numbers), key, name)
