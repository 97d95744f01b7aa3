"""When have the loops come to rest?"""

from __future__ import annotations

import pytest

from flowsnap.core.ids import ChannelId, TaskId
from flowsnap.core.rounds import (
    BeginRound,
    EndLoops,
    RoundReport,
    TaskRounds,
    TerminationDetector,
)
from flowsnap.errors import LocalProtocolError

S, H, B = TaskId("source/0"), TaskId("head/0"), TaskId("body/0")
X, Y = ChannelId(0), ChannelId(1)


def detector() -> TerminationDetector:
    return TerminationDetector([S, H, B], sources=[S])


def report_all(machine: TerminationDetector, now_ms: int, **of_body: int) -> list[object]:
    """Report a round in which only the body may have anything to say."""
    answers: list[object] = []
    for task in (S, H, B):
        in_transit = of_body.get("in_transit", 0) if task == B else 0
        is_passive = not (task == B and of_body.get("is_busy"))
        seen = RoundReport(task, machine.number, is_passive, in_transit)
        answers += machine.report(seen, now_ms)
    machine.check()
    return answers


def test_rounds_begin_when_every_source_has_ended() -> None:
    machine = TerminationDetector([S, H, B], sources=[S, TaskId("other/0")])

    assert machine.start() == []
    assert machine.task_ended(S, 0) == []
    assert machine.task_ended(B, 0) == []
    assert machine.task_ended(TaskId("other/0"), 1) == [BeginRound(1)]


def test_rounds_begin_at_once_where_there_are_no_sources() -> None:
    machine = TerminationDetector([H, B], sources=[])

    assert machine.start() == [BeginRound(1)]


def test_loops_end_when_all_are_passive_and_nothing_is_in_transit() -> None:
    machine = detector()
    machine.task_ended(S, 0)

    assert report_all(machine, 5) == [EndLoops(1)]
    assert machine.describe() == "round 1: 3 of 3 tasks passive, 0 batches in transit"


@pytest.mark.parametrize("why", [{"in_transit": 1}, {"is_busy": 1}], ids=str)
def test_another_round_is_made_a_little_later_where_anything_goes_on(why: dict[str, int]) -> None:
    machine = detector()
    machine.task_ended(S, 0)

    assert report_all(machine, 5, **why) == []
    due_ms = machine.next_deadline_ms()
    assert due_ms is not None
    assert machine.time_passed(due_ms - 1) == []
    assert machine.time_passed(due_ms) == [BeginRound(2)]


def test_pauses_between_rounds_grow_up_to_a_bound() -> None:
    machine, now_ms, pauses = detector(), 0, []
    machine.task_ended(S, now_ms)
    for _ in range(12):
        report_all(machine, now_ms, in_transit=1)
        due_ms = machine.next_deadline_ms()
        assert due_ms is not None
        pauses.append(due_ms - now_ms)
        now_ms = due_ms
        machine.time_passed(now_ms)

    assert pauses == sorted(pauses)
    assert pauses[-1] == pauses[-2] == 200


def test_report_of_an_older_round_is_ignored() -> None:
    machine = detector()
    machine.task_ended(S, 0)
    report_all(machine, 5, in_transit=1)
    machine.time_passed(1_000)

    assert machine.report(RoundReport(B, 1, True, 0), 1_001) == []
    assert report_all(machine, 1_002) == [EndLoops(2)]


def test_nothing_follows_the_end_of_the_loops() -> None:
    machine = detector()
    machine.task_ended(S, 0)
    report_all(machine, 5)

    assert machine.report(RoundReport(B, 1, True, 0), 6) == []
    assert machine.task_ended(S, 7) == []
    assert machine.next_deadline_ms() is None


def test_task_without_inputs_reports_at_once() -> None:
    assert TaskRounds(S, []).look(1, True, {}) == RoundReport(S, 1, True, 0)


def test_task_counts_what_comes_between_its_look_and_each_marker() -> None:
    task = TaskRounds(B, [X, Y])
    task.look(1, True, {X: 10, Y: 20})

    assert task.receive(X, 1, 12) is None
    assert task.receive(Y, 1, 21) == RoundReport(B, 1, True, 3)


def test_marker_of_a_round_that_was_overtaken_is_ignored() -> None:
    task = TaskRounds(B, [X, Y])
    task.look(2, True, {X: 0, Y: 0})

    assert task.receive(X, 1, 5) is None
    assert task.receive(X, 2, 5) is None
    assert task.receive(Y, 2, 0) == RoundReport(B, 2, True, 5)


@pytest.mark.parametrize("number", [1, 3])
def test_marker_that_cannot_be_is_refused(number: int) -> None:
    task = TaskRounds(B, [X, Y])
    task.look(1, True, {X: 0, Y: 0})
    task.receive(X, 1, 0)

    with pytest.raises(LocalProtocolError, match="marker"):
        task.receive(X, number, 0)


def test_task_that_is_told_twice_to_look_refuses() -> None:
    task = TaskRounds(B, [X])
    task.look(1, True, {X: 0})

    with pytest.raises(LocalProtocolError, match="again"):
        task.look(1, True, {X: 0})
