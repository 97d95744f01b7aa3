"""What the user drew and what runs: JobGraph to ExecutionGraph."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from flowsnap.core.ids import ChainId, ChannelId, OperatorId, TaskId, WorkerId


class OperatorKind(StrEnum):
    """What an operator is to the engine."""

    SOURCE = "source"
    OPERATOR = "operator"
    SINK = "sink"


class Partitioning(StrEnum):
    """Which subtask downstream gets a record."""

    FORWARD = "forward"  # the one of the same index
    HASH = "hash"  # the owner of the key's group
    REBALANCE = "rebalance"  # the next, in turn
    BROADCAST = "broadcast"  # every one


class OperatorSpec(msgspec.Struct, frozen=True):
    """An operator as the control plane knows it: no user code."""

    name: OperatorId
    kind: OperatorKind
    parallelism: int
    type: str = ""  # "Map", "TextFiles", ...: for people and for the check against a checkpoint
    is_keyed: bool = False


class EdgeSpec(msgspec.Struct, frozen=True):
    """Records of ``source`` go to input ``port`` of ``target``; ``tag`` names a side output."""

    source: OperatorId
    target: OperatorId
    partitioning: Partitioning
    port: int = 0
    tag: str = ""


class JobGraph(msgspec.Struct, frozen=True):
    """The pipeline as drawn: operators in the order they were added, and edges."""

    name: str
    operators: tuple[OperatorSpec, ...]
    edges: tuple[EdgeSpec, ...]
    max_parallelism: int = 128


class ChainSpec(msgspec.Struct, frozen=True):
    """Operators fused into one task per subtask."""

    id: ChainId
    operators: tuple[OperatorId, ...]
    parallelism: int


class TaskSpec(msgspec.Struct, frozen=True):
    """One subtask of a chain. ``key_groups`` is the half-open range it owns."""

    id: TaskId
    chain: ChainId
    subtask: int
    worker: WorkerId
    key_groups: tuple[int, int]


class ChainEdge(msgspec.Struct, frozen=True):
    """An edge between chains; ``channels`` are ordered by (source subtask, target subtask)."""

    source: ChainId
    target: ChainId
    partitioning: Partitioning
    port: int
    tag: str
    channels: tuple[ChannelId, ...]


class ChannelSpec(msgspec.Struct, frozen=True):
    """One FIFO channel from a task to a task; ``edge`` is the index of its ChainEdge."""

    id: ChannelId
    edge: int
    source: TaskId
    target: TaskId


class ExecutionGraph(msgspec.Struct, frozen=True):
    """What runs: chains, their tasks, and the channels between them."""

    chains: tuple[ChainSpec, ...]
    edges: tuple[ChainEdge, ...]
    tasks: tuple[TaskSpec, ...]
    channels: tuple[ChannelSpec, ...]
    workers: int
    max_parallelism: int
