"""One task: takes batches from its channels or its source, runs its chain, routes what comes out.

A dull driver: when a snapshot may be taken is the aligner's decision, whether a batch may leave the
credit's, what must be committed the commit machine's. ``step`` does one batch and returns; it never
waits. Whatever the task has to tell goes through ``TaskEvents``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from flowsnap.core.aligner import Action as Alignment
from flowsnap.core.aligner import Aligner, Decline, Snapshot, Unblock
from flowsnap.core.commit import SinkCommits
from flowsnap.core.element import (
    Active,
    Barrier,
    Batch,
    Control,
    Element,
    EndOfInput,
    Idle,
    Watermark,
)
from flowsnap.core.event_time import WatermarkReport
from flowsnap.core.graph import ChainSpec, TaskSpec
from flowsnap.core.ids import ChannelId, CheckpointId, OperatorId, TaskId
from flowsnap.core.manifest import OperatorStateValues, PreparedOutput, SplitPosition
from flowsnap.core.message import OperatorMetrics, TaskMetrics
from flowsnap.core.task import InputEnds, TaskState, move
from flowsnap.core.watermark import MAX_WATERMARK, MIN_WATERMARK, WatermarkMerger
from flowsnap.failpoint import failpoint
from flowsnap.runtime.chain import Chain, user_code
from flowsnap.runtime.clock import SystemClock, now_ns
from flowsnap.runtime.input import InputChannel, SourceInput
from flowsnap.runtime.output import OutputChannel, Router
from flowsnap.state.backend import Persist, StateBackend

POLL_MS = 2
"""How long a task with requests in flight waits at most before it looks again."""


@dataclass(slots=True)
class TakenSnapshot:
    """The synchronous part of one task's snapshot: all that is left is to make it durable."""

    checkpoint_id: CheckpointId
    task: TaskSpec
    operators: tuple[OperatorId, ...]
    operator_states: tuple[OperatorStateValues, ...]
    watermark_ms: int | None
    is_ended: bool
    splits: tuple[SplitPosition, ...]
    prepared: tuple[PreparedOutput, ...]
    persist: Persist | None
    alignment_ms: float
    synchronous_ms: float


class TaskEvents(Protocol):
    """What a task tells its worker."""

    def snapshot_taken(self, snapshot: TakenSnapshot) -> None:
        """Make the snapshot durable, in slices, and acknowledge it."""

    def declined(self, task: TaskId, checkpoint_id: CheckpointId, reason: str) -> None:
        """Tell the job manager that this checkpoint cannot be had from this task."""

    def ended(self, task: TaskId) -> None:
        """Tell the job manager that the task has processed the end of its input."""

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


class TaskRunner:
    """Runs one task, a batch at a time, on the thread of its worker."""

    def __init__(self, parts: TaskParts, events: TaskEvents) -> None:
        self.spec = parts.spec
        self.id = parts.spec.id
        self.inputs = {channel.id: channel for channel in parts.inputs}
        self._routers = [*parts.routers, *(r for some in parts.side_routers.values() for r in some)]
        self.outputs: list[OutputChannel] = [c for r in self._routers for c in r.channels]
        self.state = TaskState.CREATED
        self._parts = parts
        self._chain = parts.chain
        self._source = parts.source
        self._aligner = parts.aligner
        self._blocked: set[ChannelId] = set() if parts.aligner is None else parts.aligner.blocked
        self._state = parts.state
        self._events = events
        self._order = deque(parts.inputs)
        self._ends = InputEnds(list(self.inputs))
        self._watermarks = WatermarkMerger(list(self.inputs), parts.watermark_ms)
        if parts.source is not None and parts.source.time is not None:
            self._watermarks = parts.source.time.merger
        self._has_event_time = parts.chain.generates_watermarks
        self._is_asynchronous = parts.chain.is_asynchronous
        self._is_idle = False
        self._triggers: deque[CheckpointId] = deque()
        self._last_output: Iterator[Batch] | None = None
        self._is_stopped = False
        self._has_partial = False
        self._partial_due_ms = 0
        self._now_ms = 0
        self._busy_ns = 0
        self._backpressured_ns = 0
        self._blocked_since_ns = 0

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to run; grants the first credit."""
        self.state = move(self.state, TaskState.RESTORING)
        self.state = move(self.state, TaskState.RUNNING)
        for channel in self.inputs.values():
            channel.replenish()
        if self._has_event_time:
            self._forward_generated()
        elif (watermark_ms := self._watermark_ms()) is not None:
            self._send_control(Watermark(watermark_ms))

    def close(self) -> None:
        """Release everything; what was not prepared is dropped."""
        with ExitStack() as stack:
            if self._state is not None:
                stack.callback(self._state.close)
            stack.callback(self._chain.close)
            if self._source is not None:
                stack.callback(self._source.close)

    # --- one step -----------------------------------------------------------------------------

    def step(self, now_ms: int) -> bool:
        """Do one batch, if there is one and its output may leave; return whether it did."""
        self._now_ms = now_ms
        if self._triggers and self.state is not TaskState.ENDING:
            self._snapshot(self._triggers.popleft(), 0.0)
            return True
        if self._is_backpressured():
            return False
        worked = self._step_clocked() and self._work(now_ms)
        if self._has_partial and (not worked or now_ms >= self._partial_due_ms):
            self._flush()
        return worked

    def _work(self, now_ms: int) -> bool:
        if self._last_output is not None:
            return self._drain(self._last_output)
        return self._read(now_ms) if self._source is not None else self._consume(now_ms)

    def next_step_ms(self, now_ms: int) -> int | None:
        """Return when ``step`` is worth calling again without anything arriving; None: never."""
        if self.waits_for() is not None:
            return None  # Credit is what it waits for, and that arrives.
        due = []
        has_ended = self.state is TaskState.ENDED  # Then neither is asked any more.
        if self._is_asynchronous and not has_ended:
            due.append(now_ms + POLL_MS)
        timer_ms = self._chain.next_processing_time_ms()
        if timer_ms is not None and not has_ended:
            due.append(now_ms + max(0, timer_ms - self._parts.wall_ms()))
        if not (self._source is None or self._source.is_exhausted or self._is_stopped):
            due.append(max(now_ms, self._source.next_read_ms()))
        return min(due, default=None)

    def waits_for(self) -> OperatorId | None:
        """Return the operator whose missing credit holds this task back."""
        return next((channel.target for channel in self.outputs if channel.backlog), None)

    def _is_backpressured(self) -> bool:
        for channel in self.outputs:
            if channel.backlog:
                if not self._blocked_since_ns:
                    self._blocked_since_ns = now_ns()
                return True
        if self._blocked_since_ns:
            self._backpressured_ns += now_ns() - self._blocked_since_ns
            self._blocked_since_ns = 0
        return False

    def _step_clocked(self) -> bool:
        """Do what the wall clock and asynchronous operators ask for; False: no batch now."""
        timer_ms = self._chain.next_processing_time_ms()
        if timer_ms is not None and self.state is not TaskState.ENDED:
            wall_ms = self._parts.wall_ms()
            if timer_ms <= wall_ms:
                for batch in self._chain.on_processing_time(wall_ms):
                    self._emit(batch)
                self._after_output()
        if not self._is_asynchronous or self.state is TaskState.ENDED:
            return True
        for batch in self._chain.poll():
            self._emit(batch)
        self._after_output()
        return self._last_output is not None or self._chain.can_accept()

    def _read(self, now_ms: int) -> bool:
        source = self._source
        assert source is not None
        if self.state is not TaskState.RUNNING or self._is_stopped:
            return False
        started, before_ms = now_ns(), self._watermarks.current
        batch = source.read(now_ms)
        if batch is not None:
            self._process(batch)
        if self._watermarks.current > before_ms:
            self._advance(self._watermarks.current)
        if source.time is not None:
            self._tell_idle()
        if batch is None and source.is_exhausted:
            self._end()
        self._busy_ns += now_ns() - started
        return batch is not None or source.is_exhausted

    def _consume(self, now_ms: int) -> bool:
        for _ in range(len(self._order)):
            channel = self._order[0]
            self._order.rotate(-1)
            if channel.queue and channel.id not in self._blocked:
                started = now_ns()
                self._take(channel, channel.queue.popleft(), now_ms)
                self._busy_ns += now_ns() - started
                return True
        return False

    def _take(self, channel: InputChannel, element: Element, now_ms: int) -> None:
        match element:
            case Batch():
                self._process(element, channel.port)
                channel.release()
            case Barrier(checkpoint_id):
                self._take_barrier(channel.id, checkpoint_id, now_ms)
            case EndOfInput():
                self._take_end(channel.id)
            case Watermark(timestamp_ms):
                self._advance(self._watermarks.receive(channel.id, timestamp_ms))
            case Idle():
                self._advance(self._watermarks.idle(channel.id))
                self._tell_idle()
            case Active():
                self._advance(self._watermarks.active(channel.id))
                self._tell_idle()

    def _process(self, batch: Batch, port: int = 0) -> None:
        output = self._chain.process(batch, port)
        if self._state is not None:
            self._state.relieve()
        if output is not None:
            self._emit(output)
        self._after_output()

    # --- event time ---------------------------------------------------------------------------

    def _after_output(self) -> None:
        """Send side outputs, and the event time that this chain has generated."""
        self._emit_side_outputs()
        if self._has_event_time:
            self._forward_generated()

    def _advance(self, watermark_ms: int | None) -> None:
        """Take event time that has come in through the inputs; at its end ``_end`` does."""
        if watermark_ms is None or watermark_ms == MAX_WATERMARK:
            return
        self._emit_timed(self._chain.advance(watermark_ms))
        self._after_output()

    def align(self, minimums: Mapping[str, int]) -> None:
        """Have a source wait for the others of its group, or read on."""
        if self._source is not None and self._source.time is not None:
            self._source.align(minimums.get(self._source.time.settings.group))

    def holds_back(self, now_ms: int) -> WatermarkReport | None:
        """Return how far this task lets its group of sources come; None: it is in no group."""
        time = None if self._source is None else self._source.time
        if time is None or not time.settings.group:
            return None
        is_reading = self.state is TaskState.RUNNING and not self._is_stopped
        held_ms = time.holds_at_ms(now_ms) if is_reading else None
        return WatermarkReport(self.id, time.settings.group, held_ms)

    def _forward_generated(self) -> None:
        self._emit_timed(self._chain.generated())
        self._tell_idle()

    def _emit_timed(self, outputs: Iterator[Batch | int]) -> None:
        for output in outputs:
            if isinstance(output, Batch):
                self._emit(output)
            else:
                self._emit_side_outputs()  # What leaves beside is not later than the watermark.
                self._send_control(Watermark(output))

    def _tell_idle(self) -> None:
        """Tell those downstream when this task begins or ceases to hold event time back."""
        is_idle = self._chain.is_idle(self._watermarks.is_idle)
        if is_idle != self._is_idle:
            self._is_idle = is_idle
            for batch in self._chain.before_barrier() if is_idle else ():
                self._emit(batch)  # Event time may go on without us: later it would be late.
            self._send_control(Idle() if is_idle else Active())

    # --- output -------------------------------------------------------------------------------

    def _emit(self, batch: Batch) -> None:
        for router in self._parts.routers:
            router.route(batch)
        if not self._has_partial:
            self._has_partial = True
            self._partial_due_ms = self._now_ms + self._parts.linger_ms

    def _emit_side_outputs(self) -> None:
        for tag, buffer in self._chain.side_outputs():
            routers = self._parts.side_routers.get(tag, ())
            if buffer.values:
                batch = buffer.take()
                for router in routers:
                    router.route(batch)

    def _flush(self) -> None:
        self._has_partial = False
        for router in self._routers:
            router.flush()

    def _send_control(self, element: Control) -> None:
        self._flush()
        for channel in self.outputs:
            channel.send(element)

    # --- end of input -------------------------------------------------------------------------

    def _take_end(self, channel: ChannelId) -> None:
        is_last = self._ends.receive(channel)
        watermark_ms = self._watermarks.end(channel)
        if is_last:
            self._end()  # What leaves at the end is not late: downstream, the end is the watermark.
        else:
            self._advance(watermark_ms)
            self._tell_idle()  # What is left may be idle.

    def _end(self) -> None:
        """Begin the last output; a task that had ended before the checkpoint has none left."""
        self.state = move(self.state, TaskState.ENDING)
        self._last_output = iter(()) if self._parts.is_ended else self._chain.end_input()

    def _drain(self, last_output: Iterator[Batch]) -> bool:
        started = now_ns()
        batch = next(last_output, None)
        is_waiting = batch is not None and not batch.values
        if batch is not None:
            self._emit(batch)
            self._emit_side_outputs()
        else:
            self._emit_side_outputs()
            self._last_output = None
            self._send_control(EndOfInput())
            self.state = move(self.state, TaskState.ENDED)
            self._events.ended(self.id)
        self._busy_ns += now_ns() - started
        return not is_waiting

    # --- checkpoints --------------------------------------------------------------------------

    def trigger(self, checkpoint_id: CheckpointId, *, is_final: bool) -> None:
        """Have a source emit a barrier before its next batch; at a final one it stops reading."""
        self._is_stopped = self._is_stopped or is_final
        self._triggers.append(checkpoint_id)

    def abort(self, checkpoint_id: CheckpointId, now_ms: int) -> None:
        """Give a checkpoint up, whether its barriers have come or not."""
        if checkpoint_id in self._triggers:
            self._triggers.remove(checkpoint_id)
        if self._aligner is not None:
            self._carry_out(self._aligner.abort(checkpoint_id))

    def complete(self, checkpoint_id: CheckpointId) -> None:
        """Commit what the sink prepared up to a completed checkpoint."""
        sink = self._chain.sink
        if sink is None:
            return
        failpoint("sink.notify_recv")
        due = self._parts.commits.due(checkpoint_id)
        if due:
            with user_code(self._parts.chain_spec.operators[-1], self.spec.subtask):
                sink.commit([output.committable for output in due])
        self._parts.commits.committed(checkpoint_id)
        self._events.committed(self.id, checkpoint_id)

    def _take_barrier(self, channel: ChannelId, checkpoint_id: CheckpointId, now_ms: int) -> None:
        failpoint("ch.barrier_recv_first")
        assert self._aligner is not None, "a source has no input channel"
        self._carry_out(self._aligner.receive_barrier(channel, checkpoint_id, now_ms))

    def _carry_out(self, actions: Sequence[Alignment]) -> None:
        for action in actions:
            match action:
                case Snapshot(checkpoint_id, alignment_ms):
                    failpoint("ch.aligned")
                    self._snapshot(checkpoint_id, alignment_ms)
                case Decline(checkpoint_id, reason):
                    self._events.declined(self.id, checkpoint_id, reason)
                case Unblock():
                    pass  # ``blocked`` is the aligner's own set, which it has emptied.

    def _snapshot(self, checkpoint_id: CheckpointId, alignment_ms: float) -> None:
        failpoint("op.pre_snapshot")
        for batch in self._chain.before_barrier():
            self._emit(batch)
        self._after_output()
        started = now_ns()
        splits = () if self._source is None else self._source.positions()
        failpoint("src.offset_recorded")
        persist = None if self._state is None else self._state.freeze()
        operator_states = self._chain.operator_states()
        self._prepare(checkpoint_id)
        synchronous_ms = (now_ns() - started) / 1e6
        self._send_control(Barrier(checkpoint_id))
        if self._source is not None:
            failpoint("src.barrier_injected")
        self._events.snapshot_taken(
            TakenSnapshot(
                checkpoint_id=checkpoint_id,
                task=self.spec,
                operators=self._parts.chain_spec.operators,
                operator_states=operator_states,
                watermark_ms=self._watermark_ms(),
                # Restored behind its end, it has ended although its input has yet to say so again.
                is_ended=self.state is TaskState.ENDED or self._parts.is_ended,
                splits=splits,
                prepared=self._parts.commits.pending(),
                persist=persist,
                alignment_ms=alignment_ms,
                synchronous_ms=synchronous_ms,
            )
        )

    def _watermark_ms(self) -> int | None:
        reached = self._watermarks.current
        return reached if MIN_WATERMARK < reached < MAX_WATERMARK else None

    def _prepare(self, checkpoint_id: CheckpointId) -> None:
        sink = self._chain.sink
        if sink is not None:
            with user_code(self._parts.chain_spec.operators[-1], self.spec.subtask):
                self._parts.commits.add(checkpoint_id, sink.prepare(checkpoint_id))

    # --- metrics ------------------------------------------------------------------------------

    def metrics(self) -> TaskMetrics:
        """Return the totals since the attempt began."""
        operators = [
            OperatorMetrics(name, counter.records_in, counter.records_out)
            for name, counter in self._chain.counters()
        ]
        done = total = 0
        if self._source is not None:
            read = self._source.records_read
            operators.insert(0, OperatorMetrics(self._parts.chain_spec.operators[0], read, read))
            done, total = self._source.progress()
        waiting = now_ns() - self._blocked_since_ns if self._blocked_since_ns else 0
        return TaskMetrics(
            task=self.id,
            operators=tuple(operators),
            busy_ms=self._busy_ns / 1e6,
            backpressured_ms=(self._backpressured_ns + waiting) / 1e6,
            progress_done=done,
            progress_total=total,
            waits_for=self.waits_for() or "",
        )
