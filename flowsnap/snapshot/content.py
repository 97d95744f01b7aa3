"""What a snapshot holds, piece by piece, as plain values."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from flowsnap.core.ids import CheckpointId, OperatorId, TaskId
from flowsnap.core.manifest import SnapshotTimes


class Row(NamedTuple):
    """One row of keyed state. ``namespace`` is the entry of a map state, such as a window.

    ``expires_ms``: when it expires, in ms since the epoch, where the state has a time to live.
    ``version`` is that of the value's schema.
    """

    key: Any
    namespace: Any
    value: Any
    key_group: int
    expires_ms: int | None = None
    version: int = 1


class Timer(NamedTuple):
    """A timer that has not fired; ``queue`` is the name that its operator keeps timers under."""

    operator: OperatorId
    domain: Literal["event", "processing"]
    queue: str
    key: Any
    timestamp_ms: int
    name: Any = None


class StateInfo(msgspec.Struct, frozen=True):
    """A state of an operator.

    ``kind`` is value, list, map, reducing or aggregating; of a non-keyed state ``operator-list``,
    ``operator-union`` or ``operator-broadcast``. ``versions`` are those of its values' schema, the
    newest first: more than one while a migration is under way. ``expires``: it has a ttl.
    """

    operator: OperatorId
    name: str
    kind: str
    versions: tuple[int, ...] = (1,)
    expires: bool = False

    @property
    def is_keyed(self) -> bool:
        """Whether it has a value for each key."""
        return not self.kind.startswith("operator-")


class OperatorPart(msgspec.Struct, frozen=True):
    """What a snapshot holds of one operator."""

    name: OperatorId
    kind: str
    type: str
    parallelism: int
    states: tuple[StateInfo, ...] = ()
    watermark_ms: int | None = None  # the least of its subtasks, where all have one


class Position(msgspec.Struct, frozen=True):
    """How far a subtask of a source has read one split."""

    source: OperatorId
    subtask: int
    split: str
    position: Any
    is_finished: bool
    size: int | None = None
    payload: dict[str, Any] = {}
    watermark_ms: int | None = None


class PendingCommit(msgspec.Struct, frozen=True):
    """Output that a sink has prepared, and that is not known to be committed."""

    sink: OperatorId
    subtask: int
    checkpoint_id: CheckpointId
    committable: Any


class TaskPart(msgspec.Struct, frozen=True):
    """One task's part of a snapshot, and how long its phases took."""

    task: TaskId
    operators: tuple[OperatorId, ...]
    subtask: int
    is_ended: bool
    key_groups: tuple[int, int] | None
    state_bytes: int
    channel_bytes: int
    times: SnapshotTimes


class OperatorValues(msgspec.Struct, frozen=True):
    """What one subtask has in a non-keyed state."""

    subtask: int
    values: tuple[Any, ...]


class ChannelBatch(msgspec.Struct, frozen=True):
    """Records in transit, in order. ``is_sent``: it was the sender that recorded them."""

    values: list[Any]
    timestamps: list[int] | None = None
    keys: list[Any] | None = None
    is_sent: bool = False


class ChannelContent(msgspec.Struct, frozen=True):
    """What was in transit in one channel, in the order in which it would have been received.

    First what the receiver has recorded behind its cut, then what the barrier has overtaken at the
    sender. ``tag`` names a side output.
    """

    source: OperatorId
    source_subtask: int
    target: OperatorId
    target_subtask: int
    port: int = 0
    tag: str = ""
    batches: tuple[ChannelBatch, ...] = ()

    @property
    def is_sent(self) -> bool:
        """Whether the sender has recorded a part of it."""
        return any(batch.is_sent for batch in self.batches)

    @property
    def values(self) -> list[Any]:
        """The records."""
        return [value for batch in self.batches for value in batch.values]

    @property
    def timestamps(self) -> list[int | None]:
        """The event time of each record, in ms since the epoch, where it has one."""
        return [time for batch in self.batches for time in _or_none(batch.timestamps, batch)]

    @property
    def keys(self) -> list[Any]:
        """The key of each record; None for each where they have none."""
        return [key for batch in self.batches for key in _or_none(batch.keys, batch)]

    def __len__(self) -> int:
        return sum(len(batch.values) for batch in self.batches)


def _or_none(items: list[Any] | None, batch: ChannelBatch) -> list[Any]:
    return [None] * len(batch.values) if items is None else items
