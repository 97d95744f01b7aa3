"""State that folds records into an accumulator of another type, and answers a result of it.

Source: Flink's ``AggregateFunction`` and ``AggregatingState``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowsnap.core.context import Aggregate
from flowsnap.core.operator import MISSING
from flowsnap.errors import ConfigError

if TYPE_CHECKING:
    from flowsnap.state.keyed import KeyedStates, ValueTable


class AggregatingState:
    """An accumulator of the current key: see ``core.context.Aggregate``."""

    def __init__(self, states: KeyedStates, table: ValueTable, aggregate: Aggregate) -> None:
        self._states = states
        self._table = table
        self._aggregate = aggregate

    def get(self) -> Any:
        """Return the result of what has been added, or None where there is nothing."""
        accumulator = self._table.get(self._states.key)
        return None if accumulator is MISSING else self._aggregate.result(accumulator)

    def add(self, value: Any) -> None:
        """Fold one value in."""
        key = self._states.key
        accumulator = self._table.get(key)
        if accumulator is MISSING:
            accumulator = self._aggregate.create()
        self._table.put(key, self._aggregate.add(accumulator, value))

    def clear(self) -> None:
        """Forget the accumulator."""
        self._table.delete(self._states.key)


def check_aggregate(aggregate: object, name: str) -> None:
    """Check what an aggregating state is declared with.

    Raises:
        ConfigError: it lacks a method.
    """
    missing = [m for m in ("create", "add", "result") if not callable(getattr(aggregate, m, None))]
    if missing or isinstance(aggregate, type):
        what = f"lacks {', '.join(missing)}" if missing else "is a class"
        raise ConfigError(f"aggregating state {name!r}: {aggregate!r} {what}").hint(
            "pass an object with create(), add(accumulator, value) and result(accumulator)"
        )
