from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsnap import Pipeline
from flowsnap.connectors import Discard
from flowsnap.snapshot import Snapshot
from flowsnap.snapshot.network import Channel, NetworkSnapshot
from flowsnap.snapshot.network_snapshot import States
from flowsnap.snapshot.properties import (
    Deadlock,
    deadlocked,
    find_cycle,
    terminated,
    token_count,
    tokens_lost,
    unreachable,
    waiting,
)


def snapshot(
    states: dict[str, dict[str, Any]], messages: dict[tuple[str, str], list[Any]] | None = None
) -> NetworkSnapshot:
    channels = tuple(
        Channel(*ends, len(held), 0, tuple(range(1, len(held) + 1)), tuple(held))
        for ends, held in (messages or {}).items()
    )
    return NetworkSnapshot("n", 1, States(states), channels, dict.fromkeys(states, 1))


def waits(**waits_for: Any) -> dict[str, dict[str, Any]]:
    return {name: {"waits_for": other} for name, other in waits_for.items()}


# --- termination


def test_network_in_which_nothing_is_on_its_way_has_terminated() -> None:
    assert terminated(snapshot({"P": {}, "Q": {}}, {("P", "Q"): []}))


def test_network_in_which_a_message_is_on_its_way_has_not_terminated() -> None:
    assert not terminated(snapshot({"P": {}, "Q": {}}, {("P", "Q"): ["work"]}))


def test_network_in_which_somebody_is_active_has_not_terminated() -> None:
    taken = snapshot({"P": {"work": []}, "Q": {"work": [1]}})

    assert not terminated(taken, is_active=lambda _, state: state["work"])
    assert terminated(taken, is_active=lambda name, state: name == "P" and state["work"])


def test_any_other_job_has_terminated_when_its_tasks_have_ended(tmp_path: Path) -> None:
    pipeline = Pipeline("numbers")
    pipeline.from_iterable([1, 2]).sink(Discard())
    pipeline.run(state_dir=tmp_path, quiet=True)

    with Snapshot.open(tmp_path) as opened:
        assert terminated(opened)


# --- deadlock


def test_those_who_wait_for_each_other_in_a_circle_are_deadlocked() -> None:
    taken = snapshot(waits(P="Q", Q="R", R="P", S="P"))

    found = deadlocked(taken)

    assert found == Deadlock(("P", "Q", "R"))
    assert str(found) == "P waits for Q waits for R waits for P"


def test_those_who_wait_for_somebody_who_does_not_are_not_deadlocked() -> None:
    assert deadlocked(snapshot(waits(P="Q", Q="R", R=None))) is None


def test_who_waits_for_itself_is_deadlocked() -> None:
    assert deadlocked(snapshot(waits(P="P"))) == Deadlock(("P",))


def test_who_has_an_answer_on_its_way_does_not_wait() -> None:
    taken = snapshot(waits(P="Q", Q="P"), {("P", "Q"): ["go on"]})

    assert waiting(taken) == {"P": ("Q",), "Q": ()}
    assert deadlocked(taken) is None


def test_who_waits_for_several_waits_for_all_of_them() -> None:
    assert deadlocked(snapshot(waits(P=["R", "Q"], Q=("P",), R=()))) == Deadlock(("P", "Q"))


def test_who_waits_may_be_told_by_a_function() -> None:
    taken = snapshot({"P": {"needs": 1}, "Q": {"needs": 0}})

    found = deadlocked(taken, lambda name, state: name if state["needs"] else None)

    assert found == Deadlock(("P",))


NODES = "abcdef"


@given(st.dictionaries(st.sampled_from(NODES), st.lists(st.sampled_from(NODES), max_size=3)))
def test_cycle_is_found_exactly_if_there_is_one(graph: dict[str, list[str]]) -> None:
    left = set(graph)
    while free := {node for node in left if left.isdisjoint(graph[node])}:
        left -= free  # What leads to no node that is left is in no cycle.

    found = find_cycle(graph)

    assert (found is not None) is bool(left)
    for node, following in zip(found or (), (*(found or ())[1:], *(found or ())[:1]), strict=True):
        assert following in graph[node]


# --- tokens


def test_tokens_are_counted_with_processes_and_on_their_way() -> None:
    taken = snapshot({"P": {"tokens": ["R", "G"]}, "Q": {}}, {("P", "Q"): ["B", "R"]})

    assert token_count(taken) == {"R": 2, "G": 1, "B": 1}


def test_what_is_no_token_is_not_counted() -> None:
    taken = snapshot({"P": {"has": True}, "Q": {"has": False}}, {("P", "Q"): ["hello", "T"]})

    found = token_count(
        taken, held=lambda _, s: ["T"] if s["has"] else [], carried=lambda m: [m] * (m == "T")
    )

    assert found == {"T": 2}


def test_token_that_is_nowhere_is_lost() -> None:
    taken = snapshot({"P": {"tokens": ["R"]}, "Q": {"tokens": []}}, {("P", "Q"): ["G"]})

    assert tokens_lost(taken, ["R", "G"]) == []
    assert tokens_lost(taken, ["R", "R", "B"]) == ["R", "B"]


# --- garbage


def site(objects: dict[str, list[str]], *roots: str) -> dict[str, Any]:
    return {"objects": objects, "roots": list(roots)}


def test_object_that_no_root_leads_to_is_garbage() -> None:
    taken = snapshot({"A": site({"a1": ["b1"], "a2": []}, "a1"), "B": site({"b1": [], "b2": []})})

    assert unreachable(taken) == {"a2", "b2"}


def test_objects_that_refer_to_each_other_only_are_garbage() -> None:
    taken = snapshot({"A": site({"a1": ["b1"]}), "B": site({"b1": ["a1"]})})

    assert unreachable(taken) == {"a1", "b1"}


def test_object_that_a_reference_on_its_way_leads_to_is_no_garbage() -> None:
    taken = snapshot({"A": site({"a1": ["a2"], "a2": []}), "B": site({})}, {("A", "B"): ["a1"]})

    assert unreachable(taken) == frozenset()


@pytest.mark.parametrize("roots", [[], ["x9"]], ids=str)
def test_reference_to_nothing_is_no_object(roots: list[str]) -> None:
    assert unreachable(snapshot({"A": site({}, *roots)})) == frozenset()
