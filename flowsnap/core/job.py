"""The life of a job: when does an attempt begin, when is it given up, and how does it all end?

A job runs in attempts. An attempt begins when every worker is up: all of them are deployed, then
the tasks are started. Any failure ends the attempt: the tasks that live are cancelled, and after a
delay the next attempt begins, from the newest checkpoint. A job ends well only through a final
checkpoint, so that the last output is committed before anybody is told that it is there.

The machine knows each worker by what was last heard of it, and moves on when the facts allow it:
an event changes facts, then every step is taken that they allow. Nothing is waited for
without a deadline but the tasks themselves, whose progress is watched elsewhere.

Invariants: the state changes through ``move`` alone, along ``TRANSITIONS``; no attempt begins while
a worker of the last one is neither cancelled nor dead; a worker is launched only when the old
process is dead; a request to stop is not forgotten by a failure; ``End`` comes exactly once.

One machine serves the whole job. The driver drops messages of older attempts before it; what still
comes late is ignored here.

Source: Flink, ``JobStatus`` and ``ExecutionGraph``; FLIP-147 for the end. Deviation: all tasks are
restarted together, and the end of a bounded job is a checkpoint like any other.

>>> from flowsnap.config import Restart
>>> task, worker = TaskId("a/0"), WorkerId(0)
>>> machine = JobMachine(
...     1, [task], RestartPolicy(Restart()), start_timeout_ms=1_000, cancel_timeout_ms=100
... )
>>> machine.handle(Submitted(), now_ms=0)
[LaunchWorkers(workers=(0,))]
>>> machine.handle(WorkerUp(worker), now_ms=1)
[BeginAttempt()]
>>> machine.handle(WorkerDeployed(worker), now_ms=2)
[StartTasks()]
>>> machine.handle(TaskReachedEnd(task), now_ms=3)
[TakeFinalCheckpoint()]
>>> machine.handle(FinalCommitted(), now_ms=4)[0].state
<JobState.FINISHED: 'finished'>
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum

from flowsnap.core.fleet import Fleet, WorkerStatus
from flowsnap.core.ids import TaskId, WorkerId
from flowsnap.core.restart import RestartPolicy
from flowsnap.errors import LocalProtocolError


class JobState(StrEnum):
    """Where a job is in its life."""

    CREATED = "created"
    STARTING = "starting"  # worker processes come up
    DEPLOYING = "deploying"  # tasks are made and restored
    RUNNING = "running"
    FINISHING = "finishing"  # a final checkpoint is taken and committed
    RESTARTING = "restarting"  # tasks are cancelled, then a delay
    CANCELLING = "cancelling"  # tasks are cancelled, then the end: cancelled, or failed
    FINISHED = "finished"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    FAILED = "failed"


_S = JobState

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    _S.CREATED: frozenset({_S.STARTING, _S.CANCELLING}),
    _S.STARTING: frozenset({_S.DEPLOYING, _S.RESTARTING, _S.CANCELLING}),
    _S.DEPLOYING: frozenset({_S.RUNNING, _S.RESTARTING, _S.CANCELLING}),
    _S.RUNNING: frozenset({_S.FINISHING, _S.RESTARTING, _S.CANCELLING}),
    _S.FINISHING: frozenset({_S.FINISHED, _S.STOPPED, _S.RESTARTING, _S.CANCELLING}),
    _S.RESTARTING: frozenset({_S.STARTING, _S.CANCELLING}),
    _S.CANCELLING: frozenset({_S.CANCELLED, _S.FAILED}),
    _S.FINISHED: frozenset(),
    _S.STOPPED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.FAILED: frozenset(),
}


def move(state: JobState, target: JobState) -> JobState:
    """Return ``target``, if the table allows the step.

    Raises:
        LocalProtocolError: it does not.
    """
    if target not in TRANSITIONS[state]:
        raise LocalProtocolError(f"a job cannot go from {state} to {target}")
    return target


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {_S.CREATED}"]
    for state in JobState:
        targets = [target for target in JobState if target in TRANSITIONS[state]]
        lines += [f"    {state} --> {target}" for target in targets] or [f"    {state} --> [*]"]
    return "\n".join(lines) + "\n"


# --- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job may begin."""


@dataclass(frozen=True, slots=True)
class WorkerUp:
    """The process that was launched last for this worker has registered."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class WorkerDeployed:
    """The worker's tasks have been made and restored."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class TaskReachedEnd:
    """A task has processed the end of its input.

    Said anew in every attempt, also by a task that was restored behind its end.
    """

    task: TaskId


@dataclass(frozen=True, slots=True)
class FinalCommitted:
    """The final checkpoint is complete and committed; ``is_whole``: it holds the end of all."""

    is_whole: bool = field(default=True, repr=False)


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """The attempt cannot go on. ``worker`` has said so; None: the job manager itself has."""

    message: str
    is_restartable: bool
    worker: WorkerId | None = None


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The process that was launched last for this worker has died, or was silent for too long."""

    worker: WorkerId
    message: str


@dataclass(frozen=True, slots=True)
class WorkerCancelled:
    """The worker has dropped all its tasks."""

    worker: WorkerId


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The job is to end with a last checkpoint, from which it can go on later."""


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The job is to end at once."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A deadline may have come."""


Event = (
    Submitted | WorkerUp | WorkerDeployed | TaskReachedEnd | FinalCommitted | AttemptFailed
    | WorkerLost | WorkerCancelled | StopRequested | CancelRequested | TimePassed
)  # fmt: skip


# --- actions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LaunchWorkers:
    """Kill and reap the old process of each worker, if there is one; only then start a new one.

    A process that cannot be started comes back as ``WorkerLost``.
    """

    workers: tuple[WorkerId, ...]


@dataclass(frozen=True, slots=True)
class BeginAttempt:
    """Make the next attempt number durable, choose the checkpoint, deploy on every worker.

    In this order. A failure comes back as ``AttemptFailed``.
    """


@dataclass(frozen=True, slots=True)
class StartTasks:
    """Tell every worker to run its tasks, and the coordinator that it has started."""


@dataclass(frozen=True, slots=True)
class TakeFinalCheckpoint:
    """Request the final checkpoint; answer ``FinalCommitted`` when all sinks have committed it."""


@dataclass(frozen=True, slots=True)
class CancelTasks:
    """Tell these workers to drop their tasks; each answers, also one that has none."""

    workers: tuple[WorkerId, ...]


@dataclass(frozen=True, slots=True)
class KillWorkers:
    """Kill and reap these processes: they did not answer in time. Report no ``WorkerLost``."""

    workers: tuple[WorkerId, ...]


@dataclass(frozen=True, slots=True)
class End:
    """Shut all workers down, record the outcome, release the directory. Nothing follows."""

    state: JobState
    message: str


Action = (
    LaunchWorkers | BeginAttempt | StartTasks | TakeFinalCheckpoint | CancelTasks | KillWorkers
    | End
)  # fmt: skip


# --- the machine -----------------------------------------------------------------------------


_W = WorkerStatus

_WINDING_DOWN = {_W.DOWN, _W.LAUNCHED, _W.UP, _W.CANCELLING}

_POSSIBLE = {
    _S.CREATED: {_W.DOWN},
    _S.STARTING: {_W.LAUNCHED, _W.UP},
    _S.DEPLOYING: {_W.ASSIGNED, _W.DEPLOYED},
    _S.RUNNING: {_W.DEPLOYED},
    _S.FINISHING: {_W.DEPLOYED},
    _S.RESTARTING: _WINDING_DOWN,
    _S.CANCELLING: _WINDING_DOWN,
}

_MESSAGES = {
    _S.FINISHED: "all input is processed and all output is committed",
    _S.STOPPED: "stopped with a last checkpoint",
    _S.CANCELLED: "cancelled",
}


class JobMachine:
    """When does an attempt begin, when is it given up, and how does it all end?

    ``workers`` is the number of processes; 0 means one worker, 0, in this process. ``failures``
    holds one line for each failed attempt. A worker has ``start_timeout_ms`` to come up, and as
    long again to deploy; ``cancel_timeout_ms`` to answer a cancel. Who is late is killed.
    """

    def __init__(
        self,
        workers: int,
        tasks: Collection[TaskId],
        policy: RestartPolicy,
        *,
        start_timeout_ms: int,
        cancel_timeout_ms: int,
    ) -> None:
        if not tasks:
            raise LocalProtocolError("a job of no tasks would have ended before it began")
        self.state = JobState.CREATED
        self.failures: tuple[str, ...] = ()
        self._fleet = Fleet(max(workers, 1))
        self._tasks = frozenset(tasks)
        self._ended: set[TaskId] = set()
        self._policy = policy
        self._start_timeout_ms = start_timeout_ms
        self._cancel_timeout_ms = cancel_timeout_ms
        self._resume_at_ms = 0
        self._is_stopping = False
        self._outcome: JobState | None = None  # known as soon as CANCELLING begins
        self._is_out_of_restarts = False

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended."""
        return not TRANSITIONS[self.state]

    def handle(self, event: Event, now_ms: int, draw: float = 0.5) -> list[Action]:
        """Take one event and return what must be done, in this order.

        ``now_ms`` is monotonic; ``draw`` in [0, 1) spreads the delay of a restart.

        Raises:
            LocalProtocolError: the event cannot be; nothing has changed.
        """
        if self.is_terminal:
            return []  # Workers that are being shut down may still have been speaking.
        self._check_possible(event)
        actions = self._take(event, now_ms, draw) + self._kill_late(now_ms, draw)
        while not self._fleet.awaited() and (step := self._next_step(now_ms)) is not None:
            actions += step
        return actions

    def next_deadline_ms(self) -> int | None:
        """Return when ``TimePassed`` is wanted, or None: only another event changes anything."""
        if self.is_terminal:
            return None
        if self._fleet.awaited():
            return self._fleet.deadline_ms
        return self._resume_at_ms if self.state is _S.RESTARTING else None

    def check(self) -> None:
        """Assert the invariants."""
        assert self.is_terminal or self._fleet.statuses <= _POSSIBLE[self.state]
        assert self._ended <= self._tasks
        assert (self._outcome is not None) == (self.state is _S.CANCELLING or self.is_terminal)
        if self.state is _S.RUNNING:
            assert not self._is_stopping, "a stop was forgotten"
            assert self._ended != self._tasks, "all tasks have ended, and nothing finishes"
        if self.state in {_S.STARTING, _S.DEPLOYING, _S.CANCELLING}:
            assert self._fleet.awaited(), f"nobody owes an answer, and the job stays {self.state}"

    # --- an event changes facts

    def _check_possible(self, event: Event) -> None:
        if isinstance(event, TaskReachedEnd) and event.task not in self._tasks:
            raise LocalProtocolError(f"unknown task {event.task} reached its end")
        worker = getattr(event, "worker", None)
        if worker is not None and worker not in self._fleet:
            raise LocalProtocolError(f"there is no worker {worker}")
        match event:
            case Submitted():
                is_possible = self.state is _S.CREATED
            case StopRequested() | CancelRequested() | TimePassed():
                is_possible = True
            case WorkerUp(worker) if self._fleet.status(worker) not in {_W.DOWN, _W.LAUNCHED}:
                is_possible = False  # It has registered already.
            case FinalCommitted():
                is_possible = self.state in {_S.FINISHING, _S.RESTARTING, _S.CANCELLING}
            case _:
                is_possible = self.state is not _S.CREATED
        if not is_possible:
            raise LocalProtocolError(f"a job that is {self.state} cannot take {event}")

    def _take(self, event: Event, now_ms: int, draw: float) -> list[Action]:
        match event:
            case Submitted():
                return self._launch(now_ms)
            case FinalCommitted(is_whole):
                return self._finish(is_whole)
            case AttemptFailed():
                return self._attempt_failed(event, now_ms, draw)
            case WorkerLost():
                return self._lose(event, now_ms, draw)
            case CancelRequested():
                return self._cancel(now_ms)
            case StopRequested():
                self._is_stopping = True
            case TimePassed():
                pass
            case _:
                self._hear(event)
        return []

    def _hear(self, event: WorkerUp | WorkerDeployed | WorkerCancelled | TaskReachedEnd) -> None:
        match event:
            case WorkerUp(worker):
                self._fleet.answer(worker, _W.LAUNCHED, _W.UP)
            case WorkerDeployed(worker):
                self._fleet.answer(worker, _W.ASSIGNED, _W.DEPLOYED)
            case WorkerCancelled(worker):
                self._fleet.answer(worker, _W.CANCELLING, _W.UP)
            case _ if self.state in {_S.DEPLOYING, _S.RUNNING, _S.FINISHING}:
                self._ended.add(event.task)
            case _:
                pass  # The last word of a task that was cancelled, or killed, meanwhile.

    def _finish(self, is_whole: bool) -> list[Action]:
        if self.state is not _S.FINISHING:
            return []  # A failure or cancel came first; a later attempt resumes behind the end.
        # Tasks may have ended behind their part of the checkpoint.
        is_stop = self._is_stopping and not (is_whole and self._ended == self._tasks)
        self._outcome = _S.STOPPED if is_stop else _S.FINISHED
        return self._end()

    def _attempt_failed(self, event: AttemptFailed, now_ms: int, draw: float) -> list[Action]:
        if self.state in {_S.RESTARTING, _S.CANCELLING}:
            return []  # One failure is seen by many: the first report was handled.
        if event.worker is not None and self.state is _S.STARTING:
            return []  # No worker has tasks now: the last word of one that was killed.
        line = event.message if event.worker is None else f"worker {event.worker}: {event.message}"
        return self._fail(line, event.is_restartable, now_ms, draw)

    def _lose(self, event: WorkerLost, now_ms: int, draw: float) -> list[Action]:
        if not self._fleet.lose(event.worker):
            return []  # Seen twice: its process ended, and its connection broke.
        line = f"worker {event.worker}: {event.message}"
        if self.state not in {_S.RESTARTING, _S.CANCELLING}:
            return self._fail(line, True, now_ms, draw)
        if self._outcome is not _S.CANCELLED:
            # Often the cause: others see the broken connection before we see the death.
            self.failures = (*self.failures[:-1], f"{self.failures[-1]}; {_one_line(line)}")
        return []

    def _cancel(self, now_ms: int) -> list[Action]:
        if self.state is _S.CANCELLING:
            return []  # It ends already.
        self._outcome = _S.CANCELLED
        return self._wind_down(_S.CANCELLING, now_ms)

    def _fail(self, message: str, is_restartable: bool, now_ms: int, draw: float) -> list[Action]:
        self.failures = (*self.failures, _one_line(message))
        delay_ms = self._policy.failed(now_ms, draw) if is_restartable else None
        if delay_ms is None:
            self._outcome = _S.FAILED
            self._is_out_of_restarts = is_restartable
            return self._wind_down(_S.CANCELLING, now_ms)
        self._resume_at_ms = now_ms + delay_ms
        return self._wind_down(_S.RESTARTING, now_ms)

    def _kill_late(self, now_ms: int, draw: float) -> list[Action]:
        late = self._fleet.lose_late(now_ms)
        if not late:
            return []
        if self.state in {_S.RESTARTING, _S.CANCELLING}:
            return [KillWorkers(late)]
        done = "registered" if self.state is _S.STARTING else "deployed"
        names = ", ".join(str(worker) for worker in late)
        message = f"not {done} within {self._start_timeout_ms} ms: worker {names}"
        return [KillWorkers(late), *self._fail(message, True, now_ms, draw)]

    # --- and then every step is taken that the facts allow

    def _next_step(self, now_ms: int) -> list[Action] | None:
        match self.state:
            case JobState.STARTING:
                return self._begin(now_ms)
            case JobState.DEPLOYING:
                self.state = move(self.state, _S.RUNNING)
                return [StartTasks()]
            case JobState.RUNNING if self._is_stopping or self._ended == self._tasks:
                self.state = move(self.state, _S.FINISHING)
                return [TakeFinalCheckpoint()]
            case JobState.RESTARTING if now_ms >= self._resume_at_ms:
                return self._launch(now_ms)
            case JobState.CANCELLING:
                return self._end()
            case _:
                return None

    def _launch(self, now_ms: int) -> list[Action]:
        self.state = move(self.state, _S.STARTING)
        dead = self._fleet.launch(now_ms + self._start_timeout_ms)
        return [LaunchWorkers(dead)] if dead else []

    def _begin(self, now_ms: int) -> list[Action]:
        self.state = move(self.state, _S.DEPLOYING)
        self._ended = set()
        self._fleet.assign(now_ms + self._start_timeout_ms)
        return [BeginAttempt()]

    def _wind_down(self, target: JobState, now_ms: int) -> list[Action]:
        self.state = move(self.state, target)
        busy = self._fleet.cancel(now_ms + self._cancel_timeout_ms)
        return [CancelTasks(busy)] if busy else []

    def _end(self) -> list[Action]:
        assert self._outcome is not None
        self.state = move(self.state, self._outcome)
        message = _MESSAGES.get(self.state) or self.failures[-1]
        if self._is_out_of_restarts:
            tries = len(self.failures)
            failed = "a failure" if tries == 1 else f"{tries} failures, the last"
            message = f"no restart is left after {failed}: {message}"
        return [End(self.state, message)]


def _one_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason was given"])[0]
