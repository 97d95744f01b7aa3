"""The record of a completed checkpoint: CheckpointManifest and its versioned encoding."""

from __future__ import annotations

from typing import Any

import msgspec

from flowsnap.core.graph import JobGraph
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId, TaskId

FORMAT_VERSION = 1


class FileHandle(msgspec.Struct, frozen=True):
    """A stored file: its ``name`` where it is used, its ``path`` in the store, and what it must hash to."""

    name: str
    path: str
    size_bytes: int
    sha256: str


class TableSpec(msgspec.Struct, frozen=True):
    """A named state: ``state_id`` is its number in the rows, ``kind`` is value, list, map or reducing."""

    state_id: int
    operator: OperatorId
    name: str
    kind: str


class StateHandle(msgspec.Struct, frozen=True):
    """The keyed state of one task: RocksDB's files, the tables in them, and the key groups ``[start, end)``."""

    key_groups: tuple[int, int]
    tables: tuple[TableSpec, ...]
    files: tuple[FileHandle, ...]
    new_bytes: int = 0  # of files that this checkpoint was the first to store


class SplitPosition(msgspec.Struct, frozen=True):
    """How far a source has read one split."""

    split: str
    payload: dict[str, Any]
    size: int | None
    position: Any
    is_finished: bool


class PreparedOutput(msgspec.Struct, frozen=True):
    """A sink's committable that is not known to be committed."""

    checkpoint_id: CheckpointId
    committable: Any


class SnapshotTimes(msgspec.Struct, frozen=True):
    """How long one task's part took, by phase."""

    alignment_ms: float = 0.0
    synchronous_ms: float = 0.0
    durable_ms: float = 0.0


class TaskSnapshot(msgspec.Struct, frozen=True):
    """One task's part of a checkpoint.

    ``is_ended``: the task had processed the end of its input before the barrier.
    """

    task: TaskId
    operators: tuple[OperatorId, ...]
    subtask: int
    is_ended: bool = False
    state: StateHandle | None = None
    splits: tuple[SplitPosition, ...] = ()  # of the chain's source, which is its first operator
    prepared: tuple[PreparedOutput, ...] = ()  # of the chain's sink, which is its last operator
    times: SnapshotTimes = SnapshotTimes()


class CheckpointManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything needed to go on from a checkpoint. Its durable creation is the commit point."""

    format_version: int = FORMAT_VERSION
    job: str
    run_id: str
    checkpoint_id: CheckpointId
    attempt: AttemptId
    kind: str = "checkpoint"  # or "final", "savepoint"
    graph: JobGraph
    tasks: tuple[TaskSnapshot, ...]
    triggered_at_ms: int  # wall clock, ms since the epoch: for people only
    duration_ms: int
    versions: dict[str, str]
