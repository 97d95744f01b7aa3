"""Looking at a snapshot: open a checkpoint without its job, read it, query it, change it."""

from flowsnap.serialize import Opaque
from flowsnap.snapshot.content import (
    ChannelBatch,
    ChannelContent,
    OperatorPart,
    OperatorValues,
    PendingCommit,
    Position,
    Row,
    StateInfo,
    TaskPart,
    Timer,
)
from flowsnap.snapshot.keyed import KeyedState
from flowsnap.snapshot.snapshot import Snapshot

__all__ = [
    "Snapshot",
    "KeyedState",
    "Row",
    "StateInfo",
    "OperatorPart",
    "OperatorValues",
    "Position",
    "PendingCommit",
    "TaskPart",
    "Timer",
    "ChannelContent",
    "ChannelBatch",
    "Opaque",
]
