from __future__ import annotations

import pytest

from flowsnap.core.aligner import Action, Aligner, Decline, Snapshot, Unblock
from flowsnap.core.ids import ChannelId, CheckpointId
from flowsnap.errors import LocalProtocolError

A, B, C = ChannelId(0), ChannelId(1), ChannelId(2)
ONE, TWO, THREE = CheckpointId(1), CheckpointId(2), CheckpointId(3)


def aligned(*channels: ChannelId) -> Aligner:
    return Aligner(channels, mode="exactly-once")


def receive(
    aligner: Aligner, channel: ChannelId, number: CheckpointId, now_ms: int
) -> list[Action]:
    actions = aligner.receive_barrier(channel, number, now_ms)
    aligner.check()
    return actions


def test_snapshot_waits_for_the_barrier_of_every_channel() -> None:
    aligner = aligned(A, B, C)

    assert receive(aligner, B, ONE, 10) == []
    assert receive(aligner, A, ONE, 15) == []
    assert aligner.blocked == {A, B}
    assert receive(aligner, C, ONE, 40) == [Snapshot(ONE, 30), Unblock()]
    assert aligner.blocked == set()


def test_single_channel_never_blocks() -> None:
    aligner = aligned(A)

    assert receive(aligner, A, ONE, 10) == [Snapshot(ONE, 0)]
    assert receive(aligner, A, TWO, 20) == [Snapshot(TWO, 0)]


def test_blocked_stays_the_same_set_so_that_the_loop_may_keep_it() -> None:
    aligner = aligned(A, B)
    blocked = aligner.blocked

    receive(aligner, A, ONE, 0)
    assert blocked == {A}
    receive(aligner, B, ONE, 1)
    assert blocked == set()
    assert blocked is aligner.blocked


def test_newer_checkpoint_overtakes_and_its_own_time_counts() -> None:
    aligner = aligned(A, B)
    receive(aligner, A, ONE, 0)

    overtaken = receive(aligner, B, TWO, 100)

    assert overtaken == [Decline(ONE, "overtaken by checkpoint 2"), Unblock()]
    assert aligner.blocked == {B}
    assert receive(aligner, A, TWO, 105) == [Snapshot(TWO, 5), Unblock()]


def test_late_barrier_of_an_overtaken_checkpoint_is_ignored() -> None:
    aligner = aligned(A, B, C)
    receive(aligner, A, ONE, 0)
    receive(aligner, B, TWO, 1)

    assert receive(aligner, C, ONE, 2) == []
    assert aligner.blocked == {B}


def test_abort_in_alignment_unblocks_and_the_late_barrier_is_ignored() -> None:
    aligner = aligned(A, B)
    receive(aligner, A, ONE, 0)

    assert aligner.abort(ONE) == [Unblock()]
    aligner.check()
    assert receive(aligner, B, ONE, 5) == []
    assert aligner.blocked == set()


def test_late_barrier_of_an_aborted_checkpoint_does_not_disturb_the_next_one() -> None:
    aligner = aligned(A, B, C)
    receive(aligner, A, ONE, 0)
    aligner.abort(ONE)
    receive(aligner, A, TWO, 10)

    assert receive(aligner, B, ONE, 11) == []
    assert receive(aligner, B, TWO, 12) == []
    assert receive(aligner, C, TWO, 13) == [Snapshot(TWO, 3), Unblock()]


def test_abort_before_the_first_barrier_makes_its_barriers_ignored() -> None:
    aligner = aligned(A, B)

    assert aligner.abort(ONE) == []
    assert receive(aligner, A, ONE, 0) == []
    assert receive(aligner, B, ONE, 1) == []
    assert aligner.blocked == set()
    receive(aligner, A, TWO, 2)
    assert receive(aligner, B, TWO, 3) == [Snapshot(TWO, 1), Unblock()]


def test_barrier_of_an_aborted_checkpoint_still_overtakes_an_older_one() -> None:
    aligner = aligned(A, B)
    receive(aligner, A, ONE, 0)
    aligner.abort(TWO)

    assert receive(aligner, B, TWO, 1) == [Decline(ONE, "overtaken by checkpoint 2"), Unblock()]
    assert aligner.blocked == set()


def test_abort_of_several_checkpoints_is_remembered_for_each() -> None:
    aligner = aligned(A)
    aligner.abort(THREE)
    aligner.abort(ONE)

    assert receive(aligner, A, ONE, 0) == []
    assert receive(aligner, A, TWO, 0) == [Snapshot(TWO, 0)]
    assert receive(aligner, A, THREE, 0) == []


def test_abort_is_idempotent_and_does_nothing_after_the_snapshot() -> None:
    aligner = aligned(A, B)
    receive(aligner, A, ONE, 0)
    aligner.abort(ONE)
    assert aligner.abort(ONE) == []
    receive(aligner, A, TWO, 0)
    receive(aligner, B, TWO, 0)

    assert aligner.abort(TWO) == []
    aligner.check()


def test_at_least_once_blocks_nothing_and_snapshots_at_the_last_barrier() -> None:
    aligner = Aligner([A, B], mode="at-least-once")

    assert receive(aligner, A, ONE, 0) == []
    assert aligner.blocked == set()
    assert receive(aligner, B, ONE, 9) == [Snapshot(ONE, 9)]


def test_at_least_once_declines_what_a_channel_has_run_ahead_of() -> None:
    aligner = Aligner([A, B], mode="at-least-once")
    receive(aligner, A, ONE, 0)

    assert receive(aligner, A, TWO, 5) == [Decline(ONE, "overtaken by checkpoint 2")]
    assert receive(aligner, B, ONE, 6) == []
    assert receive(aligner, B, TWO, 7) == [Snapshot(TWO, 2)]


@pytest.mark.parametrize(
    ("channel", "number", "reason"),
    [
        (A, TWO, "barrier 2 was read from channel 0, which is blocked"),
        (C, TWO, "barrier 2 came in unknown channel 2"),
    ],
)
def test_impossible_barrier_is_refused_and_changes_nothing(
    channel: ChannelId, number: CheckpointId, reason: str
) -> None:
    aligner = aligned(A, B)
    receive(aligner, A, ONE, 0)

    with pytest.raises(LocalProtocolError, match=reason):
        aligner.receive_barrier(channel, number, 1)

    assert aligner.blocked == {A}
    assert receive(aligner, B, ONE, 2) == [Snapshot(ONE, 2), Unblock()]


@pytest.mark.parametrize("number", [ONE, TWO])
def test_barriers_that_do_not_increase_within_a_channel_are_refused(number: CheckpointId) -> None:
    aligner = aligned(A)
    receive(aligner, A, TWO, 0)

    with pytest.raises(LocalProtocolError, match=f"barrier {number} came after barrier 2"):
        aligner.receive_barrier(A, number, 1)


def test_task_without_inputs_has_no_aligner() -> None:
    with pytest.raises(LocalProtocolError, match="nothing to align"):
        aligned()
