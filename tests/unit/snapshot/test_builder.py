"""A savepoint is made of plain data, or of a snapshot that is changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowsnap import TTL, Pipeline
from flowsnap.connectors import Collect, FromIterable
from flowsnap.errors import ConfigError, OperatorError, StateError
from flowsnap.snapshot import MISSING, SavepointBuilder, Snapshot, check_cut
from tests.manifests import COUNT, words
from tests.unit.snapshot.made import Maker, balances, batches, both, carts, channel


@dataclass
class Visit:
    user: str


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "savepoint"


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "old")


def contents(path: Path, name: str) -> dict[Any, Any]:
    with Snapshot.open(path) as snapshot:
        return dict(snapshot.state("count", name).items())


def test_state_is_made_of_plain_data(target: Path) -> None:
    builder = SavepointBuilder.new(words(counters=3))
    builder.add_state("count", "balance", {f"user-{n}": n for n in range(100)})
    builder.add_state("count", "cart", [("a", {"x": 1}), ("b", {})], kind="map")
    builder.add_state("count", "visits", {"a": [1, 2], "b": []}, kind="list")

    manifest = builder.write(target)

    assert manifest.kind == "savepoint"
    assert contents(target, "balance") == {f"user-{n}": n for n in range(100)}
    assert contents(target, "cart") == {"a": {"x": 1}}
    assert contents(target, "visits") == {"a": [1, 2]}


def test_rows_of_a_key_that_comes_twice_are_the_last(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowsnap.snapshot.row_sink.ROWS_PER_FILE", 4)

    def items() -> Iterator[tuple[int, int]]:
        for number in range(30):
            yield number % 10, number

    SavepointBuilder.new(words()).add_state("count", "balance", items()).write(target)

    assert contents(target, "balance") == {number: number + 20 for number in range(10)}


def test_pipeline_can_stand_for_its_graph(target: Path) -> None:
    pipeline = Pipeline("totals")
    read = pipeline.source(FromIterable([]), name="read").key_by(lambda n: n)
    read.sum(name="count").sink(Collect())

    manifest = SavepointBuilder.new(pipeline).add_state("count", "sum", {1: 2}).write(target)

    assert manifest.job == "totals"
    assert contents(target, "sum") == {1: 2}


def test_renamed_state_keeps_its_rows(maker: Maker, target: Path) -> None:
    maker.keyed(both(balances({"a": 1}), carts({"a": {"x": 1}})))

    with maker.opened() as snapshot:
        SavepointBuilder.of(snapshot).rename_state("count", "balance", "money").write(target)

    assert contents(target, "money") == {"a": 1}
    assert contents(target, "cart") == {"a": {"x": 1}}


def test_deleted_state_is_gone_with_its_rows(maker: Maker, target: Path) -> None:
    maker.keyed(both(balances({"a": 1}), carts({"a": {"x": 1}})))

    with maker.opened() as snapshot:
        builder = SavepointBuilder.of(snapshot).delete_state("count", "balance")
        manifest = builder.add_state("count", "balance", {"b": 2}).write(target)

    state = manifest.tasks[1].state
    assert state is not None
    assert [(table.name, table.state_id) for table in state.tables] == [("cart", 1), ("balance", 2)]
    assert contents(target, "balance") == {"b": 2}


def test_values_are_transformed(maker: Maker, target: Path) -> None:
    maker.keyed(both(balances({"a": 1, "b": 2, "c": 3}), carts({"a": {"x": 1, "y": 2}})))

    with maker.opened() as snapshot:
        builder = SavepointBuilder.of(snapshot)
        builder.transform_state(
            "count", "balance", lambda key, n: MISSING if key == "b" else {"n": n}, version=2
        )
        builder.transform_state("count", "cart", lambda key, entry, n: (key, entry, n)).write(
            target
        )

    assert contents(target, "balance") == {"a": {"n": 1}, "c": {"n": 3}}
    assert contents(target, "cart") == {"a": {"x": ("a", "x", 1), "y": ("a", "y", 2)}}
    with Snapshot.open(target) as snapshot:
        assert snapshot.state("count", "balance").info.versions == (2,)


def test_transformed_values_expire_as_before(maker: Maker, target: Path) -> None:
    def fill(states: Any) -> None:
        states.key, states.processing_time_ms = "a", lambda: 1_700_000_000_000
        states.value_state("balance", ttl=TTL("1h")).update(1)

    with maker.keyed(fill).opened() as snapshot:
        builder = SavepointBuilder.of(snapshot)
        builder.transform_state("count", "balance", lambda _, n: n + 1).write(target)

    with Snapshot.open(target) as snapshot:
        (row,) = snapshot.state("count", "balance").rows()
        assert (row.value, row.expires_ms) == (2, 1_700_003_600_000)


def test_objects_can_only_be_transformed_where_they_are_trusted(maker: Maker, target: Path) -> None:
    made = maker.keyed(balances({"a": Visit("ada")})).made()

    with made.opened() as snapshot:
        builder = SavepointBuilder.of(snapshot)
        builder.transform_state("count", "balance", lambda _, visit: [visit])
        with pytest.raises(StateError, match="whose class was not loaded"):
            builder.write(target)
    with made.opened(trust=True) as snapshot:
        builder = SavepointBuilder.of(snapshot)
        builder.transform_state("count", "balance", lambda _, visit: visit.user).write(target)

    assert contents(target, "balance") == {"a": "ada"}


def test_objects_that_are_left_alone_stay_what_they_are(maker: Maker, target: Path) -> None:
    with maker.keyed(balances({"a": Visit("ada"), "b": Visit("bob")})).opened() as snapshot:
        builder = SavepointBuilder.of(snapshot)
        builder.transform_state(
            "count", "balance", lambda key, visit: MISSING if key == "a" else visit
        ).write(target)

    with Snapshot.open(target, trust=True) as snapshot:
        assert dict(snapshot.state("count", "balance").items()) == {"b": Visit("bob")}


def test_error_of_the_function_is_told_with_the_key(maker: Maker, target: Path) -> None:
    with maker.keyed(balances({"a": 0})).opened() as snapshot:
        builder = SavepointBuilder.of(snapshot)
        builder.transform_state("count", "balance", lambda _, n: 1 // n)
        with pytest.raises(OperatorError, match="ZeroDivisionError") as caught:
            builder.write(target)

    assert (caught.value.operator, caught.value.record) == ("count", "'a'")
    assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["old"]


def test_what_is_not_changed_stays(maker: Maker, target: Path) -> None:
    maker.keyed(balances({"a": 1})).part("count/0", watermarks={COUNT: 5})
    maker.in_transit("count/0", (channel(), batches([1, 2])))

    with maker.opened() as snapshot:
        manifest = SavepointBuilder.of(snapshot).write(target)
        assert manifest.checkpoint_id == snapshot.checkpoint_id

    with Snapshot.open(target) as snapshot:
        assert snapshot.channels()[0].values == [1, 2]
        assert snapshot.watermarks() == {COUNT: {0: 5}}
        assert dict(snapshot.state("count", "balance").items()) == {"a": 1}


def test_renamed_operator_takes_along_what_belongs_to_it(maker: Maker, target: Path) -> None:
    maker.keyed(balances({"a": 1})).part("count/0", watermarks={COUNT: 5})
    maker.in_transit("count/0", (channel(), batches([1, 2])))

    with maker.opened() as snapshot:
        builder = SavepointBuilder.of(snapshot).rename_operator("count", "totals")
        builder.rename_state("count", "balance", "money").write(target)

    with Snapshot.open(target) as snapshot:
        assert list(snapshot.operators) == ["lines", "totals", "out"]
        assert dict(snapshot.state("totals", "money").items()) == {"a": 1}
        assert snapshot.channels("lines", "totals")[0].values == [1, 2]
        assert snapshot.watermarks() == {"totals": {0: 5}}
        assert check_cut(snapshot) == []


def test_name_that_no_operator_can_have_is_refused(target: Path) -> None:
    with pytest.raises(ConfigError, match="is no name for an operator"):
        SavepointBuilder.new(words()).rename_operator("count", "../x").write(target)

    assert list(target.parent.iterdir()) == []


def test_sources_can_begin_where_they_are_told(target: Path) -> None:
    builder = SavepointBuilder.new(words(readers=2))
    builder.set_position("lines", "a", 5, payload={"path": "a"})
    builder.set_position("lines", "a", 7).set_position("lines", "b", 1, is_finished=True)
    builder.write(target)

    with Snapshot.open(target) as snapshot:
        found = [(p.split, p.position, p.payload, p.is_finished) for p in snapshot.positions()]
        assert found == [("a", 7, {"path": "a"}, False), ("b", 1, {}, True)]


def test_operator_state_can_be_set(target: Path) -> None:
    builder = SavepointBuilder.new(words(counters=2))
    builder.set_operator_state("count", "buffer", [1])
    builder.set_operator_state("count", "buffer", [1, 2])
    builder.set_operator_state("count", "rules", [{"a": 1}], kind="broadcast").write(target)

    with Snapshot.open(target) as snapshot:
        assert [part.values for part in snapshot.operator_state("count", "buffer")] == [(1, 2)]
        assert len(snapshot.operator_state("count", "rules")) == 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda b: b.add_state("cuont", "x", {}), "job 'words' has no operator 'cuont'"),
        (lambda b: b.add_state("out", "x", {}), "operator 'out' is not keyed"),
        (lambda b: b.add_state("count", "x", {}, kind="set"), "there is no kind 'set'"),
        (lambda b: b.add_state("count", "balance", {}), "has a state 'balance' already"),
        (lambda b: b.rename_state("count", "nosuch", "x"), "has no keyed state 'nosuch'"),
        (lambda b: b.rename_state("count", "balance", "cart"), "has a state 'cart' already"),
        (lambda b: b.delete_state("count", "nosuch"), "has no keyed state 'nosuch'"),
        (lambda b: b.set_position("count", "a", 1), "has no source 'count'"),
        (lambda b: b.rename_operator("nosuch", "x"), "has no operator 'nosuch'"),
        (lambda b: b.rename_operator("count", "out"), "has an operator 'out' already"),
    ],
)
def test_change_that_does_not_fit_is_refused(maker: Maker, build: Any, message: str) -> None:
    maker.keyed(both(balances({"a": 1}), carts({"a": {1: 1}})))

    with maker.opened() as snapshot, pytest.raises(ConfigError, match=message):
        build(SavepointBuilder.of(snapshot))


def test_name_that_was_given_up_can_be_taken(maker: Maker, target: Path) -> None:
    with maker.keyed(both(balances({"a": 1}), carts({"a": {1: 1}}))).opened() as snapshot:
        builder = SavepointBuilder.of(snapshot).rename_state("count", "balance", "old")
        builder.rename_state("count", "cart", "balance").write(target)

    assert contents(target, "old") == {"a": 1}
    assert contents(target, "balance") == {"a": {1: 1}}


def test_savepoint_that_is_there_is_not_written_over(target: Path) -> None:
    target.mkdir()

    with pytest.raises(ConfigError, match="there is something at"):
        SavepointBuilder.new(words()).write(target)


def test_key_that_is_none_is_refused_and_nothing_is_written(target: Path) -> None:
    builder = SavepointBuilder.new(words()).add_state("count", "balance", {float("nan"): 1})

    with pytest.raises(StateError, match="nan is not a key"):
        builder.write(target)

    assert list(target.parent.iterdir()) == []
