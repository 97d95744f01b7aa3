"""However a CSV file is cut, chunked and resumed, its records are those of the csv module."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.connectors import CsvFiles, DeadLetter
from flowsnap.connectors.lines import split_lines
from tests.ends import read_in_pieces

TEXT = st.text(st.sampled_from('a"",;é€ '), max_size=4)
LINES = st.text(st.sampled_from('a"",;é \n\r'), max_size=5)
SIZES = st.integers(1, 40)
COLUMNS = ("x", "y z")


def rows(cells: st.SearchStrategy[str]) -> st.SearchStrategy[list[tuple[str, str]]]:
    return st.lists(st.tuples(cells, cells), max_size=12)


def packed(name: str, data: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(data[:7]) + gzip.compress(data[7:])
    if name.endswith(".zst"):
        return zstandard.compress(data[:7]) + zstandard.compress(data[7:])
    return data


def written(records: list[tuple[str, str]], quoting: Any, end: str) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=quoting, lineterminator=end).writerows([COLUMNS, *records])
    return text.getvalue().encode()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@settings(max_examples=80, deadline=None)
@given(
    records=rows(TEXT), split_bytes=SIZES, batch_bytes=SIZES, batches=st.integers(1, 3),
    end=st.sampled_from(["\n", "\r\n"]),
)  # fmt: skip
def test_cut_and_resumed_file_gives_its_records(
    directory: Path, records: Any, split_bytes: int, batch_bytes: int, batches: int, end: str
) -> None:
    path = directory / "in.csv"
    path.write_bytes(written(records, csv.QUOTE_MINIMAL, end))

    source = CsvFiles(path, split_bytes=split_bytes, batch_bytes=batch_bytes)
    found = [
        record for split in source.splits(1) for record in read_in_pieces(source, split, batches)
    ]

    assert found == [dict(zip(COLUMNS, record, strict=True)) for record in records]


@settings(max_examples=60, deadline=None)
@given(
    records=rows(LINES), batch_bytes=SIZES, batches=st.integers(1, 3),
    name=st.sampled_from(["in.csv", "in.csv.gz", "in.csv.zst"]),
)  # fmt: skip
def test_fields_over_lines_come_whole_from_any_position(
    directory: Path, records: Any, batch_bytes: int, batches: int, name: str
) -> None:
    path = directory / name
    path.write_bytes(packed(name, written(records, csv.QUOTE_ALL, "\r\n")))

    source = CsvFiles(path, multiline=True, batch_bytes=batch_bytes)
    (split,) = source.splits(3)

    expected = [dict(zip(COLUMNS, record, strict=True)) for record in records]
    assert read_in_pieces(source, split, batches) == expected


@settings(max_examples=80, deadline=None)
@given(lines=st.lists(st.binary(max_size=6), max_size=12), batch_bytes=SIZES, split_bytes=SIZES)
def test_every_line_of_rubbish_is_a_record_or_a_dead_letter(
    directory: Path, lines: list[bytes], batch_bytes: int, split_bytes: int
) -> None:
    data = b"x,y\n" + b"\n".join(line.replace(b"\n", b" ") for line in lines)
    path = directory / "rubbish.csv"
    path.write_bytes(data)

    source = CsvFiles(
        path, on_error="dead-letter", batch_bytes=batch_bytes, split_bytes=split_bytes
    )
    found = [record for split in source.splits(1) for record in read_in_pieces(source, split, 1)]

    expected = [line for line in split_lines(data)[1:] if line.strip()]
    assert len(found) == len(expected)
    for one in found:
        assert not isinstance(one, DeadLetter) or data[one.offset - 1 : one.offset] == b"\n"
