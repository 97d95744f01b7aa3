"""How a savepoint is written: task by task, rows as they are, changed, left out, or new.

What is written goes to a directory beside the target first, from which the savepoint is made as
any other: whole and durable, or not at all.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flowsnap.core.graph import validate
from flowsnap.core.ids import OperatorId, TaskId
from flowsnap.core.key import encode_key, key_group
from flowsnap.core.manifest import (
    CheckpointManifest,
    FileHandle,
    StateHandle,
    TableSpec,
    TaskSnapshot,
)
from flowsnap.core.operator import MISSING
from flowsnap.core.partition import key_group_range
from flowsnap.errors import ConfigError, FlowsnapError, OperatorError, StorageError
from flowsnap.serialize import Opaque
from flowsnap.snapshot.content import Row
from flowsnap.snapshot.renaming import Names, renamed
from flowsnap.snapshot.row_sink import RowSink, handle_of
from flowsnap.snapshot.snapshot import Snapshot
from flowsnap.state.codec import encode_value, row_prefix
from flowsnap.storage import export, layout
from flowsnap.storage.savepoint import Savepoint

if TYPE_CHECKING:
    from flowsnap.snapshot.builder import NewState


@dataclass(slots=True)
class Rewritten:
    """What becomes of one state: another name, other values, nothing."""

    name: str
    is_deleted: bool = False
    function: Callable[..., Any] | None = None
    version: int | None = None


Changes = Mapping[tuple[str, str], Rewritten]


class Rewriting:
    """Writes one savepoint."""

    def __init__(
        self,
        manifest: CheckpointManifest,
        snapshot: Snapshot | None,
        changes: Changes,
        new: Sequence[NewState],
    ) -> None:
        self._manifest = manifest
        self._snapshot = snapshot
        self._changes = changes
        self._new = new
        self._widths = {spec.name: spec.parallelism for spec in manifest.graph.operators}

    def write(self, target: Path, names: Names) -> CheckpointManifest:
        """Make the savepoint; see ``SavepointBuilder.write``."""
        target = target.absolute()
        if target.exists():
            raise ConfigError(f"there is something at {target}").hint("name a directory to be made")
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            base = Path(tempfile.mkdtemp(prefix=".tmp-", dir=target.parent))
        except OSError as error:
            raise StorageError(f"cannot write to {target.parent}: {error.strerror}") from error
        try:
            tasks = self._tasks(base)
            manifest = msgspec.structs.replace(self._manifest, tasks=tuple(tasks))
            manifest = renamed(manifest, names)
            validate(manifest.graph)
            export.copy(Savepoint(base, base, manifest), target)
        finally:
            shutil.rmtree(base, ignore_errors=True)
        return manifest

    def _tasks(self, base: Path) -> Iterator[TaskSnapshot]:
        with ExitStack() as stack:
            sinks: dict[TaskId, RowSink] = {}
            for number, task in enumerate(self._manifest.tasks):
                if self._specs(task):
                    sink = RowSink(base / "work" / str(number))
                    sinks[task.task] = stack.enter_context(closing(sink))
                    for row, data in self._kept(task):
                        sink.add(row, data)
            for state in self._new:
                self._deal(state, sinks)
            for task in self._manifest.tasks:
                yield self._task(task, sinks.get(task.task), base)

    def _specs(self, task: TaskSnapshot) -> tuple[TableSpec, ...]:
        """Return the tables that a task will have."""
        old = [self._spec(table) for table in _tables(task)]
        new = [state.spec for state in self._new if state.spec.operator in task.operators]
        return (*(spec for spec in old if spec is not None), *new)

    def _spec(self, table: TableSpec) -> TableSpec | None:
        change = self._changes.get((table.operator, table.name))
        if change is None:
            return table
        if change.is_deleted:
            return None
        version = table.version if change.version is None else change.version
        return msgspec.structs.replace(table, name=change.name, version=version)

    def _kept(self, task: TaskSnapshot) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows that come from the snapshot."""
        if self._snapshot is None or task.state is None:
            return
        rows = self._snapshot.copies.rows(task)
        for table in task.state.tables:
            if self._spec(table) is None:
                continue
            change = self._changes.get((table.operator, table.name))
            function = None if change is None else change.function
            for group in range(*task.state.key_groups):
                found = rows.scan(row_prefix(group, table.state_id))
                yield from found if function is None else self._changed(table, function, found)

    def _changed(
        self,
        table: TableSpec,
        function: Callable[..., Any],
        rows: Iterator[tuple[bytes, bytes]],
    ) -> Iterator[tuple[bytes, bytes]]:
        assert self._snapshot is not None  # the rows came from it
        for whole, data in rows:
            row = self._snapshot.row_of(table, whole, data)
            value = _called(function, table, row)
            if isinstance(value, Opaque) and value is row.value:
                yield whole, data
            elif value is not MISSING:
                stored = value if row.expires_ms is None else (row.expires_ms, value)
                yield whole, encode_value(stored)

    def _deal(self, state: NewState, sinks: Mapping[TaskId, RowSink]) -> None:
        """Give each row of a new state to the task that owns its key."""
        groups = self._manifest.graph.max_parallelism
        owners = {
            group: sinks[task.task]
            for task in self._manifest.tasks
            if state.spec.operator in task.operators
            for group in range(*self._key_groups(task))
        }
        for key, entry, value in state.rows():
            encoded = encode_key(key)
            group = key_group(encoded, groups)
            suffix = encoded if state.spec.kind != "map" else encoded + encode_key(entry)
            owners[group].add(row_prefix(group, state.spec.state_id) + suffix, encode_value(value))

    def _key_groups(self, task: TaskSnapshot) -> tuple[int, int]:
        if task.state is not None:
            return task.state.key_groups
        width = self._widths[task.operators[0]]
        return key_group_range(task.subtask, width, self._manifest.graph.max_parallelism)

    def _task(self, task: TaskSnapshot, sink: RowSink | None, base: Path) -> TaskSnapshot:
        state = None
        if sink is not None:
            files = tuple(self._placed(task, path, path.name, base) for path in sink.finish())
            size = sum(file.size_bytes for file in files)
            state = StateHandle(self._key_groups(task), self._specs(task), files, size)
        channels = None
        if task.channel_file is not None and self._snapshot is not None:
            path = self._snapshot.copies.channel_file(task)
            assert path is not None  # the task has such a file
            channels = self._placed(task, path, task.channel_file.name, base)
        return msgspec.structs.replace(task, state=state, channel_file=channels)

    def _placed(self, task: TaskSnapshot, path: Path, name: str, base: Path) -> FileHandle:
        """Put a file where it belongs in the savepoint, and return its handle."""
        made = self._manifest
        if path.suffix == ".sst":
            random = secrets.token_hex(8)
            stored = layout.shared_path(made.attempt, made.checkpoint_id, random)
        else:
            stored = layout.private_path(made.checkpoint_id, task.task, name)
        target = base / stored
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o600)
        except OSError as error:
            raise StorageError(f"cannot write {target}: {error.strerror}") from error
        return handle_of(target, name, stored)


def _tables(task: TaskSnapshot) -> tuple[TableSpec, ...]:
    return () if task.state is None else task.state.tables


def _called(function: Callable[..., Any], table: TableSpec, row: Row) -> Any:
    """Return what the user's function makes of a row."""
    where = (row.key, row.namespace) if table.kind.startswith("map") else (row.key,)
    try:
        return function(*where, row.value)
    except FlowsnapError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise OperatorError(
            f"the function for state {table.name!r} raised {type(error).__name__}: {error}",
            operator=OperatorId(table.operator),
            subtask=0,
            record=repr(row.key),
        ) from error
