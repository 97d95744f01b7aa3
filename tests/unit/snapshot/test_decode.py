"""Keys and values are read without the job's code, and what is damaged is named."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowsnap.core.key import encode_key
from flowsnap.errors import StateError
from flowsnap.snapshot import Opaque
from flowsnap.snapshot.copies import MemoryRows
from flowsnap.snapshot.decode import plain_key, plain_pickled, plain_value
from flowsnap.state.codec import encode_value, row_prefix


class Colour(enum.Enum):
    RED = "red"


class Mask(enum.Flag):
    A = 1
    B = 2


class Point(msgspec.Struct, frozen=True):
    x: int
    y: tuple[int, ...]


@dataclass(frozen=True)
class User:
    name: str


@pytest.mark.parametrize(
    "key",
    [None, 1, -(1 << 70), 1.5, "é", b"\0", ("a", (1, "b")), (), datetime(2024, 1, 1, tzinfo=UTC)],
)
def test_plain_key_comes_back_as_it_was(key: Any) -> None:
    encoded = encode_key(key)

    assert plain_key(encoded + b"rest", 0) == (key, len(encoded))


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (Colour.RED, "Colour('RED')"),
        (Mask.A | Mask.B, "Mask(3)"),
        (Point(1, (2, 3)), "Point(1, (2, 3))"),
        ((User("ada"), 1), "(User('ada'), 1)"),
    ],
)
def test_key_of_a_class_is_a_placeholder(key: Any, shown: str) -> None:
    encoded = encode_key(key)

    found, end = plain_key(encoded, 0)

    assert (repr(found), end) == (shown, len(encoded))
    assert {found: 1}[plain_key(encoded, 0)[0]] == 1


def test_class_of_a_key_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trapped.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    encoded = encode_key(User("ada")).replace(__name__.encode(), b"trapped")

    found, _ = plain_key(encoded, 0)

    assert isinstance(found, Opaque)
    assert found.type_name == "trapped.User"


def test_key_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(StateError, match="no key"):
        plain_key(b"\x40" * 100_000, 0)


@pytest.mark.parametrize("data", [b"", b"\x40\x20a", b"\x20a", b"\x60\x20a\0", b"\xff", b"\x61"])
def test_what_is_no_key_is_refused(data: bytes) -> None:
    with pytest.raises(StateError, match="no key"):
        plain_key(data, 0)


@pytest.mark.parametrize("value", [1, None, "x", (1, "a"), [1], {"a": [1]}, 1 << 70])
def test_plain_value_of_a_state_comes_back_as_it_was(value: Any) -> None:
    assert plain_value(encode_value(value)) == value


@pytest.mark.parametrize("data", [b"", b"\xc1\xff", b"\xda"])
def test_what_is_no_value_is_refused(data: bytes) -> None:
    with pytest.raises(StateError):
        plain_value(data)


def test_value_that_cannot_be_read_without_its_class_is_a_placeholder() -> None:
    found = plain_pickled(b"\x80\x05K\x01K\x02\x93.")

    assert isinstance(found, Opaque)
    assert found.type_name == "unreadable"


def test_state_of_the_memory_backend_is_read_as_rows(tmp_path: Path) -> None:
    rows = [
        (1, encode_key("b"), None, encode_value(2)),
        (0, encode_key("a"), encode_key("x"), encode_value(1)),
        (0, encode_key("a"), encode_key("y"), encode_value({"n": 1})),
    ]
    path = tmp_path / "state.bin"
    path.write_bytes(encode_value(rows))
    found = MemoryRows(path, max_parallelism=1)

    prefix = row_prefix(0, 0) + encode_key("a")
    assert [plain_value(data) for _, data in found.scan(prefix)] == [1, {"n": 1}]
    assert found.get(row_prefix(0, 1) + encode_key("b")) == encode_value(2)
    assert found.get(row_prefix(0, 1) + encode_key("c")) is None
