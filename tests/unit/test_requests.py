"""Every request ends in exactly one answer, whatever happens in which order."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsnap.core import requests
from flowsnap.core.ids import CheckpointId
from flowsnap.core.requests import (
    Aborted,
    Action,
    Answer,
    Asked,
    CancelJob,
    Completed,
    DrainJob,
    Ended,
    Event,
    Export,
    Request,
    RequestKind,
    Requests,
    Started,
    StopJob,
    Triggered,
    TriggerSavepoint,
)
from flowsnap.errors import LocalProtocolError

ONE, TWO = CheckpointId(1), CheckpointId(2)


def running() -> Requests:
    machine = Requests()
    assert machine.handle(Started()) == []
    return machine


def ask(
    machine: Requests,
    id: str,
    kind: RequestKind = "savepoint",
    savepoint: str | None = None,
    *,
    is_drain: bool = False,
) -> list[Action]:
    name = "" if savepoint is None and kind == "savepoint" else savepoint
    return machine.handle(Asked(Request(id, kind, name, is_drain)))


def after(machine: Requests, *events: Event) -> list[Action]:
    return [action for event in events for action in machine.handle(event)]


def error_of(actions: list[Action]) -> str:
    [answer] = actions
    assert isinstance(answer, Answer)
    return answer.result.error


def test_session_in_the_docstring_holds() -> None:
    assert doctest.testmod(requests).failed == 0


# --- savepoints ------------------------------------------------------------------------------


def test_checkpoint_that_was_under_way_is_no_savepoint_the_next_one_is() -> None:
    machine = running()
    machine.handle(Triggered(ONE))

    assert ask(machine, "a") == [TriggerSavepoint()]
    assert after(machine, Completed(ONE, False), Triggered(TWO)) == []
    assert after(machine, Completed(TWO, False)) == [Export("a", "", TWO, "running")]


def test_savepoint_that_is_asked_for_before_the_start_is_triggered_at_the_start() -> None:
    machine = Requests()

    assert ask(machine, "a") == []
    assert machine.handle(Started()) == [TriggerSavepoint()]


def test_savepoint_survives_a_failure_of_the_attempt() -> None:
    machine = running()
    ask(machine, "a")
    machine.handle(Triggered(ONE))

    assert machine.handle(Started()) == [TriggerSavepoint()]
    assert after(machine, Triggered(TWO), Completed(TWO, False)) == [
        Export("a", "", TWO, "running")
    ]


def test_savepoint_whose_checkpoint_is_given_up_has_failed() -> None:
    machine = running()
    ask(machine, "a")
    machine.handle(Triggered(ONE))

    error = error_of(machine.handle(Aborted(ONE, "task b/0 declined: disk full")))

    assert error == "checkpoint 1 was given up: task b/0 declined: disk full"
    assert machine.waiting == ()


def test_abort_of_an_older_checkpoint_is_no_concern_of_a_savepoint() -> None:
    machine = running()
    machine.handle(Triggered(ONE))
    ask(machine, "a")

    assert machine.handle(Aborted(ONE, "late")) == []
    assert machine.waiting == ("a",)


def test_savepoint_that_is_overtaken_is_made_of_the_checkpoint_that_overtook_it() -> None:
    machine = running()
    ask(machine, "a")
    after(machine, Triggered(ONE), Triggered(TWO))

    assert machine.handle(Aborted(ONE, "overtaken by checkpoint 2")) == []
    assert machine.handle(Completed(TWO, False)) == [Export("a", "", TWO, "running")]


def test_unaligned_checkpoint_is_no_savepoint_the_next_aligned_one_is() -> None:
    machine = running()
    ask(machine, "a")
    machine.handle(Triggered(ONE, is_aligned=False))

    assert after(machine, Completed(ONE, False), Triggered(TWO)) == []
    assert after(machine, Completed(TWO, False)) == [Export("a", "", TWO, "running")]


def test_abort_of_an_unaligned_checkpoint_is_no_concern_of_a_savepoint() -> None:
    machine = running()
    ask(machine, "a")
    machine.handle(Triggered(ONE, is_aligned=False))

    assert machine.handle(Aborted(ONE, "late")) == []
    assert machine.waiting == ("a",)


def test_two_savepoints_of_different_names_share_a_checkpoint() -> None:
    machine = running()
    ask(machine, "a", savepoint="x")
    ask(machine, "b", savepoint="y")

    made = after(machine, Triggered(ONE), Completed(ONE, False))

    assert made == [Export("a", "x", ONE, "running"), Export("b", "y", ONE, "running")]


def test_second_savepoint_of_a_name_is_refused_while_the_first_is_made() -> None:
    machine = running()
    ask(machine, "a", savepoint="x")

    assert "'x' has been asked for already" in error_of(ask(machine, "b", savepoint="x"))
    assert machine.waiting == ("a",)


# --- stop ------------------------------------------------------------------------------------


def test_stop_is_answered_at_the_end_with_a_savepoint_of_the_final_checkpoint() -> None:
    machine = running()
    assert ask(machine, "a", "stop", "last") == [StopJob()]

    assert after(machine, Triggered(ONE), Completed(ONE, True)) == []
    assert machine.handle(Ended("stopped", "")) == [Export("a", "last", ONE, "stopped")]


def test_stop_twice_stops_once_and_both_are_answered() -> None:
    machine = running()

    assert ask(machine, "a", "stop") == [StopJob()]
    assert ask(machine, "b", "stop", "x") == []
    ended = after(machine, Triggered(ONE), Completed(ONE, True), Ended("stopped", ""))
    assert [type(action) for action in ended] == [Answer, Export]


def test_stop_whose_output_could_not_be_committed_says_that_the_checkpoint_is_whole() -> None:
    machine = running()
    ask(machine, "a", "stop", "last")
    after(machine, Triggered(ONE), Completed(ONE, True))

    error = error_of(machine.handle(Ended("failed", "sink 'out' is away")))

    assert error.startswith("checkpoint 1 is complete, but not all of its output is committed")
    assert error.endswith("the job was failed: sink 'out' is away")


def test_stop_of_a_job_that_fails_before_its_last_checkpoint_says_so() -> None:
    machine = running()
    ask(machine, "a", "stop")

    assert error_of(machine.handle(Ended("failed", "no luck"))) == "the job was failed: no luck"


def test_final_checkpoint_of_a_failed_attempt_is_forgotten_by_the_next() -> None:
    machine = running()
    ask(machine, "a", "stop", "last")
    after(machine, Triggered(ONE), Completed(ONE, True), Started(), Triggered(TWO))
    machine.handle(Completed(TWO, True))

    assert machine.handle(Ended("stopped", "")) == [Export("a", "last", TWO, "stopped")]


def test_savepoint_that_comes_during_a_stop_is_made_of_the_final_checkpoint() -> None:
    machine = running()
    ask(machine, "a", "stop")
    machine.handle(Triggered(ONE))
    assert ask(machine, "b") == []

    ended = after(machine, Completed(ONE, True), Ended("stopped", ""))

    assert Export("b", "", ONE, "stopped") in ended


# --- drain -----------------------------------------------------------------------------------


def test_drain_is_told_to_every_attempt() -> None:
    machine = running()

    assert ask(machine, "a", "stop", is_drain=True) == [DrainJob()]
    assert machine.handle(Started()) == [DrainJob()]
    assert machine.is_draining


def test_drain_before_the_start_waits_for_it() -> None:
    machine = Requests()

    assert ask(machine, "a", "stop", is_drain=True) == []
    assert machine.handle(Started()) == [DrainJob()]


def test_no_savepoint_is_begun_during_a_drain() -> None:
    machine = running()
    ask(machine, "a", "stop", is_drain=True)

    assert ask(machine, "b") == []
    assert after(machine, Triggered(ONE), Completed(ONE, True)) == [Export("b", "", ONE, "running")]


def test_drain_cannot_join_a_stop_and_a_stop_joins_a_drain() -> None:
    machine, other = running(), running()
    ask(machine, "a", "stop")
    ask(other, "a", "stop", is_drain=True)

    assert "without a drain" in error_of(ask(machine, "b", "stop", is_drain=True))
    assert ask(other, "b", "stop") == []


# --- cancel ----------------------------------------------------------------------------------


def test_cancel_ends_everything_and_each_learns_what_became_of_it() -> None:
    machine = running()
    ask(machine, "a")
    ask(machine, "b", "stop")
    assert ask(machine, "c", "cancel") == [CancelJob()]

    answers = machine.handle(Ended("cancelled", "cancelled"))

    errors = {one.request_id: one.result.error for one in answers if isinstance(one, Answer)}
    assert errors == {
        "a": "the job was cancelled: cancelled",
        "b": "the job was cancelled: cancelled",
        "c": "",
    }


def test_nothing_else_is_taken_while_a_job_is_cancelled() -> None:
    machine = running()
    ask(machine, "a", "cancel")

    assert error_of(ask(machine, "b")) == "the job is being cancelled"
    assert error_of(ask(machine, "c", "stop")) == "the job is being cancelled"
    assert ask(machine, "d", "cancel") == [CancelJob()]


def test_cancel_of_a_job_that_had_come_to_its_end_says_so() -> None:
    machine = running()
    ask(machine, "a", "cancel")

    assert "the job was finished before" in error_of(machine.handle(Ended("finished", "")))


def test_job_that_has_ended_refuses_everything() -> None:
    machine = running()
    after(machine, Triggered(ONE), Completed(ONE, True), Ended("finished", ""))

    assert error_of(ask(machine, "a", "cancel")) == "the job has ended: it is finished"


def test_request_that_is_made_twice_is_a_bug_and_changes_nothing() -> None:
    machine = running()
    ask(machine, "a")

    with pytest.raises(LocalProtocolError, match="request a was made twice"):
        ask(machine, "a")
    assert machine.waiting == ("a",)


# --- in any order ----------------------------------------------------------------------------


class Life:
    """A job that reacts to what is asked of it, in an order that hypothesis chooses."""

    def __init__(self) -> None:
        self.machine = Requests()
        self.asked: list[str] = []
        self.answered: list[str] = []
        self.newest = 0
        self.pending: list[int] = []

    def tell(self, event: Event) -> None:
        for action in self.machine.handle(event):
            if isinstance(action, (Answer, Export)):
                self.answered.append(action.request_id)

    def ask(self, kind: RequestKind, name: str | None, is_drain: bool) -> None:
        self.asked.append(str(len(self.asked)))
        self.tell(Asked(Request(self.asked[-1], kind, name, is_drain)))

    def go_on(self, step: str) -> None:
        match step:
            case "start":
                self.pending.clear()
                self.tell(Started())
            case "trigger":
                self.newest += 1
                self.pending.append(self.newest)
                self.tell(Triggered(CheckpointId(self.newest)))
            case "complete" if self.pending:
                self.tell(Completed(CheckpointId(self.pending.pop(0)), False))
            case "abort" if self.pending:
                self.tell(Aborted(CheckpointId(self.pending.pop(0)), "late"))
            case _:
                pass


asks = st.tuples(
    st.sampled_from(["savepoint", "stop", "cancel"]),
    st.sampled_from([None, "", "x", "y"]),
    st.booleans(),
)
steps = st.sampled_from(["start", "trigger", "complete", "abort"])


@given(
    st.lists(st.one_of(asks, steps), max_size=25),
    st.sampled_from(["stopped", "finished", "cancelled", "failed"]),
)
def test_every_request_is_answered_exactly_once(
    events: list[tuple[RequestKind, str | None, bool] | str], end: str
) -> None:
    life = Life()
    for event in events:
        if isinstance(event, str):
            life.go_on(event)
        else:
            life.ask(*event)
    life.tell(Completed(CheckpointId(99), True))

    life.tell(Ended(end, "why"))

    assert sorted(life.answered, key=int) == life.asked
    assert life.machine.waiting == ()
