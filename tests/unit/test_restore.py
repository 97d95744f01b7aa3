from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from flowsnap.core.graph import (
    EdgeSpec,
    JobGraph,
    OperatorKind,
    OperatorSpec,
    Partitioning,
    build_execution_graph,
)
from flowsnap.core.ids import CheckpointId, OperatorId
from flowsnap.core.manifest import CheckpointManifest, PreparedOutput
from flowsnap.core.message import TaskAssignment
from flowsnap.core.operator import Split
from flowsnap.core.restore import Allowed, assign, assign_fresh, check_compatible, choose
from flowsnap.errors import (
    ConfigError,
    LocalProtocolError,
    ManifestCorrupt,
    RestoreError,
    StateIncompatible,
)
from tests.manifests import (
    COUNT,
    LINES,
    OUT,
    at,
    changed,
    checkpoint,
    found,
    inserted,
    keyed_state,
    split,
    words,
)

DONE = {"is_ended": True}


def restore(
    manifest: CheckpointManifest, graph: JobGraph, *names: str
) -> dict[str, TaskAssignment]:
    assigned = assign(manifest, build_execution_graph(graph, 2), graph, found(*names))
    return {str(assignment.task): assignment for assignment in assigned}


def read_by(assignment: TaskAssignment) -> list[tuple[str, Any]]:
    return [(position.split, position.position) for position in assignment.splits]


def from_tasks(assignment: TaskAssignment) -> list[str]:
    return [state.task for state in assignment.states]


def refusal(manifest: CheckpointManifest, graph: JobGraph) -> StateIncompatible:
    with pytest.raises(StateIncompatible) as caught:
        check_compatible(manifest, graph)
    return caught.value


def counted(*, counters: int = 1) -> CheckpointManifest:
    """Return checkpoint 1 of ``words`` in which each counter has state and "a" is half read."""
    width = 128 // counters
    parts: dict[str, dict[str, Any]] = {
        f"count/{i}": {"state": keyed_state(i * width, (i + 1) * width, f"{i}.sst")}
        for i in range(counters)
    }
    return checkpoint(words(counters=counters), {**parts, "lines/0": {"splits": (at("a", 5),)}})


# --- which one -------------------------------------------------------------------------------


def test_newest_checkpoint_is_chosen_unless_another_is_requested() -> None:
    available = [CheckpointId(3), CheckpointId(12), CheckpointId(7)]

    assert choose(available, None) == 12
    assert choose(available, CheckpointId(3)) == 3
    assert choose([], None) is None


@pytest.mark.parametrize(("numbers", "listed"), [([7, 3], "3, 7"), ([], "none")])
def test_request_for_a_missing_checkpoint_lists_what_there_is(
    numbers: Sequence[int], listed: str
) -> None:
    with pytest.raises(RestoreError, match=f"no checkpoint 5; available: {listed}"):
        choose([CheckpointId(number) for number in numbers], CheckpointId(5))


# --- does it fit -----------------------------------------------------------------------------


def test_same_pipeline_fits_also_at_another_parallelism() -> None:
    check_compatible(counted(counters=2), words(readers=3, counters=5))


def test_renamed_operator_is_refused_and_both_names_are_told() -> None:
    error = refusal(counted(), changed(words(), "count", name="totals"))

    assert "checkpoint 1 has 'count', which the pipeline lacks" in str(error)
    assert "the pipeline has 'totals'" in str(error)
    assert "give it its old name" in error.__notes__[0]


def test_removed_operator_with_state_is_refused_even_where_new_state_is_allowed() -> None:
    graph = words()
    kept = msgspec.structs.replace(graph, operators=(graph.operators[0], graph.operators[2]))

    with pytest.raises(StateIncompatible, match="has 'count', which the pipeline lacks"):
        check_compatible(counted(), kept, Allowed(added=True))

    assert "renamed or removed?" in refusal(counted(), kept).__notes__[0]


def test_sources_and_sinks_have_state_when_the_checkpoint_holds_some_of_theirs() -> None:
    prepared = (PreparedOutput(CheckpointId(1), "part-0"),)
    manifest = checkpoint(words(), {"count/0": {"prepared": prepared}})

    assert "has 'out'" in str(refusal(manifest, changed(words(), "out", name="files")))
    assert "has 'lines'" in str(refusal(counted(), changed(words(), "lines", name="texts")))


def test_operator_without_state_may_come_and_go() -> None:
    with_trim = inserted(words(), "trim", before=COUNT)

    check_compatible(counted(), with_trim)
    check_compatible(checkpoint(with_trim), words())


@pytest.mark.parametrize(
    "spec",
    [
        OperatorSpec(OperatorId("new"), OperatorKind.SOURCE, 1),
        OperatorSpec(OperatorId("new"), OperatorKind.SINK, 1),
        OperatorSpec(OperatorId("new"), OperatorKind.OPERATOR, 1, is_keyed=True),
    ],
)
def test_new_operator_that_would_begin_in_the_middle_is_refused_unless_allowed(
    spec: OperatorSpec,
) -> None:
    graph = msgspec.structs.replace(words(), operators=(*words().operators, spec))

    error = refusal(counted(), graph)

    assert "the pipeline has 'new', of which checkpoint 1 knows nothing" in str(error)
    assert "middle of the stream" in error.__notes__[0]
    check_compatible(counted(), graph, Allowed(added=True))


def test_renamed_sink_that_had_nothing_prepared_is_suspicious_too() -> None:
    error = refusal(counted(), changed(words(), "out", name="files"))

    assert "has 'out', which the pipeline lacks; the pipeline has 'files'" in str(error)


def test_operator_that_keeps_state_only_now_is_new() -> None:
    before = checkpoint(changed(words(), "count", is_keyed=False))

    assert "the pipeline has 'count'" in str(refusal(before, words()))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "Sum"}, "state of 'count' of the type Count, in the pipeline its type is Sum"),
        ({"kind": OperatorKind.SINK}, "the kind operator, in the pipeline its kind is sink"),
    ],
)
def test_operator_of_another_nature_is_refused(changes: dict[str, Any], reason: str) -> None:
    assert reason in str(refusal(counted(), changed(words(), "count", **changes)))


def test_other_max_parallelism_is_refused_where_there_is_keyed_state() -> None:
    error = refusal(counted(), words(max_parallelism=64))

    assert "max_parallelism is 64, but checkpoint 1 has the state of 'count' in 128" in str(error)
    check_compatible(checkpoint(words()), words(max_parallelism=64))


def test_checkpoint_that_lacks_the_part_of_a_task_is_refused() -> None:
    whole = counted(counters=2)
    torn = msgspec.structs.replace(whole, tasks=whole.tasks[:-1])
    twice = msgspec.structs.replace(whole, tasks=(*whole.tasks, whole.tasks[-1]))

    for broken in (torn, twice):
        with pytest.raises(ManifestCorrupt, match="checkpoint 1 does not hold the part of"):
            check_compatible(broken, words())


def test_state_of_an_operator_that_its_task_does_not_run_is_refused() -> None:
    foreign = checkpoint(words(), {"lines/0": {"state": keyed_state(0, 128)}})

    with pytest.raises(ManifestCorrupt, match="has state of 'count' in lines/0"):
        check_compatible(foreign, words())


# --- splits ----------------------------------------------------------------------------------


def test_fresh_job_reads_every_split_from_its_beginning_in_turn() -> None:
    graph = words(readers=2)

    assigned = assign_fresh(build_execution_graph(graph, 2), graph, found("a", "b", "c"))

    by_task = {str(assignment.task): assignment for assignment in assigned}
    assert [assignment.task for assignment in assigned] == ["lines/0", "lines/1", "count/0"]
    assert read_by(by_task["lines/0"]) == [("a", None), ("c", None)]
    assert read_by(by_task["lines/1"]) == [("b", None)]
    assert not any(assignment.is_ended for assignment in assigned)


def test_known_split_goes_on_where_it_was_and_a_new_one_at_its_beginning() -> None:
    tasks = restore(counted(), words(readers=2), "a", "b")

    assert read_by(tasks["lines/0"]) == [("a", 5)]
    assert read_by(tasks["lines/1"]) == [("b", None)]


def test_known_split_is_opened_with_what_was_found_now() -> None:
    grown = {LINES: [Split("a", {"path": "/moved/a"}, 99)]}
    graph = words()

    assigned = assign(counted(), build_execution_graph(graph, 0), graph, grown)

    (position,) = assigned[0].splits
    assert (position.payload, position.size, position.position) == ({"path": "/moved/a"}, 99, 5)


def test_unfinished_splits_are_shared_evenly_and_finished_ones_are_carried_along() -> None:
    positions = (at("a", 9, is_finished=True), at("b", 2), at("c", 9, is_finished=True), at("d", 3))
    manifest = checkpoint(words(), {"lines/0": {"splits": positions}})

    tasks = restore(manifest, words(readers=2), "a", "b", "c", "d")

    assert read_by(tasks["lines/0"]) == [("b", 2), ("a", 9)]
    assert read_by(tasks["lines/1"]) == [("d", 3), ("c", 9)]


def test_split_that_is_half_read_and_gone_is_named_never_dropped() -> None:
    with pytest.raises(RestoreError, match="split 'a' of 'lines' was read up to 5") as caught:
        restore(counted(), words(), "b")

    assert "bring the input back" in caught.value.__notes__[0]


def test_finished_split_may_disappear_and_is_remembered() -> None:
    parts = {"lines/0": {"splits": (at("a", 9, is_finished=True), at("b", 1))}}

    tasks = restore(checkpoint(words(), parts), words(), "b")

    assert read_by(tasks["lines/0"]) == [("b", 1), ("a", 9)]
    assert [position.is_finished for position in tasks["lines/0"].splits] == [False, True]


def test_splits_of_all_old_subtasks_are_dealt_to_fewer() -> None:
    parts = {"lines/0": {"splits": (at("a", 1),)}, "lines/2": {"splits": (at("b", 2),)}}

    tasks = restore(checkpoint(words(readers=3), parts), words(), "a", "b")

    assert read_by(tasks["lines/0"]) == [("a", 1), ("b", 2)]


def test_split_that_two_tasks_have_read_is_refused() -> None:
    parts = {"lines/0": {"splits": (at("a", 1),)}, "lines/1": {"splits": (at("a", 2),)}}

    with pytest.raises(ManifestCorrupt, match="split 'a' of 'lines' was read by two tasks"):
        restore(checkpoint(words(readers=2), parts), words(), "a")


def test_source_with_two_splits_of_one_id_is_refused() -> None:
    graph = words()

    with pytest.raises(ConfigError, match="'lines' has two splits with the id 'b'"):
        assign_fresh(build_execution_graph(graph, 0), graph, found("a", "b", "b"))


def test_source_that_was_not_asked_is_refused() -> None:
    graph = words()

    with pytest.raises(LocalProtocolError, match="'lines' was not asked"):
        assign_fresh(build_execution_graph(graph, 0), graph, {})


def test_two_sources_may_have_splits_of_one_id() -> None:
    more = OperatorSpec(OperatorId("more"), OperatorKind.SOURCE, 1, "TextFiles")
    edges = (*words().edges, EdgeSpec(more.name, COUNT, Partitioning.HASH))
    graph = msgspec.structs.replace(words(), operators=(*words().operators, more), edges=edges)
    parts = {"lines/0": {"splits": (at("a", 1),)}, "more/0": {"splits": (at("a", 2),)}}

    both = {**found("a"), more.name: [split("a")]}
    assigned = assign(checkpoint(graph, parts), build_execution_graph(graph, 0), graph, both)

    tasks = {str(assignment.task): read_by(assignment) for assignment in assigned}
    assert (tasks["lines/0"], tasks["more/0"]) == ([("a", 1)], [("a", 2)])


# --- keyed state -----------------------------------------------------------------------------


def test_same_parallelism_hands_every_task_its_own_state() -> None:
    tasks = restore(counted(counters=4), words(counters=4), "a")

    assert [from_tasks(tasks[f"count/{i}"]) for i in range(4)] == [[f"count/{i}"] for i in range(4)]


def test_scale_out_hands_the_state_of_one_task_to_several() -> None:
    tasks = restore(counted(), words(counters=4), "a")

    assert [from_tasks(tasks[f"count/{i}"]) for i in range(4)] == [["count/0"]] * 4
    assert from_tasks(tasks["lines/0"]) == []


def test_scale_in_hands_the_state_of_several_tasks_to_one() -> None:
    tasks = restore(counted(counters=4), words(counters=1), "a")

    assert from_tasks(tasks["count/0"]) == [f"count/{i}" for i in range(4)]


def test_uneven_rescale_hands_out_every_task_that_overlaps() -> None:
    tasks = restore(counted(counters=2), words(counters=3), "a")

    assert from_tasks(tasks["count/0"]) == ["count/0"]
    assert from_tasks(tasks["count/1"]) == ["count/0", "count/1"]
    assert from_tasks(tasks["count/2"]) == ["count/1"]


def keyed_pair(*, is_chained: bool) -> JobGraph:
    """Return "lines" -> hash -> "count" -> "rank" (keyed) -> "out"."""
    rank = OperatorSpec(OperatorId("rank"), OperatorKind.OPERATOR, 1, "Rank", is_keyed=True)
    edges = (
        words().edges[0],
        EdgeSpec(COUNT, rank.name, Partitioning.HASH, tag="" if is_chained else "all"),
        EdgeSpec(rank.name, OUT, Partitioning.FORWARD),
    )
    return msgspec.structs.replace(words(), operators=(*words().operators, rank), edges=edges)


def test_state_of_one_chain_goes_to_the_two_it_has_become() -> None:
    state = keyed_state(0, 128, "both.sst", operators=("count", "rank"))
    manifest = checkpoint(keyed_pair(is_chained=True), {"count/0": {"state": state}})

    tasks = restore(manifest, keyed_pair(is_chained=False), "a")

    assert from_tasks(tasks["count/0"]) == ["count/0"]
    assert from_tasks(tasks["rank/0"]) == ["count/0"]


def test_states_of_two_chains_go_to_the_one_they_have_become() -> None:
    parts = {
        "count/0": {"state": keyed_state(0, 128, "count.sst")},
        "rank/0": {"state": keyed_state(0, 128, "rank.sst", operators=("rank",))},
    }
    manifest = checkpoint(keyed_pair(is_chained=False), parts)

    tasks = restore(manifest, keyed_pair(is_chained=True), "a")

    assert from_tasks(tasks["count/0"]) == ["count/0", "rank/0"]


# --- prepared output -------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [(), (3,), (1, 2, 3)])
@pytest.mark.parametrize("counters", [1, 2, 5])
def test_prepared_output_of_all_subtasks_goes_to_the_first_oldest_first(
    numbers: tuple[int, ...], counters: int
) -> None:
    parts = {
        f"count/{i}": {"prepared": tuple(PreparedOutput(CheckpointId(n), i) for n in numbers)}
        for i in range(3)
    }

    tasks = restore(checkpoint(words(counters=3), parts, number=3), words(counters=counters))

    recovered = [
        (output.checkpoint_id, output.committable) for output in tasks["count/0"].recovered
    ]
    assert recovered == [(n, i) for n in numbers for i in range(3)]
    assert all(not tasks[f"count/{i}"].recovered for i in range(1, counters))
    assert tasks["lines/0"].recovered == ()


def test_prepared_output_goes_to_its_own_sink_only() -> None:
    log = OperatorSpec(OperatorId("log"), OperatorKind.SINK, 1, "Print")
    edges = (*words().edges, EdgeSpec(COUNT, log.name, Partitioning.FORWARD))
    graph = msgspec.structs.replace(words(), operators=(*words().operators, log), edges=edges)
    prepared = (PreparedOutput(CheckpointId(1), "part-0"),)

    tasks = restore(checkpoint(graph, {"out/0": {"prepared": prepared}}), graph)

    assert tasks["out/0"].recovered == prepared
    assert tasks["log/0"].recovered == ()


# --- the end of input ------------------------------------------------------------------------

READ = {"splits": (at("a", 9, is_finished=True),), **DONE}


def ended(manifest: CheckpointManifest, graph: JobGraph, *names: str) -> list[str]:
    return [name for name, task in restore(manifest, graph, *names).items() if task.is_ended]


def test_chains_that_had_ended_stay_ended_at_any_parallelism() -> None:
    manifest = checkpoint(words(), {"lines/0": READ, "count/0": DONE})

    assert ended(manifest, words(readers=2, counters=2), "a") == [
        "lines/0",
        "lines/1",
        "count/0",
        "count/1",
    ]


def test_source_that_had_ended_does_not_end_what_is_below_it() -> None:
    manifest = checkpoint(words(), {"lines/0": READ})

    assert ended(manifest, words(), "a") == ["lines/0"]


def test_chain_of_which_one_task_still_ran_has_not_ended() -> None:
    manifest = checkpoint(words(readers=2), {"lines/0": READ})

    assert ended(manifest, words(readers=2), "a") == []


def test_new_split_revives_everything_below_its_source() -> None:
    manifest = checkpoint(words(), {"lines/0": READ, "count/0": DONE})

    assert ended(manifest, words(), "a", "b") == []


def test_new_split_revives_chains_that_are_further_down_too() -> None:
    graph = keyed_pair(is_chained=False)
    manifest = checkpoint(graph, {"lines/0": READ, "count/0": DONE, "rank/0": DONE})

    assert ended(manifest, graph, "a") == ["lines/0", "count/0", "rank/0"]
    assert ended(manifest, graph, "a", "b") == []


def test_source_that_ended_without_any_split_stays_ended() -> None:
    manifest = checkpoint(words(), {"lines/0": DONE, "count/0": DONE})

    assert ended(manifest, words()) == ["lines/0", "count/0"]
    assert ended(manifest, words(), "new") == []


def test_new_operator_in_an_ended_chain_does_not_revive_it() -> None:
    manifest = checkpoint(words(), {"lines/0": READ, "count/0": DONE})
    graph = inserted(words(), "format", before=OUT)

    assert ended(manifest, graph, "a") == ["lines/0", "count/0"]


def test_chain_of_new_operators_only_has_not_ended_nor_what_is_below_it() -> None:
    manifest = checkpoint(words(), {"lines/0": READ, "count/0": DONE})
    graph = inserted(words(), "trim", before=COUNT, parallelism=2)

    assert ended(manifest, graph, "a") == ["lines/0"]
