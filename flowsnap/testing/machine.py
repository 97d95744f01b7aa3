"""The two kinds of process of a cluster: a worker's, and the job manager's with its launcher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowsnap.core.coordinator import CheckpointCoordinator
from flowsnap.core.graph import Index, build_execution_graph
from flowsnap.core.ids import CheckpointId, TaskId, WorkerId
from flowsnap.core.job import JobState
from flowsnap.core.message import (
    AbortCheckpoint,
    CompleteCheckpoint,
    Drain,
    FromWorker,
    LookRound,
    ToWorker,
    TriggerCheckpoint,
)
from flowsnap.errors import ConnectionLost, FlowsnapError
from flowsnap.runtime.job_manager import JobManager, Surroundings
from flowsnap.runtime.local import Link, LocalLauncher
from flowsnap.storage import layout
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.ownership import OwnerLock
from flowsnap.testing.checked import (
    CheckedDirectory,
    CheckedRecovery,
    CheckedWorker,
    make_worker,
)
from flowsnap.testing.faults import SimulatedCrash
from flowsnap.testing.network import ControlHub
from flowsnap.testing.process import Process

if TYPE_CHECKING:
    from flowsnap.testing.cluster import Cluster

GRACE_US = 5_000_000
CLOSING_US = 5_000
LATE_MS = 100
"""By how much a checkpoint may begin later than it should."""
WAITS = "a task waits for credit"


class WorkerProcess(Process):
    """A process with one worker."""

    worker: CheckedWorker | None = None

    def __init__(self, cluster: Cluster, manager: ManagerProcess, id: WorkerId) -> None:
        super().__init__(cluster, f"worker {id}")
        self.id = id
        self.manager = manager
        self.link = manager.hub.link(self, id)
        self.world.after(self.world.schedule.randint(500, 8_000), self._boot)

    def step(self) -> int:
        """Do one round of the worker; a lost job manager ends the process."""
        if self.worker is None:
            return 1  # Its control connection was lost before it was up.
        try:
            wait_ms = self.worker.step()
        except ConnectionLost:
            self.cluster.exit(self, "ended with exit code 1")
            raise SimulatedCrash(self.name) from None
        if self.worker.is_done:
            self.cluster.exit(self, "ended with exit code 0")
            raise SimulatedCrash(self.name)
        if not self.manager.is_alive:
            self.world.trace.reached("zombie worker goes on")
        situations = self.world.trace.situations
        if WAITS not in situations and any(c.backlog for c in self.worker._outputs.values()):
            self.world.trace.reached(WAITS)
        return wait_ms

    def _boot(self) -> None:
        if not self.is_alive:
            return
        if self.is_paused:
            self.world.after(1_000, self._boot)
            return
        self.worker = make_worker(self, self.link, self.id)
        self.run(self._greet)
        self._beat()

    def _greet(self) -> int:
        try:
            self.link.greet()
        except ConnectionLost:
            self.cluster.exit(self, "ended with exit code 1")
            raise SimulatedCrash(self.name) from None
        return 0

    def _beat(self) -> None:
        """Heartbeats leave from a thread of their own; a paused process has none that runs."""
        if not self.is_alive:
            return
        if not self.is_paused and self.worker is not None:
            self.link.beat(self.worker.steps)
        self.world.after(self.cluster.config.heartbeat_interval_ms * 1000, self._beat)


class ProcessLauncher:
    """Starts, watches and kills the worker processes of one job manager."""

    def __init__(self, cluster: Cluster, manager: ManagerProcess) -> None:
        self.processes: dict[WorkerId, WorkerProcess] = {}
        self._cluster = cluster
        self._manager = manager

    def launch(self, worker: WorkerId) -> None:
        self.kill(worker)
        self.processes[worker] = WorkerProcess(self._cluster, self._manager, worker)
        self._cluster.world.note("launcher", f"starts worker {worker}")

    def kill(self, worker: WorkerId) -> None:
        process = self.processes.pop(worker, None)
        if process is not None and process.is_alive:
            if process.is_paused:
                process.world.trace.reached("silent worker is given up")
            if process.link.is_unheard:
                process.world.trace.reached("worker behind a partition is given up")
            self._cluster.kill(process)

    def deaths(self) -> list[tuple[WorkerId, str]]:
        dead = [(id, process) for id, process in self.processes.items() if not process.is_alive]
        for id, _ in dead:
            del self.processes[id]
        return [(id, self._cluster.causes.get(process.pid, "")) for id, process in dead]

    def lives(self, worker: WorkerId) -> bool:
        """Whether the process that was launched last for a worker is alive."""
        process = self.processes.get(worker)
        return process is not None and process.is_alive

    def pids(self) -> dict[WorkerId, int]:
        return {id: process.pid for id, process in self.processes.items()}

    def close(self) -> None:
        for worker in list(self.processes):
            self.kill(worker)


def inline_launcher(manager: ManagerProcess) -> LocalLauncher[CheckedWorker]:
    """Return what makes the one worker of an in-process job, in the job manager's own process."""

    def make(worker: WorkerId) -> tuple[CheckedWorker, Link]:
        link = manager.hub.link(manager, worker)
        return make_worker(manager, link, worker), link

    return LocalLauncher(make)


class ManagerProcess(Process):
    """A process with the job manager, from submission to its end."""

    def __init__(self, cluster: Cluster, generation: int, workers: int) -> None:
        super().__init__(cluster, f"manager {generation}")
        self.generation = generation
        self.hub = ControlHub(self.world, self, self._heard, self._told)
        self._triggered_us: dict[int, int] = {}
        self._finals: set[int] = set()
        self._heads: frozenset[TaskId] = frozenset()
        self.announced = CheckpointId(0)
        self.launcher: ProcessLauncher | LocalLauncher[CheckedWorker]
        self.launcher = ProcessLauncher(cluster, self) if workers else inline_launcher(self)
        self.lock = OwnerLock(-1)  # the real one, which falls with its process
        self.manager: JobManager | None = None
        self.recovery: CheckedRecovery | None = None
        self._workers = workers
        self._closing_us: int | None = None
        self._idle: tuple[CheckpointCoordinator | None, int] = (None, 0)
        self._state = JobState.FAILED
        self._error: FlowsnapError | None = None

    def step(self) -> int:
        try:
            return self._round()
        except FlowsnapError as error:  # as the loop of a real job manager does
            self.cluster.manager_ended(self, JobState.FAILED, error)
            raise SimulatedCrash(self.name) from error

    def _round(self) -> int:
        if self.manager is None:
            self._submit()
        manager = self.manager
        assert manager is not None
        if self._closing_us is not None:
            return self._close()
        wait_ms = manager.step()
        if isinstance(self.launcher, LocalLauncher) and self.launcher.worker is not None:
            wait_ms = min(wait_ms, self.launcher.worker.step())
        if manager.is_done:
            self._finish()
            return 0
        manager._machine.check()
        if manager._attempt is not None:
            manager._attempt.coordinator.check()
        self._look_at_pause(manager)
        return wait_ms

    def _look_at_pause(self, manager: JobManager) -> None:
        """C12: a job that runs has its next checkpoint begun in time."""
        attempt, config, now_us = manager._attempt, self.cluster.config, self.world.now_us
        runs = attempt is not None and manager._machine.state is JobState.RUNNING
        coordinator = attempt.coordinator if attempt is not None and runs else None
        if coordinator is not None and (coordinator.all_pending or coordinator._is_draining):
            coordinator = None
        if coordinator is None or self._idle[0] is not coordinator:
            self._idle = coordinator, now_us
            return
        wait_ms = config.checkpoint_interval_ms + config.checkpoint_pause_ms_min + LATE_MS
        if now_us - self._idle[1] > wait_ms * 1000:
            self.world.fail(f"C12: no checkpoint has been begun since {self._idle[1] / 1000} ms")

    def _submit(self) -> None:
        cluster, root = self.cluster, self.cluster.root
        store = DirectoryStore(root, self.files)
        definition = cluster.definition
        self.lock = OwnerLock.acquire(root / layout.LOCK)
        directory = CheckedDirectory(store, definition.graph.name, self.lock)
        directory.is_local = self.world.schedule.random() < 0.5
        scratch = root / f"scratch-{self.generation}"
        wanted = "latest" if cluster.wanted is None else cluster.wanted
        self.recovery = recovery = CheckedRecovery(directory, definition, scratch, wanted)
        recovery.cluster, recovery.process = cluster, self
        recovery.submit()
        graph = build_execution_graph(definition.graph, self._workers)
        index = Index.of(graph)
        self._heads = frozenset((*index.source_tasks, *index.loop_tasks))
        around = Surroundings(self.clock, self.hub, self.launcher, recovery, self.world.schedule)
        self.manager = JobManager(graph, cluster.config, around)
        self.manager.start()

    def _finish(self) -> None:
        assert self.manager is not None
        assert self.recovery is not None
        machine = self.manager._machine
        if machine.state is JobState.STOPPED and machine._ended == machine._tasks:
            self.world.trace.reached("ended behind the cut of a stop")
        try:
            self._state = JobState(self.manager.result().state)
            if self._state is JobState.FINISHED:
                self.recovery.finish()
        except FlowsnapError as error:
            self._error = error
        self._closing_us = self.world.now_us + GRACE_US

    def _close(self) -> int:
        """Give the workers a moment to end, then release everything."""
        assert self.manager is not None
        assert self._closing_us is not None
        is_waiting = self.world.now_us < self._closing_us and self._has_children()
        if is_waiting:
            return CLOSING_US // 1000
        self.manager.close()
        self.cluster.manager_ended(self, self._state, self._error)
        raise SimulatedCrash(self.name)

    def _has_children(self) -> bool:
        launcher = self.launcher
        return isinstance(launcher, ProcessLauncher) and any(
            process.is_alive for process in launcher.processes.values()
        )

    def _heard(self, worker: WorkerId, message: FromWorker) -> None:
        assert self.manager is not None
        launcher = self.launcher
        if isinstance(launcher, ProcessLauncher) and not launcher.lives(worker):
            self.world.trace.reached("a killed worker is still heard")
        self.cluster.checker.heard(message, self.manager._attempt)

    def _look_at_trigger(self, trigger: TriggerCheckpoint) -> None:
        assert self.manager is not None
        attempt = self.manager._attempt
        if attempt is not None and len(attempt.coordinator.all_pending) > 1:
            self.world.trace.reached("two checkpoints under way")
        if not trigger.tasks <= self._heads:
            self.world.trace.reached("checkpoint begun inside")
        self._triggered_us[trigger.checkpoint_id] = self.world.now_us
        if trigger.is_final:
            self._finals.add(trigger.checkpoint_id)

    def _look_at_abort(self, checkpoint_id: CheckpointId) -> None:
        waited_us = self.world.now_us - self._triggered_us.get(checkpoint_id, 0)
        if waited_us >= self.cluster.config.checkpoint_timeout_ms * 1000:
            self.world.trace.reached("checkpoint expired")
        if checkpoint_id in self._finals:
            self.world.trace.reached("final checkpoint given up")

    def _told(self, message: ToWorker) -> None:
        match message:
            case TriggerCheckpoint():
                self._look_at_trigger(message)
            case AbortCheckpoint(checkpoint_id=checkpoint_id):
                self._look_at_abort(checkpoint_id)
            case CompleteCheckpoint(checkpoint_id=checkpoint_id):
                self.announced = checkpoint_id
            case LookRound(number=number) if number > 1:
                self.world.trace.reached("another round is made")
            case Drain():
                self.world.trace.reached("drained")
            case _:
                pass
