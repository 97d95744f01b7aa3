"""What every sink that commits keeps: whatever crashes, it shows what is committed, and once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowsnap.connectors import Collect
from tests.contract.sinks import BATCHES, SINKS, Case, Job, hidden, made

POINTS = [
    "opened", "recovered", "written", "sink.prepared", "complete",
    "sink.commit_called", "sink.committed", "finished",
]  # fmt: skip


@pytest.fixture(params=SINKS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """Yield a job and what its sink shows."""
    with made(request.param, request, tmp_path) as case:
        yield case


@pytest.mark.parametrize("hit", [1, 3])
@pytest.mark.parametrize("point", POINTS)
def test_crash_at_any_point_shows_no_uncommitted_record_and_in_the_end_each_once(
    case: Case, point: str, hit: int
) -> None:
    job, visible = case
    job.submit()
    job.run_and_crash(point, hit)
    assert set(visible()) <= set(job.written)

    job.run()

    assert sorted(visible()) == sorted(job.written)
    assert job.batches_done == len(BATCHES)


@pytest.mark.parametrize("point", POINTS)
def test_crash_of_a_recovery_is_recovered_from(case: Case, point: str) -> None:
    job, visible = case
    job.submit()
    job.run_and_crash("complete", 3)
    job.run_and_crash(point)

    job.run()

    assert sorted(visible()) == sorted(job.written)


@pytest.mark.parametrize("point", POINTS)
def test_whole_process_may_be_started_again(case: Case, point: str) -> None:
    job, visible = case
    job.submit()
    job.run_and_crash(point, 2)

    job.submit()
    job.run()

    assert sorted(visible()) == sorted(job.written)


@pytest.mark.parametrize("point", ["complete", "written", "sink.committed", "finished"])
def test_commit_that_is_late_is_of_its_own_epoch_and_not_of_the_one_being_written(
    case: Case, point: str
) -> None:
    job, visible = case
    job.is_late = True
    job.submit()
    job.run_and_crash(point, 2)
    assert set(visible()) <= set(job.written)

    job.run()

    assert sorted(visible()) == sorted(job.written)


@pytest.mark.parametrize("subtasks", [1, 3])
@pytest.mark.parametrize("point", ["complete", "sink.commit_called", "sink.committed"])
def test_what_is_pending_is_committed_once_with_another_parallelism(
    case: Case, point: str, subtasks: int
) -> None:
    job, visible = case
    job.submit()
    job.run_and_crash(point, 3)

    job.subtasks = subtasks
    job.run_and_crash("recovered")
    job.run()

    assert sorted(visible()) == sorted(job.written)


@pytest.mark.parametrize("point", ["complete", "sink.committed", "finished"])
def test_subtask_that_has_nothing_to_write_holds_nothing_up(case: Case, point: str) -> None:
    job, visible = case
    job.is_idle = lambda subtask: subtask == 1
    job.submit()
    job.run_and_crash(point, 3)

    job.run()

    assert sorted(visible()) == sorted(job.written)
    assert {value % 10 for value in visible()} == {0}


def test_job_in_which_nobody_writes_commits_nothing(case: Case) -> None:
    job, visible = case
    job.is_idle = lambda subtask: True
    job.submit()

    job.run()

    assert (visible(), job.pending, job.batches_done) == ([], [], len(BATCHES))


def test_another_job_from_an_older_savepoint_commits_all_that_it_writes(
    case: Case, tmp_path: Path
) -> None:
    job, visible = case
    if isinstance(job.template, Collect):
        return  # It shows what its own job has committed: no two jobs have the same target.
    job.submit()
    job.run_and_crash("complete", 3)
    savepoint = job.savepoint()
    job.run()
    shown = visible()

    # It begins to count its checkpoints below those that are committed, and writes other values.
    other = Job(job.template, tmp_path / "other", job.zombies, base=100)
    other.submit(savepoint)
    other.run()

    assert sorted(visible()) == sorted(shown + other.written)


def test_what_a_savepoint_holds_uncommitted_is_committed_by_the_first_that_restores_it(
    case: Case, tmp_path: Path
) -> None:
    job, visible = case
    job.submit()
    job.run_and_crash("complete", 4)
    written, pending = list(job.written), list(job.pending)

    job.submit()
    job.pending = pending
    job.run_and_crash("recovered")

    assert sorted(visible()) == sorted(written)


def test_finished_job_shows_everything_and_leaves_nothing_hidden(
    case: Case, tmp_path: Path
) -> None:
    job, visible = case
    job.submit()
    job.run_and_crash("written", 4)
    job.run()

    job.template.on_finish()

    assert sorted(visible()) == sorted(job.written)
    assert hidden(tmp_path) == []


def test_repeated_recovery_changes_nothing(case: Case) -> None:
    job, visible = case
    job.submit()
    job.run()
    shown = visible()

    job.run()
    job.run()

    assert visible() == shown
