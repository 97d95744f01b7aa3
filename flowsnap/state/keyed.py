"""The states an operator uses, answered for its current key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from flowsnap.core.ids import OperatorId
from flowsnap.core.operator import MISSING, KeyedTable
from flowsnap.errors import ConfigError
from flowsnap.state.codec import is_immutable


class MapTable(Protocol):
    """Key and entry to value."""

    def get(self, key: Any, entry: Any) -> Any:
        """Return the value of an entry, or ``MISSING``; a mutable one counts as touched."""

    def put(self, key: Any, entry: Any, value: Any) -> None:
        """Set the value of an entry."""

    def remove(self, key: Any, entry: Any) -> None:
        """Forget an entry, which may be absent."""

    def entries(self, key: Any) -> Iterator[Any]:
        """Yield the entries of ``key`` that were there at the first call, in no order."""

    def items(self, key: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the entries of ``key`` that were there at the first call and are there still."""

    def is_empty(self, key: Any) -> bool:
        """Return whether ``key`` has no entry."""

    def clear(self, key: Any) -> None:
        """Forget all entries of ``key``."""

    def all_items(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield every live key, entry and value, each once; the values are to be read."""


class Tables(Protocol):
    """Where tables come from: a backend."""

    def value_table(self, operator: OperatorId, name: str, kind: str) -> KeyedTable:
        """Return the table of a value, list or reducing state."""

    def map_table(self, operator: OperatorId, name: str) -> MapTable:
        """Return the table of a map state."""


class KeyedStates:
    """The keyed states of one operator; ``key`` is set before they are used."""

    def __init__(self, tables: Tables, operator: OperatorId) -> None:
        self.key: Any = None
        self._tables = tables
        self._operator = operator

    def table(self, name: str) -> KeyedTable:
        """Return the raw table ``name``, which ``value_state(name)`` shares."""
        return self._tables.value_table(self._operator, name, "value")

    def value_state(self, name: str, default: Any = None) -> ValueState:
        """Return a value per key; a mutable ``default`` must be a function that makes one.

        Raises:
            ConfigError: the default could be changed by one key for all others.
            StateIncompatible: the checkpoint has this name with another kind.
        """
        if not callable(default) and not is_immutable(default):
            raise ConfigError(
                f"state {name!r} of operator {self._operator!r} has a mutable default {default!r}"
            ).hint("pass a function that makes one, such as default=list")
        return ValueState(self, self.table(name), default)

    def list_state(self, name: str) -> ListState:
        """Return a list per key."""
        return ListState(self, self._tables.value_table(self._operator, name, "list"))

    def map_state(self, name: str) -> MapState:
        """Return a mapping per key."""
        return MapState(self, self._tables.map_table(self._operator, name))

    def reducing_state(self, name: str, reduce: Callable[[Any, Any], Any]) -> ReducingState:
        """Return a value per key into which others are folded."""
        table = self._tables.value_table(self._operator, name, "reducing")
        return ReducingState(self, table, reduce)


class ValueState:
    """One value of the current key."""

    def __init__(self, states: KeyedStates, table: KeyedTable, default: Any) -> None:
        self._states = states
        self._table = table
        self._default = default

    def value(self) -> Any:
        """Return the value, or the default; changing a mutable one in place changes the state."""
        value = self._table.get(self._states.key)
        if value is not MISSING:
            return value
        if not callable(self._default):
            return self._default
        value = self._default()
        if not is_immutable(value):
            self._table.put(self._states.key, value)
        return value

    def update(self, value: Any) -> None:
        """Set the value."""
        self._table.put(self._states.key, value)

    def clear(self) -> None:
        """Forget the value."""
        self._table.delete(self._states.key)


class ListState:
    """A list of the current key."""

    def __init__(self, states: KeyedStates, table: KeyedTable) -> None:
        self._states = states
        self._table = table

    def get(self) -> list[Any]:
        """Return the list; changing it in place changes the state. An empty one takes no room."""
        values: list[Any] = self._table.get(self._states.key)
        if values is MISSING:
            values = []
            self._table.put(self._states.key, values)
        return values

    def add(self, value: Any) -> None:
        """Append one value."""
        self.get().append(value)

    def add_all(self, values: Iterable[Any]) -> None:
        """Append several values."""
        self.get().extend(values)

    def update(self, values: Iterable[Any]) -> None:
        """Replace the list."""
        self._table.put(self._states.key, list(values))

    def clear(self) -> None:
        """Forget the list."""
        self._table.delete(self._states.key)


class MapState:
    """A mapping of the current key, stored entry by entry."""

    def __init__(self, states: KeyedStates, table: MapTable) -> None:
        self._states = states
        self._table = table

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of an entry, or ``default``."""
        value = self._table.get(self._states.key, key)
        return default if value is MISSING else value

    def put(self, key: Any, value: Any) -> None:
        """Set an entry."""
        self._table.put(self._states.key, key, value)

    def remove(self, key: Any) -> None:
        """Forget an entry, which may be absent."""
        self._table.remove(self._states.key, key)

    def __contains__(self, key: object) -> bool:
        return self._table.get(self._states.key, key) is not MISSING

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Yield the entries, in no order; other entries may be changed meanwhile."""
        return self._table.items(self._states.key)

    def keys(self) -> Iterator[Any]:
        """Yield the keys, in no order."""
        return self._table.entries(self._states.key)

    def values(self) -> Iterator[Any]:
        """Yield the values, in no order."""
        return (value for _, value in self.items())

    def is_empty(self) -> bool:
        """Return whether there is no entry."""
        return self._table.is_empty(self._states.key)

    def clear(self) -> None:
        """Forget all entries."""
        self._table.clear(self._states.key)


class ReducingState:
    """A value of the current key into which others are folded."""

    def __init__(
        self, states: KeyedStates, table: KeyedTable, reduce: Callable[[Any, Any], Any]
    ) -> None:
        self._states = states
        self._table = table
        self._reduce = reduce

    def get(self) -> Any:
        """Return the folded value, or None."""
        value = self._table.get(self._states.key)
        return None if value is MISSING else value

    def add(self, value: Any) -> None:
        """Fold one value in."""
        key = self._states.key
        old = self._table.get(key)
        self._table.put(key, value if old is MISSING else self._reduce(old, value))

    def clear(self) -> None:
        """Forget the value."""
        self._table.delete(self._states.key)
