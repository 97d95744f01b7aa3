"""At which event time each operator goes on after a restore."""

from __future__ import annotations

from typing import Any

import msgspec

from flowsnap.core.graph import JobGraph, build_execution_graph
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.core.restore import assign
from tests.manifests import at, checkpoint, found, inserted, words


def marks(manifest: CheckpointManifest, graph: JobGraph) -> dict[str, dict[Any, int]]:
    """Return what event time each task of ``graph`` is told, by operator."""
    assigned = assign(manifest, build_execution_graph(graph, 2), graph, found("a", "b"))
    return {assignment.task: assignment.watermarks for assignment in assigned}


def counters(*reached: int | None) -> dict[str, dict[str, Any]]:
    """Return counters that had come so far in event time; None: nowhere."""
    return {
        f"count/{subtask}": {"watermarks": {} if at_ms is None else {"count": at_ms}}
        for subtask, at_ms in enumerate(reached)
    }


def test_subtask_that_has_its_keys_again_goes_on_at_its_own_event_time() -> None:
    manifest = checkpoint(words(counters=2), counters(50, 30))

    tasks = marks(manifest, words(counters=2))

    assert (tasks["count/0"], tasks["count/1"]) == ({"count": 50}, {"count": 30})


def test_subtasks_with_keys_of_others_go_on_at_the_least_of_all() -> None:
    manifest = checkpoint(words(counters=2), counters(50, 30))

    for parallelism in (1, 3):
        tasks = marks(manifest, words(counters=parallelism))
        assert tasks["count/0"] == {"count": 30}
        assert tasks[f"count/{parallelism - 1}"] == {"count": 30}


def test_subtask_that_had_come_nowhere_sets_all_others_back_after_a_rescale() -> None:
    tasks = marks(checkpoint(words(counters=2), counters(50, None)), words(counters=3))

    assert tasks["count/0"] == {}


def test_subtask_that_had_ended_does_not_count() -> None:
    parts = counters(50, None, 70)
    parts["count/1"]["is_ended"] = True

    tasks = marks(checkpoint(words(counters=3), parts), words(counters=2))

    assert tasks["count/0"] == tasks["count/1"] == {"count": 50}


def test_splits_are_dealt_out_anew_so_a_source_goes_on_at_the_least_event_time() -> None:
    parts = {
        "lines/0": {"splits": (at("a", 5),), "watermarks": {"lines": 90}},
        "lines/1": {"splits": (at("b", 1),), "watermarks": {"lines": 20}},
    }

    tasks = marks(checkpoint(words(readers=2), parts), words(readers=2))

    assert tasks["lines/0"] == tasks["lines/1"] == {"lines": 20}


def test_operators_behind_a_source_without_a_shuffle_may_get_other_splits_too() -> None:
    graph = inserted(words(readers=2), "look", before="count", parallelism=2)  # type: ignore[arg-type]
    forward = [
        msgspec.structs.replace(edge, partitioning="forward") if edge.target == "look" else edge
        for edge in graph.edges
    ]
    graph = msgspec.structs.replace(graph, edges=tuple(forward))
    parts = {"look/0": {"watermarks": {"look": 9}}, "look/1": {"watermarks": {"look": 4}}}

    tasks = marks(checkpoint(graph, parts), graph)

    assert tasks["look/0"] == tasks["look/1"] == {"look": 4}


def test_event_time_follows_its_operator_into_another_chain() -> None:
    apart = words(readers=1)
    chained = msgspec.structs.replace(
        apart, edges=tuple(msgspec.structs.replace(edge, tag="") for edge in apart.edges)
    )
    parts = {"lines/0": {"watermarks": {"lines": 80}}, **counters(60)}

    tasks = marks(checkpoint(apart, parts), chained)

    assert tasks["lines/0"] == {"lines": 80, "count": 60}
