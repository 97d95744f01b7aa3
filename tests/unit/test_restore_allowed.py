"""Which differences between checkpoint and pipeline may be allowed, and what becomes of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from flowsnap.core.graph import EdgeSpec, JobGraph, OperatorKind, OperatorSpec, Partitioning
from flowsnap.core.graph import build_execution_graph as execution
from flowsnap.core.ids import OperatorId
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.core.restore import Allowed, Difference, assign, check_compatible, difference
from flowsnap.errors import StateIncompatible
from tests.manifests import COUNT, LINES, OUT, at, changed, checkpoint, found, keyed_state, words

REMOVED, ADDED, BOTH = Allowed(removed=True), Allowed(added=True), Allowed(True, True)
TOTALS = OperatorId("totals")


def counted() -> CheckpointManifest:
    """Return a checkpoint of ``words`` in which the counter has state and "a" is half read."""
    parts: dict[str, dict[str, Any]] = {
        "count/0": {"state": keyed_state(0, 128, "0.sst")},
        "lines/0": {"splits": (at("a", 5),)},
    }
    return checkpoint(words(), parts)


def without_count() -> JobGraph:
    graph = words()
    return JobGraph(
        graph.name,
        (graph.operators[0], graph.operators[2]),
        (EdgeSpec(LINES, OUT, Partitioning.FORWARD),),
    )


def with_totals() -> JobGraph:
    graph = words()
    totals = OperatorSpec(TOTALS, OperatorKind.OPERATOR, 1, "Count", is_keyed=True)
    edges = (
        *graph.edges,
        EdgeSpec(LINES, TOTALS, Partitioning.HASH),
        EdgeSpec(TOTALS, OUT, Partitioning.FORWARD),
    )
    return msgspec.structs.replace(graph, operators=(*graph.operators, totals), edges=edges)


def refusal(graph: JobGraph, allowed: Allowed) -> StateIncompatible:
    with pytest.raises(StateIncompatible) as caught:
        check_compatible(counted(), graph, allowed)
    return caught.value


def test_what_differs_is_told_by_operator() -> None:
    renamed = changed(words(), "count", name="totals")

    assert difference(counted(), words()) == Difference((), (), ())
    assert difference(counted(), renamed) == Difference((COUNT,), (), (TOTALS,))
    assert difference(counted(), changed(words(), "out", name="files")) == Difference(
        (), (OUT,), (OperatorId("files"),)
    )


def test_removed_operator_is_refused_with_the_flag_that_would_drop_its_state() -> None:
    error = refusal(without_count(), ADDED)

    assert "has 'count', which the pipeline lacks" in str(error)
    assert "(--allow-removed) to drop the state of 'count'" in error.__notes__[0]
    check_compatible(counted(), without_count(), REMOVED)


def test_added_operator_is_refused_with_the_flag_that_would_have_it_begin_empty() -> None:
    error = refusal(with_totals(), REMOVED)

    assert "the pipeline has 'totals', of which checkpoint 1 knows nothing" in str(error)
    assert "(--allow-added) to have 'totals' begin empty" in error.__notes__[0]
    check_compatible(counted(), with_totals(), ADDED)


def test_renamed_operator_needs_both_flags() -> None:
    renamed = changed(words(), "count", name="totals")

    for allowed in (Allowed(), REMOVED, ADDED):
        assert "'count'" in str(refusal(renamed, allowed)) or allowed is REMOVED
    check_compatible(counted(), renamed, BOTH)


def test_removed_state_reaches_no_task_and_the_rest_goes_on() -> None:
    graph = without_count()

    assigned = assign(counted(), execution(graph, 1), graph, found("a"))

    assert [one.states for one in assigned] == [()]
    assert [position.position for position in assigned[0].splits] == [5]


def test_added_operator_begins_without_state_beside_the_old_ones() -> None:
    graph = with_totals()
    running = execution(graph, 1)
    chains = {task.id: running.chains[task.chain].operators for task in running.tasks}

    assigned = {
        chains[one.task]: one.states for one in assign(counted(), running, graph, found("a"))
    }

    states = {name: held for operators, held in assigned.items() for name in operators}
    assert [state.task for state in states[COUNT]] == ["count/0"]
    assert states[TOTALS] == ()


def test_other_number_of_key_groups_fits_where_all_keyed_state_is_dropped() -> None:
    graph = msgspec.structs.replace(without_count(), max_parallelism=64)

    check_compatible(counted(), graph, REMOVED)


def test_what_is_allowed_does_not_excuse_an_operator_of_another_nature() -> None:
    assert "its type is Sum" in str(refusal(changed(words(), "count", type="Sum"), BOTH))
