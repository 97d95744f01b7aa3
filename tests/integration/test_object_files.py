"""Whole jobs from a bucket into a bucket, in one process."""

from __future__ import annotations

import gzip
import io
import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from flowsnap import Pipeline
from flowsnap.connectors import Callback, CsvFiles, JsonLinesFiles, TextFiles
from flowsnap.connectors.parquet_files import ParquetFiles
from tests.places import BucketPlace, in_memory

QUICK: dict[str, Any] = {"checkpoint_interval": "20ms", "quiet": True}


class Row(msgspec.Struct):
    id: int
    country: str


@pytest.fixture
def place(tmp_path: Path) -> BucketPlace:
    return in_memory(tmp_path)


def written(place: BucketPlace) -> list[Any]:
    names = [name for name in place.names() if name.startswith("out/")]
    assert all("/part-" in name for name in names)
    return [json.loads(line) for name in names for line in place.read(name).splitlines()]


def test_job_that_fails_reads_and_writes_each_record_of_a_bucket_once(
    place: BucketPlace, tmp_path: Path
) -> None:
    place.write("in/a.txt", b"\n".join(b"%d" % n for n in range(800)))
    place.write("in/b.txt.gz", gzip.compress(b"\n".join(b"%d" % n for n in range(800, 1000))))

    def number(line: str) -> int:
        if line == "700" and not (tmp_path / "failed").exists():
            (tmp_path / "failed").touch()
            raise ValueError("once")
        return int(line)

    pipeline = Pipeline("numbers")
    lines = TextFiles(f"{place.path}/in", split_bytes="1KB", batch_bytes=100)
    output = JsonLinesFiles(f"{place.path}/out", partition_by=lambda n: str(n % 3))
    pipeline.source(lines).rate_limit(5_000).map(number).sink(output)
    result = pipeline.run(**QUICK)

    assert result.attempts == 2
    assert sorted(written(place)) == list(range(1000))


def test_records_go_from_csv_objects_into_parquet_objects_by_country(place: BucketPlace) -> None:
    for country in ("DE", "FR"):
        place.write(f"in/{country}.csv", f"id,country\n1,{country}\n2,{country}\n".encode())
    pipeline = Pipeline("countries")
    output = ParquetFiles(f"{place.path}/out", type=Row, partition_by="country")
    pipeline.source(CsvFiles(f"{place.path}/in/*.csv", type=Row)).sink(output)

    pipeline.run(**QUICK)

    found = {name: place.read(name) for name in place.names() if name.startswith("out/country=FR/")}
    rows = [row for part in found.values() for row in pq.read_table(io.BytesIO(part)).to_pylist()]
    assert rows == [{"id": 1, "country": "FR"}, {"id": 2, "country": "FR"}]


def test_new_objects_are_followed_over_a_restart_of_their_job(
    place: BucketPlace, tmp_path: Path
) -> None:
    seen = threading.Semaphore(0)
    for life in range(2):
        pipeline = Pipeline("follow")
        source = TextFiles(f"{place.path}/in/*.txt", follow=True, look_every="5ms")
        lines = pipeline.source(source, name="inbox")
        lines.sink(JsonLinesFiles(f"{place.path}/out"), name="out")
        lines.sink(Callback(lambda _: seen.release()), name="seen")
        handle = pipeline.start(state_dir=tmp_path, checkpoint_interval="20ms")
        place.write(f"in/{life}.txt", b"%d a\n%d b" % (life, life))
        assert all(seen.acquire(timeout=20) for _ in range(2))
        handle.stop()
        handle.wait()

    assert sorted(written(place)) == ["0 a", "0 b", "1 a", "1 b"]
