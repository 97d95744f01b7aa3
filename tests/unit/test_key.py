"""Golden vectors of keys and key groups, what is equal, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, IntFlag, StrEnum
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest

from flowsnap.core.key import decode_key, decode_prefix, encode_key, encode_keys, key_group
from flowsnap.errors import StateError


class Colour(Enum):
    RED = "r"
    CRIMSON = "r"


class Number(IntEnum):
    ONE = 1


class Flags(IntFlag):
    READ = 1
    WRITE = 2


class Word(StrEnum):
    A = "a"


class Point(NamedTuple):
    x: int
    y: int


class Sensor(msgspec.Struct, frozen=True):
    site: str
    number: int


@dataclass(frozen=True)
class Account:
    bank: str
    number: int


class Loose(msgspec.Struct):
    x: int


@dataclass
class Changing:
    x: int


@dataclass(frozen=True)
class Partly:
    x: int
    note: str = field(default="", compare=False)


BERLIN = ZoneInfo("Europe/Berlin")
MOMENT = datetime(2024, 5, 6, 7, 8, 9, 10, tzinfo=UTC)

GOLDEN: list[tuple[Any, str, int]] = [
    (None, "01", 60),
    (0, "118000000000000000", 24),
    (-1, "117fffffffffffffff", 53),
    (2**63, "12000000088000000000000000", 13),
    (-(2**70), "10fffffff6bfffffffffffffffff", 63),
    (0.5, "14bfe0000000000000", 120),
    (float("-inf"), "14000fffffffffffff", 24),
    ("", "2000", 123),
    ("é\0\1", "20c3a90101010200", 43),
    (b"a\0", "3061010100", 21),
    ((), "4000", 12),
    (("a", (1,)), "40206100401180000000000000010000", 91),
    (MOMENT, "50800617c3bb51684a", 94),
    (datetime(2024, 5, 6), "51800617bdc0226000", 2),
    (date(2024, 5, 6), "52000b46c4", 101),
    (time(1, 2, 3, 4), "5300000000dde878c4", 62),
    (timedelta(-1, 2, 3), "547fffffff0000000200000003", 70),
    (UUID(int=1), "5500000000000000000000000000000001", 28),
]


@pytest.mark.parametrize(("key", "encoded", "group"), GOLDEN, ids=repr)
def test_the_bytes_and_the_key_group_never_change(key: Any, encoded: str, group: int) -> None:
    assert encode_key(key).hex() == encoded
    assert key_group(encode_key(key), 128) == group
    assert decode_key(bytes.fromhex(encoded)) == key


@pytest.mark.parametrize(
    ("key", "same"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        (2**70, float(2**70)),
        (Number.ONE, 1),
        (Flags.READ | Flags.WRITE, 3),
        (Word.A, "a"),
        (Point(1, 2), (1.0, 2)),
        (Colour.RED, Colour.CRIMSON),
        (MOMENT, MOMENT.astimezone(timezone(timedelta(hours=5)))),
        (MOMENT, MOMENT.astimezone(BERLIN)),
        (Sensor("a", 1), Sensor("a", True)),
    ],
)
def test_equal_keys_have_equal_bytes(key: Any, same: Any) -> None:
    assert key == same
    assert encode_key(key) == encode_key(same)


@pytest.mark.parametrize(
    ("key", "other"),
    [
        (1, "1"),
        ("a", b"a"),
        (None, 0),
        ((1, 2), ((1, 2),)),
        (Sensor("a", 1), Account("a", 1)),
        (Sensor("a", 1), ("a", 1)),
        (datetime(2024, 5, 6), date(2024, 5, 6)),
        (datetime(2024, 5, 6), datetime(2024, 5, 6, tzinfo=UTC)),
        (Colour.RED, "r"),
    ],
)
def test_unequal_keys_have_unequal_bytes(key: Any, other: Any) -> None:
    assert key != other
    assert encode_key(key) != encode_key(other)


@pytest.mark.parametrize("key", [Sensor("a", 1), Account("b", 2), Colour.RED, (Colour.RED, None)])
def test_a_key_of_a_class_comes_back_as_its_class(key: Any) -> None:
    decoded = decode_key(encode_key(key))
    assert decoded == key
    assert type(decoded) is type(key)


def test_keys_of_one_type_sort_as_their_bytes() -> None:
    ordered: list[list[Any]] = [
        [-(2**80), -(2**64), -(2**63), -256, -1, 0, 1, 255, 2**63, 2**64, 2**80],
        [float("-inf"), -2.5, -0.5, 0.5, 2.5, float("inf")],
        ["", "\0", "\0a", "\1", "a", "a\0", "ab", "é"],
        [(), (1,), (1, 2), (2,)],
    ]
    for keys in ordered:
        encoded = [encode_key(key) for key in keys]
        assert all(first < second for first, second in pairwise(encoded))


@pytest.mark.parametrize(
    "key",
    [[1], {1: 2}, {1}, frozenset([1]), Decimal(1), Loose(1), Changing(1), Partly(1), object(), 1j],
)
def test_another_type_is_refused_by_name_and_told_what_to_use(key: Any) -> None:
    with pytest.raises(StateError, match=f"{type(key).__qualname__} is not a type of key") as error:
        encode_key(("nested", key))
    assert "tuple of its fields" in error.value.__notes__[0]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (float("nan"), "nan"),
        ("\ud800", "surrogates"),
        (time(1, tzinfo=UTC), "time zone"),
        (datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN), "change of the clocks"),
    ],
)
def test_a_value_without_stable_bytes_is_refused(key: Any, reason: str) -> None:
    with pytest.raises(StateError, match=reason):
        encode_key(key)


def test_a_class_without_a_name_to_be_found_by_is_refused() -> None:
    class Local(msgspec.Struct, frozen=True):
        x: int

    with pytest.raises(StateError, match="no name to be found by"):
        encode_key(Local(1))


@pytest.mark.parametrize(
    "broken",
    [b"", b"\x02", b"\x20a", b"\x11\0", b"\x40\x01", b"\x55\0", b"\x20\xff\0", b"\x01\x01"],
)
def test_bytes_that_are_no_key_are_refused(broken: bytes) -> None:
    with pytest.raises(StateError, match=r"no key of format 1|follow the key"):
        decode_key(broken)


@pytest.mark.parametrize("key", [Sensor("a", 1), Colour.RED])
def test_a_class_that_is_gone_is_named(key: Any) -> None:
    encoded = encode_key(key)
    name = type(key).__qualname__.encode()
    with pytest.raises(StateError, match=r"class .* is gone"):
        decode_key(encoded.replace(name, name[:-1] + b"_"))


def test_a_key_is_found_in_front_of_a_namespace() -> None:
    data = b"head" + encode_key("a") + encode_key(1)
    assert decode_prefix(data, 4) == ("a", 7)
    assert decode_prefix(data, 7) == (1, len(data))


@pytest.mark.parametrize(
    "make",
    [int, str, "user-{}".format, lambda n: n * 1024, lambda n: ("a", n), lambda n: n + 0.5],
)
def test_key_groups_are_evenly_filled(make: Callable[[int], Any]) -> None:
    counts = [0] * 128
    for n in range(128 * 200):
        counts[key_group(encode_key(make(n)), 128)] += 1
    assert min(counts) > 130
    assert max(counts) < 270


def test_key_groups_do_not_depend_on_the_hash_seed_of_the_process() -> None:
    program = (
        "from flowsnap.core.key import encode_key, key_group\n"
        "print([key_group(encode_key(k), 128) for k in ('a', b'a', ('a', 1), 1, 1.5, None)])"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "12345")
    }
    assert len(answers) == 1


def test_many_keys_at_once_keep_the_golden_bytes() -> None:
    for type_ in {type(key) for key, _, _ in GOLDEN}:
        alike = [(key, encoded) for key, encoded, _ in GOLDEN if type(key) is type_]
        keys, expected = [key for key, _ in alike], [encoded for _, encoded in alike]
        assert [data.hex() for data in encode_keys(keys)] == expected


@pytest.mark.parametrize(
    "key",
    ["\ud800", float("nan"), object(), ("a", "\ud800"), [1]],
    ids=["surrogate", "nan", "object", "tuple", "list"],
)
def test_one_bad_key_among_many_is_refused_as_it_is_alone(key: Any) -> None:
    with pytest.raises(StateError, match="is not a"):
        encode_keys([key, key])
