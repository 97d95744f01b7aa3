"""The Kafka sink against a real broker keeps what every sink that commits keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("confluent_kafka", reason="pip install 'flowsnap[kafka]'")

from flowsnap import failpoint
from flowsnap.connectors.epoch_log import EpochMarker
from flowsnap.connectors.kafka import KafkaSink
from tests.contract import test_epoch_log as every_log
from tests.contract import test_sink as every_sink
from tests.contract.sinks import Case, Faults, Job
from tests.contract.test_epoch_log import (  # noqa: F401 - they are collected here as well
    test_attempt_that_has_been_replaced_commits_nothing_of_its_own,
    test_attempt_that_has_been_replaced_recovers_nothing,
    test_marker_is_of_who_wrote_the_epoch_and_not_of_who_commits_it,
    test_records_come_in_while_the_store_is_away,
    test_refused_output_fails_the_job_and_is_kept_until_the_store_takes_it,
    test_store_that_is_away_for_longer_than_is_waited_for_fails_the_attempt_and_loses_nothing,
)
from tests.contract.test_sink import (  # noqa: F401
    test_another_job_from_an_older_savepoint_commits_all_that_it_writes,
    test_job_in_which_nobody_writes_commits_nothing,
    test_repeated_recovery_changes_nothing,
    test_what_a_savepoint_holds_uncommitted_is_committed_by_the_first_that_restores_it,
)
from tests.servers.kafka.broker import broker

pytestmark = pytest.mark.slow


class FaultyKafka(KafkaSink, Faults):
    def apply(self, marker: EpochMarker, rows: Iterator[Any]) -> None:
        self.apply_with(lambda: super(FaultyKafka, self).apply(marker, rows))


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """Yield a job and what its sink shows."""
    topic = broker().topic(2)

    def visible() -> list[Any]:
        return [json.loads(message.value()) for message in broker().read(topic)]

    template = FaultyKafka(
        broker().servers,
        topic,
        marker_topic=f"{topic}-markers",
        transaction_prefix=topic,
        repeats=True,
        retry_timeout="5s",
    )
    with ExitStack() as zombies:
        yield Job(template, tmp_path / "job", zombies), visible
    failpoint.arm("")
    Faults.planned.clear()


@pytest.fixture
def fenced(case: Case) -> Case:
    """Return the same: the broker shuts older attempts out."""
    return case


# A life costs a second here: of the many places and hits, those that differ most.


@pytest.mark.parametrize(
    ("point", "hit"),
    [
        ("recovered", 1), ("written", 3), ("sink.prepared", 2), ("complete", 3),
        ("sink.commit_called", 2), ("sink.committed", 3), ("finished", 1),
    ],
)  # fmt: skip
def test_crash_shows_no_uncommitted_record_and_in_the_end_each_once(
    case: Case, point: str, hit: int
) -> None:
    every_sink.test_crash_at_any_point_shows_no_uncommitted_record_and_in_the_end_each_once(
        case, point, hit
    )


@pytest.mark.parametrize("point", ["recovered", "complete", "sink.committed"])
def test_crash_of_a_recovery_is_recovered_from(case: Case, point: str) -> None:
    every_sink.test_crash_of_a_recovery_is_recovered_from(case, point)


@pytest.mark.parametrize("point", ["complete", "sink.commit_called"])
def test_whole_process_may_be_started_again(case: Case, point: str) -> None:
    every_sink.test_whole_process_may_be_started_again(case, point)


@pytest.mark.parametrize("point", ["complete", "finished"])
def test_late_commit_is_of_its_own_epoch(case: Case, point: str) -> None:
    every_sink.test_commit_that_is_late_is_of_its_own_epoch_and_not_of_the_one_being_written(
        case, point
    )


@pytest.mark.parametrize("subtasks", [1, 3])
def test_what_is_pending_is_committed_once_with_another_parallelism(
    case: Case, subtasks: int
) -> None:
    every_sink.test_what_is_pending_is_committed_once_with_another_parallelism(
        case, "complete", subtasks
    )


def test_subtask_that_has_nothing_to_write_holds_nothing_up(case: Case) -> None:
    every_sink.test_subtask_that_has_nothing_to_write_holds_nothing_up(case, "complete")


@pytest.mark.parametrize(
    "faults", [["after"], ["", "after", "after"], ["before", "after"]], ids=str
)
def test_commit_of_unknown_outcome_is_repeated_and_shows_each_record_once(
    case: Case, faults: list[str]
) -> None:
    every_log.test_commit_of_unknown_outcome_is_repeated_and_shows_each_record_once(case, faults)


@pytest.mark.parametrize("fault", ["before", "after"])
def test_attempt_that_fails_over_an_unknown_outcome_is_made_good_by_the_next(
    case: Case, fault: str
) -> None:
    every_log.test_attempt_that_fails_over_an_unknown_outcome_is_made_good_by_the_next(
        case, fault, 3
    )
