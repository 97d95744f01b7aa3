"""Looking at a snapshot: open a checkpoint without its job, read it, query it, change it."""

from flowsnap.core.operator import MISSING
from flowsnap.serialize import Opaque
from flowsnap.snapshot.builder import SavepointBuilder
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
from flowsnap.snapshot.cut import CutFinding, check_cut
from flowsnap.snapshot.difference import Change, SnapshotDifference, StateDifference, diff
from flowsnap.snapshot.invariant import Invariant, Violation, run_invariants
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
    "diff",
    "SnapshotDifference",
    "StateDifference",
    "Change",
    "check_cut",
    "CutFinding",
    "Invariant",
    "Violation",
    "run_invariants",
    "SavepointBuilder",
    "MISSING",
]
