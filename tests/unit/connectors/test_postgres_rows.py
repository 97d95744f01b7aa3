from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from ipaddress import IPv4Address
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

import msgspec
import pydantic
import pytest

pytest.importorskip("psycopg", reason="pip install 'flowsnap[postgres]'")

from flowsnap.connectors import DeadLetter, PostgresChanges, PostgresTable
from flowsnap.connectors.postgres_rows import (
    ChangeRows,
    TableRows,
    check_columns,
    types_by_table,
)
from flowsnap.connectors.postgres_shape import shape_of
from flowsnap.connectors.postgres_tables import Change, Table
from flowsnap.errors import ConfigError, MalformedInput

SECRET = "hunter2"
DSN = "host=db dbname=shop password=canary"
AT = datetime(2026, 1, 2, tzinfo=UTC)


class Order(msgspec.Struct):
    id: int
    price: float
    at: datetime | None = None


@dataclass
class Point:
    id: int
    price: float
    at: datetime | None = None


class Model(pydantic.BaseModel):
    id: int
    price: float
    at: datetime | None = None


class Plain(TypedDict):
    id: int
    price: float
    at: NotRequired[datetime | None]


TYPES = [Order, Point, Model, Plain]


class Numbered(TypedDict):
    id: int


class Renamed(msgspec.Struct, rename="camel", tag_field="kind", tag=True):
    first_name: str


class Aliased(pydantic.BaseModel):
    a: int = pydantic.Field(alias="first")
    b: int = pydantic.Field(
        validation_alias=pydantic.AliasChoices("second", pydantic.AliasPath("third", 0))
    )


class Open(pydantic.BaseModel, extra="allow"):
    a: int


class Patched(msgspec.Struct, tag_field="kind", tag="patched"):
    id: int
    note: str | msgspec.UnsetType = msgspec.UNSET


class Noted(msgspec.Struct):
    id: int
    note: str = "none"


class Row(NamedTuple):
    id: int


class AsArray(msgspec.Struct, array_like=True):
    id: int


def row(id_: Any = 1, price: Any = Decimal("1.5"), **more: Any) -> dict[str, Any]:
    return {"id": id_, "price": price, "at": AT, **more}


def place(index: int) -> list[str]:
    return [str(100 + index)]


def records(type_: Any, rows: list[dict[str, Any]], *, is_kept: bool = False) -> list[Any]:
    return TableRows("orders", type_, is_kept=is_kept).records(rows, place)


def update(before: Any, after: Any, op: str = "update") -> Change:
    return Change(op=op, table="public.t", before=before, after=after, lsn=0x1_0000_00FF)


def typed(
    type_: Any, change: Change, columns: Sequence[str], *, is_kept: bool = False
) -> Change | DeadLetter:
    return ChangeRows({"public.t": type_}, is_kept=is_kept).change(change, frozenset(columns))


def refusal(action: Callable[[], object]) -> MalformedInput:
    with pytest.raises(MalformedInput) as caught:
        action()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return caught.value


@pytest.mark.parametrize("type_", TYPES)
def test_rows_become_records_of_every_kind_of_type(type_: Any) -> None:
    assert records(type_, [row(1), row(2)]) == [
        type_(id=1, price=1.5, at=AT),
        type_(id=2, price=1.5, at=AT),
    ]


@pytest.mark.parametrize("type_", TYPES)
def test_row_that_is_not_of_the_type_is_an_error_with_its_place_and_without_its_value(
    type_: Any,
) -> None:
    error = refusal(lambda: records(type_, [row(1), row(2, SECRET)]))

    assert str(error).startswith("orders: the row at 101 is not what was expected: ")
    assert "price`" in str(error)
    assert (error.file, error.offset) == ("orders", 101)


def test_value_that_is_none_of_an_enum_is_not_quoted() -> None:
    error = refusal(lambda: records(dict[str, Literal["a"]], [{"v": SECRET}]))

    assert "Invalid enum value" in str(error)
    assert error.__cause__ is None


@pytest.mark.parametrize("type_", TYPES)
def test_row_that_is_not_of_the_type_becomes_a_dead_letter_between_records(type_: Any) -> None:
    rows = [row(1), row(2, SECRET, host=IPv4Address("10.0.0.1")), row(3)]

    first, letter, last = records(type_, rows, is_kept=True)

    assert (first, last) == (type_(id=1, price=1.5, at=AT), type_(id=3, price=1.5, at=AT))
    assert isinstance(letter, DeadLetter)
    assert msgspec.json.decode(letter.raw)["price"] == SECRET
    assert (letter.source, letter.offset) == ("orders", 101)
    assert SECRET not in f"{letter!r} {letter.reason}"


@pytest.mark.parametrize(
    ("by", "source", "offset"),
    [
        (["5"], "orders", 5),
        (["-5"], "orders", -5),
        (["2026-01-01", "7"], "orders[2026-01-01]", 7),
        (["2026-01-01"], "orders[2026-01-01]", 0),
    ],
)
def test_place_of_a_dead_letter_is_told_by_what_orders_the_rows(
    by: list[str], source: str, offset: int
) -> None:
    made = TableRows("orders", Order, is_kept=True)

    (letter,) = made.records([row("x")], lambda _: by)

    assert (letter.source, letter.offset) == (source, offset)


@pytest.mark.parametrize("type_", TYPES)
def test_rows_in_a_change_become_records_where_the_log_holds_all_of_them(type_: Any) -> None:
    columns = list(row())
    full = typed(type_, update(row(1), row(2)), columns)
    key = typed(type_, update({"id": 1}, None, "delete"), columns)

    assert full == update(type_(id=1, price=1.5, at=AT), type_(id=2, price=1.5, at=AT))
    assert key == update({"id": 1}, None, "delete")


@pytest.mark.parametrize(("before", "after"), [(row("x"), row()), (row(), row("x"))])
def test_change_that_does_not_parse_names_the_row_and_the_place_in_the_log(
    before: Any, after: Any
) -> None:
    change, columns = update(before, after), list(row())
    what = "before" if before["id"] == "x" else "after"

    letter = typed(Order, change, columns, is_kept=True)
    error = refusal(lambda: typed(Order, change, columns))

    assert isinstance(letter, DeadLetter)
    assert letter.reason == f"{what}: Expected `int`, got `str` - at `$.id`"
    assert (letter.source, letter.offset) == ("public.t", 0x1_0000_00FF)
    assert msgspec.json.decode(letter.raw)["op"] == "update"
    assert str(error).startswith("public.t: the change 'update' at 1/FF is not what was expected")


@pytest.mark.parametrize("type_", [Noted, pydantic.create_model("M", id=int, note=(str, "none"))])
def test_value_that_the_log_leaves_out_is_not_filled_in_by_a_default(type_: Any) -> None:
    change = update(None, {"id": 1})

    error = refusal(lambda: typed(type_, change, ["id", "note"]))
    dropped = typed(type_, change, ["id"])

    assert "after: the log leaves out column 'note'" in str(error)
    assert "replica identity full" in str(error.__notes__)
    assert isinstance(dropped, Change)
    assert dropped.after == type_(id=1)  # The table has no such column.


@pytest.mark.parametrize("type_", [Patched, dict[str, Any], Numbered])
def test_type_that_says_that_a_value_may_be_missing_takes_a_row_without_it(type_: Any) -> None:
    found = typed(type_, update(None, {"id": 1}), ["id", "note"])

    assert isinstance(found, Change)
    assert found.after == type_(id=1)


def test_rows_of_a_snapshot_become_records_and_those_of_other_tables_stay_dicts() -> None:
    made = ChangeRows({"public.t": Order, "public.u": Any}, is_kept=True)
    rows = [update(None, row(1), "read"), update(None, row("x"), "read")]
    other = [Change(op="read", table="public.u", after={"id": "x"})]

    first, letter = made.snapshot(rows)

    assert isinstance(first, Change)
    assert first.after == Order(1, 1.5, AT)
    assert isinstance(letter, DeadLetter)
    assert made.snapshot(other) == other
    assert made.snapshot([]) == []


@pytest.mark.parametrize(
    ("type_", "columns"),
    [
        (Renamed, {"firstName", "kind"}),
        (Point, {"id", "price", "at"}),
        (Plain, {"id", "price", "at"}),
        (Aliased, {"a", "b", "first", "second", "third"}),
        (Order | None, {"id", "price", "at"}),
        (Open, None),
        (pydantic.RootModel[dict[str, int]], None),
        (Patched | Renamed, None),
        (dict[str, int], None),
        (Any, None),
    ],
)
def test_columns_that_a_type_takes(type_: Any, columns: set[str] | None) -> None:
    assert shape_of(type_).columns == columns


@pytest.mark.parametrize("type_", [int, list[int], Row, AsArray, Order | int])
def test_type_that_no_row_can_become_is_refused(type_: Any) -> None:
    with pytest.raises(ConfigError, match="has no fields"):
        PostgresTable(DSN, "t", by="id", type=type_)
    with pytest.raises(ConfigError, match="has no fields"):
        PostgresChanges(DSN, "t", slot="s", type={"t": type_})


@pytest.mark.parametrize("type_", [Order, Point, Plain])
def test_table_without_a_column_that_the_type_requires_is_refused(type_: Any) -> None:
    check_columns("t", type_, ["id", "price", "other"])

    with pytest.raises(ConfigError, match=f"gives no 'price', which {type_.__name__} requires"):
        check_columns("t", type_, ["id", "at"])


def test_types_are_those_of_the_tables_as_they_were_named() -> None:
    tables = [Table("public.t", ("id",), ("id",), "t"), Table("public.u", ("id",), ("id",), "u")]

    assert types_by_table(Order, tables) == {"public.t": Order, "public.u": Order}
    assert types_by_table({"u": Order}, tables) == {"public.t": Any, "public.u": Order}
    assert types_by_table({"public.u": Order}, tables)["public.u"] is Order
    with pytest.raises(ConfigError, match="'x' is not one of the tables"):
        types_by_table({"x": Order}, tables)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"on_error": "ignore"}, "on_error: 'ignore' is not known"), ({"no": 1}, "no option 'no'")],
)
def test_option_that_is_not_known_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PostgresTable(DSN, "t", by="id", **options)
    with pytest.raises(ConfigError, match=message):
        PostgresChanges(DSN, "t", slot="s", **options)
