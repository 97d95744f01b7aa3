"""Any parallelism before and after, any splits: nothing is lost and nothing is read twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowsnap.core.graph import JobGraph, build_execution_graph
from flowsnap.core.manifest import CheckpointManifest, SplitPosition
from flowsnap.core.message import TaskAssignment
from flowsnap.core.partition import key_group_range, owner
from flowsnap.core.restore import assign, assign_fresh, check_compatible
from tests.manifests import LINES, at, checkpoint, found, keyed_state, words

PARALLELISM = st.integers(1, 7)
MAX_PARALLELISM = 12


@st.composite
def splits(draw: st.DrawFn) -> list[SplitPosition]:
    names = draw(st.lists(st.sampled_from("abcdefghij"), unique=True))
    return [at(name, draw(st.integers(0, 9)), is_finished=draw(st.booleans())) for name in names]


def having_read(positions: list[SplitPosition], readers: int) -> CheckpointManifest:
    parts = {f"lines/{i}": {"splits": tuple(positions[i::readers])} for i in range(readers)}
    return checkpoint(words(readers=readers), parts)


def readers_of(assigned: tuple[TaskAssignment, ...]) -> list[TaskAssignment]:
    return [assignment for assignment in assigned if assignment.task.startswith(LINES)]


def restored(
    manifest: CheckpointManifest, graph: JobGraph, names: list[str]
) -> list[TaskAssignment]:
    check_compatible(manifest, graph)
    return readers_of(assign(manifest, build_execution_graph(graph, 2), graph, found(*names)))


@given(splits(), st.sets(st.sampled_from("jklmn")), PARALLELISM, PARALLELISM)
def test_every_split_goes_to_one_subtask_with_its_position(
    positions: list[SplitPosition], new: set[str], before: int, after: int
) -> None:
    known = {position.split: position for position in positions}
    names = sorted(new | known.keys())

    readers = restored(having_read(positions, before), words(readers=after), names)

    dealt = [position for reader in readers for position in reader.splits]
    assert sorted(position.split for position in dealt) == names
    assert all(position == known.get(position.split, at(position.split)) for position in dealt)


@given(splits(), PARALLELISM, PARALLELISM)
def test_unfinished_splits_differ_by_one_at_most(
    positions: list[SplitPosition], before: int, after: int
) -> None:
    names = [position.split for position in positions]

    readers = restored(having_read(positions, before), words(readers=after), names)

    work = [sum(not position.is_finished for position in reader.splits) for reader in readers]
    assert max(work) - min(work) <= 1


@given(splits(), PARALLELISM, PARALLELISM, PARALLELISM)
def test_finished_splits_survive_any_number_of_restores(
    positions: list[SplitPosition], first: int, second: int, third: int
) -> None:
    names = [position.split for position in positions if not position.is_finished]
    readers = restored(having_read(positions, first), words(readers=second), names)
    again = [position for reader in readers for position in reader.splits]

    readers = restored(having_read(again, second), words(readers=third), names)

    dealt = [position for reader in readers for position in reader.splits]
    assert sorted(dealt, key=lambda p: p.split) == sorted(positions, key=lambda p: p.split)


@given(splits(), PARALLELISM)
def test_assignment_is_deterministic_and_independent_of_who_read_what(
    positions: list[SplitPosition], after: int
) -> None:
    names = [position.split for position in positions]

    one = restored(having_read(positions, 1), words(readers=after), names)
    other = restored(having_read(positions[::-1], 3), words(readers=after), names)

    assert one == other


@given(st.lists(st.sampled_from("abcdefghij"), unique=True), PARALLELISM)
def test_fresh_start_deals_as_a_restore_of_nothing_would(names: list[str], readers: int) -> None:
    graph = words(readers=readers)

    fresh = assign_fresh(build_execution_graph(graph, 2), graph, found(*names))

    assert readers_of(fresh) == restored(having_read([], readers), graph, names)


@given(PARALLELISM, PARALLELISM)
def test_every_key_group_reaches_the_task_that_owns_it_now(before: int, after: int) -> None:
    ranges = [key_group_range(i, before, MAX_PARALLELISM) for i in range(before)]
    parts = {f"count/{i}": {"state": keyed_state(*ranges[i], f"{i}")} for i in range(before)}
    manifest = checkpoint(words(counters=before, max_parallelism=MAX_PARALLELISM), parts)
    graph = words(counters=after, max_parallelism=MAX_PARALLELISM)

    assigned = {
        str(a.task): a for a in assign(manifest, build_execution_graph(graph, 2), graph, found())
    }

    for group in range(MAX_PARALLELISM):
        old = f"count/{owner(group, before, MAX_PARALLELISM)}"
        new = assigned[f"count/{owner(group, after, MAX_PARALLELISM)}"]
        holding = [s.task for s in new.states if group in range(*s.handle.key_groups)]
        assert holding == [old]
