"""The keyed state of one task: its tables, their budget, their way to the disk and back."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from flowsnap.core.ids import OperatorId
from flowsnap.core.manifest import TableSpec
from flowsnap.errors import StateError
from flowsnap.failpoint import failpoint
from flowsnap.state.buckets import Part
from flowsnap.state.generation import Generations
from flowsnap.state.keyed import KeyedStates
from flowsnap.state.map_table import GenerationalMapTable
from flowsnap.state.persist import LocalFile, Persist
from flowsnap.state.registry import TableRegistry
from flowsnap.state.restore import (
    RestoredState,
    can_open_directly,
    check_key_groups,
    import_rows,
    take_over,
)
from flowsnap.state.rocksdb import RocksStore
from flowsnap.state.sweep import map_rows, value_rows
from flowsnap.state.table import GenerationalTable

__all__ = ["KeyedStates", "LocalFile", "Persist", "RestoredState", "StateBackend"]

CACHE_SHARE, YOUNG_SHARE, RECENT_SHARE = 0.25, 0.25, 0.125
"""Of the budget: RocksDB's block cache; young; each of the two clean generations. The rest is for
what a spill has in hand."""

DISPOSE_ENTRIES = 10_000
"""So many entries of a dropped generation are freed at once: about 1 ms."""

_NEVER = sys.maxsize


class StateBackend:
    """The generational tables of one task over one RocksDB, used by the task's thread alone.

    ``directory`` is the task's own. Restored state is opened in place if it is exactly ours, and
    otherwise put together from the rows of our key groups. ``operators`` are those of the task's
    chain: state of others is left behind (None: all are ours).

    Raises:
        StateError: RocksDB fails.
        StateIncompatible: the restored state does not fit.
    """

    def __init__(
        self,
        directory: Path,
        *,
        key_groups: tuple[int, int],
        max_parallelism: int,
        memory_bytes: int,
        restored: Sequence[RestoredState] = (),
        operators: Collection[OperatorId] | None = None,
    ) -> None:
        self.directory = directory
        self.is_opened_directly = can_open_directly(restored, key_groups, operators)
        self._key_groups = key_groups
        self._max_parallelism = max_parallelism
        self._registry = TableRegistry()
        self._tables: dict[TableSpec, Generations] = {}
        self._contexts: dict[OperatorId, KeyedStates] = {}
        self._queue: list[Persist] = []
        self._dropped: list[dict[Any, Any]] = []
        self._checkpoints = 0
        self._young_bytes_max = memory_bytes * YOUNG_SHARE
        self._recent_bytes_max = memory_bytes * RECENT_SHARE
        self._is_closed = False
        cache_bytes = int(memory_bytes * CACHE_SHARE)
        self._store = self._open(cache_bytes, restored, operators)

    def _open(
        self,
        cache_bytes: int,
        restored: Sequence[RestoredState],
        operators: Collection[OperatorId] | None,
    ) -> RocksStore:
        target = self.directory / "db"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if target.exists():
                shutil.rmtree(target)  # Of an earlier attempt: only what was restored counts.
        except OSError as error:
            raise StateError(f"preparing {self.directory} failed: {error}") from error
        if self.is_opened_directly:
            take_over(restored[0], target)
        store = RocksStore(target, cache_bytes=cache_bytes)
        try:
            if self.is_opened_directly:
                self._registry.adopt(restored[0].tables)
                check_key_groups(store, restored[0], self._max_parallelism)
            elif restored:
                import_rows(
                    store,
                    self._registry,
                    restored,
                    key_groups=self._key_groups,
                    max_parallelism=self._max_parallelism,
                    operators=operators,
                )
        except BaseException:
            store.close()
            raise
        return store

    def context(self, operator: OperatorId) -> KeyedStates:
        """Return the keyed states of an operator."""
        if operator not in self._contexts:
            self._contexts[operator] = KeyedStates(self, operator)
        return self._contexts[operator]

    def value_table(
        self, operator: OperatorId, name: str, kind: str, version: int = 1
    ) -> GenerationalTable:
        """Return the table of a value, list, reducing or aggregating state.

        Raises:
            StateIncompatible: the name has another kind, or a newer version.
        """
        spec = self._registry.declare(operator, name, kind, version)
        table: GenerationalTable = self._table(GenerationalTable, spec)
        return table

    def map_table(
        self, operator: OperatorId, name: str, kind: str = "map", version: int = 1
    ) -> GenerationalMapTable:
        """Return the table of a map state.

        Raises:
            StateIncompatible: the name has another kind, or a newer version.
        """
        spec = self._registry.declare(operator, name, kind, version)
        table: GenerationalMapTable = self._table(GenerationalMapTable, spec)
        return table

    def legacy_tables(self, operator: OperatorId, name: str) -> list[tuple[TableSpec, Any]]:
        """Return the restored tables of a declared state with other layouts, newest first.

        Those that hold nothing are dropped.
        """
        found: list[tuple[TableSpec, Any]] = []
        for spec in self._registry.legacies(operator, name):
            class_ = GenerationalMapTable if spec.kind.startswith("map") else GenerationalTable
            table = self._table(class_, spec)
            if next(self.rows(table), None) is None:
                self._registry.forget(spec)
                del self._tables[spec]
            else:
                found.append((spec, table))
        return found

    def rows(self, table: Any) -> Iterator[tuple[Any, ...]]:
        """Yield what a table holds, as ``state/sweep.py`` promises; it may be changed meanwhile."""
        groups = range(*self._key_groups)
        if isinstance(table, GenerationalMapTable):
            return map_rows(table, self._store, groups)
        return value_rows(table, self._store, groups)

    def check_declared(self) -> None:
        """Check that all restored states have been declared; called once the operators are open.

        Raises:
            StateIncompatible: a state was renamed or dropped.
        """
        self._registry.check_declared()

    def freeze(self) -> Persist:
        """Freeze all tables, in some microseconds, and return the work of making that durable."""
        self._checkpoints += 1
        persist = self._frozen(self.directory / f"checkpoint-{self._checkpoints}")
        failpoint("op.frozen")
        return persist

    def relieve(self) -> None:
        """Spill what is young if it has outgrown its budget; called once per batch.

        Raises:
            StateError: the disk refuses.
        """
        if sum(table.young_bytes() for table in self._tables.values()) > self._young_bytes_max:
            self._spill()
        self._drop_clean()
        if self._dropped:
            self._dispose()

    def close(self) -> None:
        """Release RocksDB. What has not been persisted is gone; a repeat does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._store.close()

    def _table(self, class_: Callable[..., Any], spec: TableSpec) -> Any:
        table = self._tables.get(spec)
        if table is None:
            table = self._tables[spec] = class_(
                spec,
                self._store,
                key_groups=self._key_groups,
                max_parallelism=self._max_parallelism,
                is_complete=not self._registry.is_restored(spec),
            )
            if isinstance(table, GenerationalTable):
                table.relieve = self.relieve
        return table

    def _frozen(self, target: Path | None) -> Persist:
        parts: list[Part] = []
        for table in self._tables.values():
            frozen = table.freeze()
            if frozen is not None:
                parts.append((table, frozen))
        persist = Persist(self._store, parts, self._registry.tables, target, self._key_groups)
        persist.queue = self._queue
        self._queue.append(persist)
        return persist

    def _spill(self) -> None:
        self._frozen(None)
        while self._queue:
            self._queue[0].advance(_NEVER)

    def _drop_clean(self) -> None:
        tables = self._tables.values()
        if sum(table.recent_bytes() for table in tables) > self._recent_bytes_max:
            self._dropped += [dropped for table in tables if (dropped := table.rotate())]

    def _dispose(self) -> None:
        entries = self._dropped[-1]
        for _ in range(min(DISPOSE_ENTRIES, len(entries))):
            entries.popitem()
        if not entries:
            self._dropped.pop()
