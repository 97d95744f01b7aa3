"""Whole jobs that fail once, from and into plain Python: what is promised of it is what comes."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowsnap import Pipeline
from flowsnap.config import Restart
from flowsnap.connectors import END, Callback, Collect, FromGenerator, FromQueue
from flowsnap.core.operator import Sink, Source
from tests.integration.jobs import (
    QUICK,
    Held,
    checkpoints,
    doubled_and_lost,
    once_after_a_checkpoint,
    until,
)

COUNT, HALF = 200, 100
ALL = Counter(range(COUNT))
TWICE = Restart(strategy="fixed", delay_ms=1, attempts_max=2)


def run_and_fail(source: Source, sink: Sink, state: Path) -> list[int]:
    """Run a job that fails once; return the records that it failed on."""
    failed: list[int] = []

    def watched(number: int) -> int:
        fail(number)
        return number

    def act() -> None:
        raise ZeroDivisionError

    def fail(number: int) -> None:
        try:
            once(number)
        except ZeroDivisionError:
            failed.append(number)
            raise

    once = once_after_a_checkpoint(state, act)
    pipeline = Pipeline("python")
    pipeline.source(source, name="in").map(watched, name="watched").sink(sink, name="out")
    result = pipeline.run(workers=0, state_dir=state, quiet=True, restart=TWICE, **QUICK)
    assert result.attempts == 2
    return failed


def later(state: Path) -> None:
    until(lambda: bool(checkpoints(state)), "a checkpoint")


def test_generator_with_replay_gives_each_value_once(state: Path) -> None:
    result = Collect()

    def values(start: int = 0) -> Iterator[int]:
        yield from range(start, HALF)
        later(state)
        yield from range(max(start, HALF), COUNT)

    run_and_fail(FromGenerator(values, replay=values), result, state)

    assert doubled_and_lost(Counter(result.values), ALL) == ({}, {})


@pytest.mark.parametrize("kind", ["queue", "generator"])
def test_what_cannot_be_read_again_comes_at_most_once(state: Path, kind: str) -> None:
    result = Collect()
    values: queue.Queue[Any] = queue.Queue()

    def feed() -> None:
        for number in range(COUNT):
            if number == HALF:
                later(state)
            values.put(number)
        values.put(END)

    feeder = threading.Thread(target=feed)
    feeder.start()
    source: Source = FromQueue(values, bounded=True)
    if kind == "generator":
        source = FromGenerator(lambda: iter(values.get, END), buffer=1)
    failed = run_and_fail(source, result, state)
    feeder.join()
    doubled, lost = doubled_and_lost(Counter(result.values), ALL)

    assert doubled == {}
    assert set(lost) >= set(failed)


def test_callback_is_called_with_every_record_at_least_once(state: Path) -> None:
    seen: list[int] = []

    run_and_fail(Held(COUNT, state, 1), Callback(seen.append), state)

    doubled, lost = doubled_and_lost(Counter(seen), ALL)
    assert lost == {}
    assert doubled != {}
