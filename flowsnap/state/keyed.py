"""The states an operator uses, answered for its current key."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from flowsnap.core.context import Aggregate
from flowsnap.core.expiry import TTL
from flowsnap.core.ids import OperatorId
from flowsnap.core.manifest import TableSpec
from flowsnap.core.operator import MISSING, KeyedTable
from flowsnap.errors import ConfigError
from flowsnap.state.aggregating import AggregatingState, check_aggregate
from flowsnap.state.codec import is_immutable
from flowsnap.state.migration import Layout, Legacy, Migrate, MigratingMapTable, MigratingTable
from flowsnap.state.registry import EXPIRING
from flowsnap.state.ttl import (
    ExpiringMapTable,
    ExpiringTable,
    Sweep,
    next_sweep_ms,
    remove_entry,
    remove_key,
)


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


class ValueTable(Protocol):
    """Key to value."""

    def get(self, key: Any) -> Any:
        """Return the value of ``key``, or ``MISSING``; a mutable one counts as touched."""

    def put(self, key: Any, value: Any) -> None:
        """Set the value of ``key``."""

    def delete(self, key: Any) -> None:
        """Forget ``key``, which may be absent."""


class Tables(Protocol):
    """Where tables come from: a backend. ``kind`` and ``version`` are those of a ``TableSpec``."""

    def value_table(
        self, operator: OperatorId, name: str, kind: str, version: int = 1
    ) -> KeyedTable:
        """Return the table of a value, list, reducing or aggregating state."""

    def map_table(
        self, operator: OperatorId, name: str, kind: str = "map", version: int = 1
    ) -> MapTable:
        """Return the table of a map state."""

    def legacy_tables(self, operator: OperatorId, name: str) -> list[tuple[TableSpec, Any]]:
        """Return the restored tables of a declared state with other layouts, newest first."""

    def rows(self, table: Any) -> Iterator[tuple[Any, ...]]:
        """Yield what a table holds; it may be changed meanwhile, see ``state/sweep.py``."""

    def relieve(self) -> None:
        """Spill what is young if the memory budget is spent."""


class KeyedStates:
    """The keyed states of one operator; ``key`` is set before they are used.

    Every state takes three settings. ``ttl`` says when its values expire (a list as a whole, a map
    entry by entry). ``version`` is that of its values' schema, and ``migrate(old_value,
    old_version)`` makes a restored value of an older version fit: of a list the list, of a map the
    value of an entry, of an aggregating state the accumulator.

    All of them raise ``StateIncompatible`` where the checkpoint has the name with another kind,
    with a newer version, or with an older one and ``migrate`` is missing; and ``ConfigError`` where
    a setting is wrong.
    """

    def __init__(self, tables: Tables, operator: OperatorId) -> None:
        self.key: Any = None
        self.processing_time_ms: Callable[[], int] = _wall_ms
        self.sweeps: list[Sweep] = []
        self._tables = tables
        self._operator = operator

    def table(self, name: str) -> KeyedTable:
        """Return the raw table ``name``, which a plain ``value_state(name)`` shares."""
        return self._tables.value_table(self._operator, name, "value")

    def value_state(
        self,
        name: str,
        default: Any = None,
        *,
        ttl: TTL | None = None,
        version: int = 1,
        migrate: Migrate | None = None,
    ) -> ValueState:
        """Return a value per key; a mutable ``default`` must be a function that makes one.

        Raises:
            ConfigError: the default could be changed by one key for all others.
        """
        if not callable(default) and not is_immutable(default):
            raise ConfigError(
                f"state {name!r} of operator {self._operator!r} has a mutable default {default!r}"
            ).hint("pass a function that makes one, such as default=list")
        return ValueState(self, self._value_table(name, "value", ttl, version, migrate), default)

    def list_state(
        self,
        name: str,
        *,
        ttl: TTL | None = None,
        version: int = 1,
        migrate: Migrate | None = None,
    ) -> ListState:
        """Return a list per key; with a ttl, adding to it renews the whole list."""
        table = self._value_table(name, "list", ttl, version, migrate)
        return ListState(self, table) if ttl is None else ExpiringListState(self, table)

    def map_state(
        self,
        name: str,
        *,
        ttl: TTL | None = None,
        version: int = 1,
        migrate: Migrate | None = None,
    ) -> MapState:
        """Return a mapping per key."""
        layout = self._layout(ttl, version, migrate)
        kind = "map" if ttl is None else "map" + EXPIRING
        base = self._tables.map_table(self._operator, name, kind, version)
        table: MapTable = base
        legacies = self._legacies(name, layout)
        if legacies:
            table = MigratingMapTable(table, legacies)
        sweep = Sweep(self._tables, remove_entry, self._now_ms())
        self._start(sweep, base, layout, legacies, table.get)
        if ttl is not None:
            table = ExpiringMapTable(table, ttl, self._now_ms)
        return MapState(self, table)

    def reducing_state(
        self,
        name: str,
        reduce: Callable[[Any, Any], Any],
        *,
        ttl: TTL | None = None,
        version: int = 1,
        migrate: Migrate | None = None,
    ) -> ReducingState:
        """Return a value per key into which others are folded."""
        table = self._value_table(name, "reducing", ttl, version, migrate)
        return ReducingState(self, table, reduce)

    def aggregating_state(
        self,
        name: str,
        aggregate: Aggregate,
        *,
        ttl: TTL | None = None,
        version: int = 1,
        migrate: Migrate | None = None,
    ) -> AggregatingState:
        """Return an accumulator per key, into which values are folded."""
        check_aggregate(aggregate, name)
        table = self._value_table(name, "aggregating", ttl, version, migrate)
        return AggregatingState(self, table, aggregate)

    def sweep(self, now_ms: int) -> None:
        """Remove some of what has expired, where that is due."""
        for sweep in self.sweeps:
            if sweep.next_ms is not None and sweep.next_ms <= now_ms:
                sweep.run(now_ms)

    def next_sweep_ms(self) -> int | None:
        """Return when ``sweep`` is wanted next; None: never."""
        return next_sweep_ms(self.sweeps)

    def _value_table(
        self, name: str, kind: str, ttl: TTL | None, version: int, migrate: Migrate | None
    ) -> ValueTable:
        layout = self._layout(ttl, version, migrate)
        if ttl is not None:
            kind += EXPIRING
        base = self._tables.value_table(self._operator, name, kind, version)
        table: ValueTable = base
        legacies = self._legacies(name, layout)
        if legacies:
            table = MigratingTable(table, legacies)
        sweep = Sweep(self._tables, remove_key, self._now_ms())
        self._start(sweep, base, layout, legacies, table.get)
        return table if ttl is None else ExpiringTable(table, ttl, self._now_ms)

    def _layout(self, ttl: TTL | None, version: int, migrate: Migrate | None) -> Layout:
        return Layout(ttl, version, migrate, self._now_ms())

    def _legacies(self, name: str, layout: Layout) -> list[Legacy]:
        return [
            Legacy(spec, table, layout.converter(spec))
            for spec, table in self._tables.legacy_tables(self._operator, name)
        ]

    def _start(
        self,
        sweep: Sweep,
        table: Any,
        layout: Layout,
        legacies: list[Legacy],
        move: Callable[..., Any],
    ) -> None:
        for legacy in legacies:
            sweep.settle(legacy, layout, move)
        if layout.ttl is not None:
            sweep.expire(table, layout.ttl)
        if sweep.next_ms is not None:
            self.sweeps.append(sweep)

    def _now_ms(self) -> int:
        return self.processing_time_ms()


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class ValueState:
    """One value of the current key."""

    def __init__(self, states: KeyedStates, table: ValueTable, default: Any) -> None:
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

    def __init__(self, states: KeyedStates, table: ValueTable) -> None:
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


class ExpiringListState(ListState):
    """A list of the current key that expires as a whole; each addition is a write."""

    def add(self, value: Any) -> None:
        self.add_all((value,))

    def add_all(self, values: Iterable[Any]) -> None:
        known = self.get()
        known.extend(values)
        self._table.put(self._states.key, known)


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
        self, states: KeyedStates, table: ValueTable, reduce: Callable[[Any, Any], Any]
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
