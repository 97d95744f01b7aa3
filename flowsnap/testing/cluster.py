"""A whole cluster in one thread: its machine, its user, its faults, and its end.

First comes the phase of faults: the user starts the job, whatever dies is started again, and a job
that was stopped is resumed, perhaps in another layout. Then the world is healed, and the job must
end within a bounded virtual time with all of its output visible once.

Source: the two phases are TigerBeetle's (``docs/internals/vopr.md``, liveness mode).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from flowsnap.config import JobConfig, Restart
from flowsnap.core.ids import CheckpointId
from flowsnap.core.job import JobState
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.core.message import Deploy
from flowsnap.errors import FlowsnapError, RestoreError, StorageError
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.job_store import JobStore
from flowsnap.testing.checker import Checker
from flowsnap.testing.disk import Disk
from flowsnap.testing.disk_files import DiskFileSystem
from flowsnap.testing.flow import Flow
from flowsnap.testing.machine import ManagerProcess, ProcessLauncher, WorkerProcess
from flowsnap.testing.network import DataNetwork
from flowsnap.testing.path import remembering
from flowsnap.testing.process import Process
from flowsnap.testing.report import wait_for
from flowsnap.testing.striking import Striking
from flowsnap.testing.trouble import Fault, draw_faults
from flowsnap.testing.workload import Workload
from flowsnap.testing.world import World
from flowsnap.transport.plane import Route

HEALED_US = 350_000
LIVENESS_US = 30_000_000
STEPS_MAX = 150_000
ATTEMPTS_MAX = 40
"""After healing few attempts fail: one for what was under way, and one for each of its echoes."""
ORPHAN_US = 40_000
TIMEOUT_MS_ENOUGH = 1_000
SCRATCH = "/dev/shm"
ALIGNED = {
    "checkpoint_alignment": "aligned", "alignment_timeout_ms": 0, "checkpoints_concurrent": 1,
}  # fmt: skip
RESUMED = {JobState.STOPPED, JobState.CANCELLED}


class Cluster:
    """One world with one job, from its submission to its end."""

    def __init__(
        self,
        seed: int,
        faults: Sequence[Fault] | None = None,
        workload: Workload | None = None,
        *,
        records_max: int | None = None,
    ) -> None:
        self.world = world = World(seed)
        self.workload = workload or Workload(world.topology, world.workload, records_max)
        self.checker = Checker(world, self.workload, self.completed)
        self.config = draw_config(world)
        own = draw_faults(world.faults, self.config.heartbeat_timeout_ms)
        self.faults = own if faults is None else list(faults)
        self.manager: ManagerProcess | None = None
        self.causes: dict[int, str] = {}
        self.layout = 0
        self.is_finished = False
        self.is_healed = False
        self.goes_back = False
        """Whether its user wants an older checkpoint at the next start at which there is one."""
        self.wanted: CheckpointId | None = None
        self.orphans: list[WorkerProcess] = []
        self._networks: dict[tuple[int, int], DataNetwork] = {}
        self._flows: dict[tuple[int, int], Flow] = {}
        self._attempts_healed = 0
        self._pids = 0
        self._generations = 0
        self._reruns = 0
        parent = SCRATCH if Path(SCRATCH).is_dir() else None
        self.root = remembering(tempfile.mkdtemp(prefix="flowsnap-sim-", dir=parent))
        self.disk = Disk(world, self.root, self.checker)
        self.striking = Striking(self)
        self._build()

    # --- running ------------------------------------------------------------------------------

    def run(self) -> None:
        """Run to the end; ``world.violation`` says what did not hold, if anything."""
        try:
            self._run()
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    def _run(self) -> None:
        world = self.world
        self.striking.arm(self.faults)
        world.at(HEALED_US, self.heal)
        self._start_manager()
        while not self.is_finished and not world.violation:
            if not world.advance() or world.steps > STEPS_MAX:
                world.fail(f"C12: nothing happens any more\n{wait_for(self)}")
            elif world.now_us > HEALED_US + LIVENESS_US:
                world.fail(f"C12: not finished in time\n{wait_for(self)}")
            elif self.is_healed and self._attempts > self._attempts_healed + ATTEMPTS_MAX:
                world.fail(f"C12: one attempt after the other fails\n{wait_for(self)}")
        if self.workload.trouble.fired:
            world.trace.reached("user function raised")
        if not world.violation:
            self._audit()

    def heal(self) -> None:
        """End the phase of faults."""
        if not self.is_healed:
            self.is_healed = True
            self._attempts_healed = self._attempts
            self.world.note("world", "is healed")
            self.striking.disarm()
            if self.config.checkpoint_timeout_ms < TIMEOUT_MS_ENOUGH:
                # In so short a time a checkpoint is luck: the user gives it more.
                self.config = msgspec.structs.replace(
                    self.config, checkpoint_timeout_ms=TIMEOUT_MS_ENOUGH
                )
                if self.manager is not None:
                    self.kill(self.manager)

    @property
    def _attempts(self) -> int:
        return self.checker.newest_attempt

    # --- processes ----------------------------------------------------------------------------

    def next_pid(self) -> int:
        """Return a process id that was never given away."""
        self._pids += 1
        return self._pids

    def workers(self) -> list[WorkerProcess]:
        """Return the worker processes that live, whoever has started them."""
        return [process for process in self._children() if process.is_alive] + [
            process for process in self.orphans if process.is_alive
        ]

    def kill(self, *victims: Process, is_power_lost: bool = False) -> None:
        """Kill processes at once: kill -9, or a loss of power, which nobody survives."""
        living = [process for process in victims if process.is_alive]
        for process in living:
            process.is_alive = False
            self.causes[process.pid] = "was killed by SIGKILL"
            self.world.note(process.name, "is killed")
            self.striking.look_at_death(process)
        for process in living:
            self._disconnect(process, is_orderly=False)
        self.disk.crash(list(living), self.world.disk, is_power_lost=is_power_lost)
        if self.manager in living:
            self._bury_manager()

    def exit(self, process: WorkerProcess, how: str) -> None:
        """Have a worker process end by itself."""
        self.causes[process.pid] = how
        process.is_alive = False
        self.world.note(process.name, how)
        if process.worker is not None and not process.worker.is_done:
            process.worker.drop()
        self._disconnect(process, is_orderly=True)

    def manager_ended(
        self, process: ManagerProcess, state: JobState, error: FlowsnapError | None
    ) -> None:
        """The job manager has returned to its user."""
        process.is_alive = False
        self.world.note(process.name, f"ends: {state}")
        self._disconnect(process, is_orderly=True)
        if state is JobState.FAILED:
            self._look_at(error)
        if state is JobState.FINISHED:
            self.checker.check_end()
            if self._reruns or self.world.schedule.random() < 0.9:
                self.is_finished = True
                return
            self._reruns += 1
            self.world.trace.reached("finished job is run again")
        if state in RESUMED:
            self.world.trace.reached(f"{state} and resumed")
        self._bury_manager()

    def _look_at(self, error: FlowsnapError | None) -> None:
        """A job may fail for its store; where it names a rotten file, its user puts that back."""
        told = "\n".join([str(error), *getattr(error, "__notes__", ())])
        if self.disk.repair(told):
            self.world.trace.reached("rotten file is found and put back")
        elif not isinstance(error, StorageError):
            self.world.fail(f"C12: the job has failed: {told}")

    def _bury_manager(self) -> None:
        """The workers follow their parent, a moment later; the user starts the job again."""
        assert self.manager is not None
        self.orphans += [process for process in self._children() if process.is_alive]
        for process in self.orphans:
            delay_us = self.world.schedule.randint(0, ORPHAN_US)
            self.world.after(delay_us, partial(self._end_orphan, process))
        self.manager = None
        self.world.after(self.world.schedule.randint(1_000, 60_000), self._start_manager)

    def _end_orphan(self, process: WorkerProcess) -> None:
        if process.is_paused:  # It dies when it is resumed, or a moment later.
            self.world.after(ORPHAN_US, lambda: self._end_orphan(process))
        elif process.is_alive:
            self.kill(process)

    def _start_manager(self) -> None:
        if self.manager is not None or self.is_finished:
            return
        if self._generations and self.world.schedule.random() < 0.5:
            self.layout += 1
            self._build()
            if self.world.schedule.random() < 0.4:
                self._change_settings()
        self._generations += 1
        self.world.note("user", f"starts the job, layout {self.layout}")
        self._choose_checkpoint()
        workers = self.workload.workers(self.layout)
        self.manager = ManagerProcess(self, self._generations, workers)
        self.manager.wake(self.world.now_us)

    def _change_settings(self) -> None:
        """Go on with other barriers, and with more or fewer checkpoints."""
        chance = self.world.schedule
        settings = ALIGNED | draw_alignment(chance)
        self.config = msgspec.structs.replace(
            self.config, checkpoints_retained=chance.choice((1, 2, 3)), **settings
        )
        self.world.trace.reached("settings are changed at a restart")

    def _choose_checkpoint(self) -> None:
        """Have the user ask for an older checkpoint, again until the job has gone back to it."""
        complete = sorted(self.checker.complete)
        if self.wanted not in complete:
            self.wanted = None
        if self.goes_back and len(complete) > 1:
            self.goes_back = False
            self.wanted = self.world.faults.choice(complete[:-1])
        if self.wanted is not None:
            self.checker.has_gone_back = True
            self.world.note("user", f"wants checkpoint {self.wanted}")

    def _build(self) -> None:
        self.definition = self.workload.build(self.layout, self.checker.system)

    def _children(self) -> list[WorkerProcess]:
        launcher = None if self.manager is None else self.manager.launcher
        return list(launcher.processes.values()) if isinstance(launcher, ProcessLauncher) else []

    def _disconnect(self, process: Process, *, is_orderly: bool) -> None:
        if isinstance(process, ManagerProcess):
            process.lock.release()
            for link in process.hub.links:
                link.lose()
            return
        assert isinstance(process, WorkerProcess)
        process.link.lose()
        for network in self._networks.values():
            if network.members.get(process.id) is process:
                network.remove(process.id, is_orderly=is_orderly)

    # --- what belongs to an attempt -----------------------------------------------------------

    def network(self, deploy: Deploy) -> DataNetwork:
        """Return the data network of an attempt."""
        key = (self._generations, deploy.attempt)
        if key not in self._networks:
            workers = {task.id: task.worker for task in deploy.graph.tasks}
            routes = [
                Route(channel.id, workers[channel.source], workers[channel.target])
                for channel in deploy.graph.channels
            ]
            self._networks[key] = DataNetwork(self.world, routes, deploy.job, deploy.attempt)
        return self._networks[key]

    def newest_network(self) -> DataNetwork | None:
        """Return the data network that was made last."""
        return next(reversed(self._networks.values()), None)

    def completed(self, manifest: CheckpointManifest) -> None:
        """A checkpoint is complete: its cut is looked at as a whole."""
        flow = self._flows.get((self._generations, manifest.attempt))
        if flow is not None:
            flow.completed(manifest.checkpoint_id)
            told_ms = flow.told_ms.get(manifest.checkpoint_id, {})
            self.checker.event_time.saved(manifest, told_ms, self.definition.code)

    def flow(self, deploy: Deploy) -> Flow:
        """Return the counts of an attempt."""
        key = (self._generations, deploy.attempt)
        if key not in self._flows:
            capacity = deploy.config.channel_capacity_batches
            restored = self.checker.event_time.at_least(deploy.graph, self.definition.code)
            self._flows[key] = Flow(self.world, deploy.graph, capacity, restored)
        return self._flows[key]

    # --- the end ------------------------------------------------------------------------------

    def _audit(self) -> None:
        """C8: after the next start has cleaned up, everything there is needed and whole."""
        self.striking.disarm()
        auditor: Any = Process(self, "auditor")
        store = DirectoryStore(self.root, DiskFileSystem(self.disk, auditor))
        while self.disk.repair("\n".join(found := _damage(store))):
            self.world.trace.reached("rotten file is found and put back")
        for one in found:
            self.world.fail(f"C8: at the end: {one}")
        for path in self.disk.still_rotten():
            self.world.fail(f"C8: at the end: {path} has rotten, and nobody has noticed")


def _damage(files: DirectoryStore) -> list[str]:
    """Return what a cleaned store says is wrong with its files."""
    try:
        store = JobStore(files, "simulated")
        store.clean_leftovers()
        return [str(finding) for finding in store.verify() if finding.kind != "ok"]
    except RestoreError as error:
        return [str(error)]


def draw_alignment(chance: Random) -> dict[str, Any]:
    """Return whether barriers wait, overtake, or wait for a while, and how many may be sent."""
    draw = chance.random()
    if draw < 0.2:
        return {"checkpoint_alignment": "unaligned"}
    if draw < 0.4:
        return {"alignment_timeout_ms": chance.choice((1, 5, 20))}
    return {"checkpoints_concurrent": chance.choice((1, 1, 1, 2, 3))}


def draw_config(world: World) -> JobConfig:
    """Return the settings of a job: short times, small buffers."""
    chance = world.workload
    heartbeat_ms = chance.choice((30, 50))
    return JobConfig(
        checkpoint_interval_ms=chance.choice((8, 20, 20, 40)),
        checkpoint_timeout_ms=chance.choice((15, 60, 60, 250, 250, 2_000)),
        **draw_alignment(chance),
        checkpoint_pause_ms_min=chance.choice((0, 0, 10)),
        checkpoint_failures_max=chance.choice((2, 10)),
        checkpoints_retained=chance.choice((1, 2, 3)),
        restart=Restart(attempts_max=10_000, delay_ms=5, delay_ms_max=60, jitter=0.3),
        batch_linger_ms=chance.choice((0, 2, 10)),
        channel_capacity_batches=chance.choice((2, 2, 3, 8)),
        heartbeat_interval_ms=heartbeat_ms,
        heartbeat_timeout_ms=heartbeat_ms * 4 + 60,
        stall_timeout_ms=5_000,
        start_timeout_ms=1_000,
        cancel_timeout_ms=100,
    )
