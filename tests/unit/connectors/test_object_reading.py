"""Objects that are read: by pieces and here and there, always of one version."""

from __future__ import annotations

import gzip
import io
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowsnap.bucket.url import ObjectUrl
from flowsnap.connectors import CsvFiles, JsonLinesFiles, TextFiles
from flowsnap.connectors.object_bucket import Bucket, bucket_of
from flowsnap.connectors.object_reading import ObjectFile, ScatteredFile, open_object
from flowsnap.connectors.parquet_files import ParquetFiles
from flowsnap.core.operator import Source, Split
from flowsnap.errors import ConfigError, MalformedInput, StorageError
from tests.places import BucketPlace, LocalPlace, in_memory

DATA = bytes(range(256)) * 4


class Recording(Bucket):
    """A bucket that notes which ranges are read."""

    ranges: list[tuple[int, int]]

    def read(self, key: str, start: int, end: int, version: str) -> bytes:
        self.ranges.append((start, end))
        return super().read(key, start, end, version)


@pytest.fixture
def place(tmp_path: Path) -> BucketPlace:
    return in_memory(tmp_path)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowsnap.connectors.object_reading.PIECE_BYTES", 16)
    monkeypatch.setattr("flowsnap.connectors.object_reading.PIECE_BYTES_MAX", 64)


def recording(place: BucketPlace) -> tuple[Recording, str]:
    place.write("a", DATA)
    bucket = Recording(ObjectUrl.parse_files(place.path), place.remote)
    bucket.ranges = []
    return bucket, f"{place.prefix}/a"


@pytest.mark.parametrize("size", [1, 7, 100, 5000])
def test_object_reads_as_the_file_it_is_whatever_the_pieces(place: BucketPlace, size: int) -> None:
    with open_object(place.write("a", DATA), None, "") as file:
        read = b"".join(iter(lambda: file.read(size), b""))

        assert (read, file.tell()) == (DATA, len(DATA))


def test_any_place_can_be_gone_to(place: BucketPlace) -> None:
    with open_object(place.write("a", DATA), None, "") as file:
        for offset in (1000, 3, 3, 500, len(DATA), 0):
            file.seek(offset)

            assert file.read(10) == DATA[offset : offset + 10]
        assert file.seek(-5, io.SEEK_END) == len(DATA) - 5


def test_pieces_double_and_none_is_fetched_twice(place: BucketPlace) -> None:
    bucket, key = recording(place)

    with ObjectFile(bucket, key, len(DATA), "") as file:
        assert file.readall() == DATA

    starts = [start for start, _ in bucket.ranges]
    assert [end - start for start, end in bucket.ranges[:4]] == [16, 32, 64, 64]
    assert starts == sorted(set(starts))


def test_nothing_behind_the_range_is_fetched_before_it_is_asked_for(place: BucketPlace) -> None:
    bucket, key = recording(place)

    with ObjectFile(bucket, key, len(DATA), "", until=40) as file:
        assert file.read(16) + file.read(24) == DATA[:40]
        assert max(end for _, end in bucket.ranges) == 40
        assert file.read(1) == DATA[40:41]


def test_range_that_ends_behind_the_object_ends_with_it(place: BucketPlace) -> None:
    with open_object(place.write("a", DATA), len(DATA), "", until=10**9) as file:
        assert file.read() == DATA


def test_what_is_read_here_and_there_is_fetched_exactly(place: BucketPlace) -> None:
    bucket, key = recording(place)
    file = ScatteredFile(bucket, key, len(DATA), "")

    file.seek(-8, io.SEEK_END)
    tail, nothing = file.read(100), file.read(1)
    file.seek(5)

    assert (tail, nothing, file.read(3)) == (DATA[-8:], b"", DATA[5:8])
    assert bucket.ranges == [(len(DATA) - 8, len(DATA)), (5, 8)]


def test_large_column_is_fetched_in_requests_of_limited_size(place: BucketPlace) -> None:
    bucket, key = recording(place)
    file = ScatteredFile(bucket, key, len(DATA), "")

    file.seek(10)

    assert (file.read(150), file.tell()) == (DATA[10:160], 160)
    assert bucket.ranges == [(10, 74), (74, 138), (138, 160)]
    assert file.read() == DATA[160:]
    assert max(end - start for start, end in bucket.ranges) == 64


def parquet_bytes(rows: int) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.table({"n": list(range(rows))}), data, row_group_size=10)
    return data.getvalue()


SOURCES: dict[str, tuple[type[Source], str, bytes]] = {
    "text": (TextFiles, "in.txt", b"line\n" * 40),
    "gzip": (TextFiles, "in.txt.gz", gzip.compress(DATA * 9 + b"\n", 0)),
    "json lines": (JsonLinesFiles, "in.jsonl", b"[1]\n" * 40),
    "csv": (CsvFiles, "in.csv", b"a\n" + b"1\n" * 40),
    "parquet": (ParquetFiles, "in.parquet", parquet_bytes(30)),
}


@pytest.fixture(params=SOURCES)
def case(request: pytest.FixtureRequest, place: BucketPlace) -> tuple[Source, str, bytes]:
    """A source of an object that is in its place, the object's name, and what it holds."""
    class_, name, data = SOURCES[request.param]
    place.write(name, data)
    source: Source = class_(place.path, **({"errors": "replace"} if name.endswith("gz") else {}))  # type: ignore[call-arg]  # the class is any of them
    return source, name, data


def read_all(source: Source, split: Split) -> None:
    with closing(source.open_split(split, None)) as reader:
        while reader.read(1) is not None:
            pass


def test_object_that_has_vanished_is_a_storage_error_that_names_it(
    case: tuple[Source, str, bytes], place: BucketPlace
) -> None:
    source, name, _ = case
    (split,) = source.splits(1)
    place.remove(name)

    with pytest.raises(StorageError, match=f"{name} has vanished") as raised:
        read_all(source, split)

    assert place.path in str(raised.value)


def test_object_that_was_changed_is_not_read_on(
    case: tuple[Source, str, bytes], place: BucketPlace
) -> None:
    source, name, data = case
    (split,) = source.splits(1)
    place.write(name, data)

    with pytest.raises(StorageError, match="is not what it was when the job was submitted"):
        read_all(source, split)


def test_job_that_goes_on_keeps_to_the_version_it_began_with(
    case: tuple[Source, str, bytes], place: BucketPlace
) -> None:
    source, name, data = case
    (split,) = source.splits(1)
    place.write(name, data)

    after = source.splits_after(2, [(split, 1)])

    assert list(after) == [split]
    assert source.splits(1) != [split]


def test_objects_that_are_new_when_a_job_goes_on_are_found(place: BucketPlace) -> None:
    place.write("a", b"1\n")
    source = TextFiles(place.path)
    known = [(split, None) for split in source.splits(1)]
    place.write("b", b"2\n")

    assert [split.id for split in source.splits_after(1, known)] == ["data/a@0", "data/b@0"]


def test_object_that_has_grown_since_is_told_of_when_the_job_goes_on(place: BucketPlace) -> None:
    place.write("a", b"1\n")
    source = TextFiles(place.path, split_bytes=2)
    known = [(split, 2) for split in source.splits(1)]
    place.write("a", b"1\n2\n")

    with pytest.raises(ConfigError, match="is not what it was"):
        source.splits_after(1, known)


@pytest.mark.parametrize("name", ["old", "local"])
def test_data_that_was_moved_is_gone_on_with(place: BucketPlace, tmp_path: Path, name: str) -> None:
    place.write("old/data/a", b"1\n2\n")
    place.write("new/data/a", b"1\n2\n")
    LocalPlace(tmp_path / "data").write("a", b"1\n2\n")
    before = tmp_path / "data" if name == "local" else f"{place.path}/old/data"
    known = [(split, 2) for split in TextFiles(before).splits(1)]
    source = TextFiles(f"{place.path}/new/data")

    (split,) = source.splits_after(1, known)
    with closing(source.open_split(split, 2)) as reader:
        batch = reader.read(10)

    assert batch is not None
    assert batch.values == ["2"]


def test_data_that_was_moved_and_changed_is_told_of(place: BucketPlace) -> None:
    place.write("old/data/a", b"1\n2\n")
    place.write("new/data/a", b"1\n2\n3\n")
    known = [(split, 2) for split in TextFiles(f"{place.path}/old/data").splits(1)]

    with pytest.raises(ConfigError, match="is not what it was"):
        TextFiles(f"{place.path}/new/data").splits_after(1, known)


def test_line_that_does_not_parse_is_told_by_url_and_number(place: BucketPlace) -> None:
    place.write("a", b"1\n" * 20 + b"x\n")
    source = JsonLinesFiles(place.path)

    with pytest.raises(MalformedInput, match=f"{place.path}/a, line 21"):
        read_all(source, *source.splits(1))


def test_compressed_object_that_is_cut_off_is_malformed(place: BucketPlace) -> None:
    place.write("a.gz", gzip.compress(DATA)[:-9])
    source = TextFiles(place.path, encoding="latin-1")

    with pytest.raises(MalformedInput, match="is not a complete gzip file"):
        read_all(source, *source.splits(1))


def test_bucket_shows_no_more_than_its_url(place: BucketPlace) -> None:
    bucket = bucket_of(ObjectUrl.parse_files(place.path))

    assert repr(bucket) == f"Bucket('memory://{ObjectUrl.parse_files(place.path).bucket}')"


def test_header_is_of_the_version_that_its_records_are_of(place: BucketPlace) -> None:
    place.write("a.csv", b"x,y\n1,2\n")
    source = CsvFiles(place.path, split_bytes=4)
    *_, last = source.splits(1)
    place.write("a.csv", b"y,x\n1,2\n")

    with pytest.raises(StorageError, match="is not what it was"):
        source.open_split(last, None)


def test_header_that_is_longer_than_what_is_fetched_for_it_is_read_whole(
    place: BucketPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowsnap.connectors.csv_files.HEADER_BYTES", 5)
    names = [f"column{number}" for number in range(30)]
    place.write("a.csv", (",".join(names) + "\n" + ",".join("1" * 30) + "\n").encode())
    source = CsvFiles(place.path)
    (split,) = source.splits(1)

    with closing(source.open_split(split, None)) as reader:
        batch = reader.read(1)

    assert batch is not None
    assert batch.values == [dict.fromkeys(names, "1")]


@pytest.mark.parametrize(
    "name", ["report?day=1.txt", "at 3.45\u202fPM.txt", "na\u00a0me.txt", "a*[b].txt"]
)
def test_object_that_a_directory_holds_is_read_whatever_its_name(
    place: BucketPlace, name: str
) -> None:
    place.write(name, b"x\n")
    source = TextFiles(place.path)
    (split,) = source.splits(1)

    with closing(source.open_split(split, None)) as reader:
        batch = reader.read(10)

    assert batch is not None
    assert batch.values == ["x"]
