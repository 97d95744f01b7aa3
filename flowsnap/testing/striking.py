"""Carries the faults of a world out, and takes them back when it is healed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import msgspec

from flowsnap.core import manifest as manifests
from flowsnap.core.coordinator import Alignment, Wish
from flowsnap.core.retention import manifest_path
from flowsnap.errors import ConfigError
from flowsnap.runtime.job_manager import JobManager
from flowsnap.storage import layout
from flowsnap.storage.ownership import OwnerLock
from flowsnap.storage.store import is_temporary
from flowsnap.testing.disk_files import shown
from flowsnap.testing.machine import ManagerProcess, WorkerProcess
from flowsnap.testing.process import Process
from flowsnap.testing.trouble import CALLS, EVERYBODY, MANAGER, POINTS, SELF, Fault
from flowsnap.testing.world import Actor, Point

if TYPE_CHECKING:
    from flowsnap.testing.cluster import Cluster

WISHES = {"stop", "drain", "savepoint", "cancel", "older", "ask"}
MOMENT_KINDS = WISHES | {
    "kill", "pause", "reset", "drop", "control", "wall", "zombie", "partition", "quota", "rot",
    "second",
}  # fmt: skip
ALIGNMENTS: tuple[Alignment | None, ...] = (None, "aligned", "unaligned")


class Striking:
    """The faults of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._paused: list[Process] = []

    def arm(self, faults: Sequence[Fault]) -> None:
        """Have every fault happen when its turn comes."""
        for fault in faults:
            if fault.kind in WISHES - {"ask"} and fault.value:
                self._arm_wish(fault)
            elif fault.kind in MOMENT_KINDS:
                self._world.at(fault.at, partial(self._strike, fault))
            elif fault.kind in {"crash", "point"}:
                self._arm_crash(fault)
            else:
                self._arm_call(fault)

    def _arm_wish(self, fault: Fault) -> None:
        """Have something wanted soon after something has happened."""
        wish = partial(self._strike, fault)
        point = Point(*POINTS[fault.value - 1], fault.at)
        blow = partial(self._world.after, fault.who, wish)
        self._world.points.append((point, True, lambda actor: blow()))

    def _arm_crash(self, fault: Fault) -> None:
        world, blow = self._world, partial(self._crash, fault)
        if fault.kind == "point":
            world.points.append((Point(*POINTS[fault.value], fault.at), fault.is_after, blow))
        else:
            (world.after_effect if fault.is_after else world.before_effect)[fault.at] = blow

    def _arm_call(self, fault: Fault) -> None:
        disk = self._cluster.disk
        match fault.kind:
            case "fail":
                point = Point(*CALLS[fault.who], fault.at)
                disk.points.append((point, fault.value, fault.is_after))
            case "disk":
                for call in range(fault.at, fault.at + fault.who):
                    disk.faults[call] = (fault.value, fault.is_after)
            case "sink":
                calls = self._cluster.checker.system.faults
                calls[fault.at] = "applied" if fault.is_after else "refused"
            case "late":
                system = self._cluster.checker.system
                late_us = system.late_prepares_us if fault.is_after else system.late_us
                late_us[fault.at] = fault.value
            case "sync":
                disk.lost_syncs.add(fault.at)
            case _:
                self._cluster.workload.trouble.at.add(fault.at)

    def disarm(self) -> None:
        """Take back what has not happened yet, and what lasts."""
        cluster, world = self._cluster, self._world
        for armed in (world.before_effect, world.after_effect, cluster.disk.faults):
            armed.clear()
        world.points.clear()
        cluster.disk.points.clear()
        cluster.disk.lost_syncs.clear()
        cluster.disk.quota_bytes = None
        cluster.checker.system.faults.clear()
        cluster.checker.system.late_us.clear()
        cluster.checker.system.late_prepares_us.clear()
        cluster.workload.trouble.at.clear()
        for process in list(self._paused):
            self._resume(process)
        network = cluster.newest_network()
        if network is not None:
            network.heal()
        for worker in cluster.workers():
            worker.link.block(0, is_up=True)
            worker.link.block(0, is_up=False)

    def look_at_death(self, process: Process) -> None:
        """Count the situation that a process died in."""
        reached = self._world.trace.reached
        if self._is_loop_draining():
            reached("crash while a loop drains")
        if isinstance(process, WorkerProcess):
            self._look_at_worker(process)
            return
        reached("job manager killed")
        assert isinstance(process, ManagerProcess)
        self._look_at_manager(process)

    def _look_at_manager(self, process: ManagerProcess) -> None:
        reached, checker = self._world.trace.reached, self._cluster.checker
        attempt = None if process.manager is None else process.manager._attempt
        if process.manager is not None and process.manager.is_done:
            reached("crash after the end")
        all_pending = () if attempt is None else attempt.coordinator.all_pending
        for id in (one.checkpoint_id for one in all_pending if one.is_writing):
            if id not in checker.complete:
                reached("crash before the manifest is visible")
            elif id not in checker.durable:
                reached("crash between manifest and directory sync")
        newest = max(checker.durable, default=None)
        if attempt is None or newest is None or newest <= process.announced:
            return
        if checker.durable[newest].attempt == attempt.id:
            reached("crash before sinks are told")

    def _is_loop_draining(self) -> bool:
        process = self._cluster.manager
        manager = None if process is None else process.manager
        attempt = None if manager is None else manager._attempt
        loops = None if attempt is None else attempt.loops._detector
        return loops is not None and loops.number > 0 and not loops._is_over

    def _look_at_worker(self, process: WorkerProcess) -> None:
        self._world.trace.reached("worker killed")
        last = self._world.trace.entries[-2][2] if len(self._world.trace.entries) > 1 else ""
        if last.startswith("sink commit"):
            self._world.trace.reached("crash during a commit")
        worker = process.worker
        if worker is not None and worker._snapshots is not None and not worker._tasks:
            self._world.trace.reached("crash during restore")

    # --- one fault ----------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        cluster = self._cluster
        if cluster.is_healed or cluster.is_finished:
            return
        actions: dict[str, Callable[[Fault], None]] = {
            "kill": self._kill,
            "pause": self._pause,
            "reset": self._reset,
            "drop": self._drop,
            "control": self._lose_control,
            "wall": self._jump,
            "partition": self._partition,
            "quota": self._limit,
            "rot": self._rot,
            "second": self._start_second,
            "zombie": self._make_zombies,
            **dict.fromkeys(WISHES, self._wish),
        }
        self._world.note("fault", f"{fault.kind} {fault.who} {fault.value}")
        actions[fault.kind](fault)

    def _victims(self, who: int) -> list[Process]:
        manager = self._cluster.manager
        if who == MANAGER:
            return [] if manager is None else [manager]
        if who == EVERYBODY:
            everybody: list[Process] = [*self._cluster.workers()]
            return everybody if manager is None else [manager, *everybody]
        return [process for process in self._cluster.workers() if process.id == who]

    def _kill(self, fault: Fault) -> None:
        is_everybody = fault.who == EVERYBODY
        if is_everybody:
            self._world.trace.reached("everything killed")
        self._cluster.kill(*self._victims(fault.who), is_power_lost=is_everybody)

    def _crash(self, fault: Fault, actor: Actor) -> None:
        if fault.who != SELF:
            self._kill(fault)
        elif isinstance(actor, Process):
            self._cluster.kill(actor)

    def _pause(self, fault: Fault) -> None:
        for process in self._victims(fault.who):
            if not process.is_paused:
                process.is_paused = True
                self._paused.append(process)
                self._world.note(process.name, "is paused")
                self._world.after(fault.value, partial(self._resume, process))

    def _make_zombies(self, fault: Fault, tries: int = 200) -> None:
        """Workers sleep while their job manager dies, and wake up when the next one is at work.

        It waits until a worker is storing a file: that is what a zombie could do harm with.
        """
        is_uploading = any(
            process.worker is not None
            and process.worker._snapshots is not None
            and any(pending.upload for pending in process.worker._snapshots._uploading)
            for process in self._cluster.workers()
        )
        if not is_uploading and tries:
            self._world.after(500, partial(self._make_zombies, fault, tries - 1))
            return
        if self._cluster.is_healed or self._cluster.is_finished:
            return
        for who in range(3):
            self._pause(msgspec.structs.replace(fault, who=who))
        self._kill(msgspec.structs.replace(fault, who=MANAGER))

    def _resume(self, process: Process) -> None:
        if process not in self._paused:
            return
        reached = self._world.trace.reached
        self._paused.remove(process)
        self._world.note(process.name, "is resumed")
        if isinstance(process, ManagerProcess):
            reached("job manager paused")
        elif process.is_alive:
            reached("short pause")
        if process.is_alive:
            process.resume()

    def _reset(self, fault: Fault) -> None:
        network = self._cluster.newest_network()
        if network is not None and len(network.members) > 1:
            wires = network.in_use()
            if wires:
                self._world.trace.reached("connection lost")
                network.reset(*wires[fault.at % len(wires)])

    def _drop(self, fault: Fault) -> None:
        network = self._cluster.newest_network()
        if network is not None and (wires := network.in_use()):
            network.drop(*wires[fault.who % len(wires)], fault.value)

    def _lose_control(self, fault: Fault) -> None:
        for process in self._victims(max(fault.who, 0)):
            assert isinstance(process, WorkerProcess)
            self._world.trace.reached("control connection lost")
            process.link.lose()

    def _partition(self, fault: Fault) -> None:
        """Block one direction for a while, and leave the other open."""
        reached, until_us = self._world.trace.reached, self._world.now_us + fault.value
        if fault.who == SELF:
            network = self._cluster.newest_network()
            if network is not None and (wires := network.in_use()):
                reached("one way between two workers is blocked")
                network.block(*wires[fault.at % len(wires)], until_us)
            return
        for process in self._victims(fault.who):
            assert isinstance(process, WorkerProcess)
            reached(f"one way {'from' if fault.is_after else 'to'} a worker is blocked")
            process.link.block(until_us, is_up=fault.is_after)

    def _limit(self, fault: Fault) -> None:
        disk = self._cluster.disk
        disk.quota_bytes = disk.used_bytes() + fault.value

    def _rot(self, fault: Fault) -> None:
        """Damage a file that is whole: mostly one that the next restart needs."""
        cluster, chance = self._cluster, Random(fault.value)
        disk, durable = cluster.disk, cluster.checker.durable
        whole = sorted(path for path in disk.whole() if not is_temporary(path.rpartition("/")[2]))
        if durable and chance.random() < 0.7:
            newest = durable[max(durable)]
            needed = {handle.path for handle in manifests.files(newest)}
            needed.add(manifest_path(newest.checkpoint_id))
            whole = [path for path in whole if path in needed]
        if whole:
            path = chance.choice(whole)
            self._world.trace.reached("a file rots")
            self._world.note("fault", f"{shown(path)} rots")
            disk.rot(path, chance)

    def _start_second(self, fault: Fault) -> None:
        """Somebody starts the job once more while its job manager is there, asleep or not."""
        process = self._cluster.manager
        if process is None or process.manager is None:
            return
        try:
            OwnerLock.acquire(self._cluster.root / layout.LOCK).release()
        except ConfigError:
            self._world.trace.reached("a second job manager is refused")
        else:
            self._world.fail(f"C7: a second job manager may begin beside {process.name}")

    def _jump(self, fault: Fault) -> None:
        self._world.trace.reached("wall clock jumped")
        self._world.time.wall_offset_ms += fault.value

    def _wish(self, fault: Fault) -> None:
        """Have the user want something of the job manager, if there is one."""
        process = self._cluster.manager
        if process is None or process.manager is None:
            return
        manager = process.manager
        match fault.kind:
            case "stop":
                manager.request_stop()
            case "drain":
                self._cluster.checker.is_drained = True
                manager.desk.ask("stop", is_drain=True)
            case "cancel":
                manager.request_cancel()
            case "older":
                self._cluster.goes_back = True
                if fault.is_after:
                    self._cluster.kill(process)
                    return
                manager.request_cancel()
            case "savepoint":
                manager.desk.ask("savepoint", savepoint=f"savepoint-{fault.at}")
            case _:
                self._ask(fault, manager)
        process.wake(self._world.now_us)

    def _ask(self, fault: Fault, manager: JobManager) -> None:
        """Have a checkpoint begin at some operators, wherever they are."""
        names = [operator.name for operator in self._cluster.definition.graph.operators]
        chance = Random(fault.value)
        chosen = sorted(chance.sample(names, min(len(names), chance.choice((1, 1, 2, 3)))))
        alignment = ALIGNMENTS[fault.who]
        if alignment == "unaligned" and self._cluster.config.checkpoints_concurrent > 1:
            alignment = None
        manager.request_checkpoint(Wish("checkpoint", alignment, tuple(chosen)))
