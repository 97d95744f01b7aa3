"""Any order of events: the coordinator does what a simple model of it says."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flowsnap.core.coordinator import (
    Abort,
    Action,
    CheckpointCoordinator,
    CheckpointKind,
    DrainRequested,
    DrainSources,
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
from tests.property.machines import assert_found, examples

TASKS = [TaskId("a/0"), TaskId("a/1"), TaskId("b/0")]
INTERVAL_MS, TIMEOUT_MS, PAUSE_MS, FAILURES_MAX = 100, 60, 30, 1
Said = list[tuple[str, int]]


@dataclass
class Checkpoint:
    """One checkpoint in the model, from its trigger to its end."""

    number: int
    is_final: bool
    triggered_ms: int
    parts: set[str] = field(default_factory=set)
    end: str = ""  # "complete" or "aborted"

    @property
    def is_writing(self) -> bool:
        return not self.end and self.parts == set(TASKS)


class Model:
    """All checkpoints ever triggered; what is pending, due or over is read off that list."""

    def __init__(self) -> None:
        self.all: list[Checkpoint] = []
        self.started_ms: int | None = None
        self.completed_ms = -(10**9)
        self.wishes: set[str] = set()
        self.is_draining = False

    @property
    def pending(self) -> Checkpoint | None:
        return self.all[-1] if self.all and not self.all[-1].end else None

    @property
    def is_over(self) -> bool:
        ends = [checkpoint.end for checkpoint in self.all]
        too_many = ["aborted"] * (FAILURES_MAX + 1)
        return any(c.is_final and c.end for c in self.all) or ends[-len(too_many) :] == too_many

    def abort(self) -> Said:
        checkpoint = self.all[-1]
        checkpoint.end = "aborted"
        return [("abort", checkpoint.number), *([("fail", 0)] if self.is_over else [])]

    def complete(self, now_ms: int) -> Said:
        self.all[-1].end, self.completed_ms = "complete", now_ms
        return [("notify", self.all[-1].number)]

    def expire(self, now_ms: int) -> Said:
        late = self.pending
        if late is None or late.is_writing or now_ms < late.triggered_ms + TIMEOUT_MS:
            return []
        return self.abort()

    def trigger(self, now_ms: int) -> Said:
        if self.started_ms is None or self.pending or self.is_over:
            return []
        last_ms = self.all[-1].triggered_ms if self.all else self.started_ms
        due_ms = max(last_ms + INTERVAL_MS, self.completed_ms + PAUSE_MS)
        if not self.wishes and (self.is_draining or now_ms < due_ms):
            return []
        self.all.append(Checkpoint(len(self.all) + 1, "final" in self.wishes, now_ms))
        self.wishes = set()
        return [("inject", len(self.all))]


def said(actions: list[Action]) -> Said:
    names = {InjectBarriers: "inject", WriteManifest: "write", NotifyComplete: "notify"}
    found: Said = []
    for action in actions:
        if isinstance(action, (FailAttempt, DrainSources)):
            found.append(("fail" if isinstance(action, FailAttempt) else "drain", 0))
        else:
            name = "abort" if isinstance(action, Abort) else names[type(action)]
            found.append((name, action.checkpoint_id))
    return found


class CoordinatorMachine(RuleBasedStateMachine):
    """Every event, at any time."""

    subject = CheckpointCoordinator

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0
        self.model = Model()
        self.machine = self.subject(
            TASKS,
            next_id=CheckpointId(1),
            interval_ms=INTERVAL_MS,
            timeout_ms=TIMEOUT_MS,
            pause_ms_min=PAUSE_MS,
            failures_max=FAILURES_MAX,
        )

    def tell(self, event: Event, expected: Said) -> None:
        """Handle an event; ``expected`` is what it does before a trigger."""
        expected += self.model.trigger(self.now_ms)
        assert said(self.machine.handle(event, self.now_ms)) == expected

    @initialize(early=st.booleans())
    def start(self, early: bool) -> None:
        if early:
            self.model.wishes.add("checkpoint")
            self.tell(TriggerRequested(Wish()), [])
        self.model.started_ms = self.now_ms
        self.tell(Started(), [])

    @rule(ms=st.sampled_from([1, 5, 20, 60, 100]))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms
        self.tell(TimePassed(), self.model.expire(self.now_ms))

    @rule()
    def the_deadline_comes(self) -> None:
        deadline_ms = self.machine.next_deadline_ms()
        if deadline_ms is not None:
            self.now_ms = deadline_ms
            before = len(self.model.all), self.model.pending
            self.tell(TimePassed(), self.model.expire(self.now_ms))
            assert before != (len(self.model.all), self.model.pending), "woken for nothing"

    @rule(kind=st.sampled_from(["checkpoint", "checkpoint", "checkpoint", "final"]))
    def somebody_wants_a_checkpoint(self, kind: CheckpointKind) -> None:
        is_left_out = self.model.is_draining and kind != "final"
        if not is_left_out and not (self.model.pending and self.model.pending.is_final):
            self.model.wishes.add(kind)
        self.tell(TriggerRequested(Wish(kind)), [])

    @precondition(lambda self: self.model.all and not self.model.is_draining)
    @rule(is_meant=st.sampled_from([False, False, False, True]))
    def the_input_is_drained(self, is_meant: bool) -> None:
        if not is_meant or self.model.is_over:
            return
        self.model.is_draining = True
        self.model.wishes &= {"final"}
        self.tell(DrainRequested(), [("drain", 0)])

    @precondition(lambda self: self.model.all)
    @rule(task=st.sampled_from(TASKS), back=st.sampled_from([0, 0, 0, 1]), ms=st.integers(0, 9))
    def a_task_acknowledges(self, task: TaskId, back: int, ms: int) -> None:
        self.now_ms += ms  # Its time may be over: nobody has said so yet.
        expected: Said = []
        checkpoint = self.model.all[max(0, len(self.model.all) - 1 - back)]
        if not checkpoint.end and not checkpoint.is_writing:
            checkpoint.parts.add(task)
            expected = [("write", checkpoint.number)] if checkpoint.is_writing else []
        snapshot = TaskSnapshot(task, (OperatorId("x"),), 0)
        self.tell(TaskAcknowledged(CheckpointId(checkpoint.number), snapshot), expected)

    @precondition(lambda self: self.model.all)
    @rule(task=st.sampled_from(TASKS), back=st.sampled_from([0, 1]))
    def a_task_declines(self, task: TaskId, back: int) -> None:
        expected: Said = []
        checkpoint = self.model.all[max(0, len(self.model.all) - 1 - back)]
        if not checkpoint.end and task not in checkpoint.parts:
            expected = self.model.abort()
        self.tell(TaskDeclined(CheckpointId(checkpoint.number), task, "full"), expected)

    @precondition(lambda self: self.model.pending and self.model.pending.is_writing)
    @rule(ms=st.sampled_from([0, 1, 1000]), is_written=st.sampled_from([True, True, False]))
    def the_manifest_is_decided(self, ms: int, is_written: bool) -> None:
        self.now_ms += ms
        number = CheckpointId(len(self.model.all))
        if is_written:
            self.tell(ManifestWritten(number), self.model.complete(self.now_ms))
        else:
            self.tell(ManifestFailed(number, "full"), self.model.abort())

    @invariant()
    def the_invariants_hold(self) -> None:
        self.machine.check()

    @invariant()
    def the_view_shows_what_is_pending(self) -> None:
        pending, model = self.machine.pending, self.model.pending
        assert (pending is None) == (model is None)
        if pending is not None and model is not None:
            assert pending.checkpoint_id == model.number
            assert (pending.kind == "final") == model.is_final
            assert pending.is_writing == model.is_writing
            assert set(pending.missing) == set(TASKS) - model.parts


TestCoordinator = CoordinatorMachine.TestCase
TestCoordinator.settings = examples(150, steps=40)


class Deaf(CheckpointCoordinator):
    """Does not hear that a task declines."""

    def handle(self, event: Event, now_ms: int) -> list[Action]:
        return super().handle(TimePassed() if isinstance(event, TaskDeclined) else event, now_ms)


def test_a_coordinator_that_is_broken_is_found() -> None:
    class Broken(CoordinatorMachine):
        subject = Deaf

    assert_found(Broken)
