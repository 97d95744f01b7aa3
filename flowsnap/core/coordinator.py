"""Which checkpoints are triggered, complete, aborted?

A checkpoint is triggered: the sources inject barriers, and every task acknowledges with its
snapshot once its part is durable. When all have, the manifest is written. **That write is the
commit point**: from then on the checkpoint exists, whoever dies; only then may anybody commit.

At most one checkpoint is pending. It collects acknowledgements until all are there, a task declines
or its time is over; then it waits for the outcome of the write. While the write is under way the
checkpoint cannot expire: it may exist already, and what may exist must not be given up.

Invariants: ids strictly increase; a manifest is asked for only with the snapshots of all tasks;
every triggered checkpoint ends in exactly one ``NotifyComplete`` or ``Abort``; nothing follows the
completion of the final checkpoint, nor ``FailAttempt``.

One coordinator serves one attempt: the driver drops messages of older attempts, and makes a new
coordinator, which goes on with higher ids, for the next one.

Not here: storage, retention, and who must commit what (see ``commit``).

Source: Carbone et al. 2015, algorithm 1; Flink, ``CheckpointCoordinator``; FLIP-147 for the final
checkpoint. Deviation: finished tasks acknowledge like the others, and checkpoints never overlap.

>>> from flowsnap.core.ids import OperatorId
>>> a = TaskId("a/0")
>>> machine = CheckpointCoordinator(
...     [a], next_id=CheckpointId(7), interval_ms=100, timeout_ms=50, pause_ms_min=0, failures_max=0
... )
>>> machine.handle(Started(), now_ms=0)
[]
>>> machine.handle(TimePassed(), now_ms=100)
[InjectBarriers(checkpoint_id=7, is_final=False)]
>>> snapshot = TaskSnapshot(a, (OperatorId("a"),), 0)
>>> [write] = machine.handle(TaskAcknowledged(CheckpointId(7), snapshot), now_ms=120)
>>> write.checkpoint_id, write.duration_ms
(7, 20)
>>> machine.handle(ManifestWritten(CheckpointId(7)), now_ms=130)
[NotifyComplete(checkpoint_id=7, is_final=False)]
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from flowsnap.core.ids import CheckpointId, TaskId
from flowsnap.core.manifest import TaskSnapshot
from flowsnap.errors import LocalProtocolError

CheckpointKind = Literal["checkpoint", "final"]

_NAMES_MAX = 5


# --- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The tasks of the attempt run: the first interval begins."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A deadline may have come."""


@dataclass(frozen=True, slots=True)
class TriggerRequested:
    """Somebody wants a checkpoint now, or the final one, after which no task goes on reading."""

    kind: CheckpointKind


@dataclass(frozen=True, slots=True)
class TaskAcknowledged:
    """A task's part of a checkpoint is durable."""

    checkpoint_id: CheckpointId
    snapshot: TaskSnapshot


@dataclass(frozen=True, slots=True)
class TaskDeclined:
    """A task could not make its part of a checkpoint."""

    checkpoint_id: CheckpointId
    task: TaskId
    reason: str


@dataclass(frozen=True, slots=True)
class ManifestWritten:
    """The manifest is durable: the checkpoint exists."""

    checkpoint_id: CheckpointId


@dataclass(frozen=True, slots=True)
class ManifestFailed:
    """The manifest is surely not there, and never will be."""

    checkpoint_id: CheckpointId
    message: str


Event = (
    Started
    | TimePassed
    | TriggerRequested
    | TaskAcknowledged
    | TaskDeclined
    | ManifestWritten
    | ManifestFailed
)


# --- actions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InjectBarriers:
    """Persist the id durably, and only then tell the sources to emit the barrier.

    An id that a crash could make us use twice would mix the files and commits of two checkpoints.
    At a final barrier the sources stop reading.
    """

    checkpoint_id: CheckpointId
    is_final: bool


@dataclass(frozen=True, slots=True)
class WriteManifest:
    """Write the manifest durably; answer ``ManifestWritten`` or ``ManifestFailed``.

    An unknown outcome is read back first, never assumed: there is no time limit for the answer.
    ``triggered_at_ms`` is on the clock of ``now_ms``. ``snapshots`` are ordered by task id.
    """

    checkpoint_id: CheckpointId
    is_final: bool
    triggered_at_ms: int
    duration_ms: int
    snapshots: tuple[TaskSnapshot, ...]


@dataclass(frozen=True, slots=True)
class NotifyComplete:
    """Tell every task, so that sinks commit, and then retire older checkpoints."""

    checkpoint_id: CheckpointId
    is_final: bool


@dataclass(frozen=True, slots=True)
class Abort:
    """Tell every task that the checkpoint is given up; it will never be complete.

    What was stored for it is no longer referenced by it, but perhaps by others: leave deleting to
    the collector.
    """

    checkpoint_id: CheckpointId
    reason: str


@dataclass(frozen=True, slots=True)
class FailAttempt:
    """Fail the attempt with ``reason``; this coordinator does nothing any more."""

    reason: str


Action = InjectBarriers | WriteManifest | NotifyComplete | Abort | FailAttempt


# --- the machine -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PendingCheckpoint:
    """A checkpoint under way, to look at. ``missing``: who has not acknowledged, by task id."""

    checkpoint_id: CheckpointId
    is_final: bool
    triggered_at_ms: int
    missing: tuple[TaskId, ...]

    @property
    def is_writing(self) -> bool:
        """Whether all have acknowledged, and the outcome of the manifest is awaited."""
        return not self.missing


@dataclass(slots=True)
class _Pending:
    checkpoint_id: CheckpointId
    is_final: bool
    triggered_at_ms: int
    missing: set[TaskId]
    snapshots: dict[TaskId, TaskSnapshot] = field(default_factory=dict)


class CheckpointCoordinator:
    """Which checkpoints of one attempt are triggered, complete, aborted?

    ``interval_ms`` counts from one periodic trigger to the next, but none comes before
    ``pause_ms_min`` after the last completion. A requested checkpoint waits for neither, only for
    the pending one. After more than ``failures_max`` failures in a row the attempt fails.
    """

    def __init__(
        self,
        tasks: Collection[TaskId],
        *,
        next_id: CheckpointId,
        interval_ms: int,
        timeout_ms: int,
        pause_ms_min: int,
        failures_max: int,
    ) -> None:
        if not tasks:
            raise LocalProtocolError("a checkpoint of no tasks would never be complete")
        self._tasks = frozenset(tasks)
        self._next_id = next_id
        self._interval_ms = interval_ms
        self._timeout_ms = timeout_ms
        self._pause_ms_min = pause_ms_min
        self._failures_max = failures_max
        self._pending: _Pending | None = None
        self._requested: CheckpointKind | None = None
        self._due_ms: int | None = None  # the next periodic trigger; None before ``Started``
        self._failures = 0
        self._is_over = False

    @property
    def pending(self) -> PendingCheckpoint | None:
        """The checkpoint under way, if any."""
        if self._pending is None:
            return None
        return PendingCheckpoint(
            self._pending.checkpoint_id,
            self._pending.is_final,
            self._pending.triggered_at_ms,
            tuple(sorted(self._pending.missing)),
        )

    def handle(self, event: Event, now_ms: int) -> list[Action]:
        """Take one event and return what must be done, in this order. ``now_ms`` is monotonic.

        Raises:
            LocalProtocolError: the event cannot be; nothing has changed.
        """
        if self._is_over:
            return []  # The attempt ends: answers to what was asked before are still on the way.
        self._check_possible(event)
        actions = self._expire(now_ms)
        match event:
            case Started():
                self._due_ms = now_ms + self._interval_ms
            case TimePassed():
                pass
            case TriggerRequested(kind):
                self._request(kind)
            case TaskAcknowledged(checkpoint_id, snapshot):
                actions += self._acknowledge(checkpoint_id, snapshot, now_ms)
            case TaskDeclined(checkpoint_id, task, reason):
                actions += self._decline(checkpoint_id, task, reason)
            case ManifestWritten():
                actions += self._complete(now_ms)
            case _:  # ManifestFailed
                actions += self._fail(f"the manifest was not written: {event.message}")
        return actions + self._trigger_if_due(now_ms)

    def next_deadline_ms(self) -> int | None:
        """Return when ``TimePassed`` is wanted, or None: only another event changes anything."""
        if self._is_over:
            return None
        if self._pending is None:
            return self._due_ms
        if not self._pending.missing:
            return None
        return self._pending.triggered_at_ms + self._timeout_ms

    def check(self) -> None:
        """Assert the invariants."""
        assert 0 <= self._failures <= self._failures_max or self._is_over
        if self._pending is not None:
            assert not self._is_over, "something is pending after the end"
            assert self._due_ms is not None, "triggered before the start"
            assert self._pending.checkpoint_id + 1 == self._next_id
            assert self._pending.missing | self._pending.snapshots.keys() == self._tasks
            assert not self._pending.missing & self._pending.snapshots.keys()
        elif not self._is_over and self._due_ms is not None:
            assert self._requested is None, "a request waits although nothing is pending"

    def _check_possible(self, event: Event) -> None:
        match event:
            case Started() if self._due_ms is not None:
                raise LocalProtocolError("the coordinator was started twice")
            case TaskAcknowledged(checkpoint_id, snapshot):
                self._check_known(checkpoint_id, snapshot.task, "acknowledged")
            case TaskDeclined(checkpoint_id, task):
                self._check_known(checkpoint_id, task, "declined")
            case ManifestWritten(checkpoint_id) | ManifestFailed(checkpoint_id):
                pending = self._pending
                if pending is None or pending.missing or pending.checkpoint_id != checkpoint_id:
                    raise LocalProtocolError(
                        f"no manifest of checkpoint {checkpoint_id} was asked for"
                    )
            case _:
                pass

    def _check_known(self, checkpoint_id: CheckpointId, task: TaskId, verb: str) -> None:
        if task not in self._tasks:
            raise LocalProtocolError(f"unknown task {task} {verb} checkpoint {checkpoint_id}")
        if checkpoint_id >= self._next_id:
            raise LocalProtocolError(
                f"task {task} {verb} checkpoint {checkpoint_id}, which was never triggered"
            )

    def _request(self, kind: CheckpointKind) -> None:
        if self._pending is not None and self._pending.is_final:
            return  # The final checkpoint is under way: it holds all that a request could want.
        if self._requested != "final":
            self._requested = kind

    def _trigger_if_due(self, now_ms: int) -> list[Action]:
        if self._is_over or self._pending is not None or self._due_ms is None:
            return []
        if self._requested is None and now_ms < self._due_ms:
            return []
        checkpoint_id, is_final = self._next_id, self._requested == "final"
        self._next_id = CheckpointId(checkpoint_id + 1)
        self._requested = None
        self._due_ms = now_ms + self._interval_ms
        self._pending = _Pending(checkpoint_id, is_final, now_ms, set(self._tasks))
        return [InjectBarriers(checkpoint_id, is_final)]

    def _acknowledge(
        self, checkpoint_id: CheckpointId, snapshot: TaskSnapshot, now_ms: int
    ) -> list[Action]:
        pending = self._pending
        if pending is None or pending.checkpoint_id != checkpoint_id:
            return []  # Late: the checkpoint was aborted while the task was still at its part.
        if snapshot.task not in pending.missing:
            return []  # A duplicate: the first one counts, its files may be in the manifest.
        pending.missing.remove(snapshot.task)
        pending.snapshots[snapshot.task] = snapshot
        if pending.missing:
            return []
        snapshots = tuple(pending.snapshots[task] for task in sorted(pending.snapshots))
        triggered_ms = pending.triggered_at_ms
        return [
            WriteManifest(
                checkpoint_id, pending.is_final, triggered_ms, now_ms - triggered_ms, snapshots
            )
        ]

    def _decline(self, checkpoint_id: CheckpointId, task: TaskId, reason: str) -> list[Action]:
        pending = self._pending
        if pending is None or pending.checkpoint_id != checkpoint_id:
            return []  # Late: another task declined first, or the time was over.
        if task not in pending.missing:
            return []  # Its part is durable already; the manifest may be on its way to the disk.
        return self._fail(f"task {task} declined: {reason}")

    def _complete(self, now_ms: int) -> list[Action]:
        assert self._pending is not None
        assert self._due_ms is not None
        checkpoint_id, is_final = self._pending.checkpoint_id, self._pending.is_final
        self._pending = None
        self._failures = 0
        self._is_over = is_final
        self._due_ms = max(self._due_ms, now_ms + self._pause_ms_min)
        return [NotifyComplete(checkpoint_id, is_final)]

    def _expire(self, now_ms: int) -> list[Action]:
        pending = self._pending
        # With nobody missing the manifest is being written, and may be there already.
        if pending is None or not pending.missing:
            return []
        if now_ms < pending.triggered_at_ms + self._timeout_ms:
            return []
        names = sorted(pending.missing)
        shown = ", ".join(names[:_NAMES_MAX])
        if len(names) > _NAMES_MAX:
            shown += f" and {len(names) - _NAMES_MAX} more"
        return self._fail(f"no acknowledgement within {self._timeout_ms} ms from {shown}")

    def _fail(self, reason: str) -> list[Action]:
        assert self._pending is not None
        checkpoint_id, is_final = self._pending.checkpoint_id, self._pending.is_final
        self._pending = None
        self._failures += 1
        self._is_over = is_final or self._failures > self._failures_max
        abort = Abort(checkpoint_id, reason)
        if is_final:
            return [abort, FailAttempt(f"final checkpoint {checkpoint_id} failed: {reason}")]
        if self._is_over:
            why = f"{self._failures} checkpoints failed in a row, the last one: {reason}"
            return [abort, FailAttempt(why)]
        return [abort]
