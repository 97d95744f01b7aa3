"""Outputs are compared as bags, or in order for each key, whatever the records are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from flowsnap.testing.kit_compare import difference, disorder, frozen


@dataclass
class Point:
    x: int
    tags: list[str]


class Row(msgspec.Struct):
    x: int
    tags: list[str]


class Strange:
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<strange>"


@pytest.mark.parametrize(
    "value",
    [
        1,
        (1, [2]),
        {"a": [1, {2: {3}}]},
        Point(1, ["a"]),
        Row(1, ["a"]),
        Strange(),
        {1: 2},
    ],
)
def test_equal_records_are_no_difference(value: Any) -> None:
    assert difference([value, value], [value, value]) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 2), [1, 2]),
        ({"a": 1}, {"a": 2}),
        (Point(1, ["a"]), Point(1, ["b"])),
        (Row(1, []), Point(1, [])),
        ({1, 2}, {1, 3}),
    ],
)
def test_different_records_are_told_apart(one: Any, other: Any) -> None:
    assert frozen(one) != frozen(other)
    assert difference([one], [other]) == f"1 record lost: {other!r}, 1 record too many: {one!r}"


def test_mappings_are_equal_in_any_order() -> None:
    assert difference([{"a": 1, "b": 2}], [{"b": 2, "a": 1}]) == ""


def test_number_of_equal_records_counts() -> None:
    assert difference([1, 1], [1]) == "1 record too many: 1"
    assert difference([1], [1, 1, 1]) == "2 records lost: 1"


def test_many_records_are_shortened() -> None:
    assert difference([], range(9)) == "9 records lost: 0, 1, 2, 3 and 5 more kinds"


def test_order_counts_for_each_key_by_itself() -> None:
    expected = [("a", 1), ("b", 1), ("a", 2)]

    assert disorder([("b", 1), ("a", 1), ("a", 2)], expected, lambda r: r[0]) == ""
    assert "key 'a'" in disorder([("a", 2), ("b", 1), ("a", 1)], expected, lambda r: r[0])
