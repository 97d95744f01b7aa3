"""The real worker, writer and recovery, with somebody looking over their shoulders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flowsnap.core.ids import CheckpointId, OperatorId, TaskId, WorkerId
from flowsnap.core.manifest import FileHandle
from flowsnap.core.message import Deploy
from flowsnap.core.operator import Sink
from flowsnap.errors import StorageError
from flowsnap.runtime.attempt import Deployment
from flowsnap.runtime.parts import TakenSnapshot
from flowsnap.runtime.recovery import Recovery
from flowsnap.runtime.worker import Edges, Worker
from flowsnap.state.backend import StateBackend
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.writer import CheckpointWriter, LocalFile
from flowsnap.testing.disk_files import DiskFileSystem
from flowsnap.testing.flow import AbortsOf, Flow, watch
from flowsnap.testing.network import ControlLink
from flowsnap.testing.process import Process, UploadQueue
from flowsnap.testing.sink import TransactionalSink
from flowsnap.testing.state import SharedFilesBackend
from flowsnap.transport.memory import MemoryDataPlane

if TYPE_CHECKING:
    from flowsnap.testing.checker import Checker
    from flowsnap.testing.cluster import Cluster


class CheckedWorker(Worker, AbortsOf):
    """The real worker; what flows in its channels is counted."""

    flow: Flow | None = None

    def __init__(self, id: WorkerId, link: ControlLink, process: Process, edges: Edges) -> None:
        Worker.__init__(self, id, link, process.clock, edges)
        AbortsOf.__init__(self)
        self._cluster = process.cluster

    def _deploy(self, deploy: Deploy) -> None:
        self.aborted = set()
        super()._deploy(deploy)
        self.flow = flow = self._cluster.flow(deploy)
        watch(flow, self._tasks, self)

    def _idle_ms(self, now_ms: int) -> int:
        """Return what the real one does, without polling: the helper thread wakes its process."""
        snapshots = self._snapshots
        if snapshots is None or not snapshots.is_uploading:
            return super()._idle_ms(now_ms)
        if snapshots._finished(snapshots._uploading[0]):
            return 0
        self._snapshots = None
        try:
            return super()._idle_ms(now_ms)
        finally:
            self._snapshots = snapshots

    def _abort(self, checkpoint_id: CheckpointId) -> None:
        self.aborted.add(checkpoint_id)
        assert self.flow is not None
        if any(not self.flow.has_read(channel, checkpoint_id) for channel in self._inputs):
            self.flow.world.trace.reached("abort overtakes its barrier")
        super()._abort(checkpoint_id)

    def snapshot_taken(self, snapshot: TakenSnapshot) -> None:
        assert self.flow is not None
        task = next(task for task in self._tasks if task.id == snapshot.task.id)
        is_recorded = snapshot.recording is not None
        self.flow.snapshot(task, snapshot.checkpoint_id, is_recorded=is_recorded)
        super().snapshot_taken(snapshot)


class CheckedWriter(CheckpointWriter):
    """The real writer; what it stores is checked, and what it refuses counted."""

    checker: Checker

    def store(self, checkpoint_id: CheckpointId, task: TaskId, local: LocalFile) -> FileHandle:
        try:
            handle = super().store(checkpoint_id, task, local)
        except StorageError as error:
            store = self._store
            if "is refused" in str(error) and isinstance(store, DirectoryStore):
                assert isinstance(store._filesystem, DiskFileSystem)
                store._filesystem.world.trace.reached("stale file refused")
            raise
        self.checker.stored(self._attempt, handle.path)
        return handle


def make_worker(process: Process, link: ControlLink, id: WorkerId) -> CheckedWorker:
    """Return the worker of a process, with simulated edges."""
    cluster = process.cluster

    def load_code(deploy: Deploy) -> dict[Any, Any]:
        return {
            name: code.of(process) if isinstance(code, TransactionalSink) else code
            for name, code in cluster.definition.code.items()
        }

    def make_writer(deploy: Deploy) -> CheckpointWriter:
        assert deploy.job_directory == str(cluster.root)
        root = cluster.root
        writer = CheckedWriter(root, deploy.attempt, DirectoryStore(root, process.files))
        writer.checker = cluster.checker
        return writer

    def make_plane(deploy: Deploy, worker: WorkerId) -> MemoryDataPlane:
        return cluster.network(deploy).plane(process, worker)

    edges = Edges(
        load_code=load_code,
        make_plane=make_plane,
        make_writer=make_writer,
        make_state=cast(type[StateBackend], SharedFilesBackend),
        make_executor=lambda: UploadQueue(process),
    )
    return CheckedWorker(id, link, process, edges)


class CheckedDirectory(JobDirectory):
    """The real directory; where the workers' scratch is not local, it can't remove that."""

    is_local = True

    def remove_work(self) -> list[str]:
        return super().remove_work() if self.is_local else []


class CheckedRecovery(Recovery):
    """The real recovery; what it chooses is checked."""

    cluster: Cluster
    process: Process

    def submit(self) -> None:
        super().submit()
        wanted = self.cluster.wanted
        if wanted is not None:
            self.cluster.wanted = None
            self.cluster.checker.went_back(wanted, self.restored_from)

    def _sinks(self) -> list[tuple[OperatorId, Sink]]:
        """What sinks do at the beginning and at the end they do in the job manager's process."""
        return [
            (name, sink.of(self.process) if isinstance(sink, TransactionalSink) else sink)
            for name, sink in super()._sinks()
        ]

    def begin_attempt(self, graph: Any, config: Any) -> Deployment:
        deployment = super().begin_attempt(graph, config)
        self.cluster.checker.attempt_begun(deployment, graph.workers)
        return deployment

    def reserve(self, checkpoint_id: CheckpointId) -> None:
        super().reserve(checkpoint_id)
        self.cluster.checker.reserved(checkpoint_id)

    def export(self, checkpoint_id: CheckpointId, name: str) -> Path:
        """Make no files, which nobody here would read; but what it is made of must be there."""
        world, checker = self.cluster.world, self.cluster.checker
        if checkpoint_id not in checker.durable:
            world.fail(f"C6: savepoint {name} is made of checkpoint {checkpoint_id}, which is gone")
        world.trace.reached("savepoint made")
        return self.cluster.root / name
