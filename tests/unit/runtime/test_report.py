from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from flowsnap.config import JobConfig, Restart
from flowsnap.core.graph import build_execution_graph
from flowsnap.core.ids import AttemptId, CheckpointId, WorkerId
from flowsnap.core.job import AttemptFailed, CancelRequested, JobMachine, Submitted, WorkerCancelled
from flowsnap.core.restart import RestartPolicy
from flowsnap.runtime.attempt import Attempt, CodeBlob, Deployment
from flowsnap.runtime.report import Report
from tests.manifests import checkpoint, keyed_state, task, words


@pytest.fixture
def report() -> Report:
    return Report(words(), 2, now_ms=1_000)


@pytest.fixture
def machine() -> JobMachine:
    made = JobMachine(
        1, [task("lines/0")], RestartPolicy(Restart()), start_timeout_ms=100, cancel_timeout_ms=100
    )
    made.handle(Submitted(), 1_000)
    return made


def attempt() -> Attempt:
    graph = build_execution_graph(words(), 0)
    deployment = Deployment(
        job="words",
        run_id="r",
        attempt=AttemptId(4),
        restored_from=CheckpointId(3),
        next_checkpoint_id=CheckpointId(9),
        assignments=(),
        job_graph=words(),
        config=JobConfig(),
        code=CodeBlob("", ""),
        job_directory="",
        socket_directory=Path(),
        work_directory=Path(),
    )
    return Attempt(deployment, graph)


def test_a_new_report_says_that_nothing_has_happened(report: Report) -> None:
    assert (report.status.state, report.status.workers) == ("created", 2)
    assert report.describe_last_checkpoint() == "no checkpoint yet"


def test_the_status_is_made_anew_every_100_ms_or_when_the_state_changes(
    report: Report, machine: JobMachine
) -> None:
    report.update(1_000, machine, None)
    assert report.status.state == "starting"

    report.update(1_099, machine, None)
    assert report.status.uptime_ms == 0

    report.update(1_100, machine, None)
    assert report.status.uptime_ms == 100


def test_the_status_tells_the_attempt_and_where_it_began(
    report: Report, machine: JobMachine
) -> None:
    report.update(1_500, machine, attempt())

    assert (report.status.attempt, report.status.restored_from) == (4, 3)
    assert [operator.name for operator in report.status.operators] == ["lines", "count", "out"]


def test_a_checkpoint_is_pending_until_it_is_completed_or_given_up(
    report: Report, machine: JobMachine
) -> None:
    report.checkpoint_pending(CheckpointId(1))
    report.update(2_000, machine, None)
    assert report.status.pending_checkpoint == 1

    report.checkpoint_failed()
    report.checkpoint_pending(CheckpointId(2))
    report.checkpoint_completed(checkpoint(words(), number=2))
    report.update(3_000, machine, None)
    assert report.status.pending_checkpoint is None
    assert (report.status.checkpoints_completed, report.status.checkpoints_failed) == (1, 1)


def test_a_checkpoint_is_told_with_its_duration_and_what_was_new(report: Report) -> None:
    state = msgspec.structs.replace(keyed_state(0, 128, "a", "b"), new_bytes=100)
    report.checkpoint_completed(checkpoint(words(), {"count/0": {"state": state}}, number=5))

    assert report.describe_last_checkpoint() == (
        "checkpoint 5 completed in 12 ms, 200 bytes, 100 new"
    )


def test_a_new_attempt_has_no_pending_checkpoint(report: Report, machine: JobMachine) -> None:
    report.checkpoint_pending(CheckpointId(1))

    report.started(2_000)

    report.update(2_500, machine, None)
    assert report.status.pending_checkpoint is None


def test_the_result_counts_attempts_and_measures_from_the_first_record(
    report: Report, machine: JobMachine
) -> None:
    report.started(1_200)
    machine.handle(AttemptFailed("no luck", True), 1_300)
    report.started(1_800)
    machine.handle(CancelRequested(), 1_900)
    for worker in range(2):
        machine.handle(WorkerCancelled(WorkerId(0)), 1_900 + worker)
    report.update(2_000, machine, None)

    result = report.result(machine)

    assert (result.state, result.attempts, result.failures) == ("cancelled", 2, ("no luck",))
    assert (result.duration_ms, result.running_ms) == (1_000, 800)
