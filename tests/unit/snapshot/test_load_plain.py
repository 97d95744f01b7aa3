"""Bytes from anywhere become plain values or placeholders, and no code of anybody runs."""

from __future__ import annotations

import collections
import decimal
import enum
import fractions
import ipaddress
import os
import pickle
import threading
import uuid
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import pytest

from flowsnap.errors import StateError
from flowsnap.serialize import Opaque, dump, load, load_plain


@dataclass
class Visit:
    user: str
    pages: list[str]


@dataclass(slots=True)
class Slotted:
    user: str


@dataclass(frozen=True, slots=True)
class Frozen:
    user: str


class Point(msgspec.Struct):
    x: int
    y: int


class Named(msgspec.Struct, kw_only=True):
    x: int


class Stateful:
    """Says itself what its state is."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __getstate__(self) -> Any:
        return self.state

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Colour(enum.Enum):
    RED = "red"


class Bag(list[int]):
    pass


class Hostile:
    """Its pickle calls a function with an argument."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, (b"x", "y")]},
        {1, 2},
        frozenset({"a"}),
        bytearray(b"x"),
        complex(1, 2),
        range(3),
        slice(1, 2),
        datetime(2024, 1, 2, 3, tzinfo=UTC),
        datetime(2024, 1, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        date(2024, 1, 2),
        time(1, 2),
        timedelta(days=1),
        decimal.Decimal("1.20"),
        fractions.Fraction(1, 3),
        uuid.UUID(int=7),
        PurePosixPath("/a/b"),
        ipaddress.IPv4Address("10.0.0.1"),
        collections.Counter("aab"),
        collections.OrderedDict(a=1),
        collections.deque([1, 2], maxlen=3),
        1 << 100,
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_value_comes_back_as_it_was(value: Any) -> None:
    found = load_plain(dump(value))

    assert found == value
    assert type(found) is type(value)


def test_default_dict_keeps_its_items() -> None:
    assert load_plain(dump(collections.defaultdict(list, a=[1]))) == {"a": [1]}


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (Visit("ada", ["/"]), {"user": "ada", "pages": ["/"]}),
        (Slotted("ada"), {"user": "ada"}),
        (Frozen("ada"), {"0": "ada"}),
        (Point(1, 2), {"0": 1, "1": 2}),
        (Named(x=1), {"x": 1}),
        (Colour.RED, {"0": "red"}),
        (Bag([1, 2]), {"items": [1, 2]}),
        (Stateful((1, 2)), {"0": 1, "1": 2}),
        (Stateful(7), {"state": 7}),
    ],
)
def test_object_comes_back_as_a_placeholder_with_its_fields(
    value: Any, fields: dict[str, Any]
) -> None:
    found = load_plain(dump(value))

    assert isinstance(found, Opaque)
    assert found.type_name == f"{__name__}.{type(value).__qualname__}"
    assert found.fields == fields


def test_placeholder_reads_like_the_object() -> None:
    assert repr(load_plain(dump(Visit("ada", ["/"])))) == "Visit(user='ada', pages=['/'])"
    assert repr(load_plain(dump(Point(1, 2)))) == "Point(1, 2)"


def test_placeholders_are_equal_where_the_objects_are() -> None:
    one, same, other = (load_plain(dump(Visit(name, []))) for name in ("ada", "ada", "bob"))

    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != load_plain(dump(Slotted("ada")))
    assert one != "ada"


def test_placeholder_that_holds_itself_can_be_shown() -> None:
    visit = Visit("ada", [])
    visit.pages.append(visit)  # type: ignore[arg-type]  # what a cycle looks like

    assert "..." in repr(load_plain(dump(visit)))


def test_placeholder_cannot_be_stored_in_the_place_of_the_object() -> None:
    with pytest.raises(TypeError, match=r"stands for a .*Visit, whose class was not loaded"):
        dump(load_plain(dump(Visit("ada", []))))


@pytest.mark.parametrize("function", [os.system, eval, getattr, __import__, open])
def test_nothing_that_a_hostile_pickle_names_is_called(function: Any, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    data = dump(Hostile(function, f"open({str(marker)!r}, 'w')", "x"))

    found = load_plain(data)

    assert isinstance(found, Opaque)
    assert not marker.exists()


def test_nothing_is_imported_for_a_hostile_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))

    found = load_plain(b"\x80\x05\x8c\x04trap\x8c\x01x\x93)R.")

    assert isinstance(found, Opaque)
    assert found.type_name == "trap.x"


@pytest.mark.parametrize("module", ["uuid UUID", "fractions Fraction", "collections Counter"])
def test_a_pickle_cannot_change_a_type(module: str) -> None:
    name = module.replace(" ", "\n")
    data = b"c" + name.encode() + b"\nN}X\x06\0\0\0__eq__I1\ns\x86b."

    with pytest.raises(StateError, match="no plain value"):
        load_plain(data)

    assert uuid.UUID(int=1) == uuid.UUID(int=1)
    assert fractions.Fraction(1, 2) == fractions.Fraction(2, 4)


def test_a_pickle_cannot_change_a_placeholder_type() -> None:
    with pytest.raises(StateError, match="no plain value"):
        load_plain(b"ctrap\nx\nN}b.")


@pytest.mark.parametrize("data", [b"", b"nonsense", dump([1, 2])[:-1], b"\x80\x63."])
def test_what_is_no_pickle_is_refused(data: bytes) -> None:
    with pytest.raises(StateError, match="are no plain value") as caught:
        load_plain(data)

    assert "trust=True" in caught.value.__notes__[0]


def test_out_of_band_buffers_are_refused() -> None:
    data = pickle.dumps(pickle.PickleBuffer(b"x"), 5, buffer_callback=lambda _: None)

    with pytest.raises(StateError):
        load_plain(data)


def test_the_classes_are_used_where_they_are_trusted() -> None:
    assert load(dump(Visit("ada", []))) == Visit("ada", [])


def test_a_lock_is_no_value_at_all() -> None:
    with pytest.raises(TypeError):
        dump(threading.Lock())
