from __future__ import annotations

import copy
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import pydantic
import pytest

from flowsnap import Pipeline
from flowsnap.connectors import Collect, CsvFiles, DeadLetter, JsonLinesFiles, TextFiles
from flowsnap.connectors.dead_letters import timed_around
from flowsnap.connectors.parquet_files import ParquetFiles
from flowsnap.connectors.typed import (
    MISFITS,
    checker,
    columns_of,
    fields_of,
    reason_of,
    rows_of,
    takes_text,
)
from flowsnap.core.element import Batch
from flowsnap.core.event_time import Bounded, EventTime
from flowsnap.errors import ConfigError, MalformedInput, OperatorError
from flowsnap.operators.watermarks import Stamp
from tests.ends import opened, read, submitted

SECRET = "hunter2"


class Order(msgspec.Struct):
    user: str
    at: int = 0


@dataclass
class Point:
    x: float
    y: float | None = None


class Model(pydantic.BaseModel):
    user: str
    at: int


class RushOrder(Order):
    hours: int = 1


@dataclass
class Place(Point):
    name: str = ""


class RushModel(Model):
    hours: int = 1


class Cat(msgspec.Struct, tag=True):
    pass


class Dog(msgspec.Struct, tag=True):
    pass


class Renamed(msgspec.Struct, rename="camel"):
    first_name: str


def orders(directory: Path, *lines: str) -> Path:
    path = directory / "in.jsonl"
    path.write_text("\n".join(lines))
    return path


GOOD, BAD, LATER = '{"user":"ann","at":5000}', '{"user":1}', '{"user":"bob","at":7000}'


def test_pydantic_models_are_read_and_written(tmp_path: Path) -> None:
    source = JsonLinesFiles(orders(tmp_path, GOOD), type=Model)

    (model,) = read(source)

    assert model == Model(user="ann", at=5000)
    assert source.encoder()([model]) == b'{"user":"ann","at":5000}\n'


def test_what_pydantic_refuses_is_told_without_the_value(tmp_path: Path) -> None:
    path = orders(tmp_path, f'{{"user":"ann","at":"{SECRET}"}}')

    with pytest.raises(MalformedInput, match=r"valid integer.*`at`") as caught:
        read(JsonLinesFiles(path, type=Model))

    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("type_", "value", "reason"),
    [
        (Literal["a"], f'"{SECRET}"', "Invalid enum value"),
        (
            dict[str, Literal["a"]],
            f'{{"b":"{SECRET} - at `"}}',
            r"Invalid enum value - at `\$\[...\]`",
        ),
        (Cat | Dog, f'{{"type":"{SECRET}"}}', r"Invalid value - at `\$\.type`"),
    ],
)
def test_what_msgspec_refuses_is_told_without_the_value(
    tmp_path: Path, type_: Any, value: str, reason: str
) -> None:
    with pytest.raises(MalformedInput, match=f"{reason}\n") as caught:
        read(JsonLinesFiles(orders(tmp_path, value), type=type_))

    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_dead_letter_has_the_text_and_its_representation_has_not(tmp_path: Path) -> None:
    path = orders(tmp_path, GOOD, f'{{"user":"{SECRET}', LATER)

    first, letter, last = read(JsonLinesFiles(path, type=Order, on_error="dead-letter"))

    assert (first, last) == (Order("ann", 5000), Order("bob", 7000))
    assert isinstance(letter, DeadLetter)
    assert SECRET in letter.raw
    assert SECRET not in repr(letter)
    assert (letter.source, letter.offset) == (str(path), len(GOOD) + 1)


def test_line_that_cannot_be_decoded_becomes_a_dead_letter(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"a\r\n\xff\n\nb")

    first, letter, *rest = read(TextFiles(path, on_error="dead-letter"))

    assert (first, rest) == ("a", ["", "b"])
    assert isinstance(letter, DeadLetter)
    assert (letter.raw, letter.offset) == ("\\xff", 3)


def test_dead_letters_that_nobody_reads_are_refused(tmp_path: Path) -> None:
    pipeline = Pipeline("letters")
    pipeline.source(JsonLinesFiles(orders(tmp_path, GOOD), on_error="dead-letter")).sink(Collect())

    with pytest.raises(ConfigError, match="nothing reads the dead letters of"):
        pipeline.definition()


def test_strategies_see_records_only_and_each_split_has_its_own() -> None:
    letter = DeadLetter("?", "why", "file", 0)
    time = timed_around(EventTime(Bounded(0), Stamp("at")))
    assert time.stamp is not None
    stamped = copy.copy(time.stamp).process(Batch([letter, Order("a", 50), letter, Order("b", 40)]))
    strategy = copy.copy(time.strategy)

    assert stamped.timestamps == [50, 50, 50, 40]
    assert strategy.on_records([letter], [90]) is None  # type: ignore[union-attr]  # it has it
    assert strategy.on_records([letter, Order("b", 40)], [90, 40]) == 39  # type: ignore[union-attr]


@pytest.mark.parametrize("type_", [Order, Model])
def test_sink_refuses_what_is_not_of_its_type_without_telling_the_value(
    tmp_path: Path, type_: Any
) -> None:
    check = checker(type_)
    check([type_(user="ann", at=1)])
    check([type_(user="ann", at=1), {"user": "bob", "at": 2}])

    with pytest.raises(MISFITS) as caught:
        check([{"user": "bob", "at": SECRET}])
    assert SECRET not in reason_of(caught.value)


@pytest.mark.parametrize(
    ("type_", "value", "strange"),
    [
        (Order, RushOrder("ann"), {"user": 7}),
        (Point, Place(1.0), {"x": "7"}),
        (Model, RushModel(user="ann", at=1), {"user": 7}),
    ],
)
def test_instance_of_a_subclass_is_one_of_the_type(type_: Any, value: Any, strange: Any) -> None:
    check = checker(type_)

    check([value])
    check([value, {"user": "ann", "at": 1, "x": 1.0}])

    with pytest.raises(MISFITS):
        check([value, strange])


@pytest.mark.parametrize("class_", [JsonLinesFiles, CsvFiles, ParquetFiles])
def test_record_that_is_not_of_the_type_of_its_sink_is_named(tmp_path: Path, class_: Any) -> None:
    sink = class_(tmp_path, type=Order)
    opened(submitted(sink))
    sink.write(Batch([Order("ann")]))

    with (
        closing(sink),
        pytest.raises(OperatorError, match=r"record 2 of a batch of 2 .*Expected `int`"),
    ):
        sink.write(Batch([Order("ann"), {"user": "bob", "at": "late"}]))


@pytest.mark.parametrize(
    ("type_", "names"),
    [(Order, ["user", "at"]), (Point, ["x", "y"]), (Model, ["user", "at"]), (int, [])],
)
def test_columns_are_the_fields_of_a_type(type_: Any, names: list[str]) -> None:
    assert list(columns_of(type_)) == names
    assert list(columns_of(Renamed)) == ["firstName"]


def test_records_of_every_kind_become_rows() -> None:
    records = [Order("a", 1), Model(user="b", at=2), {"at": 3}, ("c", 4)]

    assert rows_of(records, ["user", "at"]) == [["a", 1], ["b", 2], [None, 3], ("c", 4)]
    assert rows_of(["x", None], ["only"]) == [["x"], [None]]
    assert fields_of(Renamed("ann")) == {"firstName": "ann"}


def test_empty_text_is_a_value_of_what_may_be_text() -> None:
    assert [takes_text(one) for one in (str, str | None, Any, int, int | None)] == [
        True, True, True, False, False,
    ]  # fmt: skip
