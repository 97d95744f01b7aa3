from __future__ import annotations

import datetime
import enum
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import pytest

from flowsnap.connectors.rows import RowMaker, Unfit, to_plain


class Struct(msgspec.Struct):
    a: Any
    b: Any


@dataclass
class Data:
    a: Any
    b: Any


class Named(NamedTuple):
    b: Any
    a: Any


class Color(enum.Enum):
    RED = "red"


def made(values: list[Any], *columns: str) -> list[tuple[Any, ...]]:
    maker = RowMaker(dict.fromkeys(columns or ("a", "b"), to_plain))
    return [tuple(row) for row in maker.rows(values)]


@pytest.mark.parametrize(
    "value",
    [(1, "x"), [1, "x"], {"a": 1, "b": "x"}, {"b": "x", "a": 1, "c": 2}, Struct(1, "x"),
     Data(1, "x"), Named("x", 1), OrderedDict(b="x", a=1)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_record_becomes_a_row_in_the_order_of_the_columns(value: Any) -> None:
    assert made([value, value]) == [(1, "x")] * 2


def test_records_of_several_kinds_may_be_in_one_batch() -> None:
    assert made([(1, 2), {"a": 3, "b": 4}, Struct(5, 6)]) == [(1, 2), (3, 4), (5, 6)]


@pytest.mark.parametrize("value", [7, "word", None, 1.5, b"x", True])
def test_plain_value_is_a_row_of_one_column(value: Any) -> None:
    assert made([value], "a") == [(value,)]


@pytest.mark.parametrize("value", [("x",), {"a": "x"}, Struct("x", "y")])
def test_one_column_of_a_record_is_a_row(value: Any) -> None:
    assert made([value], "a") == [("x",)]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3, 4), "2026-01-02 03:04:00"),
        (datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "2026-01-02 00:00:00+00:00"),
        (Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ({"x": [1, None]}, '{"x":[1,null]}'),
        ([1, 2], "[1,2]"),
        (Data(1, 2), '{"a":1,"b":2}'),
        (Color.RED, "red"),
        (bytearray(b"x"), b"x"),
    ],
)
def test_value_that_is_not_plain_gets_a_plain_form(value: Any, plain: Any) -> None:
    assert made([(value, 1)]) == [(plain, 1)]


@pytest.mark.parametrize(
    ("values", "index", "message"),
    [
        ([{"a": 1, "b": 2}, {"a": "secret"}], 1, r"\(a dict\) has no column 'b'"),
        ([Struct(1, 2), 5], 1, r"\(an int\) has no column 'a'"),
        ([(1, 2), (1, 2, 3)], 1, "has 3 values for 2 columns"),
        ([(1, 2), (1, object())], 1, "has an object in column 'b', which has no form there"),
        ([(1, {"x": object()})], 0, "has a dict in column 'b', which has no form there"),
    ],
)
def test_record_that_is_no_row_is_named_by_its_place_and_without_its_content(
    values: list[Any], index: int, message: str
) -> None:
    with pytest.raises(Unfit, match=message) as caught:
        made(values)

    assert caught.value.index == index
    assert "secret" not in str(caught.value)
