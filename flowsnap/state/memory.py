"""The memory twin of the backend: dicts alone, and one file for a checkpoint.

It answers as ``StateBackend`` does, by the shortest way, and so is the oracle of its tests. A
freeze copies everything; nothing is ever spilled.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from flowsnap.core.ids import OperatorId
from flowsnap.core.key import decode_key, encode_key, key_group
from flowsnap.core.manifest import TableSpec
from flowsnap.core.operator import MISSING
from flowsnap.errors import StateError
from flowsnap.failpoint import failpoint
from flowsnap.state.codec import decode_value, encode_value
from flowsnap.state.keyed import KeyedStates
from flowsnap.state.persist import LocalFile
from flowsnap.state.registry import TableRegistry
from flowsnap.state.restore import RestoredState, can_open_directly

FILE_NAME = "state.bin"

Rows = list[tuple[int, bytes, bytes | None, bytes]]
"""State id, key, entry of a map, value."""


class MemoryTable:
    """A ``KeyedTable`` whose young is all there is."""

    def __init__(self) -> None:
        self.young: dict[Any, Any] = {}

    def load(self, key: Any) -> Any:
        return self.young.get(key, MISSING)

    def get(self, key: Any) -> Any:
        return self.young.get(key, MISSING)

    def put(self, key: Any, value: Any) -> None:
        self.young[key] = value

    def delete(self, key: Any) -> None:
        self.young.pop(key, None)

    def items(self) -> Iterator[tuple[Any, Any]]:
        yield from list(self.young.items())

    def relieve(self) -> None:
        """Do nothing: there is no disk to spill to."""


class MemoryMapTable:
    """A map table of dicts in a dict."""

    def __init__(self) -> None:
        self.maps: dict[Any, dict[Any, Any]] = {}

    def get(self, key: Any, entry: Any) -> Any:
        return self.maps.get(key, {}).get(entry, MISSING)

    def put(self, key: Any, entry: Any, value: Any) -> None:
        self.maps.setdefault(key, {})[entry] = value

    def remove(self, key: Any, entry: Any) -> None:
        self.maps.get(key, {}).pop(entry, None)

    def entries(self, key: Any) -> Iterator[Any]:
        return iter(list(self.maps.get(key, ())))

    def items(self, key: Any) -> Iterator[tuple[Any, Any]]:
        for entry in self.entries(key):
            value = self.get(key, entry)
            if value is not MISSING:
                yield entry, value

    def is_empty(self, key: Any) -> bool:
        return not self.maps.get(key)

    def clear(self, key: Any) -> None:
        self.maps.pop(key, None)

    def all_items(self) -> Iterator[tuple[Any, Any, Any]]:
        for key in list(self.maps):
            for entry, value in self.items(key):
                yield key, entry, value


class MemoryPersist:
    """The rows of one freeze, to be written to one file."""

    files: tuple[LocalFile, ...] = ()

    def __init__(self, rows: Rows, tables: tuple[TableSpec, ...], target: Path) -> None:
        self.tables = tables
        self._rows = rows
        self._target = target

    def step(self) -> bool:
        """Write the file.

        Raises:
            StateError: the disk refuses.
        """
        if self.files:
            return True
        path = self._target / FILE_NAME
        data = encode_value(self._rows)
        try:
            self._target.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            failpoint("op.file_written")
        except OSError as error:
            raise StateError(f"persisting state failed: {error}") from error
        self.files = (LocalFile(FILE_NAME, path, len(data), is_shared=False),)
        return True

    def release(self) -> None:
        """Remove the file."""
        shutil.rmtree(self._target, ignore_errors=True)


class MemoryBackend:
    """What ``StateBackend`` is, without RocksDB."""

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
        self._groups = range(*key_groups)
        self._max_parallelism = max_parallelism
        self._registry = TableRegistry()
        self._values: dict[TableSpec, MemoryTable] = {}
        self._maps: dict[TableSpec, MemoryMapTable] = {}
        self._checkpoints = 0
        for state in restored:
            self._restore(state, operators)

    def context(self, operator: OperatorId) -> KeyedStates:
        """Return the keyed states of an operator."""
        return KeyedStates(self, operator)

    def value_table(
        self, operator: OperatorId, name: str, kind: str, version: int = 1
    ) -> MemoryTable:
        """Return the table of a value, list, reducing or aggregating state."""
        spec = self._registry.declare(operator, name, kind, version)
        return self._values.setdefault(spec, MemoryTable())

    def map_table(
        self, operator: OperatorId, name: str, kind: str = "map", version: int = 1
    ) -> MemoryMapTable:
        """Return the table of a map state."""
        spec = self._registry.declare(operator, name, kind, version)
        return self._maps.setdefault(spec, MemoryMapTable())

    def legacy_tables(self, operator: OperatorId, name: str) -> list[tuple[TableSpec, Any]]:
        """Return the restored tables of a declared state with other layouts, newest first."""
        found: list[tuple[TableSpec, Any]] = []
        for spec in self._registry.legacies(operator, name):
            table = self._maps.get(spec) or self._values.get(spec)
            if table is None or next(self.rows(table), None) is None:
                self._registry.forget(spec)
            else:
                found.append((spec, table))
        return found

    def rows(self, table: Any) -> Iterator[tuple[Any, ...]]:
        """Yield what a table holds; it may be changed meanwhile."""
        if isinstance(table, MemoryMapTable):
            yield from table.all_items()
        else:
            for key in list(table.young):
                if (value := table.get(key)) is not MISSING:
                    yield key, value

    def check_declared(self) -> None:
        """Check that all restored states have been declared."""
        self._registry.check_declared()

    def freeze(self) -> MemoryPersist:
        """Copy all tables, as bytes."""
        self._checkpoints += 1
        target = self.directory / f"checkpoint-{self._checkpoints}"
        persist = MemoryPersist(list(self._rows()), self._registry.tables, target)
        failpoint("op.frozen")
        return persist

    def relieve(self) -> None:
        """Do nothing: there is no disk to spill to."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _rows(self) -> Iterator[tuple[int, bytes, bytes | None, bytes]]:
        for spec, table in self._values.items():
            for key, value in table.items():
                if spec.kind != "list" or value:
                    yield spec.state_id, encode_key(key), None, encode_value(value)
        for spec, maps in self._maps.items():
            for key, entry, value in maps.all_items():
                yield spec.state_id, encode_key(key), encode_key(entry), encode_value(value)

    def _restore(self, state: RestoredState, operators: Collection[OperatorId] | None) -> None:
        ours = {
            spec.state_id: self._registry.merge(spec)
            for spec in state.tables
            if operators is None or spec.operator in operators
        }
        rows: Rows = decode_value((state.directory / FILE_NAME).read_bytes())
        for state_id, key, entry, data in rows:
            spec = ours.get(state_id)
            if spec is None or key_group(key, self._max_parallelism) not in self._groups:
                continue
            if entry is None:
                self._values.setdefault(spec, MemoryTable()).put(
                    decode_key(key), decode_value(data)
                )
            else:
                maps = self._maps.setdefault(spec, MemoryMapTable())
                maps.put(decode_key(key), decode_key(entry), decode_value(data))
