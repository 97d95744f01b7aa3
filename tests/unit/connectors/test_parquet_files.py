from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowsnap.connectors import DeadLetter
from flowsnap.connectors.parquet_files import ParquetFiles, arrow_type
from flowsnap.errors import ConfigError, MalformedInput, OperatorError, StorageError
from tests.ends import commit, opened, read, submitted

AT = datetime(2024, 5, 31, 13, 7, tzinfo=UTC)


class Line(msgspec.Struct):
    sku: str
    count: int = 1


class Order(msgspec.Struct):
    user: str
    at: datetime
    amount: float | None = None
    lines: list[Line] = []


@dataclass
class Count:
    n: int
    word: str = "none"


def table(path: Path, rows: list[dict[str, Any]], **settings: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **settings)
    return path


def part_of(sink: ParquetFiles, batches: list[list[Any]]) -> Path:
    """Return the part that a sink makes of batches."""
    with closing(opened(submitted(sink))):
        commit(sink, *batches)
    (part,) = Path(sink.paths[0]).glob("part-*.parquet")
    return part


def test_row_groups_are_cut_into_splits_and_rows_keep_their_order(tmp_path: Path) -> None:
    path = table(tmp_path / "in.parquet", [{"n": n} for n in range(10)], row_group_size=2)

    assert len(ParquetFiles(path, split_bytes=1).splits(1)) == 5
    assert len(ParquetFiles(path, split_bytes=None).splits(1)) == 1
    assert read(ParquetFiles(path, split_bytes=1), limit=3) == [{"n": n} for n in range(10)]


def test_row_groups_before_the_position_are_not_read(tmp_path: Path) -> None:
    path = table(tmp_path / "in.parquet", [{"n": n} for n in range(9)], row_group_size=4)
    source = ParquetFiles(path)
    (split,) = source.splits(1)
    second = pq.read_metadata(path).row_group(1).column(0)
    data = path.read_bytes()
    path.write_bytes(
        data[:4].ljust(second.dictionary_page_offset) + data[second.dictionary_page_offset :]
    )

    with closing(source.open_split(split, 5)) as reader:
        batch = reader.read(100)

    assert batch is not None
    assert batch.values == [{"n": n} for n in (5, 6, 7, 8)]


def test_rows_become_instances_and_only_their_columns_are_read(tmp_path: Path) -> None:
    path = table(tmp_path / "in.parquet", [{"n": 1, "x": 0}, {"n": 2, "x": 0}])

    assert read(ParquetFiles(path, type=Count)) == [Count(1), Count(2)]
    assert read(ParquetFiles(path, columns=["x"])) == [{"x": 0}, {"x": 0}]


def test_row_that_does_not_fit_fails_or_becomes_a_dead_letter(tmp_path: Path) -> None:
    path = table(tmp_path / "in.parquet", [{"n": 1}, {"n": None}, {"n": 3}])

    with pytest.raises(MalformedInput, match=r"in\.parquet: row 1 .*Expected `int`"):
        read(ParquetFiles(path, type=Count))
    first, letter, last = read(ParquetFiles(path, type=Count, on_error="dead-letter"))

    assert (first, last) == (Count(1), Count(3))
    assert isinstance(letter, DeadLetter)
    assert (letter.raw, letter.offset) == ('{"n":null}', 1)


def test_file_without_rows_gives_none(tmp_path: Path) -> None:
    path = table(tmp_path / "in.parquet", [])

    assert read(ParquetFiles(path)) == []


def test_file_that_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(b"n\n1\n")

    with pytest.raises(ConfigError, match="is no Parquet file"):
        ParquetFiles(tmp_path).splits(1)


def test_column_that_is_missing_is_named(tmp_path: Path) -> None:
    path = table(tmp_path / "in.parquet", [{"n": 1}])

    with pytest.raises(MalformedInput, match="no column 'm'"):
        read(ParquetFiles(path, columns=["m"]))


def test_file_that_vanishes_or_loses_rows_is_an_error(tmp_path: Path) -> None:
    path = table(tmp_path / "in.parquet", [{"n": n} for n in range(9)], row_group_size=3)
    source = ParquetFiles(path)
    (split,) = source.splits(1)

    table(path, [{"n": 1}])
    with pytest.raises(StorageError, match="fewer rows"):
        source.open_split(split, None)
    path.unlink()
    with pytest.raises(StorageError, match="has vanished"):
        source.open_split(split, None)


def test_columns_of_a_part_are_the_fields_of_the_type(tmp_path: Path) -> None:
    order = Order("ann", AT, 1.5, [Line("a"), Line("b", 2)])

    part = part_of(ParquetFiles(tmp_path, type=Order), [[order], [Order("bob", AT)]])

    assert pq.read_schema(part).names == ["user", "at", "amount", "lines"]
    assert pq.ParquetFile(part).metadata.num_row_groups == 1
    assert read(ParquetFiles(tmp_path, type=Order)) == [order, Order("bob", AT)]


def test_given_schema_decides_over_the_types_of_columns(tmp_path: Path) -> None:
    schema = pa.schema([("n", pa.int8()), ("price", pa.decimal128(9, 2))])

    part = part_of(ParquetFiles(tmp_path, schema=schema), [[{"n": 1, "price": Decimal("1.10")}]])

    assert pq.read_table(part).to_pylist() == [{"n": 1, "price": Decimal("1.10")}]


@pytest.mark.parametrize("record", [{"n": "x"}, {"n": 1, "other": 2}, 5, {"n": 2**70}])
def test_record_that_is_no_row_is_named(tmp_path: Path, record: object) -> None:
    with pytest.raises(OperatorError, match=r"record 2 of a batch of 2 .* written as Parquet"):
        part_of(ParquetFiles(tmp_path, type=Count), [[Count(1), record]])


def test_type_without_fields_of_its_own_reads_all_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2], "b": [3, 4]}), tmp_path / "in.parquet")
    source = ParquetFiles(tmp_path, type=dict[str, int])
    (split,) = source.splits(1)

    with closing(source.open_split(split, None)) as reader:
        batch = reader.read(10)

    assert batch is not None
    assert batch.values == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]


def test_sink_without_columns_and_fields_without_a_column_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs to know its columns"):
        part_of(ParquetFiles(tmp_path), [])
    with pytest.raises(ConfigError, match=r"field 'bad' is .* which no column can be"):
        arrow_type(int | str, "bad")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"compression": "gzip"}, "compressed inside"),
        ({"schema": {"n": int}}, "no pyarrow.Schema"),
        ({"columns": "n"}, "no list of names"),
        ({"header": True}, "no option 'header'"),
        ({"follow": True}, "does not grow"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        ParquetFiles("out", **settings)
