"""What every source keeps: stopped anywhere and restored, it gives each record once, in order."""

from __future__ import annotations

import copy
import gzip
import io
from collections.abc import Callable
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from flowsnap.connectors import (
    CsvFiles,
    FromGenerator,
    FromIterable,
    Generator,
    JsonLinesFiles,
    TextFiles,
)
from flowsnap.connectors.dead_letters import dead_letter
from flowsnap.connectors.parquet_files import ParquetFiles
from flowsnap.connectors.postgres_table import PostgresTable
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.serialize import dump, load
from tests.places import LocalPlace, Place, in_memory
from tests.servers.postgres import Server

LINES = ["", "a", "längere Zeile €", "b\x0bc", *map(str, range(60)), "last\r"]
TEXT = "\n".join(LINES).encode()
NUMBERS = list(range(40))
JSON = b"\n".join(b'{"n": %d}\r\n' % n for n in NUMBERS)

Make = Callable[[Place], tuple[Source, list[Any]]]


def text(name: str, data: bytes, **settings: Any) -> Make:
    def make(place: Place) -> tuple[Source, list[Any]]:
        place.write(name, data)
        return TextFiles(place.path, batch_bytes=7, **settings), LINES

    return make


def json_lines(place: Place) -> tuple[Source, list[Any]]:
    place.write("in.jsonl", JSON)
    source = JsonLinesFiles(place.path, batch_bytes=11, split_bytes=50, type=dict[str, int])
    return source, [{"n": n} for n in NUMBERS]


ROWS = [{"a": str(n), "b": "x;y" if n % 3 else 'say "ä"'} for n in range(20)]
CELLS = [f'{row["a"]},"{row["b"].replace(chr(34), chr(34) * 2)}"' for row in ROWS]
FRAMES = [zstandard.compress(TEXT[start : start + 50]) for start in range(0, len(TEXT), 50)]


def csv(name: str, data: str, **settings: Any) -> Make:
    def make(place: Place) -> tuple[Source, list[Any]]:
        raw = data.encode()
        place.write(name, gzip.compress(raw) if name.endswith(".gz") else raw)
        expected = [{**row, "b": row["b"].replace(";", "\n")} for row in ROWS]
        return CsvFiles(place.path, batch_bytes=9, **settings), expected if settings.get(
            "multiline"
        ) else ROWS

    return make


def parquet(place: Place) -> tuple[Source, list[Any]]:
    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), data, row_group_size=3)
    place.write("in.parquet", data.getvalue())
    return ParquetFiles(place.path, split_bytes=200), ROWS


def several_files(place: Place) -> tuple[Source, list[Any]]:
    for name in ("a", "b", "c"):
        place.write(name, f"{name}1\n{name}2".encode())
    return TextFiles(place.path, batch_bytes=1), ["a1", "a2", "b1", "b2", "c1", "c2"]


def with_letters(place: Place) -> tuple[Source, list[Any]]:
    lines = [b'"%d"' % n if n % 3 == 0 else b"%d" % n for n in NUMBERS]
    path = place.write("in.jsonl", b"\n".join(lines))
    starts = accumulate((len(line) + 1 for line in lines), initial=0)
    source = JsonLinesFiles(place.path, batch_bytes=5, type=int, on_error="dead-letter")
    return source, [
        dead_letter(line, "Expected `int`, got `str`", path, start) if n % 3 == 0 else n
        for n, line, start in zip(NUMBERS, lines, starts, strict=False)
    ]


SOURCES: dict[str, Make] = {
    "text": text("in.txt", TEXT),
    "text in ranges": text("in.txt", TEXT, split_bytes=10),
    "text in tiny ranges": text("in.txt", TEXT, split_bytes=1),
    "text with carriage returns": text("in.txt", TEXT.replace(b"\n", b"\r\n"), split_bytes=10),
    "text with a mark": text("in.txt", b"\xef\xbb\xbf" + TEXT, split_bytes=10),
    "gzip": text("in.gz", gzip.compress(TEXT)),
    "zstd": text("in.zst", b"".join(FRAMES)),
    "csv": csv("in.csv", "\n".join(["a,b", *CELLS]), split_bytes=30),
    "csv without a header": csv("in.csv", "\r\n".join(CELLS), header=False, columns=["a", "b"]),
    "csv, fields over lines": csv(
        "in.csv.gz", "\n".join(["a,b", *CELLS]).replace(";", "\n"), multiline=True
    ),
    "parquet": parquet,
    "several files": several_files,
    "json lines": json_lines,
    "generator": lambda _: (Generator(str, 7), [str(n) for n in range(7)]),
    "strides": lambda _: (Generator(int, 11, splits=3), [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8]),
    "list": lambda _: (FromIterable(NUMBERS), NUMBERS),
    "function": lambda _: (FromIterable(lambda: iter(NUMBERS)), NUMBERS),
    "generator with replay": lambda _: (
        FromGenerator(lambda: iter(NUMBERS), replay=lambda count: iter(NUMBERS[count:])),
        NUMBERS,
    ),
    "json lines with dead letters": with_letters,
}


IN_BUCKETS = [
    "text", "text in tiny ranges", "gzip", "zstd", "csv", "csv, fields over lines", "parquet",
    "several files", "json lines",
]  # fmt: skip
"""Which sources are tried on object storage, too."""

BUCKET = " in a bucket"


CASES = [*SOURCES, *(name + BUCKET for name in IN_BUCKETS), "postgres table"]


def postgres_table(server: Server) -> tuple[Source, list[Any]]:
    dsn = server.new_schema()
    with psycopg.connect(dsn) as db:
        db.execute("create table t (id int primary key, v text)")
        db.execute("insert into t select n * 3, 'v' || n from generate_series(1, 9) n")
    rows = [{"id": n * 3, "v": f"v{n}"} for n in range(1, 10)]
    return PostgresTable(dsn, "t", by="id", bounded=True), rows


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Source, list[Any]]:
    """Return a source and its records, split after split."""
    name = request.param.removesuffix(BUCKET)
    if name in SOURCES:
        return SOURCES[name](in_memory(tmp_path) if name != request.param else LocalPlace(tmp_path))
    return postgres_table(request.getfixturevalue("postgres"))


def task_copy(source: Source) -> Source:
    """Return the source as a task on another worker has it."""
    loaded: Source = load(dump(source))
    return copy.copy(loaded)


def sent(value: Any) -> Any:
    """Return a value as it comes out of a manifest."""
    return msgspec.json.decode(msgspec.json.encode(value))


def drain(reader: SplitReader) -> list[Any]:
    with closing(reader):
        values = []
        while (batch := reader.read(2)) is not None:
            values += batch.values
        return values


def stops(source: Source, split: Split) -> list[tuple[list[Any], Any]]:
    """Return, for every place a checkpoint may come, the records before it and the position."""
    with closing(source.open_split(split, None)) as reader:
        found: list[tuple[list[Any], Any]] = [([], reader.position())]
        while (batch := reader.read(2)) is not None:
            stop = (found[-1][0] + batch.values, reader.position())
            if stop != found[-1]:  # Nothing may have come as yet.
                found.append(stop)
        return found


def test_all_splits_together_give_every_record_once_in_order(
    case: tuple[Source, list[Any]],
) -> None:
    source, expected = case

    read = [drain(source.open_split(split, None)) for split in source.splits(1)]

    assert [value for values in read for value in values] == expected


def test_parallel_splits_give_every_record_once(case: tuple[Source, list[Any]]) -> None:
    source, expected = case

    read = [value for split in source.splits(4) for value in drain(source.open_split(split, None))]

    assert sorted(read, key=repr) == sorted(expected, key=repr)


@pytest.mark.parametrize("parallelism", [1, 4])
def test_restored_at_any_position_it_goes_on_with_the_next_record(
    case: tuple[Source, list[Any]], parallelism: int
) -> None:
    source, _ = case
    for split in source.splits(parallelism):
        whole = drain(source.open_split(split, None))
        for before, position in stops(source, split):
            reader = task_copy(source).open_split(sent_split(split), sent(position))

            assert before + drain(reader) == whole


def sent_split(split: Split) -> Split:
    return msgspec.convert(sent(msgspec.to_builtins(split)), Split)


def test_splits_that_depend_on_the_parallelism_are_kept_by_a_restored_job(
    case: tuple[Source, list[Any]],
) -> None:
    source, _ = case

    assert source.splits(1) == source.splits(3) or not source.discovers


def test_position_does_not_change_without_a_read(case: tuple[Source, list[Any]]) -> None:
    source, _ = case
    for split in source.splits(4):
        for _, position in stops(source, split):
            with closing(source.open_split(split, position)) as reader:
                assert reader.position() == position


def test_end_stays_the_end(case: tuple[Source, list[Any]]) -> None:
    source, _ = case
    for split in source.splits(1):
        with closing(source.open_split(split, stops(source, split)[-1][1])) as reader:
            assert [reader.read(2), reader.read(2)] == [None, None]


def test_splits_are_the_same_each_time_and_have_names_of_their_own(
    case: tuple[Source, list[Any]],
) -> None:
    source, _ = case

    splits = source.splits(4)

    assert splits == task_copy(source).splits(4)
    assert len({split.id for split in splits}) == len(splits)


def test_progress_never_falls_and_ends_at_the_size(case: tuple[Source, list[Any]]) -> None:
    source, _ = case
    for split in source.splits(1):
        with closing(source.open_split(split, None)) as reader:
            seen = [reader.progress() or 0]
            while reader.read(2) is not None:
                seen.append(reader.progress() or 0)
            seen.append(reader.progress() or 0)

        assert seen == sorted(seen)
        assert split.size is None or seen[-1] == split.size
