from __future__ import annotations

from typing import Any

import pytest

from flowsnap.core.ids import OperatorId, TaskId
from flowsnap.core.message import OperatorMetrics, TaskMetrics
from flowsnap.runtime.progress import AttemptProgress
from flowsnap.runtime.status import OperatorStatus
from tests.manifests import COUNT, LINES, OUT, words


def reader(subtask: int, records: int, **facts: Any) -> TaskMetrics:
    return TaskMetrics(
        task=TaskId(f"lines/{subtask}"),
        operators=(OperatorMetrics(LINES, records, records),),
        busy_ms=facts.pop("busy_ms", 0.0),
        backpressured_ms=facts.pop("backpressured_ms", 0.0),
        **facts,
    )


def counter(records_in: int, records_out: int) -> TaskMetrics:
    operators = (
        OperatorMetrics(COUNT, records_in, records_out),
        OperatorMetrics(OUT, records_out, records_out),
    )
    return TaskMetrics(task=TaskId("count/0"), operators=operators, busy_ms=0, backpressured_ms=0)


def operator(progress: AttemptProgress, name: OperatorId, now_ms: int = 0) -> OperatorStatus:
    return next(status for status in progress.operators(now_ms) if status.name == name)


@pytest.fixture
def progress() -> AttemptProgress:
    return AttemptProgress(words(readers=2))


def test_before_anything_is_told_every_operator_is_there_with_zeros(
    progress: AttemptProgress,
) -> None:
    statuses = progress.operators(0)

    assert [(s.name, s.type, s.parallelism) for s in statuses] == [
        ("lines", "TextFiles", 2),
        ("count", "Count", 1),
        ("out", "JsonFiles", 1),
    ]
    assert all(s.records_in == s.records_out == 0 for s in statuses)


def test_an_operator_is_the_sum_of_its_subtasks(progress: AttemptProgress) -> None:
    progress.update([reader(0, 10), counter(12, 7)])
    progress.update([reader(1, 5)])

    lines, count = operator(progress, LINES), operator(progress, COUNT)
    assert lines.records_out == 15
    assert (count.records_in, count.records_out) == (12, 7)
    assert progress.records_read() == 15


def test_newer_totals_replace_the_older_of_the_same_task(progress: AttemptProgress) -> None:
    progress.update([reader(0, 10)])
    progress.update([reader(0, 30)])

    assert operator(progress, LINES).records_out == 30


def test_rates_are_of_the_last_second_and_kept_until_the_next(progress: AttemptProgress) -> None:
    progress.update([reader(0, 100)])
    progress.operators(10_000)
    progress.update([reader(0, 600)])

    assert operator(progress, LINES, 12_000).records_out_per_s == 250
    assert operator(progress, LINES, 12_500).records_out_per_s == 250


def test_shares_are_means_over_the_subtasks_between_0_and_1(progress: AttemptProgress) -> None:
    progress.update([reader(0, 0), reader(1, 0)])
    progress.operators(10_000)
    progress.update([reader(0, 0, busy_ms=900.0), reader(1, 0, busy_ms=100.0)])

    assert operator(progress, LINES, 11_000).busy_share == 0.5

    progress.update([reader(0, 0, busy_ms=90_000.0, backpressured_ms=600.0)])
    status = operator(progress, LINES, 12_000)
    assert (status.busy_share, status.backpressured_share) == (1.0, 0.3)


def test_a_source_tells_how_much_of_its_input_is_read(progress: AttemptProgress) -> None:
    progress.update(
        [
            reader(0, 1, progress_done=40, progress_total=100),
            reader(1, 1, progress_done=5, progress_total=20),
        ]
    )

    status = operator(progress, LINES)
    assert (status.progress_done, status.progress_total) == (45, 120)


def test_who_is_waited_for_is_told(progress: AttemptProgress) -> None:
    progress.update([reader(0, 1, waits_for="count"), reader(1, 1)])

    assert operator(progress, LINES).waits_for == "count"
    assert operator(progress, COUNT).waits_for == ""


def test_what_operators_count_themselves_is_summed_up_too(progress: AttemptProgress) -> None:
    for subtask, counters in enumerate([{"late": 2}, {"late": 1, "retries": 4}]):
        metrics = (OperatorMetrics(LINES, 0, 0, counters),)
        progress.update([TaskMetrics(TaskId(f"lines/{subtask}"), metrics, 0.0, 0.0)])

    assert operator(progress, LINES).counters == {"late": 3, "retries": 4}
    assert operator(progress, COUNT).counters == {}
