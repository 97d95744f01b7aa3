"""What a sink by key keeps that applies rows as they come: none is lost, the last one wins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.errors import OutputRefused, StoreUnavailable
from tests.contract.sinks import EAGER, Case, Faults, made


@pytest.fixture(params=EAGER)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """Yield a job and what its sink shows."""
    with made(request.param, request, tmp_path) as case:
        yield case


@pytest.mark.parametrize("hit", [1, 3])
@pytest.mark.parametrize(
    "point", ["recovered", "written", "complete", "sink.commit_called", "sink.committed"]
)
def test_crash_at_any_point_loses_nothing(case: Case, point: str, hit: int) -> None:
    job, visible = case
    job.submit()
    job.run_and_crash(point, hit)

    job.subtasks = 3
    job.run()

    assert set(visible()) >= set(job.written)
    assert len(visible()) == len(set(visible()))


def test_rows_are_seen_before_their_checkpoint(case: Case) -> None:
    job, visible = case
    job.submit()
    sink = job.open(0)
    sink.recover([])
    sink.write(Batch([1]))
    committable = sink.prepare(CheckpointId(1))
    sink.write(Batch([2]))
    job.commit(sink, committable)

    for _ in range(1_000):
        sink.write(Batch([3]))
        if 2 in visible():
            break

    assert {1, 2} <= set(visible())


def test_store_that_is_away_loses_nothing(case: Case) -> None:
    job, visible = case
    job.submit()
    Faults.planned[:] = ["before", "after", "before"]

    job.run()

    assert sorted(visible()) == sorted(job.written)


def test_store_that_is_away_for_too_long_fails_the_attempt_and_loses_nothing(case: Case) -> None:
    job, visible = case
    job.template.retry_timeout_ms = 30  # type: ignore[attr-defined]  # of the epoch log
    job.submit()
    Faults.planned[:] = ["before"] * 50
    with pytest.raises(StoreUnavailable):
        job.run()
    job.zombies.close()
    Faults.planned.clear()

    job.run()

    assert sorted(visible()) == sorted(job.written)


def test_refused_rows_fail_the_job_and_are_kept(case: Case) -> None:
    job, visible = case
    job.submit()
    Faults.planned[:] = ["refuse"] * 3
    with pytest.raises(OutputRefused):
        job.run()
    job.zombies.close()
    Faults.planned.clear()

    job.submit()
    job.run()

    assert sorted(visible()) == sorted(job.written)
