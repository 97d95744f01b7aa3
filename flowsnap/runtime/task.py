"""One task: takes batches from its channels or its source, runs its chain, routes what comes out.

A dull driver: when a snapshot may be taken is the aligner's decision, whether a batch may leave the
credit's, what must be committed the commit machine's. ``step`` does one batch and returns; it never
waits. Whatever the task has to tell goes through ``TaskEvents``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

from flowsnap.core.aligner import Snapshot
from flowsnap.core.element import (
    Active,
    Barrier,
    Batch,
    Control,
    Element,
    EndOfInput,
    Idle,
    Marker,
    Watermark,
)
from flowsnap.core.event_time import WatermarkReport
from flowsnap.core.ids import ChannelId, CheckpointId, OperatorId
from flowsnap.core.message import TaskMetrics
from flowsnap.core.rounds import TaskRounds
from flowsnap.core.task import InputEnds, TaskState, move
from flowsnap.core.watermark import MAX_WATERMARK, MIN_WATERMARK, WatermarkMerger
from flowsnap.failpoint import failpoint
from flowsnap.runtime.checkpoints import TaskCheckpoints
from flowsnap.runtime.clock import now_ns
from flowsnap.runtime.input import FeedbackChannel, InputChannel
from flowsnap.runtime.output import OutputChannel
from flowsnap.runtime.parts import Pace, TakenSnapshot, TaskEvents, TaskParts, TaskTimes, Transit
from flowsnap.runtime.rest import Rest
from flowsnap.runtime.sink_output import sink_output
from flowsnap.runtime.spill import SpillQueue

POLL_MS = 2
"""How long a task waits at most before it looks again for what it holds, or is committing."""


class TaskRunner:
    """Runs one task, a batch at a time, on the thread of its worker."""

    def __init__(self, parts: TaskParts, events: TaskEvents) -> None:
        self.spec = parts.spec
        self.id = parts.spec.id
        self.operators = parts.chain_spec.operators
        self.inputs = {channel.id: channel for channel in parts.inputs}
        self._routers = [*parts.routers, *(r for some in parts.side_routers.values() for r in some)]
        self.outputs: list[OutputChannel] = [c for r in self._routers for c in r.channels]
        self.state = TaskState.CREATED
        self.is_loop = any(channel.is_feedback for channel in parts.inputs)
        self._parts = parts
        self._chain = parts.chain
        self.source = parts.source
        self._blocked: set[ChannelId] = set() if parts.aligner is None else parts.aligner.blocked
        self._events = events
        self._sink = sink_output(parts, events)
        self._checkpoints = TaskCheckpoints(
            parts.aligner, self.inputs, self.outputs, parts.new_recording, self
        )
        self._transit = iter(parts.transit) if parts.transit else None
        self._order = deque(parts.inputs)
        self._ends = InputEnds([c.id for c in parts.inputs if not c.is_feedback])
        self._rounds = TaskRounds(self.id, self.inputs)
        self._watermarks = WatermarkMerger(list(self.inputs), parts.watermark_ms)
        if parts.source is not None and parts.source.time is not None:
            self._watermarks = parts.source.time.merger
        self._has_event_time = parts.chain.generates_watermarks
        self._is_asynchronous = parts.chain.is_asynchronous
        self._is_idle = False
        self._last_output: Iterator[Batch] | None = None
        self._is_stopped = False
        self._has_partial, self._partial_due_ms = False, 0
        self._now_ms = 0
        self._times, self._pace, self.rest = TaskTimes(), Pace(), Rest()

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to run; grants the first credit."""
        self.state = move(self.state, TaskState.RESTORING)
        self.state = move(self.state, TaskState.RUNNING)
        for channel in self.inputs.values():
            channel.replenish()
            if channel.is_feedback:
                self._watermarks.idle(channel.id)  # What is fed back tells no event time.
        if self._transit is None:
            self._begin_time()

    def close(self) -> None:
        """Release everything; what was not prepared is dropped."""
        with ExitStack() as stack:
            if self._parts.state is not None:
                stack.callback(self._parts.state.close)
            stack.callback(self._checkpoints.close)
            for channel in self.inputs.values():
                if isinstance(channel.queue, SpillQueue):
                    stack.callback(channel.queue.close)
            stack.callback(self._chain.close)
            if self.source is not None:
                stack.callback(self.source.close)

    # --- one step -----------------------------------------------------------------------------

    def step(self, now_ms: int) -> bool:
        """Do one batch, if there is one and its output may leave; return whether it did."""
        self._now_ms = now_ms
        if self._sink is not None and not self._sink.step():
            return False
        checkpoints = self._checkpoints
        if checkpoints.has_open and checkpoints.push_out(now_ms):
            return True
        if checkpoints.is_called(now_ms) and self._may_cut() and checkpoints.step(now_ms):
            return True
        if self._times.blocked(self.waits_for() is not None):
            return False
        worked = self._step_clocked() and self._work(now_ms)
        if self._has_partial and (not worked or now_ms >= self._partial_due_ms):
            self._flush()
        return worked

    def _work(self, now_ms: int) -> bool:
        if self._transit is not None:
            return self._restore_transit(self._transit)
        if self._last_output is not None:
            return self._drain(self._last_output)
        return self._read(now_ms) if self.source is not None else self._consume(now_ms)

    def _restore_transit(self, transit: Iterator[Transit]) -> bool:
        """Process the next batch of what was in transit at the restored cut."""
        started = now_ns()
        found = next(transit, None)
        if found is None:
            self._transit = None
            self._begin_time()
            return True
        operator, port, batch = found
        output = self._chain.process_at(operator, batch, port)
        if self._parts.state is not None:
            self._parts.state.relieve()
        if output is not None:
            self._emit(output)
        self._after_output()
        self._times.busy_ns += now_ns() - started
        return True

    def next_step_ms(self, now_ms: int) -> int | None:
        """Return when ``step`` is worth calling again without anything arriving; None: never."""
        checkpoint_ms = self._checkpoints.next_deadline_ms(may_cut=self._may_cut())
        due = [] if checkpoint_ms is None else [checkpoint_ms]
        if self._sink is not None and self._sink.is_committing:
            if not self._sink.can_accept():
                return now_ms + POLL_MS  # Until the sink wants more, ``step`` does nothing else.
            due.append(now_ms + POLL_MS)
        if self.waits_for() is not None or self.state is TaskState.ENDED:
            return min(due, default=None)  # Credit is what it waits for, and that arrives.
        if self._chain.is_holding:
            due.append(now_ms + POLL_MS)
        timer_ms = self._chain.next_processing_time_ms()
        if timer_ms is not None:
            due.append(now_ms + max(0, timer_ms - self._parts.wall_ms()))
        may_read = self._chain.can_accept() and not self._is_stopped  # Else it is holding.
        if may_read and self.source is not None and not self.source.is_exhausted:
            due.append(max(now_ms, self.source.next_read_ms()))
        return min(due, default=None)

    def _may_cut(self) -> bool:
        return self._transit is None and self.state is not TaskState.ENDING

    def waits_for(self) -> OperatorId | None:
        """Return the operator whose missing credit holds this task back."""
        for channel in self.outputs:
            if channel.backlog:
                return channel.target
        return None

    def _step_clocked(self) -> bool:
        """Do what the wall clock and asynchronous operators ask for; False: no batch now."""
        if self.state is TaskState.ENDED:
            return True
        timer_ms = self._chain.next_processing_time_ms()
        if has_fired := timer_ms is not None and timer_ms <= (wall_ms := self._parts.wall_ms()):
            for batch in self._chain.on_processing_time(wall_ms):
                self._emit(batch)
            self._after_output()
        if not self._is_asynchronous:
            return not has_fired or self.waits_for() is None
        for batch in self._chain.poll():
            self._emit(batch)
        self._after_output()
        is_open = self._last_output is not None or self._chain.can_accept()
        return is_open and self.waits_for() is None

    def _read(self, now_ms: int) -> bool:
        source = self.source
        assert source is not None
        if self.state is not TaskState.RUNNING or self._is_stopped:
            return False
        started, before_ms = now_ns(), self._watermarks.current
        batch = source.read(now_ms, self._pace.records_max)
        if batch is not None:
            self._process(batch)
        if self._watermarks.current > before_ms:
            self._advance(self._watermarks.current)
        if source.time is not None:
            self._tell_idle()
        if batch is None and source.is_exhausted:
            self._end()
        self._times.busy_ns += now_ns() - started
        return batch is not None or source.is_exhausted

    def _consume(self, now_ms: int) -> bool:
        for turn, channel in enumerate(self._order, 1):
            if channel.queue and channel.id not in self._blocked:
                self._order.rotate(-turn)
                started = now_ns()
                self._take(channel, channel.queue.popleft(), now_ms)
                self._times.busy_ns += now_ns() - started
                return True
        return False

    def _take(self, channel: InputChannel, element: Element, now_ms: int) -> None:
        match element:
            case Batch() if len(element) <= self._pace.records_max:
                self._process(element, channel.port)
                channel.release()
            case Batch():
                self._process(channel.split(element, self._pace.records_max), channel.port)
            case Barrier():
                self._checkpoints.receive(channel.id, element, now_ms)
            case Marker(number):
                self._take_marker(channel, number)
            case _:
                if not channel.is_feedback:  # which has no event time, and ends when it is told
                    self._take_time(channel, element)

    def _take_time(self, channel: InputChannel, element: Element) -> None:
        match element:
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
            case _:
                pass  # The others have been taken before.

    def _process(self, batch: Batch, port: int = 0) -> None:
        before_ms = self._parts.now_ms()
        output = self._chain.process(batch, port)
        self._pace.measure(len(batch), self._parts.now_ms() - before_ms)
        if self._parts.state is not None:
            self._parts.state.relieve()
        if output is not None:
            self._emit(output)
        self._after_output()

    # --- event time ---------------------------------------------------------------------------

    def _after_output(self) -> None:
        """Send side outputs, and the event time that this chain has generated."""
        self._emit_side_outputs()
        if self._has_event_time and self._transit is None:
            self._forward_generated()

    def _begin_time(self) -> None:
        """Go on at the restored event time; what was in transit came before it, and is not late."""
        self._advance(self._watermark_ms())
        if self._has_event_time:
            self._forward_generated()
        elif self.is_loop:
            self._tell_idle()

    def _advance(self, watermark_ms: int | None) -> None:
        """Take event time that has come in through the inputs; at its end ``_end`` does."""
        if watermark_ms is None or watermark_ms == MAX_WATERMARK:
            return
        self._emit_timed(self._chain.advance(watermark_ms))
        self._after_output()

    def align(self, minimums: Mapping[str, int]) -> None:
        """Have a source wait for the others of its group, or read on."""
        if self.source is not None and self.source.time is not None:
            self.source.align(minimums.get(self.source.time.settings.group))

    def holds_back(self, now_ms: int) -> WatermarkReport | None:
        """Return how far this task lets its group of sources come; None: it is in no group."""
        time = None if self.source is None else self.source.time
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
            for batch in buffer.take():
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
        if batch is not None:
            self._emit(batch)
        self._emit_side_outputs()
        if batch is None:
            self._last_output = None
            self._send_control(EndOfInput())
            self.state = move(self.state, TaskState.ENDED)
            self._events.ended(self.id)
        self._times.busy_ns += now_ns() - started
        return batch is None or bool(batch.values)

    def end_loop(self) -> None:
        """End the input of a loop; what is still fed back, as last output, goes nowhere."""
        if self.is_loop and self.state is TaskState.RUNNING:
            for channel in self.inputs.values():
                if isinstance(channel, FeedbackChannel):
                    channel.close()
            self._end()

    def look(self, number: int) -> None:
        """Look whether anything goes on here, for a round; and send its markers."""
        if number <= self._rounds.number:
            return
        for batch in self._chain.before_barrier():
            self._emit(batch)
        self._after_output()
        consumed = {channel.id: channel.consumed for channel in self.inputs.values()}
        report = self._rounds.look(number, self._is_passive(), consumed)
        self._send_control(Marker(number))
        if report is not None:
            self._events.round_seen(report)

    def _take_marker(self, channel: InputChannel, number: int) -> None:
        self.look(number)
        report = self._rounds.receive(channel.id, number, channel.consumed)
        if report is not None:
            self._events.round_seen(report)

    def _is_passive(self) -> bool:
        is_reading = self.source is not None and self.state is not TaskState.ENDED
        return not (is_reading or self._transit is not None or self._chain.is_holding)

    # --- checkpoints --------------------------------------------------------------------------

    def trigger(
        self, checkpoint_id: CheckpointId, *, is_final: bool, timeout_ms: int | None = None
    ) -> None:
        """Begin a checkpoint here, before the next batch; at a final one a source stops reading."""
        self._is_stopped = self._is_stopped or is_final
        self._checkpoints.trigger(checkpoint_id, timeout_ms)

    def abort(self, checkpoint_id: CheckpointId) -> None:
        """Give a checkpoint up, whether its barriers have come or not."""
        self._checkpoints.abort(checkpoint_id)

    def complete(self, checkpoint_id: CheckpointId) -> None:
        """Tell the source, and commit what the sink prepared up to a completed checkpoint."""
        if self.source is not None:
            self.source.complete(checkpoint_id)
        if self._sink is not None:
            self._sink.complete(checkpoint_id)

    def decline(self, checkpoint_id: CheckpointId, reason: str) -> None:
        self._events.declined(self.id, checkpoint_id, reason)

    def take_snapshot(self, cut: Snapshot) -> None:
        checkpoint_id = cut.checkpoint_id
        failpoint("op.pre_snapshot")
        for batch in self._chain.before_barrier():
            self._emit(batch)
        self._after_output()
        started = now_ns()
        splits = () if self.source is None else self.source.positions(checkpoint_id)
        failpoint("src.offset_recorded")
        persist = None if self._parts.state is None else self._parts.state.freeze()
        operator_states = self._chain.operator_states()
        if self._sink is not None:
            self._sink.prepare(checkpoint_id)
        self._flush()
        trace = None if self._parts.tracer is None else self._parts.tracer.trace()
        recording = self._checkpoints.cut(cut)
        synchronous_ms = (now_ns() - started) / 1e6
        if self.source is not None:
            failpoint("src.barrier_injected")
        self._events.snapshot_taken(
            TakenSnapshot(
                checkpoint_id=checkpoint_id,
                task=self.spec,
                operators=self._parts.chain_spec.operators,
                operator_states=operator_states,
                watermarks=self._reached(),
                # Restored behind its end, it has ended although its input has yet to say so again.
                is_ended=self.state is TaskState.ENDED or self._parts.is_ended,
                ended=self._chain.ended,
                splits=splits,
                prepared=self._parts.commits.pending(),
                persist=persist,
                alignment_ms=cut.alignment_ms,
                synchronous_ms=synchronous_ms,
                recording=recording,
                trace=trace,
            )
        )

    def _watermark_ms(self) -> int | None:
        reached = self._watermarks.current
        return reached if MIN_WATERMARK < reached < MAX_WATERMARK else None

    def _reached(self) -> dict[OperatorId, int]:
        """Return the event time that each operator has reached, the source included."""
        reached = self._chain.watermarks()
        if self.source is not None and (watermark_ms := self._watermark_ms()) is not None:
            reached[self._parts.chain_spec.operators[0]] = watermark_ms
        return reached

    # --- metrics ------------------------------------------------------------------------------

    def metrics(self) -> TaskMetrics:
        """Return the totals since the attempt began."""
        done, total = (0, 0) if self.source is None else self.source.progress()
        return TaskMetrics(
            task=self.id,
            operators=self._parts.counted(),
            busy_ms=self._times.busy_ns / 1e6,
            backpressured_ms=self._times.backpressured_ns / 1e6,
            progress_done=done,
            progress_total=total,
            waits_for=self.waits_for() or "",
        )
