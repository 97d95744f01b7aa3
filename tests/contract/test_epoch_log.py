"""What every sink of the epoch log keeps while its store fails: each record once, none lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.errors import OutputRefused, StorageError, StoreUnavailable
from tests.contract.sinks import EPOCH_LOGS, Case, Faults, Job, made, through_manifest

LOST_ANSWERS = [
    ["after"], ["before"], ["after", "before"], ["before", "after"], ["", "after", "after"],
    ["", "", "", "before"], ["after"] * 4,
]  # fmt: skip


@pytest.fixture(params=EPOCH_LOGS)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """Yield a job and what its sink shows."""
    with made(request.param, request, tmp_path) as case:
        yield case


@pytest.fixture(params=[name for name in EPOCH_LOGS if name != "committed callback"])
def fenced(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """Yield a job whose store shuts older attempts out, and what its sink shows."""
    with made(request.param, request, tmp_path) as case:
        yield case


def impatient(job: Job, retry_timeout_ms: int = 0) -> None:
    """Have a job's sinks try every commit once, or for a while."""
    job.template.retry_timeout_ms = retry_timeout_ms  # type: ignore[attr-defined]  # of the epoch log


@pytest.mark.parametrize("faults", LOST_ANSWERS, ids=str)
def test_commit_of_unknown_outcome_is_repeated_and_shows_each_record_once(
    case: Case, faults: list[str]
) -> None:
    job, visible = case
    job.submit()
    Faults.planned[:] = faults

    job.run()

    assert sorted(visible()) == sorted(job.written)
    assert Faults.planned == []


@pytest.mark.parametrize("subtasks", [1, 2, 3])
@pytest.mark.parametrize("fault", ["before", "after"])
def test_attempt_that_fails_over_an_unknown_outcome_is_made_good_by_the_next(
    case: Case, fault: str, subtasks: int
) -> None:
    job, visible = case
    impatient(job)
    job.submit()
    Faults.planned[:] = ["", "", fault]
    with pytest.raises(StoreUnavailable):
        job.run()

    job.subtasks = subtasks
    job.run()

    assert sorted(visible()) == sorted(job.written)


def test_store_that_is_away_for_longer_than_is_waited_for_fails_the_attempt_and_loses_nothing(
    case: Case,
) -> None:
    job, visible = case
    impatient(job, 30)
    job.submit()
    Faults.planned[:] = ["before"] * 50
    with pytest.raises(StoreUnavailable) as caught:
        job.run()
    assert caught.value.restartable
    assert visible() == []

    job.run_and_crash("finished")
    Faults.planned.clear()
    job.run()

    assert sorted(visible()) == sorted(job.written)


def test_records_come_in_while_the_store_is_away(case: Case) -> None:
    job, visible = case
    job.submit()
    sink = job.open(0)
    sink.recover([])
    sink.write(Batch([1]))
    first = sink.prepare(CheckpointId(1))
    Faults.planned[:] = ["before"] * 3

    assert sink.commit([first]) is False
    assert sink.can_accept()
    sink.write(Batch([2]))
    second = sink.prepare(CheckpointId(2))
    assert not sink.can_accept()  # Two epochs are as many as may wait.

    for committable in (first, second):
        job.commit(sink, committable)
    assert sorted(visible()) == [1, 2]
    assert sink.can_accept()


def test_refused_output_fails_the_job_and_is_kept_until_the_store_takes_it(case: Case) -> None:
    job, visible = case
    job.submit()
    Faults.planned[:] = ["", "", "refuse"]
    with pytest.raises(OutputRefused) as caught:
        job.run()
    assert not caught.value.restartable

    Faults.planned[:] = ["refuse"]
    with pytest.raises(OutputRefused):
        job.run()  # Nor does the recovery of the same checkpoint take it for committed.
    job.submit()
    job.run()

    assert sorted(visible()) == sorted(job.written)


def test_attempt_that_has_been_replaced_commits_nothing_of_its_own(fenced: Case) -> None:
    job, visible = fenced
    job.submit()
    job.attempt = 1
    zombie = job.open(1)
    zombie.write(Batch([7]))
    committable = zombie.prepare(CheckpointId(99))

    job.attempt = 1
    job.run()
    with pytest.raises(StorageError, match=r"attempt 1 of operator 'out' is over: 2 writes"):
        job.commit(zombie, committable)

    assert sorted(visible()) == sorted(job.written)


def test_attempt_that_has_been_replaced_recovers_nothing(fenced: Case) -> None:
    job, visible = fenced
    job.submit()
    job.attempt = 1
    zombie = job.open(0)
    job.run()

    with pytest.raises(StorageError, match="attempt 1 of operator 'out' is over"):
        zombie.recover([])

    assert sorted(visible()) == sorted(job.written)


def test_marker_is_of_who_wrote_the_epoch_and_not_of_who_commits_it(case: Case) -> None:
    job, visible = case
    job.submit()
    job.run_and_crash("complete", 3)
    pending = through_manifest(job.pending)
    job.subtasks = 4
    job.attempt += 1

    for subtask in range(4):
        job.open(subtask).recover(pending)

    assert sorted(visible()) == sorted(job.written)
