"""Values as bytes, and which of them can be shared."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest

from flowsnap.errors import StateError
from flowsnap.state.codec import (
    copied,
    decode_value,
    encode_plain_values,
    encode_value,
    is_immutable,
)


class Colour(Enum):
    RED = 1


class Point(NamedTuple):
    x: Any


class Frozen(msgspec.Struct, frozen=True):
    x: Any


class Loose(msgspec.Struct):
    x: Any


@dataclass(frozen=True)
class Account:
    x: Any


class Counter(int):
    pass


class Broken:
    def __setstate__(self, state: object) -> None:
        raise RuntimeError("no")

    def __reduce__(self) -> Any:
        return Broken, (), {"x": 1}


IMMUTABLE: list[Any] = [
    1, 1.5, "x", b"x", True, None, (1, ("a",)), frozenset([1]), Decimal(1),
    datetime(2026, 1, 2, tzinfo=UTC),
    UUID(int=1), Colour.RED, Point(1), Frozen((1,)), Account("x"),
]  # fmt: skip
MUTABLE: list[Any] = [
    [1], {1: 2}, {1}, bytearray(b"x"), deque([1]), (1, [2]), ((1, ([],)),), Point([1]), Loose(1),
    Frozen([1]), Account({}), Counter(1), object(),
]  # fmt: skip


@pytest.mark.parametrize("value", IMMUTABLE, ids=repr)
def test_what_nobody_can_change_is_shared(value: Any) -> None:
    assert is_immutable(value)
    assert copied(value) is value


@pytest.mark.parametrize("value", MUTABLE, ids=lambda value: type(value).__name__)
def test_what_can_be_changed_or_holds_such_is_not_shared(value: Any) -> None:
    assert not is_immutable(value)


@pytest.mark.parametrize("value", [*IMMUTABLE, *MUTABLE[:-1], 2**64, -(2**63), "\ud800", (2**70,)])
def test_a_value_is_read_as_it_was_written(value: Any) -> None:
    decoded = decode_value(encode_value(value))
    assert decoded == value
    assert type(decoded) is type(value)


def test_elements_keep_their_types() -> None:
    value = [(1, 2.0), [True, None], {"a": (1,)}]
    assert repr(decode_value(encode_value(value))) == repr(value)


def test_a_value_that_cannot_be_written_is_named_by_its_type() -> None:
    with pytest.raises(StateError, match="type generator cannot be pickled"):
        encode_value(n for n in range(3))


PLAIN: list[list[Any]] = [
    [1, 2.5, "x", b"x", None, True], [(1, "x"), ()], [-(2**63), 2**64 - 1], [],
]  # fmt: skip
NOT_PLAIN: list[list[Any]] = [
    [[1]], [1, (1,)], [(1, (2,))], [(1, [2])], [2**64], ["\ud800"], [Counter(1)], [Point(1)],
    [datetime(2026, 1, 2, tzinfo=UTC)], [{1: 2}],
]  # fmt: skip


@pytest.mark.parametrize("values", PLAIN, ids=repr)
def test_plain_values_have_the_bytes_that_each_has(values: list[Any]) -> None:
    assert encode_plain_values(values) == [encode_value(value) for value in values]
    assert all(map(is_immutable, values))


@pytest.mark.parametrize("values", NOT_PLAIN, ids=ascii)
def test_values_that_need_a_closer_look_are_not_plain(values: list[Any]) -> None:
    assert encode_plain_values([1, *values]) is None
    assert encode_plain_values(values) is None


@pytest.mark.parametrize("value", [(), [], (1, "a"), [1, "a"], 0x70, 0x74, -64, {}, [()], ([],)])
def test_a_tuple_a_list_and_a_pickle_are_told_apart(value: Any) -> None:
    assert repr(decode_value(encode_value(value))) == repr(value)


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\xc1", b"\xc1\x01", b"\x92\x01", b"\x01\x01", encode_value(Broken())]
)
def test_bytes_that_are_no_value_are_a_state_error(data: bytes) -> None:
    with pytest.raises(StateError, match="cannot be read"):
        decode_value(data)
