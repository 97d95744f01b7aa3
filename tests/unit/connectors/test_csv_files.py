from __future__ import annotations

import gzip
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest

from flowsnap.connectors import CsvFiles, DeadLetter
from flowsnap.errors import ConfigError, MalformedInput, OperatorError
from tests.ends import commit, opened, read, submitted, written


class Order(msgspec.Struct):
    user: str
    amount: int | None = None


@dataclass
class Point:
    x: float
    at: date


class Model(pydantic.BaseModel):
    user: str
    amount: int


def lines(sink: CsvFiles, values: list[Any]) -> list[str]:
    """Return the lines of the part that a sink makes of values."""
    with closing(opened(submitted(sink))):
        commit(sink, values)
    (part,) = Path(sink.paths[0]).glob("part-*")
    data = part.read_bytes()
    return (gzip.decompress(data) if part.suffix == ".gz" else data).decode().split("\n")


# --- source -----------------------------------------------------------------------------------


def test_header_names_the_fields_of_every_record(tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv", b'\xef\xbb\xbfa,"b c"\r\n1,"x, ""y"""\r\n\r\n,\r\n')

    assert read(CsvFiles(path)) == [{"a": "1", "b c": 'x, "y"'}, {"a": "", "b c": ""}]


@pytest.mark.parametrize("data", [b"", b"a,b\n", b"a,b"])
def test_file_without_records_gives_none(tmp_path: Path, data: bytes) -> None:
    assert read(CsvFiles(written(tmp_path / "in.csv", data))) == []


@pytest.mark.parametrize("split_bytes", [1, 4, 9, 1000])
def test_ranges_of_a_file_all_know_its_header(tmp_path: Path, split_bytes: int) -> None:
    path = written(tmp_path / "in.csv", b"user;amount\nann;1\nbob;\ncarl;3\n")

    source = CsvFiles(path, type=Order, delimiter=";", split_bytes=split_bytes, batch_bytes=5)

    assert read(source) == [Order("ann", 1), Order("bob"), Order("carl", 3)]


def test_columns_that_a_type_does_not_have_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv", b"x,other,at\n1.5,?,2024-05-31\n")

    assert read(CsvFiles(path, type=Point)) == [Point(1.5, date(2024, 5, 31))]


def test_records_become_pydantic_models(tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv", b"user,amount\nann,3\n")

    assert read(CsvFiles(path, type=Model)) == [Model(user="ann", amount=3)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"ann,x", r"Expected `int \| null`, got `str` - at `\$\[...\]\.amount`|int"),
        (b"ann", "1 fields where there are 2 columns"),
        (b"ann,1,2", "3 fields where there are 2 columns"),
        (b'"ann,1', "a quoted field does not end on its line"),
        (b'"ann"x,1', "expected after"),
        (b"\xff,1", "utf-8"),
    ],
)
def test_line_that_does_not_fit_is_named_by_file_line_and_reason(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = written(tmp_path / "in.csv", b"user,amount\nbob,1\n\n" + line + b"\nbob,2\n")

    with pytest.raises(MalformedInput, match=f"line 4: .*byte 19 .*({reason})") as caught:
        read(CsvFiles(path, type=Order))
    assert (caught.value.file, caught.value.offset) == (str(path), 19)


def test_line_that_does_not_fit_becomes_a_dead_letter_between_records(tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv", b"user,amount\nann,1\n\xff,x\nbob,2\n")

    first, letter, last = read(CsvFiles(path, type=Order, on_error="dead-letter"))

    assert (first, last) == (Order("ann", 1), Order("bob", 2))
    assert isinstance(letter, DeadLetter)
    assert (letter.raw, letter.source, letter.offset) == ("\\xff,x", str(path), 18)


def test_field_over_lines_needs_multiline(tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv", b'a,b\n1,"x\ny"\n2,z\n')

    assert read(CsvFiles(path, multiline=True, batch_bytes=1))[0] == {"a": "1", "b": "x\ny"}
    with pytest.raises(MalformedInput) as caught:
        read(CsvFiles(path))
    assert "multiline=True" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("data", "reason"), [(b"a,a\n1,2\n", "two columns 'a'"), (b'a,"\n', "no line of CSV")]
)
def test_header_that_names_no_columns_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(MalformedInput, match=reason):
        read(CsvFiles(written(tmp_path / "in.csv", data)))


def test_column_that_is_asked_for_and_missing_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv", b"a,b\n1,2\n")

    with pytest.raises(MalformedInput, match="no column 'c'"):
        read(CsvFiles(path, columns=["a", "c"]))


def test_damaged_gzip_file_is_malformed(tmp_path: Path) -> None:
    path = written(tmp_path / "in.csv.gz", gzip.compress(b"a,b\n1,2\n" * 100)[:20])

    with pytest.raises(MalformedInput, match=r"complete|decompressed"):
        read(CsvFiles(path))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"delimiter": ";;"}, "delimiter"),
        ({"header": False}, "columns: without a header"),
        ({"columns": ["a", "a"]}, "each once"),
        ({"type": int}, "has no fields"),
        ({"follow": True}, "is read line by line"),
        ({"headers": True}, "no option 'headers'"),
        ({"on_error": "skip"}, "on_error: 'skip'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        CsvFiles("in.csv", **settings)


# --- sink -------------------------------------------------------------------------------------


def test_rows_stand_below_the_columns_of_the_type(tmp_path: Path) -> None:
    orders = [Order('a "b", c', 1), Order("x\ny"), {"user": "d"}, ("e", 5)]

    written = lines(CsvFiles(tmp_path, type=Order), orders)

    assert written == ["user,amount", '"a ""b"", c",1', '"x', 'y",', "d,", "e,5", ""]


def test_sink_reads_back_as_a_source(tmp_path: Path) -> None:
    points = [Point(1.5, date(2024, 5, 31)), Point(-2, date(1999, 1, 1))]
    lines(CsvFiles(tmp_path, type=Point), points)

    assert read(CsvFiles(tmp_path, type=Point)) == points


def test_each_value_has_one_form(tmp_path: Path) -> None:
    at = datetime(2024, 5, 31, 13, tzinfo=UTC)
    columns = ["a", "b", "c", "d", "e"]

    row = lines(
        CsvFiles(tmp_path, columns=columns, header=False, compression="gzip"),
        [(True, None, at, Decimal("1.10"), 2.5)],
    )

    assert row == ["true,,2024-05-31T13:00:00+00:00,1.10,2.5", ""]


@pytest.mark.parametrize("record", [{"user": "a", "other": 1}, ("a",), 7, {"user": ["a"]}])
def test_record_that_is_no_row_is_named(tmp_path: Path, record: object) -> None:
    with pytest.raises(
        OperatorError, match=r"record 2 of a batch of 2 .* cannot be written as CSV"
    ):
        lines(CsvFiles(tmp_path, type=Order), [Order("a"), record])


def test_sink_without_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs to know its columns"):
        lines(CsvFiles(tmp_path), [])
