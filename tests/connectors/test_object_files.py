"""Files of a real S3 server, over a bad connection, and in jobs whose workers are killed."""

from __future__ import annotations

import gzip
import io
import json
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowsnap.bucket.requests import PART_BYTES
from flowsnap.connectors import CsvFiles, JsonLinesFiles, TextFiles
from flowsnap.connectors.parquet_files import ParquetFiles
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import Source
from flowsnap.errors import ConfigError, StorageError
from tests.connectors import object_job
from tests.contract.sinks import Job
from tests.contract.test_source import drain
from tests.places import BucketPlace
from tests.servers import azure as azure_server
from tests.servers.s3 import KEY_ID, SECRET, Fault, Faults, Server, first, proxy

pytestmark = pytest.mark.slow

FAULTS: list[Fault] = ["refuse", "lose"]
ROWS = [{"n": str(n), "text": f"row {n}"} for n in range(20_000)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
CSV = b"n,text\n" + b"".join(f"{row['n']},{row['text']}\n".encode() for row in ROWS)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def place(s3: Server, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketPlace]:
    """A place in a new bucket; the test is near to it, the connectors are behind a proxy."""
    monkeypatch.setattr("flowsnap.connectors.object_bucket.PAUSE_MS_FIRST", 1)
    with proxy(s3, faults) as url:
        for name, value in s3.environment(url).items():
            monkeypatch.setenv(name, value)
        bucket = s3.new_bucket()
        yield BucketPlace(f"s3://{bucket}/data", s3.remote(bucket))


def parquet_bytes() -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), data, row_group_size=5_000)
    return data.getvalue()


def ranges(path: str) -> Source:
    return JsonLinesFiles(path, split_bytes="500KB")


SOURCES: dict[str, tuple[Callable[[str], Source], str, Callable[[], bytes]]] = {
    "ranges": (ranges, "in.jsonl", lambda: LINES),
    "gzip": (JsonLinesFiles, "in.jsonl.gz", lambda: gzip.compress(LINES)),
    "csv": (CsvFiles, "in.csv", lambda: CSV),
    "parquet": (ParquetFiles, "in.parquet", parquet_bytes),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", SOURCES)
def test_request_that_fails_is_repeated_and_each_record_is_read_once(
    place: BucketPlace, faults: Faults, name: str, fault: Fault
) -> None:
    make, key, data = SOURCES[name]
    place.write(key, data())
    source = make(f"{place.path}/*")
    splits = source.splits(2)
    faults.plan = first(3, fault, "GET", key)

    read = [row for split in splits for row in drain(source.open_split(split, None))]

    assert read == ROWS
    assert len(faults.failed) == 3


@pytest.mark.parametrize("fault", FAULTS)
def test_listing_that_fails_is_repeated(place: BucketPlace, faults: Faults, fault: Fault) -> None:
    for number in range(3):
        place.write(f"{number}.txt", b"x")
    faults.plan = first(2, fault, "GET")

    assert len(TextFiles(place.path).splits(1)) == 3
    assert len(faults.failed) == 2


def test_bucket_that_is_not_there_is_told_when_the_job_is_submitted(
    place: BucketPlace, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="there is no bucket s3://no-such-bucket"):
        TextFiles("s3://no-such-bucket/in").splits(1)

    with ExitStack() as zombies, pytest.raises(ConfigError, match="there is no bucket"):
        Job(JsonLinesFiles("s3://no-such-bucket/out"), tmp_path, zombies).submit()


def test_service_that_stays_away_fails_the_attempt_and_tells_no_secret(
    place: BucketPlace, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowsnap.connectors.object_bucket.TRIES_MAX", 2)
    place.write("a", b"1\n")
    source = TextFiles(place.path)
    (split,) = source.splits(1)
    faults.plan = first(99, "busy", "GET")

    with pytest.raises(StorageError, match="cannot read s3://") as raised:
        drain(source.open_split(split, None))
    with pytest.raises(ConfigError, match="cannot list s3://"):
        source.splits(1)

    shown = "".join(traceback.format_exception(raised.value))
    assert SECRET not in shown
    assert KEY_ID not in shown


@pytest.mark.parametrize("class_", [TextFiles, ParquetFiles])
def test_object_that_was_changed_or_removed_is_told(
    place: BucketPlace, class_: Callable[[str], Source]
) -> None:
    place.write("a", parquet_bytes())
    source = class_(place.path)
    (split,) = source.splits(1)

    place.write("a", parquet_bytes()[:-1] + b"x")
    with pytest.raises(StorageError, match="is not what it was when the job was submitted"):
        drain(source.open_split(split, None))
    place.remove("a")
    with pytest.raises(StorageError, match="has vanished"):
        drain(source.open_split(split, None))


def test_objects_that_appear_are_followed_over_a_bad_connection(
    place: BucketPlace, faults: Faults
) -> None:
    source = TextFiles(f"{place.path}/*.gz", follow=True, look_every="1ms")
    (lane,) = source.splits(1)
    with closing(source.open_split(lane, None)) as reader:
        for number in range(3):
            faults.plan = first(2, "lose", "GET")
            place.write(f"{number}.gz", gzip.compress(b"line\n" * number))
            read: list[str] = []
            while len(read) < number:
                batch = reader.read(1)
                read += batch.values if batch is not None else []
                Event().wait(reader.wait_ms() / 1000)

            assert read == ["line"] * number


# --- output --------------------------------------------------------------------------------------

REQUESTS = {
    "upload": ("PUT", ".jsonl.tmp"),
    "copy": ("PUT", ".jsonl"),
    "look": ("HEAD", ".jsonl"),
    "delete": ("POST", ""),
    "list": ("GET", ""),
}


@pytest.fixture
def job(place: BucketPlace, tmp_path: Path) -> Iterator[Job]:
    with ExitStack() as zombies:
        template = JsonLinesFiles(place.path, existing="append")
        yield Job(template, tmp_path / "job", zombies)


def visible(place: BucketPlace) -> list[Any]:
    parts = [place.read(name) for name in place.names() if name.startswith("part-")]
    return sorted(json.loads(line) for part in parts for line in part.splitlines())


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("request_", REQUESTS)
def test_output_is_there_once_whatever_request_fails(
    job: Job, place: BucketPlace, faults: Faults, request_: str, fault: Fault
) -> None:
    job.submit()
    job.run_and_crash("complete", 2)
    faults.plan = first(3, fault, *REQUESTS[request_])

    job.run()
    job.template.on_finish()

    assert visible(place) == sorted(job.written)
    assert [name for name in place.names() if name.startswith(".")] == []
    assert len(faults.failed) == 3


@pytest.mark.parametrize("request_", ["upload", "copy", "delete"])
def test_service_that_stays_away_fails_the_attempt_and_the_next_one_makes_it_good(
    job: Job,
    place: BucketPlace,
    faults: Faults,
    monkeypatch: pytest.MonkeyPatch,
    request_: str,
) -> None:
    monkeypatch.setattr("flowsnap.connectors.object_bucket.TRIES_MAX", 2)
    job.submit()
    faults.plan = first(2, "lose", *REQUESTS[request_])
    job.run_and_crash("")
    assert job.batches_done < 5
    assert set(visible(place)) <= set(job.written)

    job.run()

    assert visible(place) == sorted(job.written)


def test_bucket_that_may_not_be_written_is_refused_when_the_job_is_submitted(
    job: Job, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowsnap.connectors.object_bucket.TRIES_MAX", 2)
    faults.plan = first(2, "refuse", "PUT")

    with pytest.raises(ConfigError, match="cannot be written"):
        job.submit()


def test_large_part_is_uploaded_in_several_requests_and_copied_whole(
    place: BucketPlace, faults: Faults, tmp_path: Path
) -> None:
    with ExitStack() as zombies:
        job = Job(JsonLinesFiles(place.path), tmp_path / "job", zombies, subtasks=1)
        job.submit()
        sink = job.open(0)
        text = os.urandom(5_000_000).hex()
        sink.write(Batch([text]))
        faults.plan = first(2, "lose", "PUT", ".jsonl.tmp")
        committable = sink.prepare(CheckpointId(1))
        job.commit(sink, committable)

    (name,) = place.names()
    assert json.loads(place.read(name)) == text
    assert any("uploadId" in line for line in faults.seen)


def test_large_part_appears_whole_on_azure(
    azure: azure_server.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable, value in azure.environment().items():
        monkeypatch.setenv(variable, value)
    container = azure.new_container()
    place = BucketPlace(f"az://{container}/data", azure.remote(container))
    text = os.urandom(2 * PART_BYTES).hex()

    with ExitStack() as zombies:
        job = Job(JsonLinesFiles(place.path), tmp_path / "job", zombies, subtasks=1)
        job.submit()
        sink = job.open(0)
        sink.write(Batch([text]))
        job.commit(sink, sink.prepare(CheckpointId(1)))

    (name,) = place.names()
    assert json.loads(place.read(name)) == text


# --- whole jobs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["sink.prepared", "sink.commit_called", "sink.committed"])
def test_worker_that_is_killed_between_bucket_and_bucket_loses_and_doubles_nothing(
    place: BucketPlace, tmp_path: Path, point: str
) -> None:
    text = object_job.run(place, tmp_path, FLOWSNAP_FAILPOINTS=f"{point}=kill@2,worker=1")

    assert "1 failure survived" in text
    object_job.assert_exactly_once(place)
