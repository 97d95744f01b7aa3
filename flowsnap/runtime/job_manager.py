"""The job manager: carries out what the job machine and the coordinator decide.

A dull driver. It takes what the workers say, what the clock says and what the user wants, hands
each to a machine as an event, and carries the actions out in order. All events and actions go to
the debug log in one place, so that the log replays. It runs on one thread; ``request_stop`` and
``request_cancel`` may be called from any.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from flowsnap.config import JobConfig
from flowsnap.core import coordinator as checkpoints
from flowsnap.core import job as life
from flowsnap.core import requests
from flowsnap.core.graph import ExecutionGraph
from flowsnap.core.ids import AttemptId, CheckpointId, WorkerId
from flowsnap.core.message import (
    AlignWatermarks,
    Cancel,
    Cancelled,
    Deployed,
    FromWorker,
    Heartbeat,
    Progress,
    Shutdown,
    Start,
    TaskEnded,
    TaskFailed,
    ToWorker,
    WorkerReady,
)
from flowsnap.core.restart import RestartPolicy
from flowsnap.errors import (
    ConfigError,
    ConnectionLost,
    FlowsnapError,
    JobFailed,
    PeerProtocolError,
)
from flowsnap.runtime.attempt import Attempt
from flowsnap.runtime.checkpoint_driver import CheckpointDriver, Means
from flowsnap.runtime.clock import Clock
from flowsnap.runtime.launcher import Launcher
from flowsnap.runtime.recovery import Recovery
from flowsnap.runtime.report import Report
from flowsnap.runtime.requests import Levers, RequestDesk
from flowsnap.runtime.status import JobResult, JobStatus
from flowsnap.runtime.watch import Watch
from flowsnap.runtime.watcher import InvariantWatch
from flowsnap.storage.requests import Mailbox

LOG = logging.getLogger("flowsnap")
IDLE_MS, CHECK_MS = 50, 5
_ALIVE = {life.JobState.RUNNING, life.JobState.FINISHING}


class ControlHub(Protocol):
    """The job manager's end of the control plane."""

    def receive(self) -> list[tuple[WorkerId, FromWorker]]:
        """Return what has come, in order for each worker."""

    def send(self, worker: WorkerId, message: ToWorker) -> None:
        """Send to a worker; raises ConnectionLost where there is none."""

    def close(self) -> None:
        """Let go of every worker."""


@dataclass(slots=True)
class Surroundings:
    """What a job manager acts on; ``chance`` spreads the delays of restarts."""

    clock: Clock
    control: ControlHub
    launcher: Launcher
    recovery: Recovery
    chance: random.Random = field(default_factory=random.Random)
    mailbox: Mailbox | None = None


class JobManager:
    """Runs one job from submission to its end."""

    def __init__(self, graph: ExecutionGraph, config: JobConfig, around: Surroundings) -> None:
        self._graph = graph
        self._config = config
        self._clock = around.clock
        self._control = around.control
        self._launcher = around.launcher
        self._recovery = around.recovery
        self._workers = range(max(graph.workers, 1))
        self._machine = life.JobMachine(
            graph.workers,
            [task.id for task in graph.tasks],
            RestartPolicy(config.restart),
            start_timeout_ms=config.start_timeout_ms,
            cancel_timeout_ms=config.cancel_timeout_ms,
        )
        self._events: deque[Callable[[], None]] = deque()
        self._attempt: Attempt | None = None
        self._watch = Watch(config)
        self._report = Report(around.recovery.job_graph, graph.workers, around.clock.now_ms())
        self._chance = around.chance
        self._error: FlowsnapError | None = None
        self._explained: AttemptId | None = None  # the attempt of whose end the cause is known
        self._invariants = InvariantWatch(around.recovery.invariants, around.recovery.store)
        self._checkpoints = CheckpointDriver(self._means())
        levers = Levers(self._feed, self._checkpoints.coordinate)
        self.desk = RequestDesk(around.recovery, around.mailbox, levers)

    def _means(self) -> Means:
        return Means(
            clock=self._clock,
            config=self._config,
            graph=self._graph,
            recovery=self._recovery,
            report=self._report,
            watch=self._invariants,
            attempt=lambda: self._attempt,
            queue=self._queue,
            feed=self._feed,
            tell=self._tell_all,
            answer=self._answer,
        )

    def _answer(self, event: requests.Event) -> None:
        self.desk.tell(event)  # which is made last

    # --- from any thread ----------------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Whether the job has ended, in whatever way."""
        return self._machine.is_terminal

    @property
    def status(self) -> JobStatus:
        """What the job is doing, as of the last round."""
        return self._report.status

    def request_stop(self) -> None:
        """Ask for an end in order, with a last checkpoint."""
        self.desk.ask("stop")

    def request_cancel(self) -> None:
        """Ask for an end at once."""
        self.desk.ask("cancel")

    def request_checkpoint(self, wish: checkpoints.Wish) -> Future[CheckpointId]:
        """Ask for a checkpoint; its id comes when it is complete.

        Raises:
            ConfigError: it names an operator that there is not, or would be unaligned while several
                may be under way.
        """
        names = {spec.name for spec in self._recovery.job_graph.operators}
        if unknown := sorted(set(wish.initiators) - names):
            raise ConfigError(
                f"a checkpoint cannot begin at {unknown[0]!r}: no such operator"
            ).hint(f"the operators are {', '.join(sorted(names))}")
        if wish.alignment == "unaligned" and self._config.checkpoints_concurrent > 1:
            raise ConfigError("an unaligned checkpoint cannot be under way with others").hint(
                "set checkpoints_concurrent to 1"
            )
        return self._checkpoints.request(wish)

    def worker_pids(self) -> dict[WorkerId, int]:
        """Return the worker processes that run."""
        return self._launcher.pids()

    # --- the loop -----------------------------------------------------------------------------

    def start(self) -> None:
        """Submit the job; the first workers are started."""
        self._feed(life.Submitted())

    def step(self) -> int:
        """Do one round; return in how many ms to come back if nothing arrives before."""
        begun_ms = self._clock.now_ms()
        self.desk.step(self._clock.now_ms())
        for worker, message in self._receive():
            self._take(worker, message)
        for worker, how in self._launcher.deaths():
            self._lose(worker, how)
        now_ms = self._clock.now_ms()
        # Not by what has passed while we acted: what was said meanwhile has yet to be read.
        for worker, why in self._watch.overdue(begun_ms):
            self._launcher.kill(worker)
            self._lose(worker, why)
        if _is_due(self._machine.next_deadline_ms(), now_ms):
            self._feed(life.TimePassed())
        if self._attempt is not None and self._attempt.is_started:
            self._checkpoints.step()
            if _is_due(self._attempt.coordinator.next_deadline_ms(), now_ms):
                self._checkpoints.coordinate(checkpoints.TimePassed())
            self._tell_all(*self._attempt.loops.time_passed(now_ms))
        self._report.update(now_ms, self._machine, self._attempt)
        return self._idle_ms(now_ms)

    def _receive(self) -> list[tuple[WorkerId, FromWorker]]:
        try:
            return self._control.receive()
        except PeerProtocolError as error:
            self._feed(life.AttemptFailed(str(error), True, None))
            return []

    def result(self) -> JobResult:
        """Return how the job ended.

        Raises:
            JobFailed: it failed; other errors of ``flowsnap.errors`` where no attempt was possible.
        """
        if self._machine.state is not life.JobState.FAILED:
            return self._report.result(self._machine)
        history = self._machine.failures
        if self._error is not None and not isinstance(self._error, JobFailed):
            raise self._error
        raise self._error or JobFailed(f"job {self._recovery.job!r} failed", history=history)

    def close(self) -> None:
        """End every worker and release what is held; also after an error."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._recovery.close)
            stack.callback(self._invariants.close)
            stack.callback(self._checkpoints.close)
            stack.callback(self._control.close)
            stack.callback(self._launcher.close)
            stack.callback(self.desk.close)

    def _idle_ms(self, now_ms: int) -> int:
        wait_ms = CHECK_MS if self._invariants.is_busy else IDLE_MS
        deadlines = [self._machine.next_deadline_ms(), now_ms + wait_ms]
        if self._attempt is not None and self._attempt.is_started:
            deadlines.append(self._attempt.coordinator.next_deadline_ms())
            deadlines.append(self._attempt.loops.next_deadline_ms())
        return max(0, min(at for at in deadlines if at is not None) - now_ms)

    def _lose(self, worker: WorkerId, how: str) -> None:
        LOG.warning("worker %d is lost: %s", worker, how)
        if not self._is_explained():
            self._error = None  # A death is the cause, and has no error of its own.
            self._explained = self._attempt_id()
        self._watch.forget(worker)
        self._feed(life.WorkerLost(worker, how))

    # --- what workers say ---------------------------------------------------------------------

    def _take(self, worker: WorkerId, message: FromWorker) -> None:
        LOG.debug("from worker %d: %s", worker, message)
        now_ms = self._clock.now_ms()
        match message:
            case WorkerReady(pid=pid):
                self._register(worker, pid, now_ms)
                return
            case Heartbeat(steps=steps):
                self._watch.beat(worker, steps, now_ms)
                return
            case Cancelled():
                self._feed(life.WorkerCancelled(worker))
                return
            case _:
                pass  # What is left belongs to an attempt.
        if self._attempt is not None and message.attempt == self._attempt.id:
            self._tell_all(*self._attempt.loops.hear(message, now_ms))
            self._take_from_attempt(worker, message, self._attempt)

    def _register(self, worker: WorkerId, pid: int, now_ms: int) -> None:
        processes = self._launcher.pids()
        if processes.get(worker, pid) != pid:
            return  # The last word of a process that was killed meanwhile.
        if processes:
            self._watch.begin(worker, now_ms)
        self._feed(life.WorkerUp(worker))

    def _take_from_attempt(self, worker: WorkerId, message: FromWorker, attempt: Attempt) -> None:
        match message:
            case Progress(tasks=tasks, watermarks=watermarks):
                attempt.progress.update(tasks)
                minimums = attempt.alignment.report(worker, watermarks)
                if minimums is not None:
                    self._tell_all(AlignWatermarks(attempt=attempt.id, minimums=dict(minimums)))
            case Deployed():
                self._feed(life.WorkerDeployed(worker))
            case TaskEnded(task=task):
                self._feed(life.TaskReachedEnd(task))
            case TaskFailed():
                self._fail(message)
            case _:
                self._checkpoints.take(message, attempt)

    def _fail(self, failed: TaskFailed) -> None:
        text = failed.message if failed.task is None else f"task {failed.task}: {failed.message}"
        LOG.error("attempt %d failed: %s", failed.attempt, text)
        error = JobFailed(f"job {self._recovery.job!r} failed: {text}")
        for note in failed.notes:
            error.add_note(note)
        if failed.traceback:
            error.add_note(failed.traceback)
        if not self._is_explained():
            self._error = error
            if failed.error_type != ConnectionLost.__name__:  # which is what the others see of it
                self._explained = failed.attempt
        self._feed(life.AttemptFailed(text, failed.is_restartable, failed.worker))

    # --- what the job machine wants -----------------------------------------------------------

    def _feed(self, event: life.Event) -> None:
        self._queue(lambda: self._handle(event))

    def _queue(self, handle: Callable[[], None]) -> None:
        """Have an event handled once all actions of the one before have been carried out."""
        self._events.append(handle)
        if len(self._events) > 1:
            return  # Something is being carried out: the loop below goes on with this one.
        try:
            while self._events:
                self._events[0]()
                self._events.popleft()
        finally:
            self._events.clear()

    def _handle(self, event: life.Event) -> None:
        was = self._machine.state
        actions = self._machine.handle(event, self._clock.now_ms(), self._chance.random())
        if actions or self._machine.state is not was:
            LOG.debug("%s: %s -> %s: %s", event, was, self._machine.state, actions)
        if self._machine.state is life.JobState.STARTING:
            self._explained = None  # What happens from now on is of the next attempt.
        if self._attempt is not None and self._machine.state not in _ALIVE:
            self._attempt.is_started = False  # its coordinator has nobody to ask any more
        for action in actions:
            self._carry_out(action)

    def _carry_out(self, action: life.Action) -> None:
        match action:
            case life.BeginAttempt():
                self._begin_attempt()
            case life.StartTasks():
                self._start_tasks()
            case life.TakeFinalCheckpoint():
                self._checkpoints.coordinate(
                    checkpoints.TriggerRequested(checkpoints.Wish("final"))
                )
            case life.LaunchWorkers() | life.CancelTasks() | life.KillWorkers():
                for worker in action.workers:
                    self._act_on_worker(action, worker)
            case life.End(state, message):
                self._end(state, message)

    def _act_on_worker(
        self, action: life.LaunchWorkers | life.CancelTasks | life.KillWorkers, worker: WorkerId
    ) -> None:
        match action:
            case life.LaunchWorkers():
                self._launcher.launch(worker)
            case life.CancelTasks():
                self._send(worker, Cancel(attempt=self._attempt_id()))
            case life.KillWorkers():
                self._watch.forget(worker)
                self._launcher.kill(worker)

    def _begin_attempt(self) -> None:
        try:
            deployment = self._recovery.begin_attempt(self._graph, self._config)
        except FlowsnapError as error:
            self._error = error
            self._feed(life.AttemptFailed(str(error), error.restartable, None))
            return
        self._attempt = Attempt(deployment, self._graph)
        for worker in self._workers:
            self._send(WorkerId(worker), deployment.message_for(WorkerId(worker), self._graph))

    def _start_tasks(self) -> None:
        assert self._attempt is not None
        restored = self._attempt.deployment.restored_from
        LOG.info(
            "attempt %d runs %s on %d worker(s)%s",
            self._attempt.id,
            self._recovery.job,
            self._graph.workers,
            "" if restored is None else f", restored from checkpoint {restored}",
        )
        self._report.started(self._clock.now_ms())
        self._tell_all(Start(attempt=self._attempt.id))
        self._attempt.is_started = True
        self._checkpoints.coordinate(checkpoints.Started())
        self._tell_all(*self._attempt.loops.start())
        self.desk.tell(requests.Started())

    def _end(self, state: life.JobState, message: str) -> None:
        LOG.info("job %s %s%s", self._recovery.job, state, f": {message}" if message else "")
        for worker in map(WorkerId, self._workers):
            if not self._send(worker, Shutdown(attempt=self._attempt_id())):
                self._launcher.kill(worker)  # It cannot be told: nothing is to be waited for.
        if state is life.JobState.FAILED and self._error is None:
            self._error = JobFailed(f"job {self._recovery.job!r} failed: {message}")
        if isinstance(self._error, JobFailed):
            self._error.history = self._machine.failures
        self._recovery.record_outcome(state, message)
        self.desk.tell(requests.Ended(state, message))
        self._report.update(self._clock.now_ms(), self._machine, self._attempt)

    # --- sending ------------------------------------------------------------------------------

    def _tell_all(self, *messages: ToWorker) -> None:
        for message in messages:
            for worker in self._workers:
                self._send(WorkerId(worker), message)

    def _send(self, worker: WorkerId, message: ToWorker) -> bool:
        """Send, and return whether there is anybody; a death is told by the launcher."""
        try:
            self._control.send(worker, message)
        except ConnectionLost:
            return False
        return True

    def _is_explained(self) -> bool:
        return self._explained is not None and self._explained == self._attempt_id()

    def _attempt_id(self) -> AttemptId:
        return AttemptId(0) if self._attempt is None else self._attempt.id


def _is_due(deadline_ms: int | None, now_ms: int) -> bool:
    return deadline_ms is not None and now_ms >= deadline_ms
