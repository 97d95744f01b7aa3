"""What was last heard of each worker, who owes an answer, and until when?

A worker is told something (come up, deploy, cancel) and answers. All are told the same at a time,
so there is one kind of answer that is awaited, and one deadline for it. Who is late, or dies, is
down until it is launched anew.

Answers that nobody awaits are ignored: they crossed with the next thing that the worker was told,
or they are the last words of a process that has been killed meanwhile.

This is a part of ``job``, whose machine decides what to tell; nothing here knows of attempts.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum, auto

from flowsnap.core.ids import WorkerId


class WorkerStatus(Enum):
    """What was last heard of a worker."""

    DOWN = auto()  # no process, or a dead one
    LAUNCHED = auto()
    UP = auto()  # without tasks
    ASSIGNED = auto()  # was told to deploy
    DEPLOYED = auto()
    CANCELLING = auto()  # was told to drop its tasks


class Fleet:
    """The workers of one job, 0 to ``count - 1``."""

    def __init__(self, count: int) -> None:
        self.deadline_ms = 0
        self._statuses = {WorkerId(worker): WorkerStatus.DOWN for worker in range(count)}
        self._awaited: WorkerStatus | None = None

    def __contains__(self, worker: object) -> bool:
        return worker in self._statuses

    @property
    def statuses(self) -> frozenset[WorkerStatus]:
        """Every status that some worker has."""
        return frozenset(self._statuses.values())

    def status(self, worker: WorkerId) -> WorkerStatus:
        """Return what was last heard of a worker, which must exist."""
        return self._statuses[worker]

    def launch(self, deadline_ms: int) -> tuple[WorkerId, ...]:
        """Have every worker up by ``deadline_ms``; return those that must be launched for it."""
        return self._tell({WorkerStatus.DOWN}, WorkerStatus.LAUNCHED, deadline_ms)

    def assign(self, deadline_ms: int) -> tuple[WorkerId, ...]:
        """Have every worker that is up deployed by ``deadline_ms``; return them."""
        return self._tell({WorkerStatus.UP}, WorkerStatus.ASSIGNED, deadline_ms)

    def cancel(self, deadline_ms: int) -> tuple[WorkerId, ...]:
        """Have the tasks of every worker dropped by ``deadline_ms``; return those that have some.

        Who was told before keeps the old deadline.
        """
        busy = {WorkerStatus.ASSIGNED, WorkerStatus.DEPLOYED}
        return self._tell(busy, WorkerStatus.CANCELLING, deadline_ms)

    def answer(self, worker: WorkerId, asked: WorkerStatus, heard: WorkerStatus) -> None:
        """Note the answer of a worker to what put it into the status ``asked``."""
        if self._statuses[worker] is asked:
            self._statuses[worker] = heard

    def lose(self, worker: WorkerId) -> bool:
        """Note that a worker is down; return whether that is news."""
        was = self._statuses[worker]
        self._statuses[worker] = WorkerStatus.DOWN
        return was is not WorkerStatus.DOWN

    def lose_late(self, now_ms: int) -> tuple[WorkerId, ...]:
        """Note that those are down whose answer is overdue, and return them."""
        if now_ms < self.deadline_ms:
            return ()
        late = self.awaited()
        self._statuses.update(dict.fromkeys(late, WorkerStatus.DOWN))
        return late

    def awaited(self) -> tuple[WorkerId, ...]:
        """Return who owes an answer."""
        return tuple(worker for worker, was in self._statuses.items() if was is self._awaited)

    def _tell(
        self, who: Collection[WorkerStatus], status: WorkerStatus, deadline_ms: int
    ) -> tuple[WorkerId, ...]:
        told = tuple(worker for worker, was in self._statuses.items() if was in who)
        self._statuses.update(dict.fromkeys(told, status))
        if told or status is not self._awaited:
            self.deadline_ms = deadline_ms
        self._awaited = status
        return told
