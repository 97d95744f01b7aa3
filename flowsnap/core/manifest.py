"""The record of a completed checkpoint: CheckpointManifest and its versioned encoding.

A checkpoint exists when its manifest does, so the manifest must say by itself whether it is whole.
It is indented JSON, to be read by people, and its last member is the sha256 of all bytes before
that member. So a truncation at any byte, a flipped bit anywhere and an edit are found, and nothing
in the file is interpreted before. Every format version ends with this member: damage and a foreign
version can be told apart.

JSON has no bytes, no map with other keys than strings, no infinity; positions and committables are
plain msgpack values, which have. These travel as an object with a single member that begins with
``$``::

    {"$bytes": "<base64>"}    {"$float": "nan" | "inf" | "-inf"}    {"$map": [[key, value], ...]}

(``$map`` also for a map of which a key begins with ``$``.) Tuples come back as lists, as from
msgpack.

It does not say who wrote it: a checksum is no signature.

Source: Flink's checkpoint, which exists once its ``_metadata`` does; a half-written one was once
taken for whole (FLINK-17808). Deviation: text, and a checksum over all of it.

Example:
    >>> from flowsnap.core.graph import JobGraph
    >>> manifest = CheckpointManifest(
    ...     job="words", run_id="r1", checkpoint_id=CheckpointId(1), attempt=AttemptId(1),
    ...     graph=JobGraph("words", (), ()), tasks=(), versions={},
    ...     triggered_at_ms=0, duration_ms=3,
    ... )
    >>> decode(encode(manifest), "manifest.json") == manifest
    True
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from datetime import datetime
from typing import Any

import msgspec

from flowsnap.core.graph import JobGraph, Partitioning
from flowsnap.core.ids import AttemptId, ChannelId, CheckpointId, OperatorId, TaskId
from flowsnap.errors import CheckpointError, ManifestCorrupt

FORMAT_VERSION = 1

_TAIL = re.compile(rb',\n  "sha256": "([0-9a-f]{64})"\n}\n')
_PLAIN = frozenset({type(None), bool, int, str})
_STRINGS = frozenset({str})
_TAGGED = b'"$'  # what is no JSON goes under such keys
_TAIL_BYTES = len(',\n  "sha256": ""\n}\n') + 64


class FileHandle(msgspec.Struct, frozen=True):
    """A stored file: ``name`` where it is used, ``path`` in the store, and what it must hash to."""

    name: str
    path: str
    size_bytes: int
    sha256: str


class TableSpec(msgspec.Struct, frozen=True):
    """A named state.

    ``state_id`` is its number in the rows, ``kind`` is value, list, map, reducing or aggregating,
    with ``+ttl`` behind it where values expire; ``version`` is that of the values' schema.
    """

    state_id: int
    operator: OperatorId
    name: str
    kind: str
    version: int = 1


class StateHandle(msgspec.Struct, frozen=True):
    """The keyed state of one task: RocksDB's files, the tables in them, the key groups."""

    key_groups: tuple[int, int]  # [start, end)
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
    watermark_ms: int | None = None  # what has been promised of it, where that is asked per split


class PreparedOutput(msgspec.Struct, frozen=True):
    """A sink's committable that is not known to be committed."""

    checkpoint_id: CheckpointId
    committable: Any


class OperatorStateValues(msgspec.Struct, frozen=True):
    """A non-keyed state of one subtask; each of ``values`` is a pickle."""

    operator: OperatorId
    name: str
    kind: str  # list, union or broadcast
    values: tuple[bytes, ...]


class ChannelState(msgspec.Struct, frozen=True):
    """What was in transit in one channel: sent before the sender's cut, received after the other.

    ``index`` is the channel's number in the file of its task, where the batches lie in order.
    ``is_sent``: the sender has recorded it, because the barrier overtook it there; it came behind
    what the receiver has recorded of the same channel. ``tag`` names a side output.
    """

    index: int
    source: OperatorId
    source_subtask: int
    target: OperatorId
    target_subtask: int
    partitioning: Partitioning
    port: int = 0
    tag: str = ""
    is_sent: bool = False
    batches: int = 0
    records: int = 0


class ChannelCount(msgspec.Struct, frozen=True):
    """How many records had been sent, or received, in one channel of the execution graph."""

    channel: ChannelId
    count: int


class TaskTrace(msgspec.Struct, frozen=True):
    """A task's vector clock at its cut, where the job is traced; ``place`` is the task's own."""

    place: int
    clock: tuple[int, ...]
    sent: tuple[ChannelCount, ...] = ()
    received: tuple[ChannelCount, ...] = ()


class SnapshotTimes(msgspec.Struct, frozen=True):
    """How long one task's part took, by phase.

    ``alignment_ms``: from the first barrier to the snapshot; ``synchronous_ms``: while nothing else
    was done; ``recording_ms``: from the snapshot to the last barrier; ``durable_ms``: from the
    snapshot until all of it was stored, the recording included.
    """

    alignment_ms: float = 0.0
    synchronous_ms: float = 0.0
    durable_ms: float = 0.0
    recording_ms: float = 0.0


class TaskSnapshot(msgspec.Struct, frozen=True):
    """One task's part of a checkpoint.

    ``is_ended``: the task had processed the end of its input before the barrier. ``ended``: the
    operators at its beginning that had done so in a task of their own, before a restart made one
    of them and those behind.
    """

    task: TaskId
    operators: tuple[OperatorId, ...]
    subtask: int
    is_ended: bool = False
    ended: tuple[OperatorId, ...] = ()
    state: StateHandle | None = None
    splits: tuple[SplitPosition, ...] = ()  # of the chain's source, which is its first operator
    prepared: tuple[PreparedOutput, ...] = ()  # of the chain's sink, which is its last operator
    times: SnapshotTimes = SnapshotTimes()
    operator_states: tuple[OperatorStateValues, ...] = ()
    watermarks: dict[OperatorId, int] = {}  # the event time that each operator had reached
    channels: tuple[ChannelState, ...] = ()  # those in which something was in transit
    channel_file: FileHandle | None = None  # with its batches
    trace: TaskTrace | None = None


class CheckpointManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything needed to go on from a checkpoint. Its durable creation is the commit point."""

    format_version: int = FORMAT_VERSION
    job: str
    run_id: str
    checkpoint_id: CheckpointId
    attempt: AttemptId
    kind: str = "checkpoint"  # or "final", "savepoint"
    origin: CheckpointId | None = None  # of one brought in: what of this job's history it follows
    graph: JobGraph
    tasks: tuple[TaskSnapshot, ...]
    triggered_at_ms: int  # wall clock, ms since the epoch: for people only
    duration_ms: int  # from the trigger until every task had acknowledged
    trigger_ms: int = 0  # of these, until its id was durable and the barriers asked for
    versions: dict[str, str]


def files(manifest: CheckpointManifest) -> tuple[FileHandle, ...]:
    """Return every file that a checkpoint consists of, each path once, in the tasks' order."""
    handles = {handle.path: handle for task in manifest.tasks for handle in files_of(task)}
    return tuple(handles.values())


def files_of(task: TaskSnapshot) -> tuple[FileHandle, ...]:
    """Return the files of a task: those of its state, and that of what was in transit."""
    own = () if task.state is None else task.state.files
    return own if task.channel_file is None else (*own, task.channel_file)


def size_bytes(manifest: CheckpointManifest) -> int:
    """Return the size of all files of a checkpoint, shared ones included."""
    return sum(handle.size_bytes for handle in files(manifest))


def new_bytes(manifest: CheckpointManifest) -> int:
    """Return the size of those files that this checkpoint was the first to store."""
    states = sum(task.state.new_bytes for task in manifest.tasks if task.state is not None)
    return states + sum(t.channel_file.size_bytes for t in manifest.tasks if t.channel_file)


def encode(manifest: CheckpointManifest) -> bytes:
    """Return the bytes of ``manifest.json``; the same manifest gives the same bytes.

    Raises:
        CheckpointError: a position or committable is no plain value, or ``decode`` would refuse it.
    """
    try:
        body = msgspec.to_builtins(manifest, builtin_types=(bytes, datetime))
        _verify_paths(msgspec.convert(body, CheckpointManifest))
        text = msgspec.json.format(msgspec.json.encode(_to_json(body)), indent=2)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"checkpoint {manifest.checkpoint_id} cannot be written down: {error}"
        raise CheckpointError(message).hint(
            "positions and committables are made of None, bool, int, float, str, bytes, list, dict"
        ) from error
    head = text.removesuffix(b"\n}")
    digest = hashlib.sha256(head).hexdigest()
    return head + f',\n  "sha256": "{digest}"\n}}\n'.encode()


def decode(data: bytes, source: str) -> CheckpointManifest:
    """Return the manifest of ``data``; ``source`` is the path it was read from.

    Raises:
        ManifestCorrupt: it is damaged, of another version, lacks a field, or lists a file outside
            of the store.
    """
    head, tail = data[:-_TAIL_BYTES], _TAIL.fullmatch(data[-_TAIL_BYTES:])
    if tail is None:
        raise ManifestCorrupt(f"{source} is cut off or no manifest: it {_describe(data)}").hint(
            "it was not written to its end, or by something else than flowsnap"
        )
    expected, found = tail[1].decode(), hashlib.sha256(head).hexdigest()
    if found != expected:
        raise ManifestCorrupt(f"{source} is damaged: its sha256 is {found}, expected {expected}")
    try:
        body = msgspec.json.decode(data)
        if _TAGGED in data:
            body = _from_json(body)
        version = body.get("format_version")
        if version != FORMAT_VERSION:
            raise ManifestCorrupt(
                f"{source} has format version {version}, expected {FORMAT_VERSION}"
            ).hint("read it with the version of flowsnap that wrote it")
        manifest = msgspec.convert(body, CheckpointManifest)
        _verify_paths(manifest)
    except (msgspec.MsgspecError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise ManifestCorrupt(f"{source} is no valid manifest: {error}") from error
    return manifest


def _describe(data: bytes) -> str:
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"is not JSON ({error})"
    return "does not end with a sha256"


def _verify_paths(manifest: CheckpointManifest) -> None:
    # Names become local files and paths are joined to the store's root: neither may lead out of it.
    for handle in files(manifest):
        parts = handle.path.split("/")
        if {"", ".", ".."}.intersection(parts) or "\0" in handle.path:
            raise ValueError(f"file path {handle.path!r} leads out of the store")
        if handle.name in {"", ".", ".."} or "/" in handle.name or "\0" in handle.name:
            raise ValueError(f"file name {handle.name!r} is no plain name")


def _to_json(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:  # the most by far, then lists and dicts of them
        return value
    if kind is list or kind is tuple:
        return [item if type(item) in _PLAIN else _to_json(item) for item in value]
    if kind is dict:
        return _map_to_json(value)
    match value:
        case float():
            return value if math.isfinite(value) else {"$float": repr(value)}
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case _:
            raise TypeError(f"{value!r} is no plain value")


def _map_to_json(value: dict[Any, Any]) -> dict[str, Any]:
    # The sum of the keys is searched once instead of each.
    if _STRINGS.issuperset(map(type, value)) and "\0$" not in "\0".join(("", *value)):
        return {
            key: item if type(item) in _PLAIN else _to_json(item) for key, item in value.items()
        }
    if any(isinstance(key, (list, tuple, dict)) for key in value):
        raise TypeError(f"{value!r} has a key that is no single value")
    return {"$map": [[_to_json(key), _to_json(item)] for key, item in value.items()]}


def _from_json(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN or kind is float:
        return value
    if kind is list:
        return [item if type(item) in _PLAIN else _from_json(item) for item in value]
    if len(value) == 1 and next(iter(value))[:1] == "$":
        return _unmarked(value)
    return {key: item if type(item) in _PLAIN else _from_json(item) for key, item in value.items()}


def _unmarked(value: dict[str, Any]) -> Any:
    match value:
        case {"$bytes": str(text)}:
            return base64.b64decode(text, validate=True)
        case {"$float": str(text)}:
            return float(text)
        case {"$map": list(pairs)}:
            return {_from_json(key): _from_json(item) for key, item in pairs}
        case _:
            return {key: _from_json(item) for key, item in value.items()}
