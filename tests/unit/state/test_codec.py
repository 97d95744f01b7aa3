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
from flowsnap.state.codec import copied, decode_value, encode_value, is_immutable


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
    1, 1.5, "x", b"x", True, None, (1, ("a",)), frozenset([1]), datetime.now(UTC), Decimal(1),
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


@pytest.mark.parametrize("data", [b"", b"p\x80", b"m\xc1", b"t\x01", encode_value(Broken())])
def test_bytes_that_are_no_value_are_a_state_error(data: bytes) -> None:
    with pytest.raises(StateError, match="cannot be read"):
        decode_value(data)
