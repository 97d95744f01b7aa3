"""Where does a checkpoint begin, so that it comes to everybody?"""

from __future__ import annotations

from flowsnap.core.graph import (
    EdgeSpec,
    ExecutionGraph,
    JobGraph,
    OperatorKind,
    OperatorSpec,
    Partitioning,
    build_execution_graph,
)
from flowsnap.core.ids import OperatorId
from flowsnap.core.initiation import Initiation


def graph(*, partitioning: Partitioning = Partitioning.HASH) -> ExecutionGraph:
    """Two sources into a join, and a ring of a loop and a body beside them."""
    names = {
        "a": OperatorKind.SOURCE,
        "b": OperatorKind.SOURCE,
        "join": OperatorKind.OPERATOR,
        "out": OperatorKind.SINK,
        "loop": OperatorKind.LOOP,
        "body": OperatorKind.OPERATOR,
        "end": OperatorKind.SINK,
    }
    specs = tuple(OperatorSpec(OperatorId(name), kind, 2) for name, kind in names.items())
    lines = [("a", "join"), ("b", "join"), ("join", "out"), ("loop", "body"), ("body", "end")]
    edges = [EdgeSpec(OperatorId(one), OperatorId(other), partitioning) for one, other in lines]
    back = EdgeSpec(OperatorId("body"), OperatorId("loop"), Partitioning.HASH, is_feedback=True)
    return build_execution_graph(JobGraph("j", specs, (*edges, back)), 2)


def names(tasks: frozenset[str]) -> set[str]:
    return {task.partition("/")[0] for task in tasks}


def test_ordinarily_it_begins_at_all_sources_and_loops() -> None:
    assert names(Initiation(graph()).tasks((), is_unaligned=True)) == {"a", "b", "loop"}


def test_unaligned_it_begins_where_it_is_asked_to_and_where_no_barrier_would_come() -> None:
    tasks = Initiation(graph()).tasks([OperatorId("body")], is_unaligned=True)

    assert names(tasks) == {"a", "b", "body"}


def test_source_that_initiates_is_no_exception_from_the_others() -> None:
    tasks = Initiation(graph()).tasks([OperatorId("a")], is_unaligned=True)

    assert names(tasks) == {"a", "b", "loop"}


def test_aligned_it_begins_at_all_sources_and_loops_as_well() -> None:
    tasks = Initiation(graph()).tasks([OperatorId("body")], is_unaligned=False)

    assert names(tasks) == {"a", "b", "loop", "body"}


def test_with_a_broadcast_it_begins_as_an_aligned_one() -> None:
    broadcast = graph(partitioning=Partitioning.BROADCAST)

    tasks = Initiation(broadcast).tasks([OperatorId("body")], is_unaligned=True)

    assert names(tasks) == {"a", "b", "loop", "body"}
