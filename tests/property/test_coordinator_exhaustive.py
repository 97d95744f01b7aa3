"""Two tasks that acknowledge or decline, twice, late or never, in every order there is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from flowsnap.core.coordinator import (
    Abort,
    Action,
    CheckpointCoordinator,
    CheckpointKind,
    Event,
    FailAttempt,
    InjectBarriers,
    ManifestFailed,
    ManifestWritten,
    NotifyComplete,
    Started,
    TaskAcknowledged,
    TaskDeclined,
    TimePassed,
    TriggerRequested,
    Wish,
    WriteManifest,
)
from flowsnap.core.ids import CheckpointId, OperatorId, TaskId
from flowsnap.core.manifest import TaskSnapshot
from tests.property.exploration import visit_all

TASKS = (TaskId("a/0"), TaskId("b/0"))
TIMEOUT_MS, NEVER_MS = 60, 10**9
ANSWERS = ("acknowledge", "decline")


@dataclass
class Attempt:
    """The tasks around one coordinator, and what an observer knows of each checkpoint."""

    machine: CheckpointCoordinator
    wishes: tuple[Wish, ...]  # that are still to be asked for
    failures_max: int
    concurrent_max: int
    repeats: int  # how many answers may come twice
    now_ms: int = 0
    asked: tuple[Wish, ...] = ()  # for what nothing was triggered yet
    answers: dict[tuple[int, str], str] = field(default_factory=dict)  # all it has said
    triggered: dict[int, int] = field(default_factory=dict)  # when, of each there ever was
    parts: dict[int, set[str]] = field(default_factory=dict)
    fates: dict[int, str] = field(default_factory=dict)
    writing: int = 0
    failures: int = 0
    final: int = 0
    is_over: bool = False

    @classmethod
    def of(
        cls,
        *wishes: Wish | CheckpointKind,
        failures_max: int = 1,
        concurrent_max: int = 1,
        repeats: int = 1,
    ) -> Attempt:
        machine = CheckpointCoordinator(
            TASKS,
            next_id=CheckpointId(1),
            interval_ms=NEVER_MS,
            timeout_ms=TIMEOUT_MS,
            pause_ms_min=0,
            failures_max=failures_max,
            concurrent_max=concurrent_max,
        )
        assert machine.handle(Started(), 0) == []
        asked = tuple(wish if isinstance(wish, Wish) else Wish(wish) for wish in wishes)
        return cls(machine, asked, failures_max, concurrent_max, repeats)

    # --- what may happen

    def moves(self) -> list[tuple[Any, ...]]:
        if self.is_over:
            return []
        moves: list[tuple[Any, ...]] = [("want",)] * bool(self.wishes)
        for id_ in self.triggered:
            for task in TASKS:
                said = self.answers.get((id_, task), "")
                again = said if self.repeats else None
                moves += [("say", id_, task, what) for what in ANSWERS if what == again or not said]
        if any(self.is_missing(id_) for id_ in self.under_way):
            moves.append(("expire",))
        return moves + [(end,) for end in ("written", "failed") if self.writing]

    def make(self, move: tuple[Any, ...]) -> list[str]:
        event, expected = getattr(self, f"{move[0]}")(*move[1:])
        actions = self.machine.handle(event, self.now_ms)
        self.machine.check()
        triggers = [action for action in actions if isinstance(action, InjectBarriers)]
        rest = [action for action in actions if not isinstance(action, InjectBarriers)]
        assert [said(action) for action in rest] == expected
        for trigger in triggers:
            self.trigger(trigger)
        has_room = len(self.under_way) < self.concurrent_max and not self.final
        assert self.is_over or not has_room or not self.asked, "a wish is forgotten"
        return [f"{move[0]}: {name}" for name, _ in map(said, actions)] or ["nothing"]

    def want(self) -> tuple[Event, list[tuple[str, int]]]:
        """Ask for the next one. The final one stands for all that wait, and equal ones are one."""
        wish, *rest = self.wishes
        self.wishes = tuple(rest)
        if wish.is_final:
            self.asked = (wish,)
        elif wish not in self.asked and not self.final:
            self.asked += (wish,)
        return TriggerRequested(wish), []

    def say(self, id_: int, task: TaskId, what: str) -> tuple[Event, list[tuple[str, int]]]:
        known = self.answers.get((id_, task), "")
        self.answers[id_, task] = what if not known else what + ", twice"
        self.repeats -= bool(known)
        is_first = id_ in self.under_way and task not in self.parts[id_]
        if what == "decline":
            reason = TaskDeclined(CheckpointId(id_), task, "full")
            return reason, self.fail(id_) if is_first else []
        snapshot = TaskSnapshot(task, (), id_)
        event = TaskAcknowledged(CheckpointId(id_), snapshot)
        return event, self.take_part(id_, task) if is_first else []

    def expire(self) -> tuple[Event, list[tuple[str, int]]]:
        late = min(self.triggered[id_] for id_ in self.under_way if self.is_missing(id_))
        deadline_ms = late + TIMEOUT_MS
        assert self.machine.next_deadline_ms() == deadline_ms
        self.now_ms = deadline_ms
        expected: list[tuple[str, int]] = []
        for id_ in self.under_way:
            is_late = self.triggered[id_] + TIMEOUT_MS <= self.now_ms
            if is_late and self.is_missing(id_) and not self.is_over:
                expected += self.fail(id_)
        return TimePassed(), expected

    def written(self) -> tuple[Event, list[tuple[str, int]]]:
        done, self.writing, self.failures = self.writing, 0, 0
        self.fates[done] = "complete"
        self.is_over = done == self.final
        return ManifestWritten(CheckpointId(done)), [("notify", done), *self.write()]

    def failed(self) -> tuple[Event, list[tuple[str, int]]]:
        lost, self.writing = self.writing, 0
        expected = self.fail(lost)
        return ManifestFailed(CheckpointId(lost), "full"), expected + self.write()

    # --- what must follow

    def trigger(self, action: InjectBarriers) -> None:
        id_ = action.checkpoint_id
        assert id_ == len(self.triggered) + 1, "ids go up one by one"
        assert len(self.under_way) < self.concurrent_max
        assert not self.is_over
        assert not self.final, "something comes after the final checkpoint"
        assert action.wish in self.asked[:1], "nobody asked for this one now"
        self.asked = self.asked[1:]
        self.triggered[id_], self.parts[id_] = self.now_ms, set()
        self.final = id_ if action.wish.is_final else 0

    def take_part(self, id_: int, task: str) -> list[tuple[str, int]]:
        """A checkpoint that all have acknowledged overtakes older ones that lack somebody."""
        self.parts[id_].add(task)
        if self.is_missing(id_):
            return []
        older = [one for one in self.under_way if one < id_ and self.is_missing(one)]
        self.fates.update(dict.fromkeys(older, "aborted"))
        return [("abort", one) for one in older] + self.write()

    def write(self) -> list[tuple[str, int]]:
        """One manifest is written at a time, the oldest first."""
        ready = [id_ for id_ in self.under_way if not self.is_missing(id_)]
        if self.writing or not ready or self.is_over:
            return []
        self.writing = ready[0]
        return [("write", ready[0])]

    def fail(self, id_: int) -> list[tuple[str, int]]:
        """Too many failures in a row, or that of the final one, end the attempt with all others."""
        self.fates[id_] = "aborted"
        self.failures += 1
        if id_ != self.final and self.failures <= self.failures_max:
            return [("abort", id_)]
        self.is_over = True
        others = [one for one in self.under_way if one != self.writing]
        self.fates.update(dict.fromkeys(others, "aborted"))
        return [*(("abort", one) for one in (id_, *others)), ("fail", 0)]

    @property
    def under_way(self) -> list[int]:
        return [id_ for id_ in self.triggered if id_ not in self.fates]

    def is_missing(self, id_: int) -> bool:
        return len(self.parts[id_]) < len(TASKS)

    def check_end(self) -> None:
        """Each checkpoint is complete or aborted; what comes after the end changes nothing."""
        assert self.is_over or not self.wishes
        assert self.under_way in ([], [self.writing] if self.is_over else [])
        assert self.machine.pending is None
        if self.is_over:
            self.assert_deaf()

    def assert_deaf(self) -> None:
        assert self.machine.next_deadline_ms() is None
        number = CheckpointId(len(self.triggered))
        late: list[Event] = [TriggerRequested(Wish()), ManifestWritten(number), TimePassed()]
        late += [ManifestFailed(number, "full"), TaskDeclined(number, TASKS[0], "full")]
        late += [TaskAcknowledged(number, TaskSnapshot(task, (), 0)) for task in TASKS]
        for event in late:
            assert self.machine.handle(event, self.now_ms + NEVER_MS) == []
        self.machine.check()


def said(action: Action) -> tuple[str, int]:
    """Return an action as a word and the checkpoint it is about."""
    match action:
        case InjectBarriers(id_):
            return "inject", id_
        case WriteManifest(id_, snapshots=snapshots):
            assert snapshots == tuple(TaskSnapshot(task, (), id_) for task in TASKS)
            return "write", id_
        case NotifyComplete(id_):
            return "notify", id_
        case Abort(id_):
            return "abort", id_
        case FailAttempt():
            return "fail", 0
        case _:
            raise AssertionError(f"nobody asked for {action}")


# --- the bounds

ALWAYS = {"want: inject", "say: write", "say: abort", "expire: abort", "written: notify"}
ENDS = {"say: fail", "expire: fail", "failed: fail"}


def test_one_checkpoint_is_complete_or_given_up_in_every_order() -> None:
    visited = visit_all(Attempt.of("checkpoint", repeats=4))

    assert visited.reached.keys() == {*ALWAYS, "failed: abort", "nothing"}


@pytest.mark.parametrize("concurrent_max", [1, 2])
def test_two_checkpoints_are_complete_or_given_up_in_every_order(concurrent_max: int) -> None:
    first = Attempt.of("checkpoint", "checkpoint", concurrent_max=concurrent_max)
    visited = visit_all(first)

    follows = "written: inject" if concurrent_max == 1 else "written: write"
    assert visited.reached.keys() > {*ALWAYS, *ENDS, follows}


@pytest.mark.parametrize("concurrent_max", [1, 2])
def test_the_first_failure_ends_an_attempt_that_may_have_none_in_every_order(
    concurrent_max: int,
) -> None:
    wishes: tuple[CheckpointKind, ...] = ("checkpoint",) * 2
    first = Attempt.of(*wishes, failures_max=0, concurrent_max=concurrent_max, repeats=2)
    visited = visit_all(first)

    assert visited.reached["failed: abort"] >= visited.reached["failed: fail"] > 0
    assert visited.reached.keys() > {*ALWAYS, *ENDS}


@pytest.mark.parametrize("concurrent_max", [1, 2])
def test_nothing_comes_after_a_final_checkpoint_in_any_order(concurrent_max: int) -> None:
    first = Attempt.of("checkpoint", "final", concurrent_max=concurrent_max)
    visited = visit_all(first)

    assert visited.reached.keys() > {*ALWAYS, *ENDS}


ALIGNED, ALONE = Wish("savepoint", "aligned"), Wish(initiators=(OperatorId("a"),))


@pytest.mark.parametrize("concurrent_max", [1, 2])
def test_every_wish_comes_true_as_it_was_said_in_every_order(concurrent_max: int) -> None:
    visited = visit_all(Attempt.of("savepoint", "checkpoint", concurrent_max=concurrent_max))

    assert visited.reached.keys() > {*ALWAYS, *ENDS}


@pytest.mark.parametrize("last", [ALONE, ALIGNED, Wish("final")], ids=["other", "same", "final"])
def test_wishes_that_wait_come_true_one_after_the_other_in_every_order(last: Wish) -> None:
    visited = visit_all(Attempt.of("checkpoint", ALIGNED, last, failures_max=0, repeats=0))

    assert visited.reached["written: inject"] > 1


class Hasty(CheckpointCoordinator):
    """Takes an acknowledgement that came twice for that of the other task, as a mistake would."""

    def _acknowledge(
        self, checkpoint_id: CheckpointId, snapshot: TaskSnapshot, now_ms: int
    ) -> list[Action]:
        pending = self._pending.get(checkpoint_id)
        if pending is not None and snapshot.task not in pending.missing and pending.missing:
            snapshot = TaskSnapshot(min(pending.missing), (), snapshot.subtask)
        return super()._acknowledge(checkpoint_id, snapshot, now_ms)


def test_a_coordinator_that_counts_a_duplicate_is_found() -> None:
    first = Attempt.of("checkpoint")
    first.machine.__class__ = Hasty

    with pytest.raises(AssertionError) as caught:
        visit_all(first)

    twice = "('say', 1, 'a/0', 'acknowledge')"
    assert f"after [('want',), {twice}], then one of" in caught.value.__notes__[0]


class Forgetful(CheckpointCoordinator):
    """Drops what waits when a checkpoint is given up, as a mistake would."""

    def _fail(self, checkpoint_id: CheckpointId, reason: str) -> list[Action]:
        self._wishes.clear()
        return super()._fail(checkpoint_id, reason)


class Unwilling(CheckpointCoordinator):
    """Drops what waits when a task declines, as a mistake would."""

    def _decline(self, checkpoint_id: CheckpointId, task: TaskId, reason: str) -> list[Action]:
        self._wishes.clear()
        return super()._decline(checkpoint_id, task, reason)


@pytest.mark.parametrize("kind", [Forgetful, Unwilling])
def test_a_coordinator_that_forgets_a_wish_is_found(kind: type[CheckpointCoordinator]) -> None:
    first = Attempt.of("checkpoint", "checkpoint")
    first.machine.__class__ = kind

    with pytest.raises(AssertionError, match="a wish is forgotten"):
        visit_all(first)


class Levelling(CheckpointCoordinator):
    """Triggers a plain checkpoint, whatever was wished for, as a mistake would."""

    def _trigger_if_due(self, now_ms: int) -> list[Action]:
        actions = super()._trigger_if_due(now_ms)
        return [InjectBarriers(CheckpointId(said(one)[1]), Wish()) for one in actions]


class Curt(CheckpointCoordinator):
    """Takes no more than the kind of a wish, as a mistake would."""

    def _request(self, wish: Wish) -> None:
        super()._request(Wish(wish.kind))


@pytest.mark.parametrize("kind", [Levelling, Curt])
def test_a_coordinator_that_changes_a_wish_is_found(kind: type[CheckpointCoordinator]) -> None:
    first = Attempt.of(ALIGNED, ALONE)
    first.machine.__class__ = kind

    with pytest.raises(AssertionError, match="nobody asked for this one now"):
        visit_all(first)
