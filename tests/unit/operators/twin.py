"""A dict-backed twin of ``OperatorContext``: enough state to run one operator on batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flowsnap.core.ids import AttemptId, OperatorId
from flowsnap.core.operator import MISSING

IMMUTABLE = (int, float, str, bytes, tuple, frozenset, type(None))


class TwinTable:
    """Two generations: what was touched since the last ``freeze``, and the rest."""

    def __init__(self) -> None:
        self.young: dict[Any, Any] = {}
        self._older: dict[Any, Any] = {}

    def freeze(self) -> None:
        """Do what a barrier does."""
        self._older |= self.young
        self.young = {}

    def load(self, key: Any) -> Any:
        if key in self.young:
            return MISSING  # a tombstone
        value = self._older.get(key, MISSING)
        if value is not MISSING and not isinstance(value, IMMUTABLE):
            self.young[key] = value
        return value

    def get(self, key: Any) -> Any:
        value = self.young.get(key, MISSING)
        return self.load(key) if value is MISSING else value

    def put(self, key: Any, value: Any) -> None:
        self.young[key] = value

    def delete(self, key: Any) -> None:
        self.young[key] = MISSING

    def items(self) -> Iterator[tuple[Any, Any]]:
        for key, value in (self._older | self.young).items():
            if value is not MISSING:
                yield key, value

    def relieve(self) -> None:
        """Spill nothing: the twin has no budget."""


class TwinState:
    """All keyed states in one: the value of the current key in a table, made by ``default``."""

    def __init__(
        self,
        context: TwinContext,
        table: TwinTable,
        default: Any,
        reduce: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self._context = context
        self._table = table
        self._default = default
        self._reduce = reduce

    def _current(self) -> Any:
        value = self._table.get(self._context.key)
        if value is MISSING:
            value = self._default() if callable(self._default) else self._default
        return value

    def value(self) -> Any:
        return self._current()

    def update(self, value: Any) -> None:
        self._table.put(self._context.key, value)

    def clear(self) -> None:
        self._table.delete(self._context.key)

    def get(self, key: Any = MISSING, default: Any = None) -> Any:
        return self._current() if key is MISSING else self._current().get(key, default)

    def put(self, key: Any, value: Any) -> None:
        self.update({**self._current(), key: value})

    def remove(self, key: Any) -> None:
        self.update({k: v for k, v in self._current().items() if k != key})

    def __contains__(self, key: object) -> bool:
        return key in self._current()

    def items(self) -> Iterator[tuple[Any, Any]]:
        return iter(self._current().items())

    def keys(self) -> Iterator[Any]:
        return iter(self._current())

    def values(self) -> Iterator[Any]:
        return iter(self._current().values())

    def is_empty(self) -> bool:
        return not self._current()

    def add(self, value: Any) -> None:
        old = self._current()
        if self._reduce is None:
            self.update([*old, value])
        else:
            self.update(value if old is None else self._reduce(old, value))

    def add_all(self, values: Iterable[Any]) -> None:
        for value in values:
            self.add(value)


class TwinContext:
    """One subtask of one operator, alone in the world."""

    def __init__(self) -> None:
        self.job = "job"
        self.operator = OperatorId("operator")
        self.subtask = 0
        self.parallelism = 1
        self.attempt = AttemptId(1)
        self.key: Any = None
        self.tables: dict[str, TwinTable] = {}

    def freeze(self) -> None:
        """Do what a barrier does, to every table."""
        for table in self.tables.values():
            table.freeze()

    def table(self, name: str) -> TwinTable:
        return self.tables.setdefault(name, TwinTable())

    def value_state(self, name: str, default: Any = None) -> TwinState:
        return TwinState(self, self.table(name), default)

    def list_state(self, name: str) -> TwinState:
        return TwinState(self, self.table(name), list)

    def map_state(self, name: str) -> TwinState:
        return TwinState(self, self.table(name), dict)

    def reducing_state(self, name: str, reduce: Callable[[Any, Any], Any]) -> TwinState:
        return TwinState(self, self.table(name), None, reduce)
