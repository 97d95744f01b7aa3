"""Submits a pipeline and hands out the handle to the running job."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Literal

import msgspec
import zmq

from flowsnap import failpoint
from flowsnap.config import JobConfig
from flowsnap.core.coordinator import Wish
from flowsnap.core.graph import ExecutionGraph, build_execution_graph, validate
from flowsnap.core.ids import OperatorId, WorkerId
from flowsnap.core.requests import RequestKind, Result
from flowsnap.core.restore import NOTHING, Allowed
from flowsnap.errors import CheckpointError, FlowsnapError
from flowsnap.runtime.clock import SystemClock
from flowsnap.runtime.definition import PipelineDefinition, pickle_definition
from flowsnap.runtime.job_manager import JobManager, Surroundings
from flowsnap.runtime.launcher import ProcessLauncher
from flowsnap.runtime.local import local_launcher
from flowsnap.runtime.recovery import Recovery, Wanted
from flowsnap.runtime.scratch import Scratch
from flowsnap.runtime.status import JobResult, JobStatus
from flowsnap.storage import layout
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.object_url import StateDir, as_state_dir
from flowsnap.storage.opening import open_job
from flowsnap.storage.requests import Mailbox
from flowsnap.transport.control import ControlServer, MemoryControl

LOG = logging.getLogger("flowsnap")
ANSWER_POLL_S = 0.01


class JobHandle:
    """A running job. ``wait`` drives it where it has no thread of its own."""

    def __init__(self, driver: _Driver, *, in_thread: bool) -> None:
        self._driver = driver
        self._stops: dict[str, bool] = {}  # by the request's id: whether a savepoint was asked for
        self._thread: threading.Thread | None = None
        if in_thread:
            self._thread = threading.Thread(target=driver.run, name="flowsnap-job", daemon=True)
            self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether the job has ended and everything is released."""
        return self._driver.is_closed

    def status(self) -> JobStatus:
        """Return what the job is doing."""
        return self._driver.status

    def worker_pids(self) -> dict[int, int]:
        """Return the worker processes that run: worker id to process id."""
        return {int(worker): pid for worker, pid in self._driver.worker_pids().items()}

    def savepoint(self, name: str | None = None, *, timeout_s: float | None = None) -> StateDir:
        """Make a savepoint of the running job, and return where it is once it is complete.

        It holds all that was read until the call, and perhaps a little more. Without ``name`` it is
        called after its checkpoint. After a timeout it may still come to be.

        Raises:
            CheckpointError: none was made: there is one of that name, the checkpoint was given up,
                or the job has ended otherwise.
            TimeoutError: it was not complete within ``timeout_s``.
        """
        request_id = self._driver.ask("savepoint", savepoint=name or "")
        result = self._driver.await_result(request_id, timeout_s, drives=self._thread is None)
        if result.error:
            raise _refused(result)
        return as_state_dir(result.savepoint)

    def checkpoint(
        self,
        *,
        alignment: Literal["aligned", "unaligned"] | None = None,
        initiators: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> int:
        """Take a checkpoint now, and return its id once it is complete.

        ``alignment``: that of this one, if not the job's. ``initiators``: operators at which it is
        to begin by itself, without waiting for barriers; several may begin it at once.

        Raises:
            ConfigError: there is no such operator, or several checkpoints may be under way at once
                and it is to be unaligned.
            CheckpointError: it was given up, or the job has ended.
            TimeoutError: it was not complete within ``timeout_s``.
        """
        names = tuple(OperatorId(name) for name in initiators)
        wish = Wish("checkpoint", alignment, names)
        return self._driver.await_checkpoint(wish, timeout_s, drives=self._thread is None)

    def stop(self, *, savepoint: bool | str = False, drain: bool = False) -> None:
        """Ask the job to end in order, with a last checkpoint from which it can be resumed.

        Returns at once. ``savepoint``: make one of that checkpoint, of this name or called after
        it; ``JobResult.savepoint`` says where it is. ``drain``: have the input end where it is, so
        that every window fires and the job finishes; it is not to be resumed then.
        """
        name = savepoint if isinstance(savepoint, str) else ("" if savepoint else None)
        self._stops[self._driver.ask("stop", savepoint=name, is_drain=drain)] = name is not None

    def cancel(self) -> None:
        """Ask the job to end at once, without a checkpoint."""
        self._driver.ask("cancel")

    def wait(self, timeout_s: float | None = None) -> JobResult:
        """Wait for the end and return how it ended.

        Raises:
            TimeoutError: the job has not ended within ``timeout_s``.
            JobFailed: it failed.
            RestoreError: its checkpoint can't be restored.
            CheckpointError: it was stopped, but the savepoint that was asked for was not made.
        """
        if self._thread is None:
            self._driver.run(timeout_s)
        else:
            self._thread.join(timeout_s)
        if not self.is_done:
            raise TimeoutError(f"the job has not ended within {timeout_s} s")
        answers = {id_: self._driver.answer(id_) for id_ in self._stops}
        refused = {id_: answer for id_, answer in answers.items() if answer and answer.error}
        try:
            result = self._driver.result()
        except FlowsnapError as error:
            for reason in dict.fromkeys(answer.error for answer in refused.values()):
                error.add_note(reason)
            raise
        for id_, answer in refused.items():
            if self._stops[id_]:
                raise _refused(answer)
        made = [answer.savepoint for answer in answers.values() if answer and answer.savepoint]
        return msgspec.structs.replace(result, savepoint=made[0] if made else None)


def _refused(result: Result) -> CheckpointError:
    error = CheckpointError(result.error)
    return error.hint(result.hint) if result.hint else error


class _Driver:
    """The loop around a job manager, in whichever thread it is run."""

    def __init__(
        self, manager: JobManager, recovery: Recovery, step_local: Callable[[], int] | None
    ) -> None:
        self._manager = manager
        self._recovery = recovery
        self._step_local = step_local
        self._server: ControlServer | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._scratch: Scratch | None = None
        self._error: BaseException | None = None
        self._result: JobResult | None = None
        self._is_started = False
        self.is_closed = False

    @property
    def status(self) -> JobStatus:
        return self._manager.status

    def worker_pids(self) -> dict[WorkerId, int]:
        return self._manager.worker_pids()

    def ask(
        self, kind: RequestKind, *, savepoint: str | None = None, is_drain: bool = False
    ) -> str:
        return self._manager.desk.ask(kind, savepoint=savepoint, is_drain=is_drain)

    def answer(self, request_id: str) -> Result | None:
        return self._manager.desk.result(request_id)

    def await_result(self, request_id: str, timeout_s: float | None, *, drives: bool) -> Result:
        """Return the answer to a request; ``drives``: nobody but us runs the job."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while (result := self.answer(request_id)) is None:
            if self.is_closed and self.answer(request_id) is None:
                raise CheckpointError("the job had ended before it was asked")
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"no answer within {timeout_s} s")
            if drives:
                self.run(ANSWER_POLL_S)
            else:
                time.sleep(ANSWER_POLL_S)
        return result

    def await_checkpoint(self, wish: Wish, timeout_s: float | None, *, drives: bool) -> int:
        """Ask for a checkpoint and return its id; ``drives``: nobody but us runs the job."""
        future = self._manager.request_checkpoint(wish)
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not future.done():
            if self.is_closed and not future.done():
                raise CheckpointError("the job had ended before a checkpoint was taken")
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"no checkpoint was complete within {timeout_s} s")
            if drives:
                self.run(ANSWER_POLL_S)
            else:
                time.sleep(ANSWER_POLL_S)
        return int(future.result())

    def listen(self, server: ControlServer, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Sleep on this server's socket between rounds, and end its context with the job."""
        self._server, self._context = server, context

    def owns(self, scratch: Scratch) -> None:
        """Remove this directory when the job has ended."""
        self._scratch = scratch

    def run(self, timeout_s: float | None = None) -> None:
        """Run the job to its end, or for ``timeout_s``."""
        if self.is_closed:
            return
        until = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            if not self._is_started:
                self._is_started = True
                self._manager.start()
            while not self._manager.is_done:
                if until is not None and time.monotonic() >= until:
                    return
                self._round(until)
            self._finish()
        except BaseException as error:  # kept for whoever waits; only an interrupt goes on at once
            self._error = error
            self._close()
            if not isinstance(error, Exception):
                raise

    def result(self) -> JobResult:
        """Return how the job ended, or raise why it did not."""
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _round(self, until: float | None) -> None:
        wait_ms = self._manager.step()
        if self._manager.is_done:
            return
        if self._step_local is not None:
            wait_ms = min(wait_ms, self._step_local())
            if wait_ms:
                time.sleep(wait_ms / 1000)
        elif wait_ms and self._server is not None:
            left_ms = wait_ms if until is None else int((until - time.monotonic()) * 1000)
            self._server.socket.poll(max(0, min(wait_ms, left_ms)))

    def _finish(self) -> None:
        try:
            self._result = self._manager.result()
        except Exception as error:  # the end of the job, kept for whoever waits
            self._error = error
        self._close()

    def _close(self) -> None:
        """Release everything; whatever fails at it, the job has ended and ``wait`` returns."""
        if self.is_closed:
            return
        try:
            with ExitStack() as stack:
                if self._scratch is not None:
                    stack.callback(self._scratch.remove)
                if self._context is not None:
                    stack.callback(self._context.destroy, linger=0)
                stack.callback(self._manager.close)
                if self._result is not None and self._result.state == "finished":
                    self._recovery.finish()
        except Exception as error:
            self._error = self._error or error
        finally:
            self.is_closed = True


def start_job(
    definition: PipelineDefinition,
    config: JobConfig,
    *,
    state_dir: StateDir | None = None,
    restore: Wanted = "latest",
    allowed: Allowed = NOTHING,
    in_thread: bool = True,
) -> JobHandle:
    """Submit a pipeline and return the handle to the running job.

    ``state_dir``: where checkpoints are kept; None: in a temporary directory that goes with the
    job. ``restore``: "latest", "fresh", the id of a checkpoint, or the path of a savepoint;
    ``allowed``: how the pipeline may differ from it. ``in_thread``: the job manager runs in a
    thread of its own; otherwise it runs in ``JobHandle.wait``, on the caller's.

    Raises:
        ConfigError: the pipeline, a setting, an input or a target is not usable.
        RestoreError: the wanted checkpoint does not exist, or the pipeline does not fit it.
    """
    failpoint.arm_from_environment()
    validate(definition.graph)
    graph = build_execution_graph(definition.graph, config.workers)
    if config.workers:
        pickle_definition(definition)  # what cannot travel is found before anything is touched
    directory, scratch = _places(state_dir, definition.graph.name)
    recovery = Recovery(directory, definition, scratch.path, restore, allowed)
    mailbox = Mailbox(directory.root / layout.REQUESTS)
    try:
        mailbox.open()
        recovery.submit()
        if config.workers:
            recovery.publish_code(pickle_definition(definition))
        driver = _driver(definition, config, graph, recovery, mailbox)
    except BaseException:
        recovery.close()
        scratch.remove()
        raise
    driver.owns(scratch)
    return JobHandle(driver, in_thread=in_thread)


def _places(state_dir: StateDir | None, job: str) -> tuple[JobDirectory, Scratch]:
    """Take the job's directory first: where another job manager has it, nothing else is touched."""
    with ExitStack() as undo:
        directory = None
        if state_dir is not None:
            directory = open_job(state_dir, job)
            undo.callback(directory.close)
        scratch = Scratch.make()
        undo.callback(scratch.remove)
        directory = directory or open_job(scratch.path / "state", job)
        undo.pop_all()
    return directory, scratch


def _driver(
    definition: PipelineDefinition,
    config: JobConfig,
    graph: ExecutionGraph,
    recovery: Recovery,
    mailbox: Mailbox,
) -> _Driver:
    clock = SystemClock()
    if not config.workers:
        memory = MemoryControl()
        local = local_launcher(memory, definition, clock)
        around = Surroundings(clock, memory.server, local, recovery, mailbox=mailbox)
        return _Driver(JobManager(graph, config, around), recovery, local.step)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    launcher = ProcessLauncher(recovery.scratch, config.heartbeat_interval_ms)
    server = ControlServer(context, recovery.scratch, launcher.token)
    around = Surroundings(clock, server, launcher, recovery, mailbox=mailbox)
    driver = _Driver(JobManager(graph, config, around), recovery, None)
    driver.listen(server, context)
    return driver
