"""Two snapshots are compared key by key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowsnap.core.manifest import OperatorStateValues
from flowsnap.errors import ConfigError
from flowsnap.serialize import dump
from flowsnap.snapshot import Change, SnapshotDifference, diff
from flowsnap.state.memory import MemoryBackend
from tests.manifests import COUNT, at, changed
from tests.unit.snapshot.made import Maker, balances, batches, carts, channel


@dataclass
class Visit:
    user: str


def difference(one: Maker, other: Maker, **settings: Any) -> SnapshotDifference:
    with one.opened() as before, other.opened() as after:
        return diff(before, after, **settings)


@pytest.fixture
def before(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "before", backend=MemoryBackend)


@pytest.fixture
def after(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "after", backend=MemoryBackend)


def test_added_removed_and_changed_keys_are_counted_and_shown(before: Maker, after: Maker) -> None:
    before.keyed(balances({"a": 1, "b": 2, "c": 3}))
    after.keyed(balances({"b": 2, "c": 4, "d": 5}))

    (state,) = difference(before, after).states

    assert (state.operator, state.name) == (COUNT, "balance")
    assert (state.added, state.removed, state.changed, state.same) == (1, 1, 1, 1)
    assert sorted(state.examples, key=lambda change: str(change.key)) == [
        Change("removed", "a", before=1),
        Change("changed", "c", before=3, after=4),
        Change("added", "d", after=5),
    ]


def test_nothing_differs_from_itself(before: Maker) -> None:
    before.keyed(balances({"a": 1})).in_transit("count/0", (channel(), batches([1])))

    with before.opened() as one, before.opened() as other:
        found = diff(one, other)

    assert found.is_same
    assert found.states[0].is_same
    assert found.transit == (1, 1)


def test_maps_are_compared_entry_by_entry(before: Maker, after: Maker) -> None:
    before.keyed(carts({"a": {"x": 1, "y": 2}}))
    after.keyed(carts({"a": {"x": 1, "y": 3, "z": 4}}))

    (state,) = difference(before, after).states

    assert (state.added, state.changed, state.same) == (1, 1, 1)
    assert Change("changed", "a", "y", 2, 3) in state.examples


def test_only_so_many_examples_are_kept(before: Maker, after: Maker) -> None:
    before.keyed(balances({}))
    after.keyed(balances(dict.fromkeys(range(20), 1)))

    (state,) = difference(before, after, examples=3).states

    assert (state.added, len(state.examples)) == (20, 3)


def test_equal_values_of_other_bytes_are_the_same(before: Maker, after: Maker) -> None:
    before.keyed(balances({"a": {"x": 1, "y": 2}, "b": Visit("ada")}))
    after.keyed(balances({"a": {"y": 2, "x": 1}, "b": Visit("ada")}))

    assert difference(before, after).states[0].same == 2


def test_state_that_is_gone_or_new_is_compared_with_nothing(before: Maker, after: Maker) -> None:
    before.keyed(balances({"a": 1}, "old"))
    after.keyed(balances({"a": 1}, "new"))

    new, old = difference(before, after).states

    assert (new.name, new.added, old.name, old.removed) == ("new", 1, "old", 1)


def test_state_of_another_kind_is_refused(before: Maker, after: Maker) -> None:
    before.keyed(balances({"a": 1}, "x"))
    after.keyed(carts({"a": {1: 1}}, "x"))

    with pytest.raises(ConfigError, match="is value state in one snapshot and map state"):
        difference(before, after)


@pytest.mark.parametrize("counters", [1, 2])
def test_parallelism_makes_no_difference(before: Maker, tmp_path: Path, counters: int) -> None:
    content = {f"key-{n}": n for n in range(20)}
    before.keyed(balances(content))
    with before.opened() as snapshot:
        groups = {row.key: row.key_group for row in snapshot.state("count", "balance").rows()}
    after = Maker(tmp_path / "wide", counters=counters, backend=MemoryBackend)
    for subtask in range(counters):
        own = {key: n for key, n in content.items() if groups[key] * counters // 8 == subtask}
        after.keyed(balances(own), subtask=subtask)

    found = difference(before, after)

    assert found.states[0].same == 20
    assert found.is_same


def test_number_of_key_groups_makes_no_difference(before: Maker, tmp_path: Path) -> None:
    content: dict[Any, Any] = {f"key-{n}": n for n in range(20)}
    made = before.keyed(balances(content)).made()
    graph = msgspec.structs.replace(made.manifest.graph, max_parallelism=7)
    with made.opened() as one:
        from flowsnap.snapshot import SavepointBuilder, Snapshot

        builder = SavepointBuilder.new(graph)
        builder.add_state("count", "balance", content | {"key-3": 0}).write(tmp_path / "sp")
        with Snapshot.open(tmp_path / "sp") as other:
            (state,) = diff(one, other).states

    assert (state.same, state.changed, state.added, state.removed) == (19, 1, 0, 0)


def test_what_is_no_keyed_state_is_compared_too(before: Maker, after: Maker) -> None:
    before.part("lines/0", splits=(at("a", 1), at("b", 2)))
    after.part("lines/0", splits=(at("a", 1), at("b", 5)))
    after.part("count/0", watermarks={COUNT: 7})
    state = OperatorStateValues(COUNT, "buffer", "list", (dump(1),))
    after.part("count/0", operator_states=(state,))
    after.in_transit("count/0", (channel(), batches([1, 2])))

    found = difference(before, after)

    assert found.positions == {"lines: b": (2, 5)}
    assert found.watermarks == {"count/0": (None, 7)}
    assert found.operator_states == ("count.buffer",)
    assert found.transit == (0, 2)
    assert not found.is_same


def test_other_records_in_transit_are_a_difference(before: Maker, after: Maker) -> None:
    before.in_transit("count/0", (channel(), batches([1])))
    after.in_transit("count/0", (channel(), batches([2])))

    found = difference(before, after)

    assert found.transit == (1, 1)
    assert not found.is_same


def test_operators_that_came_and_went_are_named(before: Maker, after: Maker) -> None:
    after.graph = changed(after.graph, "out", name="sink")

    found = difference(before, after)

    assert (found.operators_added, found.operators_removed) == (("sink",), ("out",))
    assert not found.is_same
