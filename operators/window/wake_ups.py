"""When is each key to be looked at next? One instant for each, which may be too early.

A key has a single wake-up, that for the first thing there is to do. What it waits for may be put
off meanwhile, as when a session grows: nothing is changed then, and whoever is woken plans the next
instant. So a record costs nothing here but where it makes something new.

It is made from state when an operator opens, and is no state itself.

Example:
    >>> wake_ups = WakeUps()
    >>> wake_ups.plan("a", 20)
    >>> wake_ups.plan("b", 10)
    >>> wake_ups.plan("a", 15)  # earlier counts
    >>> list(wake_ups.due(15))
    [(10, 'b'), (15, 'a')]
    >>> list(wake_ups.due(20))
    []
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any


class WakeUps:
    """Keys by instant, in ms; what is due comes in the order of the instants."""

    def __init__(self) -> None:
        self._planned: dict[Any, int] = {}
        self._keys: dict[int, list[Any]] = {}
        self._instants: list[int] = []

    def plan(self, key: Any, at_ms: int) -> None:
        """Have a key come out of ``due`` at ``at_ms``, or earlier if that is planned already."""
        planned_ms = self._planned.get(key)
        if planned_ms is not None and planned_ms <= at_ms:
            return
        self._planned[key] = at_ms
        try:
            self._keys[at_ms].append(key)
        except KeyError:
            self._keys[at_ms] = [key]
            heappush(self._instants, at_ms)

    def due(self, until_ms: int) -> Iterator[tuple[int, Any]]:
        """Yield and forget what is due; what is planned meanwhile may be due as well."""
        while self._instants and self._instants[0] <= until_ms:
            at_ms = heappop(self._instants)
            for key in self._keys.pop(at_ms):
                if self._planned.get(key) == at_ms:  # Otherwise an earlier one took its place.
                    del self._planned[key]
                    yield at_ms, key

    def next_ms(self) -> int | None:
        """Return the next instant, if there is one."""
        return self._instants[0] if self._instants else None
