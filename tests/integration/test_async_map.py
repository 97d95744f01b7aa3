"""async_map in whole jobs: order, backpressure, restarts, event time, two workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from flowsnap import Pipeline
from flowsnap.config import Restart
from flowsnap.connectors import Collect, FromIterable, Generator, JsonLinesFiles
from flowsnap.core.operator import Sink
from flowsnap.errors import JobFailed, OperatorError
from tests.integration.jobs import (
    QUICK,
    census,
    doubled_and_lost,
    lines,
    once_after_a_checkpoint,
)

COUNT = 2_000
TWICE = Restart(strategy="fixed", delay_ms=1, attempts_max=2)


async def doubled(number: int) -> int:
    """Answer after 0, 1 or 2 ms, so that later requests overtake earlier ones."""
    loop = asyncio.get_running_loop()
    answered = loop.create_future()
    loop.call_later(number % 3 / 1000, answered.set_result, 2 * number)
    return int(await answered)


def number(n: int) -> int:
    return n


def drawn(sink: Sink, *, ordered: bool = True, rate: float | None = None) -> Pipeline:
    pipeline = Pipeline("asking")
    source = Generator(number, COUNT, rate=rate, splits=2)
    (
        pipeline.source(source, name="numbers")
        .async_map(doubled, name="ask", ordered=ordered, capacity=50)
        .map(str, name="text")
        .sink(sink, name="out")
    )
    return pipeline


def test_results_come_in_order_and_the_job_waits_for_the_last() -> None:
    out = Collect()
    pipeline = Pipeline("asking")
    pipeline.from_iterable(range(500)).async_map(doubled, capacity=20).sink(out)

    pipeline.run(workers=0, quiet=True)

    assert list(out.values) == [2 * n for n in range(500)]


def test_the_steps_behind_see_every_result_before_the_end_of_event_time(tmp_path: Path) -> None:
    out = Collect()
    pipeline = Pipeline("asking")
    (
        pipeline.from_iterable(range(300))
        .async_map(doubled, ordered=False)
        .key_by(lambda n: n % 4)
        .count(emit="final")
        .sink(out)
    )

    pipeline.run(workers=0, quiet=True)

    assert dict(out.values) == {0: 150, 2: 150}


@pytest.mark.parametrize("ordered", [True, False])
def test_nothing_is_late_behind_it_whatever_the_order_of_the_answers(ordered: bool) -> None:
    out = Collect()
    pipeline = Pipeline("asking")
    (
        pipeline.from_iterable(range(400))
        .assign_timestamps(lambda n: n, "5ms")
        .async_map(doubled, ordered=ordered, capacity=30)
        .key_by(lambda n: 0)
        .over({"n": "count"}, range="9ms")
        .sink(out)
    )

    pipeline.run(workers=0, quiet=True)

    assert [(n, seen["n"]) for n, seen in out.values] == [
        (2 * n, min(n + 1, 10)) for n in range(400)
    ]


@pytest.mark.parametrize("ordered", [True, False])
def test_requests_in_flight_at_a_crash_are_asked_again_and_count_once(
    tmp_path: Path, ordered: bool
) -> None:
    state, out = tmp_path / "state", tmp_path / "out"
    crash = once_after_a_checkpoint(state, lambda: 1 // 0)
    pipeline = Pipeline("asking")
    (
        pipeline.source(Generator(number, COUNT, rate=4_000.0, splits=2), name="numbers")
        .async_map(doubled, name="ask", ordered=ordered, capacity=50)
        .map(crash, name="crash")
        .sink(JsonLinesFiles(out), name="out")
    )
    with census(state):
        pipeline.run(workers=0, quiet=True, state_dir=state, restart=TWICE, **QUICK)

    assert (tmp_path / "has-acted").exists()
    found, expected = Counter(lines(out)), Counter(2 * n for n in range(COUNT))
    assert doubled_and_lost(found, expected) == ({}, {})


def test_two_workers_lose_and_double_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with census(tmp_path / "state"):
        drawn(JsonLinesFiles(out)).start(workers=2, state_dir=tmp_path / "state", **QUICK).wait()

    found, expected = Counter(lines(out)), Counter(str(2 * n) for n in range(COUNT))
    assert doubled_and_lost(found, expected) == ({}, {})


async def refusing(number: int) -> int:
    raise ValueError(f"no answer for {number}")


def test_an_error_ends_the_job_with_the_users_error_and_the_record() -> None:
    pipeline = Pipeline("asking")
    stream = pipeline.source(FromIterable([7]), name="numbers")
    stream.async_map(refusing, name="ask", retries=1, backoff="1ms").sink(Collect())

    with pytest.raises((JobFailed, OperatorError)) as failure:
        pipeline.run(workers=0, quiet=True, restart=Restart(strategy="none"))

    assert "no answer for 7 on record 1 of a batch of 1 (a int), tried 2 times" in str(
        failure.value
    )
