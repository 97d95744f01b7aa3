"""Every interleaving of two or three inputs with two barriers each, aborts at any moment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from flowsnap.core.aligner import Action, Aligner, Decline, Mode, Recorded, Snapshot, Unblock
from flowsnap.core.ids import ChannelId, CheckpointId
from tests.property.exploration import visit_all

TIMEOUT_MS = 10
WHOLE = (0, 1, 0, 2, 0)
"""What comes in a channel: the numbers of barriers, 0 for a record."""

LATER = (0, 2, 0)
"""A channel whose sender has declined the first checkpoint."""


@dataclass(frozen=True)
class Bound:
    """What there is to interleave; ``timeout_ms`` is what every barrier says."""

    channels: tuple[tuple[int, ...], ...]
    timeout_ms: int | None = None
    mode: Mode = "exactly-once"
    feedback: tuple[int, ...] = ()
    broadcast: tuple[int, ...] = ()
    aborts: tuple[int, ...] = ()
    initiates: tuple[int, ...] = ()


@dataclass
class Inputs:
    """One task, read and told in any order; ``fates`` says what has become of a checkpoint."""

    bound: Bound
    aligner: Aligner
    arrived: list[int]  # how many elements have come, at least: up to the last barrier announced
    read: list[int]
    aborts: tuple[int, ...]
    initiates: tuple[int, ...]
    fates: dict[int, str] = field(default_factory=dict)
    open: dict[int, tuple[int, ...]] = field(default_factory=dict)  # channels being recorded
    gone: set[int] = field(default_factory=set)  # aborted
    was_blocked: bool = False

    @classmethod
    def of(cls, bound: Bound) -> Inputs:
        aligner = Aligner(
            [ChannelId(number) for number in range(len(bound.channels))],
            mode=bound.mode,
            feedback=[ChannelId(number) for number in bound.feedback],
            broadcast=[ChannelId(number) for number in bound.broadcast],
        )
        zeros = [0] * len(bound.channels)
        return cls(bound, aligner, list(zeros), list(zeros), bound.aborts, bound.initiates)

    # --- what may happen

    def moves(self) -> list[tuple[Any, ...]]:
        moves: list[tuple[Any, ...]] = []
        for number, channel in enumerate(self.bound.channels):
            if any(channel[self.arrived[number] :]):
                moves.append(("arrive", number))
            if self.read[number] < len(channel) and number not in self.aligner.blocked:
                moves.append(("read", number))
        moves += [("abort", id_) for id_ in self.aborts]
        moves += [("initiate", id_) for id_ in self.initiates[:1]]
        return moves + [("late",)] * (self.aligner.next_deadline_ms() is not None)

    def make(self, move: tuple[Any, ...]) -> list[str]:
        self.was_blocked = bool(self.aligner.blocked)
        actions = self.apply(move)
        self.aligner.check()
        reached = [self.carry_out(action) for action in actions]
        self.was_blocked = False
        self.check_prompt()
        return reached

    def apply(self, move: tuple[Any, ...]) -> list[Action]:
        match move:
            case ("arrive", number):
                return self.arrive(number)
            case ("read", number):
                return self.take(number)
            case ("abort", id_):
                self.aborts = tuple(one for one in self.aborts if one != id_)
                self.gone.add(id_)
                self.open.pop(id_, None)
                return self.aligner.abort(id_)
            case ("initiate", id_):
                self.initiates = self.initiates[1:]
                return self.aligner.initiate(id_, 0, self.bound.timeout_ms)
            case _:
                return self.aligner.time_passed(TIMEOUT_MS)

    def arrive(self, number: int) -> list[Action]:
        channel = self.bound.channels[number]
        place = next(n for n in range(self.arrived[number], len(channel)) if channel[n])
        self.arrived[number] = place + 1
        id_ = CheckpointId(channel[place])
        return self.aligner.announce(ChannelId(number), id_, 0, self.bound.timeout_ms)

    def take(self, number: int) -> list[Action]:
        id_ = CheckpointId(self.bound.channels[number][self.read[number]])
        self.read[number] += 1
        self.arrived[number] = max(self.arrived[number], self.read[number])
        if not id_:
            return []
        return self.aligner.receive_barrier(ChannelId(number), id_, 0, self.bound.timeout_ms)

    # --- what must hold

    def carry_out(self, action: Action) -> str:
        match action:
            case Snapshot(id_, _, _, recording):
                assert id_ not in self.fates, f"checkpoint {id_} had its end"
                assert id_ not in self.gone, f"checkpoint {id_} was aborted"
                assert all(taken < id_ for taken in self.fates), "a newer one came first"
                self.check_cut(id_, recording)
                self.fates[id_] = "snapshot"
                if recording:
                    self.open[id_] = recording
                return "recording" if recording else "aligned"
            case Recorded(id_):
                recorded = self.open.pop(id_)
                assert all(self.has_come(number, id_) for number in recorded)
                return "recorded"
            case Decline(id_):
                assert self.fates.get(id_) != "declined"
                assert self.fates.get(id_) is None or id_ in self.open
                self.open.pop(id_, None)
                self.fates[id_] = "declined"
                return "declined"
            case Unblock():
                assert self.was_blocked
                return "unblocked"

    def check_cut(self, id_: int, recording: tuple[int, ...]) -> None:
        """Hold a snapshot to the definition of a cut: the barriers, or what is recorded to them."""
        for number, channel in enumerate(self.bound.channels):
            if number in recording:
                assert number not in self.bound.broadcast
                assert id_ not in channel[: max(0, self.read[number] - 1)]
                continue
            behind = channel.index(id_) + 1
            if self.blocks:
                assert self.read[number] == behind, "read on, or not far enough"
            assert self.read[number] >= behind

    def check_prompt(self) -> None:
        """Nobody waits for what is not waited for: the snapshot comes as soon as it can."""
        newest = max(max(channel[:n], default=0) for channel, n in self.each(self.arrived))
        for id_ in {newest} - {0} - self.fates.keys() - self.gone:
            come = [id_ in channel[:n] for channel, n in self.each(self.arrived)]
            read = [id_ in channel[:n] for channel, n in self.each(self.read)]
            if self.bound.timeout_ms == 0 and self.blocks:
                awaited = self.bound.broadcast
                assert not any(come) or not all(read[number] for number in awaited)
            elif not self.bound.initiates:
                awaited = tuple(n for n in range(len(read)) if n not in self.bound.feedback)
                assert not all(read[number] for number in awaited)

    def each(self, places: list[int]) -> list[tuple[tuple[int, ...], int]]:
        return list(zip(self.bound.channels, places, strict=True))

    @property
    def blocks(self) -> bool:
        return self.bound.mode == "exactly-once"

    def has_come(self, number: int, id_: int) -> bool:
        return id_ in self.bound.channels[number][: self.arrived[number]]

    def check_end(self) -> None:
        """All has been read, nothing is blocked, and no checkpoint is left in between."""
        assert self.read == [len(channel) for channel in self.bound.channels]
        assert self.aligner.blocked == set()
        assert self.aligner.next_deadline_ms() is None
        assert self.open == {}, "its channel state never becomes complete"
        for id_ in (1, 2):
            is_whole = all(id_ in channel for channel in self.bound.channels)
            assert not is_whole or id_ in self.fates or id_ in self.gone, f"{id_} is forgotten"
        if self.is_undisturbed:
            assert self.fates == {1: "snapshot", 2: "snapshot"}
        if 2 not in self.bound.aborts:
            assert self.fates[2] == "snapshot", "the newest was not taken"

    @property
    def is_undisturbed(self) -> bool:
        """Whether no barrier can come while an older one is waited for, and nobody gives up."""
        bound = self.bound
        is_whole = all(1 in channel for channel in bound.channels)
        is_timed = bound.timeout_ms == TIMEOUT_MS
        others = (*bound.aborts, *bound.initiates, *bound.feedback, *bound.broadcast)
        return is_whole and self.blocks and not is_timed and not others


# --- the bounds

TWO, THREE = (WHOLE,) * 2, ((1, 0, 2),) * 3
ALIGNED, UNALIGNED, TIMED = None, 0, TIMEOUT_MS
KINDS = {"aligned": ALIGNED, "unaligned": UNALIGNED, "timed": TIMED}
SITUATIONS = {
    "aligned": {"aligned", "unblocked"},
    "unaligned": {"recording", "recorded"},
    "timed": {"aligned", "unblocked", "recording", "recorded", "declined"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [TWO, THREE], ids=["two", "three"])
def test_every_interleaving_of_inputs_is_a_consistent_cut(
    channels: tuple[tuple[int, ...], ...], kind: str
) -> None:
    visited = visit_all(Inputs.of(Bound(channels, KINDS[kind])))

    assert visited.reached.keys() == SITUATIONS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_aborts_at_every_moment_leave_nothing_blocked_and_nothing_open(kind: str) -> None:
    visited = visit_all(Inputs.of(Bound(TWO, KINDS[kind], aborts=(1, 2))))

    assert visited.reached.keys() == SITUATIONS[kind]
    assert visited.ends > 3  # each of the two may be taken, or aborted in time


def test_aborts_at_every_moment_of_three_aligned_inputs_leave_nothing_blocked() -> None:
    visited = visit_all(Inputs.of(Bound(THREE, aborts=(1, 2))))

    assert visited.ends > 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_may_begin_a_checkpoint_at_every_moment(kind: str) -> None:
    visited = visit_all(Inputs.of(Bound(TWO, KINDS[kind], initiates=(1, 2))))

    assert visited.reached.keys() >= {"recording", "recorded"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [(LATER, WHOLE), ((0, 2), *THREE[1:])], ids=["two", "three"])
def test_a_sender_that_has_declined_a_checkpoint_holds_up_no_other(
    channels: tuple[tuple[int, ...], ...], kind: str
) -> None:
    visited = visit_all(Inputs.of(Bound(channels, KINDS[kind])))

    assert visited.reached["declined"] > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [TWO, THREE], ids=["two", "three"])
def test_at_least_once_reads_at_least_to_the_barriers_in_every_order(
    channels: tuple[tuple[int, ...], ...], kind: str
) -> None:
    visited = visit_all(Inputs.of(Bound(channels, KINDS[kind], "at-least-once")))

    assert visited.reached.keys() == {"aligned", "declined"}


@pytest.mark.parametrize("kind", KINDS)
def test_feedback_is_never_waited_for_in_any_order(kind: str) -> None:
    visited = visit_all(Inputs.of(Bound(TWO, KINDS[kind], feedback=(1,))))

    assert visited.reached.keys() >= {"recording", "recorded"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [TWO, THREE], ids=["two", "three"])
def test_what_is_broadcast_is_never_recorded_in_any_order(
    channels: tuple[tuple[int, ...], ...], kind: str
) -> None:
    last = len(channels) - 1
    visited = visit_all(Inputs.of(Bound(channels, KINDS[kind], broadcast=(last,))))

    assert visited.reached.keys() >= SITUATIONS[kind] - {"declined"}


class Leaky(Aligner):
    """Forgets to block, as a mistake would have it."""

    def check(self) -> None:
        self.blocked.clear()


def test_an_aligner_that_blocks_nothing_is_found() -> None:
    bound = Bound(TWO)
    leaky = replace(Inputs.of(bound), aligner=Leaky([ChannelId(0), ChannelId(1)], mode=bound.mode))

    with pytest.raises(AssertionError, match="read on, or not far enough"):
        visit_all(leaky)
