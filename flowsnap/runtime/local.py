"""The whole job in one process and one thread: a worker object instead of worker processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from flowsnap.core.ids import WorkerId
from flowsnap.core.message import Deploy
from flowsnap.errors import LocalProtocolError
from flowsnap.runtime.clock import Clock
from flowsnap.runtime.definition import PipelineDefinition
from flowsnap.runtime.worker import IDLE_MS, Edges, Worker
from flowsnap.storage.opening import open_writer
from flowsnap.transport.control import MemoryControl
from flowsnap.transport.plane import DataPlane


class Link(Protocol):
    """The worker's end of a control channel."""

    def greet(self) -> None:
        """Tell the job manager that the worker is there."""


AnyWorker = TypeVar("AnyWorker", bound=Worker)


class LocalLauncher(Generic[AnyWorker]):
    """Makes a worker in this very process; the loop around the job manager steps it."""

    def __init__(self, make: Callable[[WorkerId], tuple[AnyWorker, Link]]) -> None:
        self.worker: AnyWorker | None = None
        self._make = make

    def step(self) -> int:
        """Do one round of the worker; return in how many ms to come back."""
        return IDLE_MS if self.worker is None else self.worker.step()

    def launch(self, worker: WorkerId) -> None:
        self.kill(worker)
        self.worker, link = self._make(worker)
        link.greet()

    def kill(self, worker: WorkerId) -> None:
        if self.worker is not None:
            self.worker.drop()
            self.worker = None

    def deaths(self) -> list[tuple[WorkerId, str]]:
        return []

    def pids(self) -> dict[WorkerId, int]:
        return {}

    def close(self) -> None:
        self.kill(WorkerId(0))


def local_launcher(
    control: MemoryControl, definition: PipelineDefinition, clock: Clock
) -> LocalLauncher[Worker]:
    """Return the launcher of an in-process job.

    The operator templates are used as they are: each task runs a copy, and nothing is pickled.
    """
    edges = Edges(
        load_code=lambda _: definition.code, make_plane=refuse_plane, make_writer=open_writer
    )

    def make(id: WorkerId) -> tuple[Worker, Link]:
        link = control.client(id)
        return Worker(id, link, clock, edges), link

    return LocalLauncher(make)


def refuse_plane(deploy: Deploy, worker: WorkerId) -> DataPlane:
    """Make no data plane: the one worker of a job has nobody to talk to."""
    raise LocalProtocolError(f"worker {worker} of an in-process job has no others to talk to")
