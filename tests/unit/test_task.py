from __future__ import annotations

import pytest

from flowsnap.core.ids import ChannelId
from flowsnap.core.task import TRANSITIONS, InputEnds, TaskState, diagram, move
from flowsnap.errors import LocalProtocolError, PeerProtocolError

A, B = ChannelId(0), ChannelId(1)


def test_every_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(TaskState)


def test_every_state_but_the_first_can_be_reached_from_it() -> None:
    reached, new = set[TaskState](), {TaskState.CREATED}
    while new:
        reached |= new
        new = set().union(*(TRANSITIONS[state] for state in new)) - reached

    assert reached == set(TaskState)


def test_task_lives_from_created_to_ended() -> None:
    state = TaskState.CREATED

    for target in (TaskState.RESTORING, TaskState.RUNNING, TaskState.ENDING, TaskState.ENDED):
        state = move(state, target)

    assert state is TaskState.ENDED


def test_task_that_had_ended_before_the_checkpoint_does_not_run_again() -> None:
    assert move(TaskState.RESTORING, TaskState.ENDED) is TaskState.ENDED


def test_task_can_fail_and_be_cancelled_at_any_time_until_its_life_is_over() -> None:
    living = {state for state, targets in TRANSITIONS.items() if targets}

    assert living == set(TaskState) - {TaskState.FAILED, TaskState.CANCELLED}
    assert all({TaskState.FAILED, TaskState.CANCELLED} <= TRANSITIONS[state] for state in living)


@pytest.mark.parametrize(
    ("state", "target"),
    [
        (TaskState.CREATED, TaskState.RUNNING),
        (TaskState.RUNNING, TaskState.ENDED),
        (TaskState.ENDED, TaskState.RUNNING),
        (TaskState.FAILED, TaskState.RESTORING),
        (TaskState.RUNNING, TaskState.RUNNING),
    ],
)
def test_illegal_step_is_refused_with_both_states(state: TaskState, target: TaskState) -> None:
    with pytest.raises(LocalProtocolError, match=f"cannot go from {state} to {target}"):
        move(state, target)


def test_diagram_shows_each_step_of_the_table() -> None:
    lines = diagram().splitlines()

    assert lines[:2] == ["stateDiagram-v2", "    [*] --> created"]
    assert "    ending --> ended" in lines
    assert "    failed --> [*]" in lines
    assert len(lines) == 2 + sum(len(targets) or 1 for targets in TRANSITIONS.values())


def test_input_has_ended_when_it_has_on_every_channel() -> None:
    ends = InputEnds([A, B])

    assert ends.receive(B) is False
    assert ends.receive(A) is True


def test_second_end_of_one_channel_is_the_fault_of_the_peer() -> None:
    ends = InputEnds([A, B])
    ends.receive(A)

    with pytest.raises(PeerProtocolError, match="twice on channel 0"):
        ends.receive(A)

    assert ends.receive(B) is True


def test_end_of_an_unknown_channel_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="unknown channel 1"):
        InputEnds([A]).receive(B)
