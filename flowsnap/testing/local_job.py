"""A real job in one thread under a clock that stands still: what a harness drives.

The job manager, one worker, its tasks and chains, recovery and the checkpoint store are the real
ones. What is exchanged is what makes a test slow or different each time: the clock, the thread that
uploads, the syncing of files, and (unless RocksDB is asked for) the state backend.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from flowsnap.config import JobConfig
from flowsnap.core import coordinator as checkpoints
from flowsnap.core import requests
from flowsnap.core.graph import build_execution_graph
from flowsnap.core.ids import CheckpointId, TaskId, WorkerId
from flowsnap.core.message import Deploy
from flowsnap.errors import CheckpointError, FlowsnapError, LocalProtocolError
from flowsnap.operators.async_map import AsyncMap
from flowsnap.runtime.definition import PipelineDefinition
from flowsnap.runtime.job_manager import JobManager, Surroundings
from flowsnap.runtime.local import Link, LocalLauncher, refuse_plane
from flowsnap.runtime.recovery import Recovery
from flowsnap.runtime.task import TaskRunner
from flowsnap.runtime.worker import Edges, Worker
from flowsnap.state.backend import StateBackend
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.writer import CheckpointWriter
from flowsnap.testing.faults import UnsyncedFileSystem
from flowsnap.testing.feed import FeedSource
from flowsnap.transport.control import MemoryControl

QUIET_ROUNDS = 3
ROUNDS_MAX = 200_000
OUTSIDE_SECONDS_MAX = 10.0
"""How long real time is given to what runs outside of the job: asynchronous functions, commits."""


class HandClock:
    """A clock that is moved by hand: monotonic time and the wall clock go together."""

    def __init__(self, wall_ms: int) -> None:
        self._wall_ms = wall_ms
        self._begin_ms = wall_ms

    def now_ms(self) -> int:
        return self._wall_ms - self._begin_ms

    def wall_ms(self) -> int:
        return self._wall_ms

    def reach(self, wall_ms: int) -> None:
        """Go on to a moment."""
        self._wall_ms = wall_ms


class DirectExecutor(Executor):
    """Does at once what it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call ``fn``; its error is the future's."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except FlowsnapError as error:
            future.set_exception(error)
        return future


class _Manager(JobManager):
    """The real job manager; what became of its checkpoints is remembered."""

    aborted = ""
    completed = CheckpointId(0)

    def _answer(self, event: requests.Event) -> None:
        match event:
            case requests.Aborted(reason=reason):
                self.aborted = reason
            case requests.Completed(checkpoint_id=checkpoint_id):
                self.completed = checkpoint_id
            case _:
                pass  # The real one answers everybody.
        super()._answer(event)


class LocalWorker(Worker):
    """The real worker; its first error is kept as it was raised, and its feeds are bound."""

    error: Exception | None = None
    is_busy = False
    _has_groups = False

    @property
    def tasks(self) -> list[TaskRunner]:
        """The tasks that run here."""
        return self._tasks

    @property
    def is_uploading(self) -> bool:
        """Whether a part of a checkpoint waits to be stored or acknowledged."""
        return self._snapshots is not None and self._snapshots.is_uploading

    def step(self) -> int:
        self.is_busy = True
        wait_ms = super().step()
        self.is_busy = self.is_busy and not wait_ms
        return wait_ms

    def _idle_ms(self, now_ms: int) -> int:
        self.is_busy = False  # Although it may want to come back at once.
        return super()._idle_ms(now_ms)

    def _deploy(self, deploy: Deploy) -> None:
        super()._deploy(deploy)
        inputs = [task.source for task in self._tasks if task.source is not None]
        for input in inputs:
            if isinstance(input._source, FeedSource):
                input._source.bind(input)
        self._has_groups = any(one.time is not None and one.time.settings.group for one in inputs)

    def _report(self, now_ms: int) -> None:
        if self._has_groups:
            self._progress_at_ms = 0  # Sources of a group hear of each other by these reports.
        super()._report(now_ms)

    def _fail(self, task: TaskRunner | None, error: Exception) -> None:
        self.error = self.error or error
        super()._fail(task, error)


def _launcher(
    control: MemoryControl,
    definition: PipelineDefinition,
    clock: HandClock,
    make_state: Callable[..., StateBackend],
) -> LocalLauncher[LocalWorker]:
    """Return what makes the one worker of a job."""
    edges = Edges(
        load_code=lambda _: definition.code,
        make_plane=refuse_plane,
        make_writer=_writer,
        make_state=make_state,
        make_executor=DirectExecutor,
    )

    def make(id: WorkerId) -> tuple[LocalWorker, Link]:
        link = control.client(id)
        return LocalWorker(id, link, clock, edges), link

    return LocalLauncher(make)


class LocalJob:
    """One life of a job, from its submission to its end or crash.

    ``directory`` keeps its checkpoints over several lives. ``restore`` is "latest", "fresh" or the
    id of a checkpoint.

    Raises:
        ConfigError: the pipeline, or what a source or sink was given, is not usable.
        RestoreError: the checkpoint does not exist, or the pipeline does not fit it.
    """

    def __init__(
        self,
        directory: Path,
        definition: PipelineDefinition,
        clock: HandClock,
        config: JobConfig,
        *,
        restore: str | int = "latest",
        make_state: Callable[..., StateBackend] = StateBackend,
    ) -> None:
        graph = build_execution_graph(definition.graph, 0)
        store = JobDirectory.open(
            directory / "state", definition.graph.name, filesystem=UnsyncedFileSystem()
        )
        scratch = directory / "scratch"
        scratch.mkdir(exist_ok=True)
        self._recovery = Recovery(store, definition, scratch, restore)
        try:
            self._recovery.submit()
        except BaseException:
            self._recovery.close()
            raise
        control = MemoryControl()
        self._launcher = _launcher(control, definition, clock, make_state)
        around = Surroundings(
            clock, control.server, self._launcher, self._recovery, chance=random.Random(0)
        )
        self._manager = _Manager(graph, config, around)
        self._is_closed = False
        self._manager.start()

    @property
    def is_done(self) -> bool:
        """Whether the job has ended by itself."""
        return self._manager.is_done

    @property
    def restored_from(self) -> CheckpointId | None:
        """The checkpoint that this life began with."""
        return self._manager.status.restored_from

    def tasks(self, operator: str = "") -> list[TaskRunner]:
        """Return the tasks that run ``operator``, or all, by subtask."""
        worker = self._launcher.worker
        return [
            task
            for task in ([] if worker is None else worker.tasks)
            if not operator or operator in task._parts.chain_spec.operators
        ]

    def settle(self) -> None:
        """Run until nothing happens any more; a job that has ended is closed.

        Raises:
            OperatorError: the user's code has raised, and the job is gone; so with other errors.
            LocalProtocolError: it does not come to rest.
        """
        quiet, waiting_since_s = 0, 0.0
        for _ in range(ROUNDS_MAX):
            quiet = 0 if self._round() else quiet + 1
            if self.is_done:
                self._finish()
                return
            if quiet < QUIET_ROUNDS:
                continue
            if not any(_is_waiting(task) for task in self.tasks()):
                return
            waiting_since_s = waiting_since_s or time.monotonic()
            if time.monotonic() - waiting_since_s > OUTSIDE_SECONDS_MAX:
                break
            time.sleep(0.001)  # Nothing of ours can be done: it is another thread's turn.
        raise LocalProtocolError("the pipeline does not come to rest").hint(
            "is there a source that never ends among those kept, or a function that never returns?"
        )

    def checkpoint(self) -> CheckpointId:
        """Take a checkpoint and return its id.

        Raises:
            CheckpointError: it was given up.
        """
        before, self._manager.aborted = self._manager.completed, ""
        self._manager._checkpoints.coordinate(checkpoints.TriggerRequested(checkpoints.Wish()))
        self.settle()
        newest = self._manager.completed
        if newest == before:
            why = self._manager.aborted or "the job has ended"
            raise CheckpointError(f"the checkpoint was not completed: {why}")
        return newest

    def crash(self) -> None:
        """Drop everything that is not in the checkpoint store."""
        if not self._is_closed:
            self._is_closed = True
            self._launcher.close()
            self._recovery.close()

    def _round(self) -> bool:
        """Do one round of everything; return whether there was something to do."""
        self._manager.step()
        worker = self._launcher.worker
        if worker is None:
            return True
        worker.step()
        if worker.error is not None:
            error = worker.error
            self.crash()
            if isinstance(error, FlowsnapError):
                raise error
            raise LocalProtocolError(f"the engine failed: {error!r}") from error
        return worker.is_busy or worker.is_uploading or not worker.tasks

    def _finish(self) -> None:
        if self._is_closed:
            return
        try:
            if self._manager.result().state == "finished":
                self._recovery.finish()
        finally:
            self._is_closed = True
            self._manager.close()


def members(tasks: list[TaskRunner]) -> Iterator[tuple[TaskId, str, Any]]:
    """Yield the task, name and running copy of every operator of ``tasks``."""
    for task in tasks:
        for name, operator in task._chain._members:
            yield task.id, name, operator


def _is_waiting(task: TaskRunner) -> bool:
    """Return whether something outside of the job holds a task up."""
    if task._sink is not None and task._sink.is_committing:
        return True
    return any(isinstance(one, AsyncMap) and one._count for _, _, one in members([task]))


def _writer(deploy: Deploy) -> CheckpointWriter:
    root = Path(deploy.job_directory)
    return CheckpointWriter(root, deploy.attempt, DirectoryStore(root, UnsyncedFileSystem()))
