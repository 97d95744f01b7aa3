"""The whole job in one process and one thread: a worker object instead of worker processes."""

from __future__ import annotations

from collections.abc import Callable

from flowsnap.core.ids import AttemptId, WorkerId
from flowsnap.core.message import WorkerReady
from flowsnap.runtime.worker import IDLE_MS, ControlLink, Worker


class LocalLauncher:
    """Makes a worker in this very process; the loop around the job manager steps it."""

    def __init__(self, control: ControlLink, make_worker: Callable[[], Worker]) -> None:
        self._control = control
        self._make_worker = make_worker
        self._worker: Worker | None = None

    def step(self) -> int:
        """Do one round of the worker; return in how many ms to come back."""
        return IDLE_MS if self._worker is None else self._worker.step()

    def launch(self, worker: WorkerId) -> None:
        self.kill(worker)
        self._worker = self._make_worker()
        self._control.send(WorkerReady(attempt=AttemptId(0), worker=worker, token="", pid=0))

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
