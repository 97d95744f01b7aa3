from __future__ import annotations

import doctest

import pytest

from flowsnap.core import commit
from flowsnap.core.commit import CommitRound, SinkCommits
from flowsnap.core.ids import CheckpointId, TaskId
from flowsnap.core.manifest import PreparedOutput
from flowsnap.errors import LocalProtocolError

ONE, TWO, THREE, FOUR = (CheckpointId(number) for number in (1, 2, 3, 4))
A, B = TaskId("sink/0"), TaskId("sink/1")


def prepared(*ids: CheckpointId) -> SinkCommits:
    commits = SinkCommits()
    for checkpoint_id in ids:
        commits.add(checkpoint_id, f"out-{checkpoint_id}")
    return commits


def ids(outputs: tuple[PreparedOutput, ...]) -> list[CheckpointId]:
    return [output.checkpoint_id for output in outputs]


def test_what_is_prepared_is_due_when_its_checkpoint_is_complete() -> None:
    assert prepared(ONE).due(ONE) == (PreparedOutput(ONE, "out-1"),)


def test_what_is_prepared_for_a_later_checkpoint_is_not_due() -> None:
    assert ids(prepared(ONE, TWO, THREE).due(TWO)) == [ONE, TWO]


def test_a_notification_that_a_later_one_has_overtaken_does_nothing() -> None:
    commits = prepared(ONE, TWO, THREE)
    commits.committed(TWO)

    assert commits.due(ONE) == ()

    commits.committed(ONE)
    assert ids(commits.pending()) == [THREE]


def test_a_lost_notification_is_made_up_for_by_the_next_one() -> None:
    assert ids(prepared(ONE, TWO).due(TWO)) == [ONE, TWO]


def test_what_a_lost_notification_left_goes_into_the_next_snapshot() -> None:
    assert ids(prepared(ONE, TWO).pending()) == [ONE, TWO]


def test_output_of_an_aborted_checkpoint_is_committed_with_the_next_complete_one() -> None:
    commits = prepared(ONE, TWO)
    commits.committed(ONE)
    commits.add(THREE, "out-3")

    assert ids(commits.due(THREE)) == [TWO, THREE]


def test_a_notification_from_before_the_attempt_does_nothing() -> None:
    commits = SinkCommits()

    assert commits.due(FOUR) == ()

    commits.committed(FOUR)
    assert commits.pending() == ()


def test_a_notification_from_before_the_attempt_spares_what_it_prepares() -> None:
    commits = prepared(THREE)

    commits.committed(TWO)

    assert ids(commits.pending()) == [THREE]


def test_output_stays_pending_until_the_sink_has_committed_it() -> None:
    commits = prepared(ONE, TWO)

    commits.due(TWO)  # and the sink raises: nobody says ``committed``

    assert ids(commits.pending()) == [ONE, TWO]
    assert ids(commits.due(TWO)) == [ONE, TWO]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_checkpoints_can_be_pending(count: int) -> None:
    numbers = [CheckpointId(number) for number in range(5, 5 + count)]

    assert ids(prepared(*numbers).pending()) == numbers


def test_an_idle_sink_has_nothing_pending_and_loses_nothing_later() -> None:
    commits = SinkCommits()
    for checkpoint_id in (ONE, TWO, THREE):
        commits.add(checkpoint_id, None)
    assert commits.pending() == commits.due(THREE) == ()

    commits.add(FOUR, "out-4")

    assert ids(commits.due(FOUR)) == [FOUR]


def test_a_committable_may_be_any_value_but_none() -> None:
    commits = SinkCommits()

    commits.add(ONE, [])

    assert commits.pending() == (PreparedOutput(ONE, []),)


@pytest.mark.parametrize("again", [ONE, TWO])
@pytest.mark.parametrize("committable", ["more", None])
def test_preparing_a_checkpoint_twice_or_out_of_order_is_refused(
    again: CheckpointId, committable: str | None
) -> None:
    commits = prepared(ONE, TWO)

    with pytest.raises(LocalProtocolError, match="prepared"):
        commits.add(again, committable)

    assert ids(commits.pending()) == [ONE, TWO]


def test_a_round_is_done_when_every_sink_task_has_committed() -> None:
    round_ = CommitRound([A, B])
    round_.expect(TWO)

    assert round_.committed(B, TWO) is False
    assert round_.committed(A, TWO) is True
    assert not round_.missing


def test_a_round_says_who_is_missing() -> None:
    round_ = CommitRound([B, A])
    round_.expect(TWO)

    round_.committed(B, TWO)

    assert round_.missing == (A,)


def test_commits_of_an_earlier_checkpoint_do_not_end_a_round() -> None:
    round_ = CommitRound([A])
    round_.expect(TWO)

    assert round_.committed(A, ONE) is False


def test_commits_of_a_later_checkpoint_end_a_round() -> None:
    round_ = CommitRound([A])
    round_.expect(TWO)

    assert round_.committed(A, THREE) is True


def test_reports_that_came_before_they_were_expected_count() -> None:
    round_ = CommitRound([A])
    assert round_.committed(A, TWO) is False

    round_.expect(TWO)

    assert round_.is_done


def test_a_late_report_does_not_take_back_a_newer_one() -> None:
    round_ = CommitRound([A])
    round_.committed(A, TWO)
    round_.committed(A, ONE)

    round_.expect(TWO)

    assert round_.is_done


def test_a_round_without_sink_tasks_is_done_as_soon_as_it_begins() -> None:
    round_ = CommitRound([])
    assert not round_.is_done

    round_.expect(ONE)

    assert round_.is_done


def test_a_report_of_a_task_that_is_no_sink_is_refused() -> None:
    round_ = CommitRound([A])
    round_.expect(ONE)

    with pytest.raises(LocalProtocolError, match="sink/1"):
        round_.committed(B, ONE)

    assert round_.missing == (A,)


def test_a_round_never_goes_back_to_an_earlier_checkpoint() -> None:
    round_ = CommitRound([A])
    round_.expect(TWO)

    with pytest.raises(LocalProtocolError, match="expected"):
        round_.expect(ONE)

    assert round_.committed(A, ONE) is False


def test_the_session_in_the_docstring_is_true() -> None:
    assert doctest.testmod(commit).failed == 0
