from __future__ import annotations

from operator import length_hint
from typing import Any

import pytest

from flowsnap.core.element import Batch
from flowsnap.errors import ConfigError
from flowsnap.operators.key_by import KeyBy


def test_keys_stand_beside_the_records() -> None:
    batch = Batch(["apple", "kiwi"], [10, 20])

    assert KeyBy(len).process(batch) == Batch(["apple", "kiwi"], [10, 20], [5, 4])


def test_record_is_its_own_key_without_a_selector() -> None:
    assert KeyBy().process(Batch(["a", "b"])) == Batch(["a", "b"], None, ["a", "b"])


def test_key_may_be_several_fields() -> None:
    batch = Batch([{"user": "ann", "day": 3, "n": 1}])

    assert KeyBy(("user", "day")).process(batch).keys == [("ann", 3)]


def test_empty_batch_has_no_keys() -> None:
    assert KeyBy("user").process(Batch([])) == Batch([], None, [])


@pytest.mark.parametrize("keys", [[[1]], [(1,), (2,), ([3],)], [{}], [("a", {1})]])
def test_unhashable_key_is_an_error_that_names_its_type(keys: list[Any]) -> None:
    name = type(keys[-1]).__name__

    with pytest.raises(TypeError, match=f"a key of type {name} cannot be hashed"):
        KeyBy().process(Batch(keys))


def test_cursor_stands_behind_the_record_with_the_unhashable_key() -> None:
    operator = KeyBy()

    with pytest.raises(TypeError):
        operator.process(Batch([(1,), ([2],), (3,), (4,)]))

    assert length_hint(operator.cursor) == 2


def test_cursor_stands_behind_the_record_without_the_field() -> None:
    operator = KeyBy("user")

    with pytest.raises(KeyError):
        operator.process(Batch([{"user": 1}, {"name": 2}, {"user": 3}, {"user": 4}]))

    assert length_hint(operator.cursor) == 2


def test_selector_is_checked_at_once() -> None:
    with pytest.raises(ConfigError, match="key_by"):
        KeyBy(3.5)  # type: ignore[arg-type]  # what a user may pass
