from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowsnap.config import Restart
from flowsnap.core.ids import AttemptId, CheckpointId
from flowsnap.core.manifest import TaskSnapshot
from flowsnap.core.message import (
    AbortCheckpoint,
    Acknowledged,
    Cancel,
    Cancelled,
    Committed,
    CompleteCheckpoint,
    Declined,
    Deployed,
    Shutdown,
    TaskEnded,
    TaskFailed,
    TriggerCheckpoint,
)
from flowsnap.errors import JobFailed, RestoreError, StorageError
from flowsnap.storage.job_directory import JobDirectory
from tests.jobs import stored
from tests.manifests import LINES
from tests.unit.runtime.world import COUNTER, FIRST, READER, SECOND, World

SOURCES = frozenset({READER})
RESTARTS = Restart(strategy="fixed", delay_ms=50, attempts_max=2)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, restart=RESTARTS, checkpoint_interval_ms=1_000, heartbeat_timeout_ms=500)
    yield made
    made.manager.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, workers=2, restart=RESTARTS)
    yield made
    made.manager.close()


# --- attempts


def test_tasks_start_when_every_worker_is_deployed(pair: World) -> None:
    pair.deploy()
    assert pair.kinds(SECOND) == ["Deploy"]

    pair.say(pair.tell(Deployed, worker=FIRST))
    assert pair.kinds() == []

    pair.say(pair.tell(Deployed, worker=SECOND), worker=SECOND)
    assert (pair.kinds(), pair.kinds(SECOND)) == (["Start"], ["Start"])


def test_a_worker_is_told_the_assignments_of_its_own_tasks_only(tmp_path: Path) -> None:
    world = World(tmp_path, workers=2)

    told = world.deploy()

    own = {spec.id for spec in told.graph.tasks if spec.worker == FIRST}
    assert {assignment.task for assignment in told.assignments} == own
    world.manager.close()


def test_a_worker_that_dies_is_replaced_and_the_next_attempt_begins(world: World) -> None:
    world.run()

    world.workers.die(FIRST, "process 7 was killed by SIGKILL")
    world.manager.step()
    world.pass_time(50)

    assert world.workers.launched == [FIRST, FIRST]
    assert world.deploy().attempt == 2
    assert world.manager.status.failures == ("worker 0: process 7 was killed by SIGKILL",)


def test_only_the_dead_worker_is_replaced_and_the_other_is_cancelled(pair: World) -> None:
    pair.run()
    pair.heard(SECOND)

    pair.workers.die(FIRST, "process 7 ended with exit code 3")
    pair.manager.step()
    assert pair.kinds(SECOND) == ["Cancel"]

    pair.say(pair.tell(Cancelled, worker=SECOND), worker=SECOND)
    pair.pass_time(50)
    pair.manager.step()
    assert pair.workers.launched == [FIRST, SECOND, FIRST]


def test_a_silent_worker_is_killed_and_replaced(world: World) -> None:
    world.run()

    world.clock.ms += 501
    world.manager.step()
    world.pass_time(50)

    assert world.workers.launched == [FIRST, FIRST]
    assert world.manager.status.failures == ("worker 0: silent for 500 ms",)


def test_a_worker_that_does_not_register_in_time_counts_as_a_failure(world: World) -> None:
    world.workers.is_mute = True
    world.manager.start()

    world.clock.ms += 60_001
    world.manager.step()

    assert world.manager.status.failures == ("not registered within 60000 ms: worker 0",)


def test_a_failed_task_ends_the_attempt_and_the_next_begins_after_the_delay(world: World) -> None:
    world.run()

    world.fail()
    world.cancel_done()
    assert world.kinds() == []

    world.pass_time(50)
    assert world.kinds() == ["Deploy"]
    assert world.workers.launched == [FIRST], "the process lives, and is used again"


def test_messages_of_an_older_attempt_are_ignored(world: World) -> None:
    world.run()
    world.pass_time(1_000)
    world.fail()
    world.cancel_done()
    world.pass_time(50)
    world.run()

    old = AttemptId(1)
    snapshot = TaskSnapshot(READER, (LINES,), 0)
    world.say(
        TaskEnded(attempt=old, task=READER),
        TaskEnded(attempt=old, task=COUNTER),
        Acknowledged(attempt=old, checkpoint_id=CheckpointId(1), snapshot=snapshot),
        TaskFailed(attempt=old, worker=FIRST, task=None, error_type="X", message="late"),
    )

    assert world.kinds() == []
    assert world.state == "running"


def test_a_job_without_a_restart_left_fails_with_its_history(world: World) -> None:
    for number in range(3):
        world.run()
        world.fail(f"reason {number}", notes=("look here",), traceback="Traceback: x")
        world.cancel_done()
        world.pass_time(50)

    with pytest.raises(JobFailed, match=r"task count/0: reason 2") as caught:
        world.manager.result()
    assert caught.value.history == tuple(
        f"worker 0: task count/0: reason {number}" for number in range(3)
    )
    assert caught.value.__notes__ == ["look here", "Traceback: x"]


def test_a_failure_that_no_restart_helps_ends_the_job_at_once(world: World) -> None:
    world.run()

    world.fail("a bug", is_restartable=False)
    world.cancel_done()

    assert world.manager.is_done
    assert world.kinds()[-1] == "Shutdown"
    with pytest.raises(JobFailed, match="a bug"):
        world.manager.result()


def test_an_attempt_that_cannot_begin_raises_its_own_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise RestoreError("the checkpoint is gone")

    monkeypatch.setattr(world.recovery, "begin_attempt", refuse)
    world.manager.start()
    world.manager.step()
    world.cancel_done()

    with pytest.raises(RestoreError, match="the checkpoint is gone"):
        world.manager.result()


@pytest.mark.parametrize("is_cause_first", [True, False])
def test_a_broken_connection_does_not_hide_the_error_that_broke_it(
    tmp_path: Path, is_cause_first: bool
) -> None:
    pair = World(tmp_path, workers=2, restart=Restart(strategy="none"))
    pair.run()
    reports = [
        pair.failed("the cause", traceback="Traceback: x"),
        pair.failed("the connection is lost", error_type="ConnectionLost", worker=SECOND),
    ]

    for report in reports if is_cause_first else reversed(reports):
        pair.say(report, worker=report.worker)
    for worker in (FIRST, SECOND):
        pair.say(pair.tell(Cancelled, worker=worker), worker=worker)

    with pytest.raises(JobFailed, match="the cause") as caught:
        pair.manager.result()
    assert caught.value.__notes__ == ["Traceback: x"]
    pair.manager.close()


def test_a_broken_connection_does_not_hide_the_death_that_broke_it(tmp_path: Path) -> None:
    pair = World(tmp_path, workers=2, restart=Restart(strategy="none"))
    pair.run()

    pair.workers.die(FIRST, "process 7 was killed by SIGSEGV")
    pair.manager.step()
    report = pair.failed("the connection is lost", error_type="ConnectionLost", worker=SECOND)
    pair.say(report, pair.tell(Cancelled, worker=SECOND), worker=SECOND)

    with pytest.raises(JobFailed, match="process 7 was killed by SIGSEGV"):
        pair.manager.result()
    pair.manager.close()


# --- checkpoints


def test_a_checkpoint_is_complete_when_its_manifest_is_written(world: World) -> None:
    world.run()
    world.pass_time(1_000)
    assert world.heard() == [world.tell(TriggerCheckpoint, checkpoint_id=1, tasks=SOURCES)]

    world.acknowledge(1, READER)
    assert world.kinds() == []

    world.acknowledge(1, COUNTER)
    assert world.heard() == [world.tell(CompleteCheckpoint, checkpoint_id=1)]
    assert world.recovery._directory.checkpoints() == [1]
    assert world.recovery._directory.read_manifest(CheckpointId(1)).attempt == 1


def test_the_next_attempt_begins_from_the_checkpoint(world: World) -> None:
    world.run()
    world.pass_time(1_000)
    world.acknowledge(1)
    world.fail()
    world.cancel_done()
    world.pass_time(50)
    world.run()
    world.pass_time(1_000)

    assert world.manager.status.restored_from == 1
    assert world.heard() == [world.tell(TriggerCheckpoint, checkpoint_id=2, tasks=SOURCES)]


def test_a_declined_checkpoint_is_aborted_everywhere_and_the_job_goes_on(world: World) -> None:
    world.run()
    world.pass_time(1_000)
    world.heard()

    world.say(world.tell(Declined, checkpoint_id=CheckpointId(1), task=COUNTER, reason="full"))

    assert world.heard() == [world.tell(AbortCheckpoint, checkpoint_id=1)]
    assert world.state == "running"
    assert world.manager.status.checkpoints_failed == 1


def test_what_a_declined_checkpoint_has_stored_is_deleted_at_once(world: World) -> None:
    """On a full disk no later one would complete, which deletes what is left of those before."""
    world.run()
    world.pass_time(1_000)
    directory = world.recovery._directory
    assert isinstance(directory, JobDirectory)
    (handle,) = stored(directory, 1, "000001.sst")

    world.say(world.tell(Declined, checkpoint_id=CheckpointId(1), task=COUNTER, reason="full"))

    assert not (directory.root / handle.path).exists()


def test_an_expired_checkpoint_is_aborted_and_its_late_acknowledgements_ignored(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, checkpoint_interval_ms=1_000, checkpoint_timeout_ms=300)
    world.run()
    world.pass_time(1_000)
    world.heard()

    world.pass_time(300)
    assert world.heard() == [world.tell(AbortCheckpoint, checkpoint_id=1)]

    world.acknowledge(1)
    assert world.kinds() == []
    assert world.recovery._directory.checkpoints() == []
    world.manager.close()


def test_too_many_failed_checkpoints_fail_the_attempt(tmp_path: Path) -> None:
    world = World(tmp_path, checkpoint_interval_ms=100, checkpoint_failures_max=1)
    world.run()
    for number in (1, 2):
        world.pass_time(100)
        declined = world.tell(
            Declined, checkpoint_id=CheckpointId(number), task=COUNTER, reason="full"
        )
        world.say(declined)

    assert "Cancel" in world.kinds()
    assert "2 checkpoints failed in a row" in world.manager.status.failures[0]
    world.manager.close()


def acknowledge_unwritten(world: World, error: StorageError) -> None:
    """Let all tasks acknowledge a checkpoint whose manifest the store does not take."""
    world.run()
    world.pass_time(1_000)
    world.heard()

    def write(_: Any) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.recovery, "write_manifest", write)
        world.acknowledge(1)


def test_a_manifest_of_unknown_outcome_fails_the_attempt_and_aborts_nothing(world: World) -> None:
    acknowledge_unwritten(world, StorageError("nobody knows", is_definite=False))

    assert world.kinds() == ["Cancel"]
    assert world.manager.status.failures == ("nobody knows",)


def test_a_manifest_that_is_surely_not_written_aborts_the_checkpoint_only(world: World) -> None:
    acknowledge_unwritten(world, StorageError("no space left"))

    assert world.kinds() == ["AbortCheckpoint"]
    assert world.state == "running"


def test_an_id_that_cannot_be_made_durable_is_never_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reserve(_: Any) -> None:
        raise StorageError("no space left")

    world.run()
    monkeypatch.setattr(world.recovery, "reserve", reserve)

    world.pass_time(1_000)

    assert world.kinds() == ["Cancel"]


# --- the end


def test_a_job_finishes_only_when_a_final_checkpoint_is_committed_by_every_sink(
    world: World,
) -> None:
    world.run()
    world.end_input()
    assert world.heard() == [
        world.tell(TriggerCheckpoint, checkpoint_id=1, tasks=SOURCES, is_final=True)
    ]

    world.acknowledge(1)
    assert world.heard() == [world.tell(CompleteCheckpoint, checkpoint_id=1)]
    assert not world.manager.is_done

    world.say(world.tell(Committed, checkpoint_id=CheckpointId(1), task=COUNTER))
    assert world.manager.result().state == "finished"
    assert world.heard() == [world.tell(Shutdown)]
    assert world.recovery._directory.read_manifest(CheckpointId(1)).kind == "final"


def test_a_commit_of_an_earlier_checkpoint_does_not_finish_the_job(world: World) -> None:
    world.run()
    world.pass_time(1_000)
    world.acknowledge(1)
    world.end_input()
    world.acknowledge(2)

    world.say(world.tell(Committed, checkpoint_id=CheckpointId(1), task=COUNTER))

    assert not world.manager.is_done


def test_a_final_checkpoint_that_fails_is_taken_again_by_the_next_attempt(world: World) -> None:
    world.run()
    world.end_input()
    world.say(world.tell(Declined, checkpoint_id=CheckpointId(1), task=COUNTER, reason="full"))
    world.cancel_done()
    world.pass_time(50)
    world.run()
    world.end_input()

    assert world.heard() == [
        world.tell(TriggerCheckpoint, checkpoint_id=2, tasks=SOURCES, is_final=True)
    ]
    world.finish(2)
    assert world.manager.result().attempts == 2


def test_stop_takes_a_last_checkpoint_at_which_the_sources_stop(world: World) -> None:
    world.run()

    world.manager.request_stop()
    world.manager.step()
    assert world.heard() == [
        world.tell(TriggerCheckpoint, checkpoint_id=1, tasks=SOURCES, is_final=True)
    ]

    world.finish(1)
    result = world.manager.result()
    assert (result.state, result.last_checkpoint) == ("stopped", 1)


def test_a_stop_is_not_forgotten_by_a_failure(world: World) -> None:
    world.run()
    world.manager.request_stop()
    world.manager.step()
    world.fail()
    world.cancel_done()
    world.pass_time(50)

    world.deploy()
    world.say(world.tell(Deployed, worker=FIRST))

    assert world.kinds() == ["Start", "TriggerCheckpoint"]


def test_cancel_ends_the_job_without_a_checkpoint(world: World) -> None:
    world.run()

    world.manager.request_cancel()
    world.manager.step()
    assert world.heard() == [world.tell(Cancel)]

    world.say(world.tell(Cancelled, worker=FIRST))
    assert world.manager.result().state == "cancelled"
    assert world.recovery._directory.checkpoints() == []


def test_a_worker_that_does_not_answer_a_cancel_is_killed(world: World) -> None:
    world.run()
    world.manager.request_cancel()
    world.manager.step()

    world.pass_time(10_001)

    assert world.manager.result().state == "cancelled"
    assert world.workers.ends == {}


def test_a_worker_that_has_not_registered_is_killed_at_the_end(world: World) -> None:
    world.workers.is_mute = True
    world.manager.start()

    world.manager.request_cancel()
    world.manager.step()

    assert world.manager.is_done
    assert world.workers.ends == {}, "it cannot be told, and nobody waits for it"


def test_the_outcome_is_recorded(world: World) -> None:
    world.run()
    world.end_input()

    world.finish(1)

    outcome = world.recovery._directory.outcome()
    assert outcome is not None
    assert (outcome.state, outcome.run_id) == ("finished", world.recovery.run_id)


def test_closing_ends_the_workers_and_releases_the_directory(tmp_path: Path) -> None:
    world = World(tmp_path)

    world.manager.close()

    assert world.workers.is_closed
    JobDirectory.open(tmp_path / "state", "words").close()
