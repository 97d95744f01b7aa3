"""Any interleaving of channels, aborts and skipped barriers: the cut stays consistent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsnap.core.aligner import Aligner, Decline, Recorded, Snapshot, Unblock
from flowsnap.core.ids import ChannelId, CheckpointId

LAST = 6
"""Every channel brings this barrier at its end, and nobody aborts it."""

Mode = Literal["exactly-once", "at-least-once"]


@dataclass
class Run:
    """One task whose channels are read in the order that ``choices`` says."""

    channels: list[list[int]]  # per channel the checkpoint ids of its barriers, 0 for a record
    mode: Mode
    read: list[int] = field(default_factory=list)
    snapshots: list[tuple[int, list[int]]] = field(default_factory=list)  # id, read per channel
    declined: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.read = [0] * len(self.channels)
        ids = [ChannelId(number) for number in range(len(self.channels))]
        self.aligner = Aligner(ids, mode=self.mode)

    def readable(self) -> list[int]:
        return [
            number
            for number, channel in enumerate(self.channels)
            if self.read[number] < len(channel) and ChannelId(number) not in self.aligner.blocked
        ]

    def take(self, number: int, now_ms: int) -> None:
        element = self.channels[number][self.read[number]]
        self.read[number] += 1
        if element:
            was_blocked = bool(self.aligner.blocked)
            actions = self.aligner.receive_barrier(ChannelId(number), CheckpointId(element), now_ms)
            self.aligner.check()
            for action in actions:
                match action:
                    case Snapshot(checkpoint_id):
                        self.snapshots.append((checkpoint_id, list(self.read)))
                    case Decline(checkpoint_id):
                        self.declined.append(checkpoint_id)
                    case Unblock():
                        assert was_blocked
                    case Recorded():
                        raise AssertionError("nothing is recorded in an aligned checkpoint")


@st.composite
def inputs(draw: st.DrawFn) -> list[list[int]]:
    """Return channels in which some barriers are missing, as if an upstream had declined them."""
    channels = []
    for _ in range(draw(st.integers(1, 4))):
        barriers = [*sorted(draw(st.sets(st.integers(1, LAST - 1)))), LAST]
        channel: list[int] = []
        for barrier in barriers:
            channel += [*[0] * draw(st.integers(0, 2)), barrier]
        channels.append(channel)
    return channels


def play(
    channels: list[list[int]], mode: Mode, choices: st.DataObject, aborts: dict[int, int]
) -> tuple[Run, dict[int, int]]:
    """Read all channels to their ends; return also at which step each abort took effect."""
    run, done, step = Run(channels, mode), dict[int, int](), 0
    while readable := run.readable():
        for checkpoint_id in (id_ for id_, at in aborts.items() if at == step):
            run.aligner.abort(CheckpointId(checkpoint_id))
            run.aligner.check()
            done[checkpoint_id] = len(run.snapshots)
        run.take(choices.draw(st.sampled_from(readable)), step)
        step += 1
    return run, done


ABORTS = st.dictionaries(st.integers(1, LAST - 1), st.integers(0, 20), max_size=4)


@given(channels=inputs(), choices=st.data(), aborts=ABORTS)
def test_snapshot_is_a_cut_exactly_at_the_barriers_of_every_channel(
    channels: list[list[int]], choices: st.DataObject, aborts: dict[int, int]
) -> None:
    run, _ = play(channels, "exactly-once", choices, aborts)

    for checkpoint_id, read in run.snapshots:
        cut = [channel.index(checkpoint_id) + 1 for channel in channels]
        assert read == cut


@given(channels=inputs(), choices=st.data(), aborts=ABORTS)
def test_at_least_once_reads_at_least_up_to_every_barrier(
    channels: list[list[int]], choices: st.DataObject, aborts: dict[int, int]
) -> None:
    run, _ = play(channels, "at-least-once", choices, aborts)

    for checkpoint_id, read in run.snapshots:
        assert all(
            position > channel.index(checkpoint_id)
            for position, channel in zip(read, channels, strict=True)
        )


@pytest.mark.parametrize("mode", ["exactly-once", "at-least-once"])
@given(channels=inputs(), choices=st.data(), aborts=ABORTS)
def test_each_checkpoint_ends_once_and_in_order_and_the_last_one_is_taken(
    mode: Mode, channels: list[list[int]], choices: st.DataObject, aborts: dict[int, int]
) -> None:
    run, _ = play(channels, mode, choices, aborts)

    taken = [checkpoint_id for checkpoint_id, _ in run.snapshots]
    assert taken == sorted(set(taken))
    assert len(set(run.declined)) == len(run.declined)
    assert not set(taken) & set(run.declined)
    assert run.read == [len(channel) for channel in channels]  # no channel is blocked for ever
    assert taken[-1] == LAST
    assert run.aligner.blocked == set()


@given(channels=inputs(), choices=st.data(), aborts=ABORTS)
def test_aborted_checkpoint_is_never_snapshot_afterwards(
    channels: list[list[int]], choices: st.DataObject, aborts: dict[int, int]
) -> None:
    run, done = play(channels, "exactly-once", choices, aborts)

    for aborted, snapshots_before in done.items():
        assert all(taken != aborted for taken, _ in run.snapshots[snapshots_before:])


@given(channels=inputs(), choices=st.data())
def test_without_faults_every_checkpoint_that_all_channels_carry_is_taken(
    channels: list[list[int]], choices: st.DataObject
) -> None:
    whole = [[0, 1, 0, 2, 3, LAST] for _ in channels]

    run, _ = play(whole, "exactly-once", choices, {})

    assert [taken for taken, _ in run.snapshots] == [1, 2, 3, LAST]
    assert run.declined == []
