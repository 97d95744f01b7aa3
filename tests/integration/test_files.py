"""Whole jobs from files and Python into files and Python."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowsnap import Pipeline, Tumbling, bounded
from flowsnap.connectors import (
    DEAD_LETTER,
    END,
    ByTime,
    Callback,
    Collect,
    CsvFiles,
    Discard,
    FromGenerator,
    FromQueue,
    JsonLinesFiles,
    TextFiles,
)
from flowsnap.connectors.parquet_files import ParquetFiles
from flowsnap.errors import JobFailed

QUICK: dict[str, Any] = {"checkpoint_interval": "20ms", "quiet": True}


class Order(msgspec.Struct):
    user: str
    at: int = 0


GOOD, BAD, LATER = '{"user":"ann","at":5000}', '{"user":1}', '{"user":"bob","at":7000}'


def orders(directory: Path, *lines: str) -> Path:
    path = directory / "in.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_dead_letters_leave_a_job_beside_the_records(tmp_path: Path) -> None:
    source = JsonLinesFiles(orders(tmp_path, GOOD, BAD, LATER), type=Order, on_error="dead-letter")
    good, dead = Collect(), Collect()
    pipeline = Pipeline("letters")
    stream = pipeline.source(source)
    stream.map(lambda order: order.user).sink(good)
    stream.side_output(DEAD_LETTER).map(lambda letter: letter.raw).sink(dead)

    pipeline.run(**QUICK)

    assert (good.values, dead.values) == (["ann", "bob"], [BAD])


def test_event_time_of_a_job_is_that_of_its_records(tmp_path: Path) -> None:
    source = JsonLinesFiles(orders(tmp_path, BAD, GOOD, LATER), type=Order, on_error="dead-letter")
    counts = Collect()
    pipeline = Pipeline("timed")
    stream = pipeline.source(source, watermark=bounded("0s", timestamp="at"))
    stream.side_output(DEAD_LETTER).sink(Collect())
    stream.key_by("user").window(Tumbling("1s")).count().sink(counts)

    pipeline.run(**QUICK)

    assert len(counts.values) == 2


def test_job_fails_at_a_record_that_does_not_parse_unless_told_otherwise(tmp_path: Path) -> None:
    path = orders(tmp_path, GOOD, BAD)
    pipeline = Pipeline("strict")
    pipeline.source(JsonLinesFiles(path, type=Order)).sink(Collect())

    with pytest.raises(JobFailed, match=r"in\.jsonl, line 2: .*Expected `str`, got `int`"):
        pipeline.run(**QUICK)


def test_records_go_from_csv_to_parquet_and_into_directories_by_event_time(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("user,at\n" + "".join(f"u{n},{n * 1_000_000}\n" for n in range(50)))
    sink = ParquetFiles(tmp_path / "out", type=Order, partition_by=ByTime("%H"), roll_size=1)
    pipeline = Pipeline("convert")
    source = CsvFiles(path, type=Order, split_bytes=100)
    pipeline.source(source, watermark=bounded("0s", timestamp="at")).sink(sink)

    pipeline.run(workers=0, **QUICK)

    read, again = Collect(), Pipeline("again")
    again.source(ParquetFiles(tmp_path / "out", type=Order)).sink(read)
    again.run(**QUICK)
    hours = {datetime.fromtimestamp(order.at / 1000, UTC).strftime("%H") for order in read.values}
    assert sorted(order.at for order in read.values) == [n * 1_000_000 for n in range(50)]
    assert {one.name for one in (tmp_path / "out").iterdir()} == hours


def test_growing_file_is_followed_over_a_restart_of_its_job(tmp_path: Path) -> None:
    log, state, seen = tmp_path / "app.log", tmp_path / "state", threading.Semaphore(0)
    out = JsonLinesFiles(tmp_path / "out")
    for life in range(2):
        pipeline = Pipeline("follow")
        lines = pipeline.source(TextFiles(log, follow=True, look_every="5ms"), name="log")
        lines.sink(out, name="out")
        lines.sink(Callback(lambda _: seen.release()), name="seen")
        handle = pipeline.start(state_dir=state, checkpoint_interval="20ms")
        with open(log, "a") as file:
            file.write(f"{life} a\n{life} b\n")
        assert all(seen.acquire(timeout=20) for _ in range(2))
        handle.stop()
        handle.wait()

    parts = sorted((tmp_path / "out").glob("part-*"))
    written = [line for part in parts for line in part.read_text().splitlines()]
    assert sorted(written) == ['"0 a"', '"0 b"', '"1 a"', '"1 b"']


async def async_numbers() -> AsyncIterator[int]:
    for number in range(100):
        await asyncio.to_thread(int)
        yield number


def test_async_generator_goes_through_a_job_into_a_list() -> None:
    values: list[int] = []
    pipeline = Pipeline("python")
    doubled = pipeline.source(FromGenerator(async_numbers)).map(lambda number: number * 2)
    doubled.sink(Callback(values.append))

    pipeline.run(**QUICK)

    assert sorted(values) == [number * 2 for number in range(100)]


def test_queue_of_a_coroutine_is_read_by_a_job_beside_it() -> None:
    async def main() -> list[Any]:
        values: asyncio.Queue[Any] = asyncio.Queue(maxsize=5)
        result = Collect()
        pipeline = Pipeline("queue")
        pipeline.source(FromQueue(values, bounded=True)).sink(result)
        running = asyncio.create_task(asyncio.to_thread(pipeline.run, **QUICK))
        for value in (*range(50), END):
            await values.put(value)
        await running
        return result.values

    assert asyncio.run(main()) == list(range(50))


def test_queue_cannot_be_read_by_worker_processes() -> None:
    async def main() -> None:
        pipeline = Pipeline("queue")
        pipeline.source(FromQueue(asyncio.Queue())).sink(Discard())
        with pytest.raises(Exception, match="a queue stays in the process that made it"):
            await asyncio.to_thread(pipeline.run, workers=1, **QUICK)

    asyncio.run(main())
