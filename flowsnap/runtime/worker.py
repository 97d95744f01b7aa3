"""One worker: its tasks, its channels, its part of every checkpoint.

``step`` does a round: messages, arrivals, one batch of every task, a slice of snapshot work. It
never waits and starts no thread, so that a process loop, the in-process loop and a simulated world
can drive it. The first failure of anything ends the attempt here: the tasks are closed, the job
manager is told once, and nothing more is done until it says what next. Around the round stands the
second and last ``except Exception``: whatever happens in a worker reaches the job manager with its
traceback.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flowsnap.core.element import Element
from flowsnap.core.ids import AttemptId, ChannelId, CheckpointId, OperatorId, TaskId, WorkerId
from flowsnap.core.manifest import TaskSnapshot
from flowsnap.core.message import (
    AbortCheckpoint,
    Acknowledged,
    AlignWatermarks,
    Cancel,
    Cancelled,
    Committed,
    CompleteCheckpoint,
    Declined,
    Deploy,
    Deployed,
    Drain,
    EndOfLoops,
    FromWorker,
    LookRound,
    Progress,
    RoundSeen,
    Shutdown,
    Start,
    TaskEnded,
    TaskFailed,
    ToWorker,
    TriggerCheckpoint,
)
from flowsnap.core.rounds import RoundReport
from flowsnap.errors import ConnectionLost, FlowsnapError, OperatorError
from flowsnap.failpoint import failpoint
from flowsnap.runtime.clock import Clock
from flowsnap.runtime.deployment import Builder
from flowsnap.runtime.input import InputChannel
from flowsnap.runtime.output import OutputChannel
from flowsnap.runtime.parts import TakenSnapshot
from flowsnap.runtime.snapshot import Snapshotter, upload_thread
from flowsnap.runtime.task import TaskRunner
from flowsnap.state.backend import StateBackend
from flowsnap.storage.writer import CheckpointWriter
from flowsnap.transport.plane import Arrival, DataPlane

PROGRESS_INTERVAL_MS = 200
ALIGN_INTERVAL_MS = 50
IDLE_MS = 100
UPLOAD_POLL_MS = 2
NOT_REACHED = -1
LOSS_GRACE_MS = 250
"""How long a worker keeps a lost connection to itself: whoever caused it has more to tell."""
_OWN_FILES = tuple(
    str(Path(__file__).parents[1] / part)
    for part in ("core", "operators", "runtime", "state", "connectors", "transport", "storage")
)


class ControlLink(Protocol):
    """The worker's end of the control plane."""

    def send(self, message: FromWorker) -> None:
        """Send to the job manager; never waits."""

    def receive(self) -> list[ToWorker]:
        """Return what has come, in order."""


@dataclass(frozen=True, slots=True)
class Edges:
    """What a worker acts on, made for each deployment.

    ``load_code`` returns the operator templates, ``make_plane`` the connections to the other
    workers, ``make_writer`` access to the checkpoint store, ``make_state`` the keyed state of a
    task, ``make_executor`` what stores finished files: one at a time, in order.
    """

    load_code: Callable[[Deploy], Mapping[OperatorId, Any]]
    make_plane: Callable[[Deploy, WorkerId], DataPlane]
    make_writer: Callable[[Deploy], CheckpointWriter]
    make_state: Callable[..., StateBackend] = StateBackend
    make_executor: Callable[[], Executor] = upload_thread


class Worker:
    """Runs the tasks of one worker, attempt after attempt."""

    def __init__(self, id: WorkerId, control: ControlLink, clock: Clock, edges: Edges) -> None:
        self.id = id
        self.steps = 0
        self.is_done = False
        self.plane: DataPlane | None = None
        self.connections = 0  # counts how often the sockets of ``plane`` have changed
        self._control = control
        self._clock = clock
        self._edges = edges
        self._attempt = AttemptId(0)
        self._tasks: list[TaskRunner] = []
        self._inputs: dict[ChannelId, InputChannel] = {}
        self._receivers: dict[ChannelId, TaskRunner] = {}
        self._outputs: dict[ChannelId, OutputChannel] = {}
        self._senders: dict[ChannelId, TaskRunner] = {}
        self._snapshots: Snapshotter | None = None
        self._is_running = False
        self._progress_at_ms = 0
        self._positions_at_ms = 0
        self._positions_interval_ms = 1000
        self._loss: TaskFailed | None = None  # not told yet
        self._loss_due_ms = 0

    # --- the loop -----------------------------------------------------------------------------

    def step(self) -> int:
        """Do one round; return in how many ms to come back if nothing arrives before."""
        self.steps += 1
        task: TaskRunner | None = None
        try:
            for message in self._control.receive():
                self._take(message)
            if not self._is_running:
                return self._tell_loss()
            self._receive()
            now_ms, is_busy = self._clock.now_ms(), False
            for task in self._tasks:
                if task.rest.until_ms <= now_ms:
                    is_busy |= _step(task, now_ms)
            task = None
            is_busy |= self._step_snapshots()
            self._report(now_ms)
        except Exception as error:  # the top of a worker: the job manager hears of everything
            self._fail(task, error)
            return 0
        return 0 if is_busy else self._idle_ms(now_ms)

    def _idle_ms(self, now_ms: int) -> int:
        if self._snapshots is not None and self._snapshots.is_uploading:
            return UPLOAD_POLL_MS
        due = [task.rest.due_ms for task in self._tasks]
        return max(0, min([*due, self._progress_at_ms, now_ms + IDLE_MS]) - now_ms)

    def _receive(self) -> None:
        if self.plane is None:
            return
        for arrived in self.plane.receive():
            if isinstance(arrived, Arrival):
                self._hand_over(arrived.channel, arrived.element)
            else:
                self._credit(arrived.channel, arrived.credits)

    def _step_snapshots(self) -> bool:
        return self._snapshots is not None and self._snapshots.step()

    def _report(self, now_ms: int) -> None:
        if now_ms < self._progress_at_ms:
            return
        metrics = tuple(task.metrics() for task in self._tasks)
        reports = [report for task in self._tasks if (report := task.holds_back(now_ms))]
        self._progress_at_ms = now_ms + (ALIGN_INTERVAL_MS if reports else PROGRESS_INTERVAL_MS)
        self._control.send(
            Progress(
                attempt=self._attempt, worker=self.id, tasks=metrics, watermarks=tuple(reports)
            )
        )
        if self.plane is not None and now_ms >= self._positions_at_ms:
            self._positions_at_ms = now_ms + self._positions_interval_ms
            self.plane.tell_positions(now_ms)

    def drop(self) -> None:
        """Close everything without telling anybody."""
        self._close_attempt()
        self.is_done = True

    # --- messages -----------------------------------------------------------------------------

    def _take(self, message: ToWorker) -> None:
        match message:
            case Deploy():
                self._deploy(message)
                return
            case Shutdown():
                self._close_attempt()
                self.is_done = True
                return
            case Cancel():
                self._close_attempt()
                self._control.send(Cancelled(attempt=message.attempt, worker=self.id))
                return
            case _:
                pass  # What is left belongs to a running attempt.
        if message.attempt != self._attempt or not self._tasks:
            return  # Of an attempt that has failed here meanwhile.
        for task in self._tasks:
            task.rest.end()
        self._take_running(message)

    def _take_running(self, message: ToWorker) -> None:
        match message:
            case Start():
                self._start()
            case TriggerCheckpoint():
                self._trigger(message)
            case CompleteCheckpoint(checkpoint_id=checkpoint_id):
                self._complete(checkpoint_id)
            case AbortCheckpoint(checkpoint_id=checkpoint_id):
                self._abort(checkpoint_id)
            case _:
                for task in self._tasks:
                    _tell(task, message)

    def _trigger(self, message: TriggerCheckpoint) -> None:
        for task in self._tasks:
            if task.id in message.tasks:
                task.trigger(
                    message.checkpoint_id,
                    is_final=message.is_final,
                    timeout_ms=message.timeout_ms,
                )

    def _complete(self, checkpoint_id: CheckpointId) -> None:
        if self._snapshots is not None:
            self._snapshots.complete(checkpoint_id)
        for task in self._tasks:
            task.complete(checkpoint_id)

    def _abort(self, checkpoint_id: CheckpointId) -> None:
        if self._snapshots is not None:
            self._snapshots.abort(checkpoint_id)
        for task in self._tasks:
            task.abort(checkpoint_id)

    # --- life of an attempt -------------------------------------------------------------------

    def _deploy(self, deploy: Deploy) -> None:
        self._close_attempt()
        self._attempt = deploy.attempt
        self._positions_interval_ms = deploy.config.heartbeat_interval_ms
        edges = self._edges
        writer = edges.make_writer(deploy)
        self._snapshots = Snapshotter(writer, self, edges.make_executor())
        tasks = {task.id: task.worker for task in deploy.graph.tasks}
        self._is_local_target = {
            channel.id: tasks[channel.target] == self.id for channel in deploy.graph.channels
        }
        self._is_local_source = {
            channel.id: tasks[channel.source] == self.id for channel in deploy.graph.channels
        }
        self.plane = edges.make_plane(deploy, self.id) if deploy.graph.workers > 1 else None
        if self.plane is not None:
            self.plane.bind()
            self.connections += 1
        builder = Builder(
            deploy, self.id, edges.load_code(deploy), writer, edges.make_state, self._clock
        )
        for built in builder.build(self, self._deliver, self._grant):
            task = built.runner
            self._tasks.append(task)
            self._inputs.update(task.inputs)
            self._receivers.update(dict.fromkeys(task.inputs, task))
            self._outputs.update({channel.id: channel for channel in task.outputs})
            self._senders.update({channel.id: task for channel in task.outputs})
            self._snapshots.register(task.id, built.restored_files)
        self._control.send(Deployed(attempt=self._attempt, worker=self.id))

    def _start(self) -> None:
        if self.plane is not None:
            self.plane.connect()
            self.connections += 1
        self._is_running = True
        for task in self._tasks:
            task.start()
        failpoint("rs.running")

    def _close_attempt(self) -> None:
        """Drop everything of the current attempt; an error while closing is not worth another."""
        self._is_running = False
        self._loss = None
        tasks, self._tasks = self._tasks, []
        self._inputs, self._receivers = {}, {}
        self._outputs, self._senders = {}, {}
        if self._snapshots is not None:
            self._snapshots.close()
            self._snapshots = None
        for task in tasks:
            with contextlib.suppress(Exception):  # the attempt is over, and why is known already
                task.close()
        if self.plane is not None:
            self.plane.close()
            self.plane = None
            self.connections += 1

    def _fail(self, task: TaskRunner | None, error: Exception) -> None:
        message = describe_failure(error, self._attempt, self.id, task.id if task else None)
        # The second time it is the connection to the job manager: there is nobody to wait for.
        is_consequence = isinstance(error, ConnectionLost) and self._is_running
        try:
            if not is_consequence:
                self._control.send(message)  # before the others find their connections broken
        finally:
            self._close_attempt()
        if is_consequence:
            self._loss, self._loss_due_ms = message, self._clock.now_ms() + LOSS_GRACE_MS

    def _tell_loss(self) -> int:
        """Tell of a lost connection, unless the attempt was ended in time; return when to return.

        The report of the peer that failed, or the death of its process, may reach the job manager
        after ours, and it is the one that says what happened and whether a restart helps.
        """
        if self._loss is None:
            return IDLE_MS
        left_ms = self._loss_due_ms - self._clock.now_ms()
        if left_ms > 0:
            return left_ms
        loss, self._loss = self._loss, None
        self._control.send(loss)
        return IDLE_MS

    # --- channels -----------------------------------------------------------------------------

    def _hand_over(self, channel: ChannelId, element: Element) -> None:
        self._inputs[channel].receive(element)
        self._receivers[channel].rest.end()

    def _credit(self, channel: ChannelId, credits: int) -> None:
        self._outputs[channel].grant(credits)
        self._senders[channel].rest.end()

    def _deliver(self, channel: ChannelId, element: Element) -> int:
        if self._is_local_target[channel]:
            self._hand_over(channel, element)
            return 0
        assert self.plane is not None
        try:
            return self.plane.send(channel, element)
        except TypeError as error:
            source = self._outputs[channel].target
            raise OperatorError(
                f"a record on the way to operator {source!r} cannot travel: {error}",
                operator=source,
                subtask=-1,
            ) from error

    def _grant(self, channel: ChannelId, credits: int) -> None:
        if self._is_local_source[channel]:
            self._credit(channel, credits)
        else:
            assert self.plane is not None
            self.plane.grant(channel, credits)

    # --- what tasks and snapshots tell --------------------------------------------------------

    def snapshot_taken(self, snapshot: TakenSnapshot) -> None:
        assert self._snapshots is not None
        self._snapshots.add(snapshot)

    def declined(self, task: TaskId, checkpoint_id: CheckpointId, reason: str) -> None:
        self._control.send(
            Declined(attempt=self._attempt, checkpoint_id=checkpoint_id, task=task, reason=reason)
        )

    def ended(self, task: TaskId) -> None:
        self._control.send(TaskEnded(attempt=self._attempt, task=task))

    def round_seen(self, report: RoundReport) -> None:
        self._control.send(RoundSeen(attempt=self._attempt, report=report))

    def committed(self, task: TaskId, checkpoint_id: CheckpointId) -> None:
        self._progress_at_ms = 0  # The job may end with this: what was done goes ahead of it.
        self._report(self._clock.now_ms())
        self._control.send(Committed(attempt=self._attempt, checkpoint_id=checkpoint_id, task=task))

    def acknowledge(self, checkpoint_id: CheckpointId, snapshot: TaskSnapshot) -> None:
        self._control.send(
            Acknowledged(attempt=self._attempt, checkpoint_id=checkpoint_id, snapshot=snapshot)
        )
        failpoint("op.ack_sent")


def _step(task: TaskRunner, now_ms: int) -> bool:
    """Step a task; it rests if it had nothing to do, and nothing has reached it meanwhile."""
    rest = task.rest
    rest.due_ms = NOT_REACHED
    if task.step(now_ms):
        return True
    if rest.due_ms == NOT_REACHED:
        rest.begin(task.next_step_ms(now_ms), now_ms + IDLE_MS)
    return False


def _tell(task: TaskRunner, message: ToWorker) -> None:
    """Tell a task what is not about checkpoints."""
    match message:
        case AlignWatermarks(minimums=minimums):
            task.align(minimums)
        case LookRound(number=number) if task.is_loop or not task.inputs:
            task.look(number)
        case EndOfLoops(loops=loops) if task.id in loops:
            task.end_loop()
        case Drain() if task.source is not None:
            task.source.drain()
        case _:
            pass  # Deploy, Cancel and Shutdown have been taken before.


def describe_failure(
    error: Exception, attempt: AttemptId, worker: WorkerId, task: TaskId | None
) -> TaskFailed:
    """Return the message that tells the job manager of an error, with the user's own traceback."""
    is_ours = isinstance(error, FlowsnapError)
    return TaskFailed(
        attempt=attempt,
        worker=worker,
        task=task,
        error_type=type(error).__name__,
        message=str(error) if is_ours else f"{type(error).__name__}: {error}",
        traceback=_traceback(error)[-20_000:],
        notes=tuple(getattr(error, "__notes__", ())),
        is_restartable=error.restartable if isinstance(error, FlowsnapError) else True,
    )


def _traceback(error: Exception) -> str:
    """Return the traceback of an error; of one in the user's code, without our own frames."""
    cause = error.__cause__ if isinstance(error, OperatorError) and error.__cause__ else error
    frames = traceback.extract_tb(cause.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_OWN_FILES)]
    if isinstance(error, OperatorError) and not own:
        return ""  # An operator of ours refused a record: the message says it all.
    lines = traceback.format_list(own or frames) + traceback.format_exception_only(cause)
    return "Traceback (most recent call last):\n" + "".join(lines)
