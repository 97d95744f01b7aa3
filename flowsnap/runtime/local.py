"""The whole job in one process and one thread: a worker object instead of worker processes."""

from __future__ import annotations

from flowsnap.core.ids import WorkerId
from flowsnap.core.message import Deploy
from flowsnap.errors import LocalProtocolError
from flowsnap.runtime.clock import Clock
from flowsnap.runtime.definition import PipelineDefinition
from flowsnap.runtime.worker import IDLE_MS, Edges, Worker
from flowsnap.storage.opening import open_writer
from flowsnap.transport.control import MemoryControl
from flowsnap.transport.plane import DataPlane


class LocalLauncher:
    """Makes a worker in this very process; the loop around the job manager steps it.

    The operator templates are used as they are: each task runs a copy, and nothing is pickled.
    """

    def __init__(
        self, control: MemoryControl, definition: PipelineDefinition, clock: Clock
    ) -> None:
        self._control = control
        self._definition = definition
        self._clock = clock
        self._worker: Worker | None = None

    def step(self) -> int:
        """Do one round of the worker; return in how many ms to come back."""
        return IDLE_MS if self._worker is None else self._worker.step()

    def launch(self, worker: WorkerId) -> None:
        self.kill(worker)
        client = self._control.client(worker)
        edges = Edges(
            load_code=lambda _: self._definition.code,
            make_plane=_refuse_plane,
            make_writer=open_writer,
        )
        self._worker = Worker(worker, client, self._clock, edges)
        client.greet()

    def kill(self, worker: WorkerId) -> None:
        if self._worker is not None:
            self._worker.drop()
            self._worker = None

    def deaths(self) -> list[tuple[WorkerId, str]]:
        return []

    def pids(self) -> dict[WorkerId, int]:
        return {}

    def close(self) -> None:
        self.kill(WorkerId(0))


def _refuse_plane(deploy: Deploy, worker: WorkerId) -> DataPlane:
    raise LocalProtocolError(f"worker {worker} of an in-process job has no others to talk to")
