"""A snapshot is a set of tables: for SQL, for Arrow, for data frames and files."""

from __future__ import annotations

import builtins
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import polars
import pyarrow
import pyarrow.parquet
import pytest

from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import OperatorStateValues, PreparedOutput
from flowsnap.errors import ConfigError, StorageError
from flowsnap.serialize import dump
from flowsnap.snapshot.arrow import write_parquet
from flowsnap.snapshot.plain import to_json, to_plain, to_text
from flowsnap.state.memory import MemoryBackend
from tests.manifests import COUNT, at
from tests.unit.snapshot.made import Fill, Maker, balances, batches, carts, channel


@dataclass
class Visit:
    user: str
    pages: int


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path, backend=MemoryBackend)


def rows(maker: Maker, fill: Fill, query: str = "select * from count.balance") -> list[Any]:
    with maker.keyed(fill).opened() as snapshot:
        found: list[Any] = snapshot.sql(query).to_pylist()
        return sorted(found, key=repr)


def test_state_is_a_table_of_keys_and_values(maker: Maker) -> None:
    assert rows(maker, balances({"a": 1, "b": 2})) == [
        {"key": "a", "value": 1},
        {"key": "b", "value": 2},
    ]


def test_state_can_be_named_with_a_schema_or_as_a_whole(maker: Maker) -> None:
    with maker.keyed(balances({"a": 1, "b": 2})).opened() as snapshot:
        for table in ("count.balance", '"count.balance"', '"count"."balance"', "COUNT.Balance"):
            answer = snapshot.sql(f"select sum(value) as total from {table} where key <> 'a'")
            assert answer.to_pylist() == [{"total": 2}]


@pytest.mark.parametrize("value", [{"user": "ada", "pages": 3}, Visit("ada", 3)], ids=type)
def test_fields_of_a_value_are_columns(maker: Maker, value: Any) -> None:
    assert rows(maker, balances({1: value})) == [{"key": 1, "user": "ada", "pages": 3}]


def test_field_that_one_value_lacks_is_null(maker: Maker) -> None:
    assert rows(maker, balances({1: {"a": 1}, 2: {"b": "x"}})) == [
        {"key": 1, "a": 1, "b": None},
        {"key": 2, "a": None, "b": "x"},
    ]


def test_field_that_is_called_like_a_column_is_told_apart(maker: Maker) -> None:
    assert rows(maker, balances({1: {"key": 7, "value": 8}})) == [
        {"key": 1, "value_key": 7, "value": 8}
    ]


def test_map_has_its_entries_as_namespace(maker: Maker) -> None:
    found = rows(maker, carts({"ada": {(0, 60): 1, (60, 120): 2}}), "from count.cart")

    assert [(row["namespace_0"], row["namespace_1"], row["value"]) for row in found] == [
        (0, 60, 1),
        (60, 120, 2),
    ]
    assert [row["namespace"] for row in found] == ["[0,60]", "[60,120]"]


def test_elements_of_a_tuple_are_columns(maker: Maker) -> None:
    assert rows(maker, balances({("eu", 1): (2, "x")})) == [
        {"key": '["eu",1]', "key_0": "eu", "key_1": 1, "value_0": 2, "value_1": "x"}
    ]


def test_tuples_that_differ_in_length_are_text(maker: Maker) -> None:
    found = rows(maker, balances({1: (1, 2), 2: (3,)}))

    assert found == [{"key": 1, "value": "[1,2]"}, {"key": 2, "value": "[3]"}]


def test_dict_with_too_many_names_is_a_map_and_one_column(maker: Maker) -> None:
    counts = {f"page-{number}": number for number in range(70)}
    (row,) = rows(maker, balances({1: counts}))

    assert list(row) == ["key", "value"]
    assert row["value"].startswith('{"page-0":0,')


def test_column_of_mixed_types_is_text(maker: Maker) -> None:
    assert rows(maker, balances({1: 1, 2: "x", 3: [1], 4: None, 5: 1 << 70})) == [
        {"key": 1, "value": "1"},
        {"key": 2, "value": "x"},
        {"key": 3, "value": "[1]"},
        {"key": 4, "value": None},
        {"key": 5, "value": '"1180591620717411303424"'},
    ]


def test_lists_of_one_type_stay_lists(maker: Maker) -> None:
    assert rows(maker, balances({1: [1, 2], 2: []})) == [
        {"key": 1, "value": [1, 2]},
        {"key": 2, "value": []},
    ]


def test_empty_state_is_an_empty_table(maker: Maker) -> None:
    assert rows(maker, balances({})) == []


def test_nothing_can_be_summed_up(maker: Maker) -> None:
    query = "select sum(value) as total, count(*) as n, max(key) as k from count.balance"
    assert rows(maker, balances({}), query) == [{"total": None, "n": 0, "k": None}]


def test_what_was_in_transit_is_a_table(maker: Maker) -> None:
    maker.in_transit("count/0", (channel(), [Batch([{"n": 1}, {"n": 2}], [10, 20], ["a", "b"])]))

    with maker.opened() as snapshot:
        found = snapshot.sql('select source, "number", timestamp_ms, key, n from channels')
        assert found.to_pylist() == [
            {"source": "lines", "number": 0, "timestamp_ms": 10, "key": "a", "n": 1},
            {"source": "lines", "number": 1, "timestamp_ms": 20, "key": "b", "n": 2},
        ]


def test_state_and_what_is_in_transit_can_be_summed_up(maker: Maker) -> None:
    maker.keyed(balances({"a": 10, "b": 20})).in_transit("count/0", (channel(), batches([5], [7])))

    with maker.opened() as snapshot:
        query = "select (select sum(value) from count.balance) + (select sum(value) from channels)"
        assert list(snapshot.sql(query).to_pylist()[0].values()) == [42]


def test_what_is_no_state_has_its_tables(maker: Maker) -> None:
    maker.part("lines/0", splits=(at("a", {"offset": 3}),))
    maker.part("count/0", prepared=(PreparedOutput(CheckpointId(1), {"file": "x"}),))
    maker.part("count/0", watermarks={COUNT: 5})

    with maker.opened() as snapshot:
        (position,) = snapshot.to_arrow("positions").to_pylist()
        assert (position["source"], position["position"]) == ("lines", '{"offset":3}')
        assert snapshot.to_arrow("commits").to_pylist()[0]["committable"] == '{"file":"x"}'
        assert snapshot.to_arrow("watermarks").to_pylist()[0]["watermark_ms"] == 5
        assert snapshot.to_arrow("tasks").num_rows == 2
        assert snapshot.to_arrow("timers").num_rows == snapshot.to_arrow("channels").num_rows == 0


def test_operator_state_is_a_table(maker: Maker) -> None:
    state = OperatorStateValues(COUNT, "buffer", "list", (dump({"n": 1}), dump({"n": 2})))
    maker.part("count/0", operator_states=(state,))

    with maker.opened() as snapshot:
        assert snapshot.sql("from count.buffer").to_pylist() == [
            {"subtask": 0, "number": 0, "n": 1},
            {"subtask": 0, "number": 1, "n": 2},
        ]


@pytest.mark.parametrize(
    ("query", "message"),
    [("select * from nosuch", "nosuch"), ("selct 1", "syntax error"), ("select 1 +", "syntax")],
)
def test_query_that_is_wrong_is_refused_with_the_tables_there_are(
    maker: Maker, query: str, message: str
) -> None:
    with (
        maker.keyed(balances({})).opened() as snapshot,
        pytest.raises(ConfigError, match="the query cannot be answered") as caught,
    ):
        snapshot.sql(query)

    assert message in str(caught.value)
    assert caught.value.__notes__[0].startswith("tables: count.balance, channels, positions")


def test_query_without_an_answer_is_an_empty_table(maker: Maker) -> None:
    with maker.opened() as snapshot:
        assert snapshot.sql("create table t (x int)").num_rows == 0


def test_unknown_table_is_named(maker: Maker) -> None:
    with maker.opened() as snapshot, pytest.raises(ConfigError, match="no table 'chanels'") as e:
        snapshot.to_arrow("chanels")

    assert e.value.__notes__[0].startswith("did you mean 'channels'?")


def test_table_is_a_data_frame(maker: Maker) -> None:
    with maker.keyed(balances({"a": 1, "b": 2})).opened() as snapshot:
        frame = snapshot.to_polars("count.balance")

    assert isinstance(frame, polars.DataFrame)
    assert frame["value"].sum() == 3


def test_table_is_written_as_parquet(maker: Maker, tmp_path: Path) -> None:
    path = tmp_path / "balance.parquet"
    with maker.keyed(balances({"a": 1})).opened() as snapshot:
        write_parquet(snapshot.to_arrow("count.balance"), path)

    assert pyarrow.parquet.read_table(path).to_pylist() == [{"key": "a", "value": 1}]


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none" / "x.parquet"

    with pytest.raises(StorageError, match=f"cannot write {path}"):
        write_parquet(pyarrow.table({"a": [1]}), path)


@pytest.mark.parametrize(
    ("module", "missing"), [("arrow", "pyarrow"), ("query", "duckdb")], ids=["arrow", "query"]
)
def test_missing_extra_is_named(
    maker: Maker, monkeypatch: pytest.MonkeyPatch, module: str, missing: str
) -> None:
    real = builtins.__import__

    def importing(name: str, *arguments: Any) -> Any:
        if name == missing:
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", importing)
    for name in ("arrow", "query"):
        monkeypatch.delitem(sys.modules, f"flowsnap.snapshot.{name}", raising=False)
    with maker.opened() as snapshot, pytest.raises(ConfigError, match=missing) as caught:
        snapshot.sql("select 1") if module == "query" else snapshot.to_arrow("tasks")

    assert "pip install 'flowsnap[sql]'" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Visit("ada", 1), {"user": "ada", "pages": 1}),
        ({1: (2,), "a": {3}}, {"1": [2], "a": [3]}),
        ({(1, "b"): 1}, {'[1,"b"]': 1}),
        (b"\0", "AA=="),
        (float("nan"), "nan"),
        (1 << 64, "18446744073709551616"),
        (True, True),
        (UUID(int=0), "00000000-0000-0000-0000-000000000000"),
        (Decimal("1.20"), "1.20"),
        (1j, "1j"),
    ],
)
def test_any_value_has_a_form_in_json(value: Any, plain: Any) -> None:
    assert to_plain(value) == plain


def test_text_stands_for_itself_and_all_else_as_json() -> None:
    assert (to_text("x"), to_text(["x"]), to_json("x")) == ("x", '["x"]', '"x"')


def test_value_that_holds_itself_is_cut_off() -> None:
    value: list[Any] = []
    value.append(value)

    assert "..." in to_json(value)
