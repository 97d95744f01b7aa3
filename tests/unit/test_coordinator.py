"""What the scripts in scenarios/coordinator do not show."""

from __future__ import annotations

import doctest

import pytest

from flowsnap.core import coordinator
from flowsnap.core.coordinator import (
    CheckpointCoordinator,
    InjectBarriers,
    ManifestWritten,
    NotifyComplete,
    PendingCheckpoint,
    Started,
    TaskAcknowledged,
    TimePassed,
    TriggerRequested,
    Wish,
    WriteManifest,
)
from flowsnap.core.ids import CheckpointId, OperatorId, TaskId
from flowsnap.core.manifest import TaskSnapshot
from flowsnap.errors import LocalProtocolError

A, B = TaskId("a/0"), TaskId("b/0")
ONE, TWO = CheckpointId(1), CheckpointId(2)


def make(*tasks: TaskId) -> CheckpointCoordinator:
    return CheckpointCoordinator(
        tasks, next_id=ONE, interval_ms=100, timeout_ms=1_000, pause_ms_min=0, failures_max=1
    )


def triggered(*tasks: TaskId) -> CheckpointCoordinator:
    machine = make(*tasks)
    machine.handle(Started(), 0)
    assert machine.handle(TimePassed(), 100) == [InjectBarriers(ONE, Wish())]
    return machine


def snapshot(task: TaskId, *, is_ended: bool = False) -> TaskSnapshot:
    return TaskSnapshot(task, (OperatorId(task[0]),), 0, is_ended)


def test_the_manifest_gets_the_very_snapshots_ordered_by_task() -> None:
    machine = triggered(B, A)
    machine.handle(TaskAcknowledged(ONE, snapshot(B, is_ended=True)), 120)

    actions = machine.handle(TaskAcknowledged(ONE, snapshot(A)), 130)

    assert actions == [
        WriteManifest(ONE, "checkpoint", 100, 30, (snapshot(A), snapshot(B, is_ended=True)))
    ]


def test_the_first_of_two_acknowledgements_is_the_one_that_counts() -> None:
    machine = triggered(A, B)
    machine.handle(TaskAcknowledged(ONE, snapshot(A, is_ended=True)), 120)
    machine.handle(TaskAcknowledged(ONE, snapshot(A)), 121)

    [write] = machine.handle(TaskAcknowledged(ONE, snapshot(B)), 130)

    assert isinstance(write, WriteManifest)
    assert write.snapshots[0].is_ended


def test_nobody_is_notified_before_the_manifest_is_written() -> None:
    machine = triggered(A)
    actions = machine.handle(TaskAcknowledged(ONE, snapshot(A)), 120)
    assert not any(isinstance(action, NotifyComplete) for action in actions)

    assert machine.handle(ManifestWritten(ONE), 130) == [NotifyComplete(ONE, "checkpoint")]


def test_a_pending_checkpoint_shows_who_is_missing() -> None:
    machine = triggered(B, A)
    assert machine.pending == PendingCheckpoint(ONE, "checkpoint", 100, (A, B))

    machine.handle(TaskAcknowledged(ONE, snapshot(A)), 120)

    assert machine.pending == PendingCheckpoint(ONE, "checkpoint", 100, (B,))
    assert not machine.pending.is_writing


def test_a_pending_checkpoint_shows_that_its_manifest_is_being_written() -> None:
    machine = triggered(A)

    machine.handle(TaskAcknowledged(ONE, snapshot(A)), 120)

    assert machine.pending is not None
    assert machine.pending.is_writing


def test_nothing_is_pending_before_the_first_trigger_and_after_the_last() -> None:
    machine = make(A)
    assert machine.pending is None
    machine.handle(TriggerRequested(Wish("final")), 0)
    machine.handle(Started(), 0)
    machine.handle(TaskAcknowledged(ONE, snapshot(A)), 10)

    machine.handle(ManifestWritten(ONE), 20)

    assert machine.pending is None
    assert machine.next_deadline_ms() is None


def test_ids_go_on_where_the_last_attempt_ended() -> None:
    machine = CheckpointCoordinator(
        [A],
        next_id=CheckpointId(42),
        interval_ms=1,
        timeout_ms=1,
        pause_ms_min=0,
        failures_max=9,
    )
    machine.handle(Started(), 0)

    ids = [
        action.checkpoint_id
        for now_ms in range(1, 5)
        for action in machine.handle(TimePassed(), now_ms)
        if isinstance(action, InjectBarriers)
    ]

    assert ids == [42, 43, 44, 45]


def test_a_job_of_no_tasks_is_refused() -> None:
    with pytest.raises(LocalProtocolError):
        make()


def test_the_session_in_the_docstring_is_true() -> None:
    assert doctest.testmod(coordinator).failed == 0
