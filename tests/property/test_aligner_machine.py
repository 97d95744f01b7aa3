"""The aligner under any sequence of events, against a reading of the list of what has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowsnap.core.aligner import Action, Aligner, Decline, Recorded, Snapshot, Unblock
from flowsnap.core.ids import ChannelId, CheckpointId
from flowsnap.errors import LocalProtocolError
from tests.property.machines import assert_found, examples

RECORD, END = 0, -1
"""What comes in a channel besides the numbers of barriers."""

PLACES = st.integers(0, 11)
TIMEOUTS = st.sampled_from([None, None, 0, 10, 10])
ROLES = st.sampled_from(["plain", "plain", "plain", "feedback", "broadcast"])
WAITING, RECORDING, OVER = "waiting", "recording", "over"
Said = list[tuple[Any, ...]]


@dataclass(eq=False)
class Input:
    """One channel: all that was sent in it, how much is known to have come, how much is read."""

    role: str
    sent: list[int] = field(default_factory=list)
    arrived: int = 0
    read: int = 0

    def ahead(self) -> list[int]:
        return self.sent[self.arrived :]

    def has_come(self, number: int) -> bool:
        return number in self.sent[: self.arrived]

    def is_read(self, number: int) -> bool:
        return number in self.sent[: self.read]

    def has_passed(self, number: int) -> bool:
        return not self.has_come(number) and max(self.sent[: self.arrived], default=0) > number

    def newest(self) -> int:
        return max([0, *self.sent])


@dataclass
class Begun:
    """A checkpoint that this task has begun; ``is_open``: it waits for nobody it need not."""

    number: int
    first_ms: int
    timeout_ms: int | None
    is_open: bool
    fate: str = WAITING
    recorded: list[Input] = field(default_factory=list)  # of which its barrier is still to come


class Specification:
    """What a task has to do, read off the channels and the list of the checkpoints begun."""

    def __init__(self, inputs: list[Input], *, blocks: bool) -> None:
        self.inputs = inputs
        self.blocks = blocks
        self.begun: list[Begun] = []
        self.aborted: set[int] = set()

    @property
    def waiting(self) -> Begun | None:
        return next((one for one in reversed(self.begun) if one.fate == WAITING), None)

    @property
    def blocked(self) -> set[int]:
        waiting = self.waiting
        if waiting is None or not self.blocks:
            return set()
        return {at for at, one in enumerate(self.inputs) if one.is_read(waiting.number)}

    @property
    def deadline_ms(self) -> int | None:
        one = self.waiting
        if one is None or one.is_open or one.timeout_ms is None or not self.blocks:
            return None
        return one.first_ms + one.timeout_ms

    def begin(self, number: int, now_ms: int, timeout_ms: int | None) -> None:
        if number > max((one.number for one in self.begun), default=0):
            fate = OVER if number in self.aborted else WAITING
            is_open = timeout_ms == 0 and self.blocks
            self.begun.append(Begun(number, now_ms, timeout_ms, is_open, fate))

    def settle(self, blocked: set[int], now_ms: int) -> Said:
        """Return what has to be said now; ``blocked`` is what was, before this event."""
        said: Said = []
        for one in self.begun:
            if one.fate == RECORDING and any(i.has_passed(one.number) for i in one.recorded):
                one.fate = OVER
                said.append(("decline", one.number))
        for one in self.begun[:-1]:
            if one.fate == WAITING:
                one.fate = OVER
                said += [("decline", one.number)] + [("unblock",)] * bool(blocked)
                blocked = set()
        if (waiting := self.waiting) is not None and self.is_due(waiting):
            waiting.fate = RECORDING
            recorded = [at for at, i in enumerate(self.inputs) if not i.is_read(waiting.number)]
            took_ms = now_ms - waiting.first_ms
            said.append(("snapshot", waiting.number, took_ms, waiting.timeout_ms, tuple(recorded)))
            said += [("unblock",)] * bool(blocked)
            # A sender that has gone on to a newer one gave this one up: it will not be complete.
            passed = [i for i in self.inputs if i.has_passed(waiting.number)]
            waiting.recorded = [
                i for i in map(self.inputs.__getitem__, recorded) if i not in passed
            ]
            if not recorded:
                waiting.fate = OVER
        for one in self.begun:
            if one.fate == RECORDING and all(i.has_come(one.number) for i in one.recorded):
                one.fate = OVER
                said.append(("recorded", one.number))
        return said

    def is_due(self, waiting: Begun) -> bool:
        roles = {"broadcast"} if waiting.is_open else {"broadcast", "plain"}
        return all(one.is_read(waiting.number) for one in self.inputs if one.role in roles)

    def abort(self, number: int) -> None:
        self.aborted.add(number)
        for one in self.begun:
            if one.number == number:
                one.fate = OVER


def said(actions: list[Action]) -> Said:
    found: Said = []
    for action in actions:
        match action:
            case Snapshot(number, took_ms, timeout_ms, recording):
                found.append(("snapshot", number, took_ms, timeout_ms, recording))
            case Recorded(number):
                found.append(("recorded", number))
            case Decline(number):
                found.append(("decline", number))
            case Unblock():
                found.append(("unblock",))
    return found


class AlignerMachine(RuleBasedStateMachine):
    """One task, whose senders, job manager and clock do what they like."""

    subject: type[Aligner] = Aligner

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0
        self.inputs: list[Input] = []
        self.cuts: list[int] = []

    @initialize(roles=st.lists(ROLES, min_size=1, max_size=4), blocks=st.sampled_from([1, 1, 0]))
    def start(self, roles: list[str], blocks: int) -> None:
        self.inputs = [Input(role) for role in roles]
        self.spec = Specification(self.inputs, blocks=bool(blocks))
        self.aligner = self.subject(
            [ChannelId(at) for at in range(len(roles))],
            mode="exactly-once" if blocks else "at-least-once",
            feedback=[ChannelId(at) for at, role in enumerate(roles) if role == "feedback"],
            broadcast=[ChannelId(at) for at, role in enumerate(roles) if role == "broadcast"],
        )

    # --- what the senders do

    @rule(at=PLACES, what=st.sampled_from([RECORD, 1, 1, 1, 2, END]))
    def something_is_sent(self, at: int, what: int) -> None:
        one = self.inputs[at % len(self.inputs)]
        one.sent.append(what if what <= 0 else one.newest() + what)

    @precondition(lambda self: self.arriving())
    @rule(at=PLACES, timeout_ms=TIMEOUTS)
    def a_barrier_arrives(self, at: int, timeout_ms: int | None) -> None:
        blocked, there = self.spec.blocked, self.arriving()
        at = there[at % len(there)]
        number = CheckpointId(self.arrive(at, timeout_ms))
        self.compare(self.aligner.announce(ChannelId(at), number, self.now_ms, timeout_ms), blocked)

    def arriving(self) -> list[int]:
        return [at for at, one in enumerate(self.inputs) if max([0, *one.ahead()])]

    def arrive(self, at: int, timeout_ms: int | None) -> int:
        """Let the next barrier of a channel come, and return its number."""
        one = self.inputs[at]
        number = next(number for number in one.ahead() if number > 0)
        one.arrived = one.sent.index(number) + 1
        is_recorded = any(b.number == number and b.fate == RECORDING for b in self.spec.begun)
        if not is_recorded and (timeout_ms is not None or one.role == "feedback"):
            self.spec.begin(number, self.now_ms, timeout_ms)
        return number

    # --- what the task does

    @precondition(lambda self: self.unread())
    @rule(at=PLACES, timeout_ms=TIMEOUTS)
    def something_is_read(self, at: int, timeout_ms: int | None) -> None:
        there = self.unread()
        at = there[at % len(there)]
        if at not in self.spec.blocked:
            self.read(at, timeout_ms)
        elif self.inputs[at].sent[self.inputs[at].read] > 0:
            with pytest.raises(LocalProtocolError, match="which is blocked"):
                self.aligner.receive_barrier(ChannelId(at), CheckpointId(99), self.now_ms)

    def unread(self) -> list[int]:
        return [at for at, one in enumerate(self.inputs) if one.sent[one.read :]]

    def read(self, at: int, timeout_ms: int | None) -> None:
        one, blocked = self.inputs[at], self.spec.blocked
        number, expected = one.sent[one.read], list[tuple[Any, ...]]()
        if number > 0:
            if one.arrived <= one.read:  # It arrives as it is read.
                self.arrive(at, timeout_ms)
                expected = self.spec.settle(blocked, self.now_ms)
                blocked = self.spec.blocked
            one.read += 1
            self.spec.begin(number, self.now_ms, timeout_ms)
            actions = self.aligner.receive_barrier(
                ChannelId(at), CheckpointId(number), self.now_ms, timeout_ms
            )
            self.compare(actions, blocked, expected)
        else:
            one.read += 1
            one.arrived = max(one.arrived, one.read)

    # --- what the job manager and the clock do

    @rule(number=st.integers(1, 8), timeout_ms=TIMEOUTS)
    def a_checkpoint_begins_here(self, number: int, timeout_ms: int | None) -> None:
        blocked = self.spec.blocked
        self.spec.begin(number, self.now_ms, timeout_ms)
        waiting = self.spec.waiting
        if waiting is not None and waiting.number == number:
            waiting.is_open = True
        actions = self.aligner.initiate(CheckpointId(number), self.now_ms, timeout_ms)
        self.compare(actions, blocked)

    @rule(number=st.integers(1, 9))
    def a_checkpoint_is_aborted(self, number: int) -> None:
        blocked = self.spec.blocked
        self.spec.abort(number)
        expected: Said = [("unblock",)] * (bool(blocked) and self.spec.waiting is None)
        assert said(self.aligner.abort(CheckpointId(number))) == expected

    @rule(ms=st.sampled_from([0, 1, 4, 10]))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(ms=st.sampled_from([1, 4, 10]))
    def the_clock_is_looked_at(self, ms: int) -> None:
        self.now_ms += ms
        deadline_ms, blocked, waiting = self.spec.deadline_ms, self.spec.blocked, self.spec.waiting
        if waiting is not None and deadline_ms is not None and deadline_ms <= self.now_ms:
            waiting.is_open, waiting.timeout_ms = True, 0
        self.compare(self.aligner.time_passed(self.now_ms), blocked)

    # --- what must hold

    def compare(self, actions: list[Action], blocked: set[int], before: Said | None = None) -> None:
        expected = (before or []) + self.spec.settle(blocked, self.now_ms)
        assert said(actions) == expected, f"{said(actions)}, expected {expected}"
        for action in actions:
            if isinstance(action, Snapshot):
                self.check_cut(action)

    def check_cut(self, snapshot: Snapshot) -> None:
        """Hold a snapshot to what a cut is: each channel is read to its barrier, or recorded."""
        assert snapshot.checkpoint_id > max(self.cuts, default=0)
        self.cuts.append(snapshot.checkpoint_id)
        for at, one in enumerate(self.inputs):
            if at not in snapshot.recording:
                behind = one.sent.index(snapshot.checkpoint_id) + 1
                assert one.read == behind or (one.read > behind and not self.spec.blocks)

    @precondition(lambda self: self.inputs)
    @invariant()
    def what_is_blocked_and_until_when_is_as_specified(self) -> None:
        self.aligner.check()
        assert self.aligner.blocked == self.spec.blocked
        assert self.aligner.next_deadline_ms() == self.spec.deadline_ms

    def teardown(self) -> None:
        """Let every channel bring a last barrier: nothing may be left that holds it up."""
        last = 10 + max((one.newest() for one in self.inputs), default=0)
        for one in self.inputs:
            one.sent.append(last)
        while there := self.unread():
            free = [at for at in there if at not in self.aligner.blocked]
            assert free, "nothing can be read any more"
            self.read(free[0], None)
        assert self.cuts[-1:] == [last][: len(self.inputs)]
        assert self.aligner.blocked == set() or not self.inputs


TestAligner = AlignerMachine.TestCase
TestAligner.settings = examples(100, steps=40)


class Hasty(Aligner):
    """Does not block."""

    def receive_barrier(
        self,
        channel: ChannelId,
        checkpoint_id: CheckpointId,
        now_ms: int,
        timeout_ms: int | None = None,
    ) -> list[Action]:
        actions = super().receive_barrier(channel, checkpoint_id, now_ms, timeout_ms)
        self.blocked.clear()
        return actions


class Deaf(Aligner):
    """Does not hear of aborts."""

    def abort(self, checkpoint_id: CheckpointId) -> list[Action]:
        return []


@pytest.mark.parametrize("broken", [Hasty, Deaf])
def test_an_aligner_that_is_broken_is_found(broken: type[Aligner]) -> None:
    class Broken(AlignerMachine):
        subject = broken

    assert_found(Broken)
