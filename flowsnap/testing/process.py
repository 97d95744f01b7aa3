"""Simulated processes, stepped by the scheduler, each with a helper thread of its own.

A process is woken by what arrives and by its own wish. A crash unwinds out of it as a
``SimulatedCrash``, and nothing of it takes effect afterwards. A paused process keeps what arrives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import TYPE_CHECKING, Any

from flowsnap.errors import FlowsnapError
from flowsnap.testing.clock import ProcessClock
from flowsnap.testing.disk_files import DiskFileSystem
from flowsnap.testing.faults import SimulatedCrash

if TYPE_CHECKING:
    from flowsnap.testing.cluster import Cluster

STEP_US = (20, 250)
UPLOAD_US = (100, 6_000)


class Process:
    """One process of the machine: alive, paused or dead."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self.cluster = cluster
        self.world = cluster.world
        self.pid = cluster.next_pid()
        self.is_alive = True
        self.is_paused = False
        self.clock = ProcessClock(self.world.time, self.world.schedule.randrange(1_000_000))
        self.files = DiskFileSystem(cluster.disk, self)
        self._slowness = self.world.schedule.choice((1, 1, 1, 4))
        self._chance = self.world.schedule.random
        self._next_us: int | None = None
        self._busy_until_us = 0

    def wake(self, at_us: int) -> None:
        """Have it step at a moment, or earlier."""
        at_us = max(at_us, self._busy_until_us, self.world.time.now_us)
        if self.is_alive and (self._next_us is None or at_us < self._next_us):
            self._next_us = at_us
            self.world.at(at_us, partial(self._on_time, at_us))

    def resume(self) -> None:
        """Go on after a pause."""
        self.is_paused = False
        self._next_us = None
        self.wake(self.world.now_us)

    def run(self, work: Callable[[], int]) -> None:
        """Do some work as this process, and come back when it says."""
        try:
            wait_ms = work()
        except SimulatedCrash:
            return
        low, high = STEP_US
        cost_us = (low + int(self._chance() * (high - low))) * self._slowness
        self._busy_until_us = self.world.now_us + cost_us
        self.wake(self.world.now_us + max(cost_us, wait_ms * 1000))

    def step(self) -> int:
        """Do one round; return in how many ms to come back."""
        raise NotImplementedError(f"{type(self).__name__}.step")

    def _on_time(self, at_us: int) -> None:
        if self.is_alive and not self.is_paused and self._next_us == at_us:
            self._next_us = None
            self.run(self.step)


class _Awaited(Future[Any]):
    """A future; who asks for its result before it is there, waits until it is."""

    def __init__(self, queue: UploadQueue) -> None:
        super().__init__()
        self._queue = queue

    def result(self, timeout: float | None = None) -> Any:
        self._queue.finish(self)
        return super().result(timeout=0)


class UploadQueue(Executor):
    """The helper thread of a process: one job at a time, in order, each after a while."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = _Awaited(self)
        self._jobs.append((future, lambda: fn(*args, **kwargs)))
        if len(self._jobs) == 1:
            self._schedule()
        return future

    def finish(self, future: Future[Any]) -> None:
        """Carry out everything up to a job, because the process waits for it."""
        while self._jobs and not future.done():
            self._carry_out()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Carry the job at hand out, or it had not begun; forget the others."""
        if self._jobs and self._world.schedule.random() < 0.5:
            self._carry_out()
        self._jobs.clear()

    def _schedule(self) -> None:
        low, high = UPLOAD_US
        slow = 8 if self._world.schedule.random() < 0.1 else 1
        self._world.after(self._world.schedule.randint(low, high) * slow, self._next)

    def _next(self) -> None:
        if not self._process.is_alive or not self._jobs:
            return
        if self._process.is_paused:
            self._schedule()
            return
        try:
            self._carry_out()
        except SimulatedCrash:
            return
        if self._jobs:
            self._schedule()
        self._process.wake(self._world.now_us)

    def _carry_out(self) -> None:
        future, job = self._jobs.popleft()
        try:
            future.set_result(job())
        except FlowsnapError as error:
            future.set_exception(error)
