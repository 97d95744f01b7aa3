from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from flowsnap.errors import ConfigError
from flowsnap.operators.selector import check_selector, resolve, selected

Point = namedtuple("Point", ["x", "y"])


@dataclass
class Payment:
    user: str
    amount: int


class Event(msgspec.Struct):
    user: str
    amount: int


@pytest.mark.parametrize(
    ("selector", "record", "expected"),
    [
        (None, "a", "a"),
        (str.upper, "a", "A"),
        ("user", {"user": "ann"}, "ann"),
        ("keys", {"keys": "a field, and not the method"}, "a field, and not the method"),
        ("user", Payment("ann", 3), "ann"),
        ("user", Event("ann", 3), "ann"),
        ("y", Point(1, 2), 2),
        (1, ("a", "b"), "b"),
        (-1, ["a", "b"], "b"),
        (7, {7: "seven"}, "seven"),
        (("user", "amount"), {"user": "ann", "amount": 3}, ("ann", 3)),
        (("amount", "user"), Payment("ann", 3), (3, "ann")),
        (("user",), {"user": "ann"}, ("ann",)),
        ((0, "y"), Point(1, 2), (1, 2)),
        (("user", len), {"user": "ann"}, ("ann", 1)),
        ((0, (1, 2)), "abc", ("a", ("b", "c"))),
    ],
)
def test_selector_selects(selector: Any, record: Any, expected: Any) -> None:
    assert resolve(selector, record)(record) == expected


@pytest.mark.parametrize("record", ["ann", 3, ["ann"], Payment("ann", 3)])
def test_missing_field_is_an_error_that_names_the_type_and_the_field(record: Any) -> None:
    with pytest.raises(TypeError, match=f"type {type(record).__name__} has no field 'city'"):
        resolve("city", record)


@pytest.mark.parametrize("selector", [True, 1.5, (), ["user"], ("user", {})])
def test_what_selects_nothing_is_refused_when_the_pipeline_is_drawn(selector: Any) -> None:
    with pytest.raises(ConfigError, match="does not select anything"):
        check_selector(selector, "key_by")


def test_whole_batch_is_selected_while_the_cursor_walks_it() -> None:
    values = [{"n": 1}, {"n": 2}]
    cursor = iter(values)

    picked = selected("n", values, cursor)

    assert (next(picked), next(cursor)) == (1, {"n": 2})


def test_nothing_is_selected_from_an_empty_batch() -> None:
    assert list(selected("n", [], iter([]))) == []
