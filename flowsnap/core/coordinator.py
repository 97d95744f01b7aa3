"""Which checkpoints are triggered, complete, aborted?

A checkpoint is triggered: the sources inject barriers, and every task acknowledges with its
snapshot once its part is durable. When all have, the manifest is written. **That write is the
commit point**: from then on the checkpoint exists, whoever dies; only then may anybody commit.

At most ``concurrent_max`` checkpoints are pending, one by default. Each collects acknowledgements
until all are there, a task declines or its time is over; then it waits for the outcome of the
write. While the write is under way the checkpoint cannot expire: it may exist already, and what may
exist must not be given up. Manifests are written one at a time and in order: a checkpoint that is
acknowledged by all before an older one is makes the older one useless, which is given up.

Invariants: ids strictly increase, and so do those of completed checkpoints; a manifest is asked for
only with the snapshots of all tasks, and only one at a time; every triggered checkpoint ends in
exactly one ``NotifyComplete`` or ``Abort``; nothing follows the completion of the final checkpoint,
nor ``FailAttempt``.

One coordinator serves one attempt: the driver drops messages of older attempts, and makes a new
coordinator, which goes on with higher ids, for the next one.

Not here: storage, retention, and who must commit what (see ``commit``).

Source: Carbone et al. 2015, algorithm 1; Flink, ``CheckpointCoordinator``; FLIP-147 for the final
checkpoint. Deviation: finished tasks acknowledge like the others.

>>> from flowsnap.core.ids import OperatorId
>>> a = TaskId("a/0")
>>> machine = CheckpointCoordinator(
...     [a], next_id=CheckpointId(7), interval_ms=100, timeout_ms=50, pause_ms_min=0, failures_max=0
... )
>>> machine.handle(Started(), now_ms=0)
[]
>>> machine.handle(TimePassed(), now_ms=100)
[InjectBarriers(checkpoint_id=7, wish=Wish(kind='checkpoint', alignment=None, initiators=()))]
>>> snapshot = TaskSnapshot(a, (OperatorId("a"),), 0)
>>> [write] = machine.handle(TaskAcknowledged(CheckpointId(7), snapshot), now_ms=120)
>>> write.checkpoint_id, write.duration_ms
(7, 20)
>>> machine.handle(ManifestWritten(CheckpointId(7)), now_ms=130)
[NotifyComplete(checkpoint_id=7, kind='checkpoint')]
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from flowsnap.core.ids import CheckpointId, OperatorId, TaskId
from flowsnap.core.manifest import TaskSnapshot
from flowsnap.errors import LocalProtocolError

CheckpointKind = Literal["checkpoint", "savepoint", "final"]
Alignment = Literal["aligned", "unaligned"]

_NAMES_MAX = 5


# --- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """The tasks of the attempt run: the first interval begins."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A deadline may have come, and all that was said before it has been told.

    Nothing else lets a checkpoint expire: an answer that waited to be read may have come in time.
    """


@dataclass(frozen=True, slots=True)
class Wish:
    """What kind of checkpoint is wanted; after the final one no task goes on reading.

    ``alignment``: None, as the job's others. ``initiators`` are operators that are to begin it by
    themselves, together with the sources and loops.
    """

    kind: CheckpointKind = "checkpoint"
    alignment: Alignment | None = None
    initiators: tuple[OperatorId, ...] = ()

    @property
    def is_final(self) -> bool:
        """Whether it is the last checkpoint of the attempt."""
        return self.kind == "final"


@dataclass(frozen=True, slots=True)
class TriggerRequested:
    """Somebody wants a checkpoint now."""

    wish: Wish


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """The input is to end where it is.

    From now on nothing but the final checkpoint is triggered: another would hold half of an end.
    """


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
    | DrainRequested
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
    wish: Wish


@dataclass(frozen=True, slots=True)
class DrainSources:
    """Tell the sources to end, behind the barriers that were injected before."""


@dataclass(frozen=True, slots=True)
class WriteManifest:
    """Write the manifest durably; answer ``ManifestWritten`` or ``ManifestFailed``.

    An unknown outcome is read back first, never assumed: there is no time limit for the answer.
    ``triggered_at_ms`` is on the clock of ``now_ms``. ``snapshots`` are ordered by task id.
    """

    checkpoint_id: CheckpointId
    kind: CheckpointKind
    triggered_at_ms: int
    duration_ms: int
    snapshots: tuple[TaskSnapshot, ...]


@dataclass(frozen=True, slots=True)
class NotifyComplete:
    """Tell every task, so that sinks commit, and then retire older checkpoints."""

    checkpoint_id: CheckpointId
    kind: CheckpointKind


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


Action = InjectBarriers | DrainSources | WriteManifest | NotifyComplete | Abort | FailAttempt


# --- the machine -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PendingCheckpoint:
    """A checkpoint under way, to look at. ``missing``: who has not acknowledged, by task id."""

    checkpoint_id: CheckpointId
    kind: CheckpointKind
    triggered_at_ms: int
    missing: tuple[TaskId, ...]

    @property
    def is_writing(self) -> bool:
        """Whether all have acknowledged, and the outcome of the manifest is awaited."""
        return not self.missing


@dataclass(slots=True)
class _Pending:
    checkpoint_id: CheckpointId
    wish: Wish
    triggered_at_ms: int
    missing: set[TaskId]
    snapshots: dict[TaskId, TaskSnapshot] = field(default_factory=dict)
    duration_ms: int = 0


class CheckpointCoordinator:
    """Which checkpoints of one attempt are triggered, complete, aborted?

    ``interval_ms`` counts from one periodic trigger to the next, but none comes before
    ``pause_ms_min`` after the last completion. A requested checkpoint waits for neither, only for
    room among the ``concurrent_max`` pending ones. After more than ``failures_max`` failures in a
    row the attempt fails.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of the user's
        self,
        tasks: Collection[TaskId],
        *,
        next_id: CheckpointId,
        interval_ms: int,
        timeout_ms: int,
        pause_ms_min: int,
        failures_max: int,
        concurrent_max: int = 1,
    ) -> None:
        if not tasks:
            raise LocalProtocolError("a checkpoint of no tasks would never be complete")
        self._tasks = frozenset(tasks)
        self._next_id = next_id
        self._interval_ms = interval_ms
        self._timeout_ms = timeout_ms
        self._pause_ms_min = pause_ms_min
        self._failures_max = failures_max
        self._concurrent_max = concurrent_max
        self._pending: dict[CheckpointId, _Pending] = {}
        self._writing: CheckpointId | None = None
        self._wishes: list[Wish] = []
        self._due_ms: int | None = None  # the next periodic trigger; None before ``Started``
        self._failures = 0
        self._is_draining = False
        self._is_over = False

    @property
    def pending(self) -> PendingCheckpoint | None:
        """The oldest checkpoint under way, if any."""
        return next(iter(self.all_pending), None)

    @property
    def all_pending(self) -> tuple[PendingCheckpoint, ...]:
        """The checkpoints under way, oldest first."""
        return tuple(
            PendingCheckpoint(
                one.checkpoint_id, one.wish.kind, one.triggered_at_ms, tuple(sorted(one.missing))
            )
            for one in self._pending.values()
        )

    def handle(self, event: Event, now_ms: int) -> list[Action]:
        """Take one event and return what must be done, in this order. ``now_ms`` is monotonic.

        Raises:
            LocalProtocolError: the event cannot be; nothing has changed.
        """
        if self._is_over:
            return []  # The attempt ends: answers to what was asked before are still on the way.
        self._check_possible(event)
        actions: list[Action] = []
        match event:
            case Started():
                self._due_ms = now_ms + self._interval_ms
            case TimePassed():
                actions = self._expire(now_ms)
            case TriggerRequested() | DrainRequested():
                actions = self._take(event)
            case TaskAcknowledged(checkpoint_id, snapshot):
                actions = self._acknowledge(checkpoint_id, snapshot, now_ms)
            case TaskDeclined(checkpoint_id, task, reason):
                actions = self._decline(checkpoint_id, task, reason)
            case ManifestWritten(checkpoint_id):
                actions = self._complete(checkpoint_id, now_ms)
            case _:  # ManifestFailed
                reason = f"the manifest was not written: {event.message}"
                actions = self._unwritten(event.checkpoint_id, reason)
        return actions + self._trigger_if_due(now_ms)

    def next_deadline_ms(self) -> int | None:
        """Return when ``TimePassed`` is wanted, or None: only another event changes anything."""
        if self._is_over:
            return None
        deadlines = [
            one.triggered_at_ms + self._timeout_ms for one in self._pending.values() if one.missing
        ]
        if self._has_room() and self._due_ms is not None and not self._is_draining:
            deadlines.append(self._due_ms)
        return min(deadlines, default=None)

    def check(self) -> None:
        """Assert the invariants."""
        assert 0 <= self._failures <= self._failures_max or self._is_over
        assert len(self._pending) <= self._concurrent_max
        assert list(self._pending) == sorted(self._pending)
        for one in self._pending.values():
            assert not self._is_over, "something is pending after the end"
            assert self._due_ms is not None, "triggered before the start"
            assert one.checkpoint_id < self._next_id
            assert one.missing | one.snapshots.keys() == self._tasks
            assert not one.missing & one.snapshots.keys()
        ready = [one.checkpoint_id for one in self._pending.values() if not one.missing]
        assert ready[:1] == ([] if self._writing is None else [self._writing])
        if self._has_room() and not self._is_over and self._due_ms is not None:
            assert not self._wishes, "a request waits although there is room"

    def _check_possible(self, event: Event) -> None:
        match event:
            case Started() if self._due_ms is not None:
                raise LocalProtocolError("the coordinator was started twice")
            case TaskAcknowledged(checkpoint_id, snapshot):
                self._check_known(checkpoint_id, snapshot.task, "acknowledged")
            case TaskDeclined(checkpoint_id, task):
                self._check_known(checkpoint_id, task, "declined")
            case ManifestWritten(checkpoint_id) | ManifestFailed(checkpoint_id):
                if checkpoint_id != self._writing:
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

    def _take(self, event: TriggerRequested | DrainRequested) -> list[Action]:
        if isinstance(event, TriggerRequested):
            self._request(event.wish)
            return []
        self._is_draining = True
        self._wishes = [wish for wish in self._wishes if wish.is_final]
        return [DrainSources()]

    def _request(self, wish: Wish) -> None:
        if any(one.wish.is_final for one in self._pending.values()):
            return  # The final checkpoint is under way: it holds all that a request could want.
        if wish.is_final:
            self._wishes = [wish]
        elif self._is_draining:
            return  # The final checkpoint comes as soon as the end has been processed.
        elif wish not in self._wishes and not any(one.is_final for one in self._wishes):
            self._wishes.append(wish)

    def _has_room(self) -> bool:
        newest = next(reversed(self._pending.values()), None)
        if newest is not None and newest.wish.is_final:
            return False  # Nothing comes after it.
        return len(self._pending) < self._concurrent_max

    def _trigger_if_due(self, now_ms: int) -> list[Action]:
        if self._is_over or self._due_ms is None or not self._has_room():
            return []
        if not self._wishes and (self._is_draining or now_ms < self._due_ms):
            return []
        checkpoint_id, wish = self._next_id, self._wishes.pop(0) if self._wishes else Wish()
        self._next_id = CheckpointId(checkpoint_id + 1)
        self._due_ms = now_ms + self._interval_ms
        self._pending[checkpoint_id] = _Pending(checkpoint_id, wish, now_ms, set(self._tasks))
        return [InjectBarriers(checkpoint_id, wish), *self._trigger_if_due(now_ms)]

    def _acknowledge(
        self, checkpoint_id: CheckpointId, snapshot: TaskSnapshot, now_ms: int
    ) -> list[Action]:
        pending = self._pending.get(checkpoint_id)
        if pending is None:
            return []  # Late: the checkpoint was aborted while the task was still at its part.
        if snapshot.task not in pending.missing:
            return []  # A duplicate: the first one counts, its files may be in the manifest.
        pending.missing.remove(snapshot.task)
        pending.snapshots[snapshot.task] = snapshot
        if pending.missing:
            return []
        pending.duration_ms = now_ms - pending.triggered_at_ms
        return self._overtake(checkpoint_id) + self._write()

    def _overtake(self, checkpoint_id: CheckpointId) -> list[Action]:
        """Give up what is older than a checkpoint that is acknowledged by all, and is not."""
        older = [id_ for id_, one in self._pending.items() if id_ < checkpoint_id and one.missing]
        for id_ in older:
            del self._pending[id_]
        return [Abort(id_, f"overtaken by checkpoint {checkpoint_id}") for id_ in older]

    def _write(self) -> list[Action]:
        """Ask for the oldest manifest that can be written, unless one is being written."""
        ready = next((one for one in self._pending.values() if not one.missing), None)
        if self._writing is not None or ready is None:
            return []
        self._writing = ready.checkpoint_id
        snapshots = tuple(ready.snapshots[task] for task in sorted(ready.snapshots))
        return [
            WriteManifest(
                ready.checkpoint_id,
                ready.wish.kind,
                ready.triggered_at_ms,
                ready.duration_ms,
                snapshots,
            )
        ]

    def _decline(self, checkpoint_id: CheckpointId, task: TaskId, reason: str) -> list[Action]:
        pending = self._pending.get(checkpoint_id)
        if pending is None:
            return []  # Late: another task declined first, or the time was over.
        if task not in pending.missing:
            return []  # Its part is durable already; the manifest may be on its way to the disk.
        return self._fail(checkpoint_id, f"task {task} declined: {reason}")

    def _complete(self, checkpoint_id: CheckpointId, now_ms: int) -> list[Action]:
        assert self._due_ms is not None
        kind = self._pending.pop(checkpoint_id).wish.kind
        self._writing = None
        self._failures = 0
        self._is_over = kind == "final"
        self._due_ms = max(self._due_ms, now_ms + self._pause_ms_min)
        return [NotifyComplete(checkpoint_id, kind), *self._write()]

    def _unwritten(self, checkpoint_id: CheckpointId, reason: str) -> list[Action]:
        self._writing = None
        actions = self._fail(checkpoint_id, reason)
        return actions if self._is_over else actions + self._write()

    def _expire(self, now_ms: int) -> list[Action]:
        actions: list[Action] = []
        for one in list(self._pending.values()):
            # With nobody missing the manifest is being written, and may be there already.
            is_late = now_ms >= one.triggered_at_ms + self._timeout_ms
            if one.missing and is_late and not self._is_over:
                names = sorted(one.missing)
                shown = ", ".join(names[:_NAMES_MAX])
                if len(names) > _NAMES_MAX:
                    shown += f" and {len(names) - _NAMES_MAX} more"
                reason = f"no acknowledgement within {self._timeout_ms} ms from {shown}"
                actions += self._fail(one.checkpoint_id, reason)
        return actions

    def _fail(self, checkpoint_id: CheckpointId, reason: str) -> list[Action]:
        is_final = self._pending.pop(checkpoint_id).wish.is_final
        self._failures += 1
        self._is_over = is_final or self._failures > self._failures_max
        abort = Abort(checkpoint_id, reason)
        if not self._is_over:
            return [abort]
        others = [Abort(id_, "the attempt ends") for id_ in self._pending if id_ != self._writing]
        self._pending.clear()
        self._writing = None
        why = f"{self._failures} checkpoints failed in a row, the last one: {reason}"
        if is_final:
            why = f"final checkpoint {checkpoint_id} failed: {reason}"
        return [abort, *others, FailAttempt(why)]
