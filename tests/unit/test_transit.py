"""What was in transit over a restore: to whom does it go now?"""

from __future__ import annotations

import msgspec

from flowsnap.core.graph import (
    EdgeSpec,
    JobGraph,
    OperatorKind,
    OperatorSpec,
    Partitioning,
    build_execution_graph,
)
from flowsnap.core.ids import OperatorId, TaskId
from flowsnap.core.manifest import ChannelState, FileHandle, TaskSnapshot
from flowsnap.core.transit import assign, misdirected, targets

IN, COUNT = OperatorId("in"), OperatorId("count")


def job(parallelism: int, partitioning: Partitioning = Partitioning.HASH) -> JobGraph:
    operators = (
        OperatorSpec(IN, OperatorKind.SOURCE, 2),
        OperatorSpec(COUNT, OperatorKind.SINK, parallelism),
    )
    return JobGraph("j", operators, (EdgeSpec(IN, COUNT, partitioning),))


def channel(source: int, target: int, *, is_sent: bool = False) -> ChannelState:
    return ChannelState(0, IN, source, COUNT, target, Partitioning.HASH, is_sent=is_sent)


def snapshot(operator: OperatorId, subtask: int, *channels: ChannelState) -> TaskSnapshot:
    name = f"{operator}/{subtask}"
    file = FileHandle("channels.bin", f"checkpoints/1/{name}", 1, "0" * 64) if channels else None
    return TaskSnapshot(TaskId(name), (operator,), subtask, channels=channels, channel_file=file)


OLD = (
    snapshot(IN, 0, channel(0, 0, is_sent=True)),
    snapshot(IN, 1),
    snapshot(COUNT, 0, channel(0, 0), channel(1, 0)),
    snapshot(COUNT, 1, channel(1, 1)),
)


def given(
    parallelism: int, graph: JobGraph | None = None
) -> dict[str, list[tuple[int, int, bool]]]:
    """Return for each task the channels it is given: source, target, whether it was sent."""
    plan = build_execution_graph(graph or job(parallelism), 2)
    return {
        task.id: [
            (one.source_subtask, one.target_subtask, one.is_sent)
            for part in assign(OLD, plan, task)
            for one in part.channels
        ]
        for task in plan.tasks
    }


def test_same_parallelism_gives_every_channel_to_its_old_receiver() -> None:
    found = given(2)

    assert found["count/0"] == [(0, 0, False), (1, 0, False), (0, 0, True)]
    assert found["count/1"] == [(1, 1, False)]
    assert found["in/0"] == found["in/1"] == []


def test_what_the_receiver_has_recorded_comes_before_what_the_sender_has() -> None:
    assert [is_sent for *_, is_sent in given(2)["count/0"]] == [False, False, True]


def test_keyed_channel_goes_to_all_who_own_some_of_its_key_groups_now() -> None:
    found = given(4)

    assert found["count/0"] == found["count/1"] == [(0, 0, False), (1, 0, False), (0, 0, True)]
    assert found["count/2"] == found["count/3"] == [(1, 1, False)]


def test_one_subtask_gets_everything() -> None:
    found = given(1)

    assert found["count/0"] == [(0, 0, False), (1, 0, False), (1, 1, False), (0, 0, True)]


def test_channel_without_keys_goes_to_one_subtask_as_a_whole() -> None:
    plain = tuple(
        msgspec.structs.replace(
            task,
            channels=tuple(
                msgspec.structs.replace(one, partitioning=Partitioning.REBALANCE)
                for one in task.channels
            ),
        )
        for task in OLD
    )
    plan = build_execution_graph(job(3, Partitioning.REBALANCE), 2)

    found = [part for task in plan.tasks for part in assign(plain, plan, task)]

    assert sum(len(part.channels) for part in found) == 4


def test_operators_to_which_something_was_in_transit_are_known() -> None:
    assert targets(OLD) == {COUNT}


def test_step_that_is_partitioned_in_another_way_now_is_named() -> None:
    assert misdirected(OLD, job(2)) == []
    assert misdirected(OLD, job(2, Partitioning.REBALANCE)) == [COUNT]


A, B = OperatorId("a"), OperatorId("b")


def chained() -> JobGraph:
    """Return a pipeline in which two operators are one chain, which once had a channel between."""
    operators = (
        OperatorSpec(IN, OperatorKind.SOURCE, 2),
        OperatorSpec(A, OperatorKind.OPERATOR, 1),
        OperatorSpec(B, OperatorKind.SINK, 1),
    )
    edges = (EdgeSpec(IN, A, Partitioning.REBALANCE), EdgeSpec(A, B, Partitioning.FORWARD))
    return JobGraph("j", operators, edges)


def between(source: OperatorId, target: OperatorId, *, is_sent: bool) -> ChannelState:
    return ChannelState(0, source, 0, target, 0, Partitioning.REBALANCE, is_sent=is_sent)


def replayed(*old: TaskSnapshot) -> list[tuple[OperatorId, bool]]:
    plan = build_execution_graph(chained(), 1)
    return [
        (one.target, one.is_sent)
        for task in plan.tasks
        for part in assign(old, plan, task)
        for one in part.channels
    ]


def test_what_was_on_its_way_to_the_end_of_a_chain_comes_before_what_was_on_its_way_to_it() -> None:
    found = replayed(
        snapshot(A, 0, between(IN, A, is_sent=False), between(A, B, is_sent=True)),
        snapshot(B, 0, between(A, B, is_sent=False)),
        snapshot(IN, 0, between(IN, A, is_sent=True)),
    )

    assert found == [(B, False), (B, True), (A, False), (A, True)]


def test_what_is_still_sent_to_an_operator_that_had_ended_goes_nowhere() -> None:
    sender = snapshot(A, 0, between(A, B, is_sent=True))
    ended = msgspec.structs.replace(snapshot(B, 0), is_ended=True)

    assert replayed(sender, snapshot(B, 0)) == [(B, True)]
    assert replayed(sender, ended) == []
