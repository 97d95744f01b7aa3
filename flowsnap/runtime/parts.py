"""What a task is made of, and what it hands on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from flowsnap.core.aligner import Aligner
from flowsnap.core.commit import SinkCommits
from flowsnap.core.element import Batch
from flowsnap.core.graph import ChainSpec, TaskSpec
from flowsnap.core.ids import CheckpointId, OperatorId, TaskId
from flowsnap.core.manifest import OperatorStateValues, PreparedOutput, SplitPosition, TaskTrace
from flowsnap.core.message import OperatorMetrics
from flowsnap.core.rounds import RoundReport
from flowsnap.core.watermark import MIN_WATERMARK
from flowsnap.errors import LocalProtocolError
from flowsnap.runtime.chain import Chain
from flowsnap.runtime.channel_state import Recording
from flowsnap.runtime.clock import SystemClock, now_ns
from flowsnap.runtime.input import FeedbackChannel, InputChannel, SourceInput
from flowsnap.runtime.output import Router
from flowsnap.runtime.tracing import Tracer
from flowsnap.state.backend import Persist, StateBackend

PART_MS = 50
"""How long a part of a batch should take, where a whole one takes more than twice that."""

Transit = tuple[OperatorId, int, Batch]
"""A batch that was in transit to an operator, and to which of its inputs."""


@dataclass(slots=True)
class TakenSnapshot:
    """The synchronous part of one task's snapshot: all that is left is to make it durable."""

    checkpoint_id: CheckpointId
    task: TaskSpec
    operators: tuple[OperatorId, ...]
    operator_states: tuple[OperatorStateValues, ...]
    watermarks: dict[OperatorId, int]
    is_ended: bool
    ended: tuple[OperatorId, ...]
    splits: tuple[SplitPosition, ...]
    prepared: tuple[PreparedOutput, ...]
    persist: Persist | None
    alignment_ms: float
    synchronous_ms: float
    recording: Recording | None = None
    trace: TaskTrace | None = None


def _nowhere(checkpoint_id: CheckpointId) -> Recording:
    raise LocalProtocolError(f"checkpoint {checkpoint_id}: nothing was expected in transit here")


class TaskEvents(Protocol):
    """What a task tells its worker."""

    def snapshot_taken(self, snapshot: TakenSnapshot) -> None:
        """Make the snapshot durable, in slices, and acknowledge it."""

    def declined(self, task: TaskId, checkpoint_id: CheckpointId, reason: str) -> None:
        """Tell the job manager that this checkpoint cannot be had from this task."""

    def ended(self, task: TaskId) -> None:
        """Tell the job manager that the task has processed the end of its input."""

    def round_seen(self, report: RoundReport) -> None:
        """Tell the job manager what the task saw in a round."""

    def committed(self, task: TaskId, checkpoint_id: CheckpointId) -> None:
        """Tell the job manager that the sink has committed everything up to this checkpoint."""


@dataclass(slots=True)
class TaskParts:
    """What a task is put together from; see ``runtime/deployment.py``."""

    spec: TaskSpec
    chain_spec: ChainSpec
    chain: Chain
    source: SourceInput | None
    inputs: Sequence[InputChannel]
    routers: Sequence[Router]
    aligner: Aligner | None
    state: StateBackend | None
    commits: SinkCommits
    is_ended: bool
    linger_ms: int
    side_routers: Mapping[str, Sequence[Router]] = field(default_factory=dict)
    watermark_ms: int = MIN_WATERMARK
    wall_ms: Callable[[], int] = SystemClock().wall_ms
    now_ms: Callable[[], int] = SystemClock().now_ms
    tracer: Tracer | None = None
    new_recording: Callable[[CheckpointId], Recording] = _nowhere
    transit: Iterable[Transit] = ()

    def counted(self) -> tuple[OperatorMetrics, ...]:
        """Return what each operator has counted since the attempt began, the source's first."""
        counted = self.chain.counted()
        operators = [
            OperatorMetrics(name, counter.records_in, counter.records_out, counted.get(name, {}))
            for name, counter in self.chain.counters()
        ]
        if dropped := sum(c.dropped for c in self.inputs if isinstance(c, FeedbackChannel)):
            loop = operators[0]
            counters = {**loop.counters, "dropped at the end": dropped}
            operators[0] = msgspec.structs.replace(loop, counters=counters)
        if self.source is not None:
            read = self.source.records_read
            operators.insert(0, OperatorMetrics(self.chain_spec.operators[0], read, read))
        return tuple(operators)


class TaskTimes:
    """How long a task has worked, and how long it was held back, since the attempt began."""

    __slots__ = ("_backpressured_ns", "_blocked_since_ns", "busy_ns")

    def __init__(self) -> None:
        self.busy_ns = 0
        self._backpressured_ns = 0
        self._blocked_since_ns = 0

    def blocked(self, is_blocked: bool) -> bool:
        """Take note whether output waits for credit now, and return it."""
        if is_blocked and not self._blocked_since_ns:
            self._blocked_since_ns = now_ns()
        elif self._blocked_since_ns and not is_blocked:
            self._backpressured_ns += now_ns() - self._blocked_since_ns
            self._blocked_since_ns = 0
        return is_blocked

    @property
    def backpressured_ns(self) -> int:
        """How long output has waited for credit."""
        waiting = now_ns() - self._blocked_since_ns if self._blocked_since_ns else 0
        return self._backpressured_ns + waiting


class Pace:
    """How many records a task processes at once, so that it looks up often enough.

    A barrier, a timer, another task of the worker: they wait until the user's code is through with
    a batch. Where that takes too long, batches are taken in parts; what is left of one waits in its
    channel as before.
    """

    __slots__ = ("records_max",)

    def __init__(self) -> None:
        self.records_max = sys.maxsize

    def measure(self, records: int, elapsed_ms: int) -> None:
        """Take note of how long ``records`` took."""
        if elapsed_ms > 2 * PART_MS:
            self.records_max = max(1, records * PART_MS // elapsed_ms)
        elif elapsed_ms < PART_MS // 2 and records >= self.records_max:
            self.records_max *= 2
