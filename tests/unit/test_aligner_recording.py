"""Unaligned checkpoints, timeouts, feedback, broadcast and initiation: what is waited for?"""

from __future__ import annotations

import pytest

from flowsnap.core.aligner import Aligner, Decline, Recorded, Snapshot, Unblock
from flowsnap.core.ids import ChannelId, CheckpointId
from flowsnap.errors import LocalProtocolError

A, B, C = ChannelId(0), ChannelId(1), ChannelId(2)
ONE, TWO = CheckpointId(1), CheckpointId(2)


def make(*, feedback: tuple[ChannelId, ...] = (), broadcast: tuple[ChannelId, ...] = ()) -> Aligner:
    return Aligner([A, B, C], mode="exactly-once", feedback=feedback, broadcast=broadcast)


def test_unaligned_checkpoint_is_taken_at_the_first_barrier_and_records_every_channel() -> None:
    aligner = make()

    actions = aligner.announce(B, ONE, 5, timeout_ms=0)

    assert actions == [Snapshot(ONE, 0, 0, (A, B, C))]
    assert aligner.blocked == set()
    aligner.check()


def test_channel_state_is_complete_with_the_last_barrier() -> None:
    aligner = make()
    aligner.announce(B, ONE, 5, timeout_ms=0)

    assert aligner.announce(A, ONE, 6, timeout_ms=0) == []
    assert aligner.announce(C, ONE, 9, timeout_ms=0) == [Recorded(ONE)]
    aligner.check()


def test_barrier_that_was_recorded_up_to_means_nothing_when_it_is_reached() -> None:
    aligner = make()
    aligner.announce(B, ONE, 5, timeout_ms=0)

    assert aligner.receive_barrier(B, ONE, 6, timeout_ms=0) == []
    assert aligner.blocked == set()


def test_aligned_barrier_that_has_only_arrived_is_waited_for_until_it_is_reached() -> None:
    aligner = make()

    assert aligner.announce(A, ONE, 5) == []
    assert aligner.receive_barrier(A, ONE, 6) == []
    assert aligner.blocked == {A}


def test_timeout_goes_on_without_those_that_are_missing() -> None:
    aligner = make()
    aligner.announce(A, ONE, 5, timeout_ms=30)
    aligner.receive_barrier(A, ONE, 6, timeout_ms=30)

    assert aligner.next_deadline_ms() == 35
    assert aligner.time_passed(34) == []
    assert aligner.time_passed(35) == [Snapshot(ONE, 30, 0, (B, C)), Unblock()]
    assert aligner.next_deadline_ms() is None


def test_aligned_checkpoint_that_is_in_time_records_nothing() -> None:
    aligner = make()
    for channel in (A, B):
        aligner.receive_barrier(channel, ONE, 6, timeout_ms=30)

    assert aligner.receive_barrier(C, ONE, 7, timeout_ms=30) == [
        Snapshot(ONE, 1, 30),
        Unblock(),
    ]


def test_broadcast_is_waited_for_even_by_an_unaligned_checkpoint() -> None:
    aligner = make(broadcast=(C,))

    assert aligner.announce(A, ONE, 5, timeout_ms=0) == []
    assert aligner.announce(C, ONE, 6, timeout_ms=0) == []
    assert aligner.receive_barrier(C, ONE, 7, timeout_ms=0) == [Snapshot(ONE, 2, 0, (A, B))]


def test_channel_whose_barrier_is_reached_before_the_broadcast_one_is_blocked() -> None:
    aligner = make(broadcast=(C,))
    aligner.receive_barrier(A, ONE, 5, timeout_ms=0)

    assert aligner.blocked == {A}
    actions = aligner.receive_barrier(C, ONE, 7, timeout_ms=0)
    assert actions == [Snapshot(ONE, 2, 0, (B,)), Unblock()]


def test_feedback_is_never_waited_for_and_always_recorded() -> None:
    aligner = make(feedback=(C,))
    aligner.receive_barrier(A, ONE, 5)

    actions = aligner.receive_barrier(B, ONE, 7)

    assert actions == [Snapshot(ONE, 2, None, (C,)), Unblock()]
    assert aligner.announce(C, ONE, 9) == [Recorded(ONE)]


def test_feedback_is_recorded_at_least_once_too() -> None:
    aligner = Aligner([A, C], mode="at-least-once", feedback=[C])

    assert aligner.receive_barrier(A, ONE, 7) == [Snapshot(ONE, 0, None, (C,))]


def test_checkpoint_that_is_initiated_here_waits_for_nobody() -> None:
    aligner = make()

    assert aligner.initiate(ONE, 5) == [Snapshot(ONE, 0, None, (A, B, C))]


def test_two_initiations_of_one_checkpoint_are_one() -> None:
    aligner = make()
    aligner.announce(A, ONE, 5, timeout_ms=0)

    assert aligner.initiate(ONE, 6, timeout_ms=0) == []
    assert aligner.initiate(ONE, 7, timeout_ms=0) == []


def test_initiation_does_not_wait_for_the_rest_of_an_alignment() -> None:
    aligner = make()
    aligner.receive_barrier(A, ONE, 5)

    assert aligner.initiate(ONE, 6) == [Snapshot(ONE, 1, None, (B, C)), Unblock()]


def test_initiation_after_the_checkpoint_was_aborted_is_ignored() -> None:
    aligner = make()
    aligner.abort(ONE)

    assert aligner.initiate(ONE, 6, timeout_ms=0) == []
    aligner.check()


def test_abort_ends_the_recording() -> None:
    aligner = make()
    aligner.announce(A, ONE, 5, timeout_ms=0)
    aligner.abort(ONE)

    assert aligner.announce(B, ONE, 6, timeout_ms=0) == []
    assert aligner.announce(C, ONE, 6, timeout_ms=0) == []
    aligner.check()


def test_barrier_of_a_later_checkpoint_declines_one_that_the_channel_will_never_complete() -> None:
    aligner = make()
    aligner.announce(A, ONE, 5, timeout_ms=0)

    actions = aligner.announce(B, TWO, 9, timeout_ms=0)

    reason = "overtaken by checkpoint 2"
    assert actions == [Decline(ONE, reason), Snapshot(TWO, 0, 0, (A, B, C))]


def test_aligned_barrier_behind_another_does_not_overtake_it() -> None:
    aligner = make()
    aligner.announce(A, ONE, 5)
    aligner.receive_barrier(A, ONE, 5)

    assert aligner.announce(A, TWO, 6) == []
    aligner.receive_barrier(B, ONE, 7)
    assert aligner.receive_barrier(C, ONE, 8) == [Snapshot(ONE, 3), Unblock()]


@pytest.mark.parametrize("channel", [A, ChannelId(9)], ids=["repeated", "unknown"])
def test_announcement_that_cannot_be_is_refused(channel: ChannelId) -> None:
    aligner = make()
    aligner.announce(A, ONE, 5, timeout_ms=0)

    with pytest.raises(LocalProtocolError):
        aligner.announce(channel, ONE, 6, timeout_ms=0)


def test_channel_cannot_be_both_feedback_and_broadcast() -> None:
    with pytest.raises(LocalProtocolError, match="broadcast"):
        make(feedback=(C,), broadcast=(C,))
