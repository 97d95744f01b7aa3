"""What the scripts in scenarios/job do not show."""

from __future__ import annotations

import doctest

import pytest

from flowsnap.config import Restart
from flowsnap.core import job
from flowsnap.core.ids import TaskId, WorkerId
from flowsnap.core.job import (
    TRANSITIONS,
    AttemptFailed,
    BeginAttempt,
    CancelRequested,
    CancelTasks,
    End,
    Event,
    FinalCommitted,
    JobMachine,
    JobState,
    StartTasks,
    StopRequested,
    Submitted,
    TakeFinalCheckpoint,
    TaskReachedEnd,
    TimePassed,
    WorkerCancelled,
    WorkerDeployed,
    WorkerLost,
    WorkerUp,
    diagram,
    move,
)
from flowsnap.core.restart import RestartPolicy
from flowsnap.errors import LocalProtocolError

TASK, ZERO = TaskId("a/0"), WorkerId(0)
LIVE = (JobState.STARTING, JobState.DEPLOYING, JobState.RUNNING, JobState.FINISHING)


def make(restart: Restart | None = None) -> JobMachine:
    policy = RestartPolicy(restart or Restart(strategy="fixed", delay_ms=100))
    return JobMachine(1, [TASK], policy, start_timeout_ms=1_000, cancel_timeout_ms=200)


def reach(state: JobState, machine: JobMachine) -> JobMachine:
    """Bring a machine into one of the live states, all at time 0."""
    way: list[Event] = [Submitted(), WorkerUp(ZERO), WorkerDeployed(ZERO), TaskReachedEnd(TASK)]
    for event in way[: LIVE.index(state) + 1]:
        machine.handle(event, 0)
    assert machine.state is state
    return machine


def test_every_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(JobState)


def test_every_state_but_the_first_is_reachable() -> None:
    reached, grown = set[JobState](), {JobState.CREATED}
    while grown != reached:
        reached = set(grown)
        grown |= {target for state in reached for target in TRANSITIONS[state]}

    assert reached == set(JobState)
    assert all(JobState.CREATED not in targets for targets in TRANSITIONS.values())


def test_only_the_four_outcomes_are_the_end() -> None:
    assert {state for state, targets in TRANSITIONS.items() if not targets} == {
        JobState.FINISHED,
        JobState.STOPPED,
        JobState.CANCELLED,
        JobState.FAILED,
    }


def test_a_move_that_is_not_in_the_table_is_refused() -> None:
    assert move(JobState.CREATED, JobState.STARTING) is JobState.STARTING

    with pytest.raises(LocalProtocolError, match="from created to running"):
        move(JobState.CREATED, JobState.RUNNING)


def test_the_diagram_shows_the_table() -> None:
    lines = diagram().splitlines()

    assert lines[:3] == ["stateDiagram-v2", "    [*] --> created", "    created --> starting"]
    assert "    cancelling --> failed" in lines
    assert "    failed --> [*]" in lines
    assert len(lines) == 2 + sum(len(targets) or 1 for targets in TRANSITIONS.values())


def test_only_the_first_line_of_a_failure_goes_into_the_history() -> None:
    machine = reach(JobState.RUNNING, make())

    machine.handle(AttemptFailed("ValueError: x\n  File ...\n", True, ZERO), 0)

    assert machine.failures == ("worker 0: ValueError: x",)


def test_a_failure_of_the_job_manager_names_no_worker() -> None:
    machine = reach(JobState.RUNNING, make())

    machine.handle(AttemptFailed("", True), 0)

    assert machine.failures == ("no reason was given",)


def test_the_history_has_one_line_for_each_attempt_that_failed() -> None:
    machine = reach(JobState.RUNNING, make())
    machine.handle(WorkerLost(ZERO, "killed by signal 9"), 0)
    machine.handle(TimePassed(), 100)
    machine.handle(WorkerLost(ZERO, "exit code 1"), 100)

    assert machine.failures == ("worker 0: killed by signal 9", "worker 0: exit code 1")


def test_a_death_that_comes_after_the_failure_is_added_to_its_line() -> None:
    machine = reach(JobState.RUNNING, make())
    machine.handle(AttemptFailed("connection lost", True, ZERO), 0)

    machine.handle(WorkerLost(ZERO, "killed by signal 9\ncore dumped"), 1)

    assert machine.failures == ("worker 0: connection lost; worker 0: killed by signal 9",)


def test_a_death_that_is_seen_twice_is_told_once() -> None:
    machine = reach(JobState.RUNNING, make())
    machine.handle(WorkerLost(ZERO, "killed by signal 9"), 0)

    machine.handle(WorkerLost(ZERO, "connection closed"), 1)

    assert machine.failures == ("worker 0: killed by signal 9",)


def test_a_death_after_a_cancel_is_no_failure() -> None:
    machine = reach(JobState.RUNNING, make())
    machine.handle(CancelRequested(), 0)

    assert machine.handle(WorkerLost(ZERO, "exit code 0"), 1) == [
        End(JobState.CANCELLED, "cancelled")
    ]
    assert machine.failures == ()


def test_the_draw_spreads_the_delay() -> None:
    machine = reach(JobState.RUNNING, make(Restart(delay_ms=1_000, jitter=0.5)))

    machine.handle(WorkerLost(ZERO, "killed"), 0, draw=0.0)

    assert machine.next_deadline_ms() == 500


def test_the_draw_spreads_the_delay_after_a_late_start_too() -> None:
    machine = reach(JobState.STARTING, make(Restart(delay_ms=1_000, jitter=0.5)))

    machine.handle(TimePassed(), 1_000, draw=0.0)

    assert machine.next_deadline_ms() == 1_000 + 500


@pytest.mark.parametrize("state", LIVE[1:])
def test_a_cancel_in_a_live_state_waits_for_the_answer(state: JobState) -> None:
    machine = reach(state, make())

    assert machine.handle(CancelRequested(), 0) == [CancelTasks((ZERO,))]
    assert machine.handle(WorkerCancelled(ZERO), 1) == [End(JobState.CANCELLED, "cancelled")]
    assert machine.is_terminal


@pytest.mark.parametrize("state", LIVE[1:])
def test_a_failure_without_restart_in_a_live_state_ends_the_job(state: JobState) -> None:
    machine = reach(state, make(Restart(strategy="none")))

    assert machine.handle(AttemptFailed("bad", True), 0) == [CancelTasks((ZERO,))]
    [end] = machine.handle(WorkerCancelled(ZERO), 1)

    assert end == End(JobState.FAILED, "no restart is left after a failure: bad")


def test_a_job_manager_that_fails_while_workers_come_up_fails_the_attempt() -> None:
    machine = reach(JobState.STARTING, make())

    assert machine.handle(AttemptFailed("disk full", is_restartable=False), 0) == [
        End(JobState.FAILED, "disk full")
    ]


def test_a_new_attempt_counts_the_ended_tasks_anew() -> None:
    machine = reach(JobState.FINISHING, make())
    machine.handle(AttemptFailed("commit refused", True, ZERO), 0)
    machine.handle(WorkerCancelled(ZERO), 1)
    assert machine.handle(TimePassed(), 100) == [BeginAttempt()]

    assert machine.handle(WorkerDeployed(ZERO), 110) == [StartTasks()]
    assert machine.handle(TaskReachedEnd(TASK), 120) == [TakeFinalCheckpoint()]


def test_after_the_end_nothing_matters() -> None:
    machine = reach(JobState.FINISHING, make())
    machine.handle(FinalCommitted(), 0)

    late: list[Event] = [Submitted(), StopRequested(), WorkerLost(WorkerId(9), "who"), TimePassed()]

    assert [machine.handle(event, 10**9) for event in late] == [[]] * 4
    assert machine.state is JobState.FINISHED


def test_a_job_of_no_tasks_is_refused() -> None:
    with pytest.raises(LocalProtocolError):
        JobMachine(1, [], RestartPolicy(Restart()), start_timeout_ms=1, cancel_timeout_ms=1)


def test_the_session_in_the_docstring_is_true() -> None:
    assert doctest.testmod(job).failed == 0
