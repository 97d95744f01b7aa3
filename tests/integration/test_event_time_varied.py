"""One result for any number of workers, any speed of the input and any crash, all three varied.

The job has one of everything that waits for event time: tumbling windows (combined before the
shuffle), sessions, timers, a join in time and a pattern. Its two inputs are out of order, and each
is read from three splits, of which some are far faster than others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from flowsnap import (
    KeyedProcess,
    Pattern,
    Pipeline,
    ProcessContext,
    Session,
    Stream,
    Tumbling,
    bounded,
)
from flowsnap.config import Restart
from flowsnap.connectors import Collect, Generator
from flowsnap.core.element import Batch
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.operators.window import CollectList, Count, Sum, WindowResult
from tests.integration.jobs import QUICK

COUNT = 900
KEYS = 7
RESTARTS = Restart(strategy="fixed", delay_ms=1, attempts_max=5)


def time_of(number: int) -> int:
    """Return the event time of a number: up to 60 ms out of order."""
    return 10 * number - number * 7_919 % 60


def key_of(number: int) -> int:
    return number % KEYS


class Uneven(Source):
    """The numbers below COUNT in three splits, of which each is read so many at a time."""

    discovers = False

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes
        self.numbers = Generator(int, COUNT, splits=len(sizes))

    def splits(self, parallelism: int) -> list[Split]:
        return self.numbers.splits(parallelism)

    def open_split(self, split: Split, position: Any) -> SplitReader:
        ids = [one.id for one in self.numbers.splits(1)]
        reader = self.numbers.open_split(split, position)
        return UnevenReader(reader, self.sizes[ids.index(split.id)])


class UnevenReader(SplitReader):
    def __init__(self, reader: SplitReader, size: int) -> None:
        self._reader = reader
        self._size = size

    def read(self, limit: int) -> Batch | None:
        return self._reader.read(min(limit, self._size))

    def position(self) -> Any:
        return self._reader.position()


@dataclass(frozen=True)
class Crashes:
    """Fails at each of some numbers, once; ``how`` is "raise", or "die" with the whole process."""

    directory: Path
    numbers: tuple[int, ...] = ()
    how: str = "raise"

    def __call__(self, number: int) -> int:
        if number in self.numbers:
            marker = self.directory / f"crashed-at-{number}"
            if not marker.exists():
                marker.touch()
                if self.how == "die":
                    os._exit(9)
                raise OSError(f"at {number}")
        return number


class Waiting(KeyedProcess[int, tuple[str, int, int]]):
    """Lets each number out when event time has passed it, with how many of its key had before."""

    def open(self, context: ProcessContext) -> None:
        self.count = context.value_state("count", default=0)

    def process(self, value: int, context: ProcessContext) -> None:
        context.register_event_timer(time_of(value), value)

    def on_timer(self, timestamp: int, context: ProcessContext) -> Iterator[tuple[str, int, int]]:
        self.count.update(self.count.value() + 1)
        yield "timer", context.timer_name, self.count.value()


def spelled(result: WindowResult[int, Any]) -> tuple[Any, ...]:
    value = result.value
    if isinstance(value, dict):
        value = tuple((name, sorted(v) if isinstance(v, list) else v) for name, v in value.items())
    return "window", result.key, result.start, result.end, value


def rising() -> Pattern:
    """Return two multiples of three and then one of five, within a while."""
    thirds = Pattern.begin("thirds", lambda n: n % 3 == 0).times(2)
    return thirds.followed_by("fifth", lambda n: n % 5 == 0).within("400ms")


def taken(match: dict[str, list[int]]) -> tuple[Any, ...]:
    return "pattern", tuple(match["thirds"]), match["fifth"][0]


def outputs(left: Stream[int], right: Stream[int]) -> list[Stream[Any]]:
    by_key = left.key_by(key_of, name="left-keyed")
    other = right.key_by(key_of, name="right-keyed")
    totals = by_key.window(Tumbling("200ms")).aggregate(n=Count(), total=Sum(), name="totals")
    visits = by_key.window(Session("60ms")).aggregate(all=CollectList(), name="visits")
    joined = by_key.interval_join(other, lower="-20ms", upper="30ms")
    return [
        totals.map(spelled, name="totals-spelled"),
        visits.map(spelled, name="visits-spelled"),
        by_key.process(Waiting, name="timers"),
        joined.apply(lambda one, two: ("pair", one, two), name="pairs"),
        by_key.pattern(rising()).select(taken, name="patterns"),
    ]


def drawn(source: Source, crash: Callable[[int], int]) -> tuple[Pipeline, list[Collect]]:
    job, collected = Pipeline("varied"), []
    strategy = bounded("60ms", timestamp=time_of)
    left = job.source(source, watermark=strategy, name="left").map(crash, name="left-crash")
    right = job.source(source, watermark=strategy, name="right").map(int, name="right-same")
    for number, stream in enumerate(outputs(left, right)):
        collected.append(Collect())
        stream.sink(collected[-1], name=f"out-{number}")
    return job, collected


def found(collected: list[Collect]) -> list[list[Any]]:
    return [sorted(out.values) for out in collected]


@cache
def expected() -> list[list[Any]]:
    """Return what comes out of one process, as fast as it can, without a crash."""
    job, collected = drawn(Uneven(5_000), int)
    job.run(quiet=True)
    return found(collected)


CRASHES = {"no crash": (), "early": (30,), "twice": (250, 600), "at the end": (COUNT - 1,)}
SPEEDS = {"even": (40, 40, 40), "slow": (7,), "one ahead": (5, 400, 60), "one behind": (90, 90, 3)}


EVERY = list(product(SPEEDS, CRASHES))


@pytest.mark.parametrize(
    ("speed", "crashes"),
    [
        *EVERY[::3],
        *(pytest.param(*both, marks=pytest.mark.slow) for both in EVERY if both not in EVERY[::3]),
    ],
)
def test_result_is_the_same_at_any_speed_and_after_any_crash(
    speed: str, crashes: str, state: Path
) -> None:
    crash = Crashes(state.parent, CRASHES[crashes])
    job, collected = drawn(Uneven(*SPEEDS[speed]), crash)

    result = job.run(state_dir=state, restart=RESTARTS, quiet=True, **QUICK)

    assert result.attempts == len(CRASHES[crashes]) + 1
    assert found(collected) == expected()


@pytest.mark.parametrize(
    ("workers", "speed", "crashes", "how"),
    [
        (2, "one ahead", "twice", "die"),
        (3, "slow", "early", "raise"),
        pytest.param(1, "even", "twice", "die", marks=pytest.mark.slow),
        pytest.param(2, "one behind", "at the end", "raise", marks=pytest.mark.slow),
        pytest.param(3, "one ahead", "early", "die", marks=pytest.mark.slow),
        pytest.param(4, "even", "no crash", "raise", marks=pytest.mark.slow),
    ],
)
def test_result_is_the_same_for_any_number_of_workers_too(
    workers: int, speed: str, crashes: str, how: str, state: Path
) -> None:
    crash = Crashes(state.parent, CRASHES[crashes], how)
    job, collected = drawn(Uneven(*SPEEDS[speed]), crash)

    result = job.start(workers=workers, state_dir=state, restart=RESTARTS, **QUICK).wait(120)

    assert result.attempts == len(CRASHES[crashes]) + 1
    assert found(collected) == expected()


def test_every_part_of_the_job_has_something_to_say() -> None:
    assert [len(own) > 50 for own in expected()] == [True] * 5


# --- records that break the promise


def straggling(number: int) -> int:
    """Return an event time that is far behind for every 50th number."""
    return time_of(number) - 3_000 if number % 50 == 0 else time_of(number)


@pytest.mark.parametrize(
    ("workers", "speed", "crashes"),
    [(0, "even", "no crash"), (0, "one ahead", "twice"), (2, "one behind", "early")],
)
def test_record_is_in_the_result_or_late_and_never_late_without_cause(
    workers: int, speed: str, crashes: str, state: Path
) -> None:
    crash = Crashes(state.parent, CRASHES[crashes])
    job, out, late = Pipeline("late"), Collect(), Collect()
    strategy = bounded("60ms", timestamp=straggling)
    numbers = job.source(Uneven(*SPEEDS[speed]), watermark=strategy).map(crash, name="crash")
    windows = numbers.key_by(key_of).window(Tumbling("200ms"), late="late")
    listed = windows.aggregate(CollectList(), name="listed")
    listed.sink(out, name="out")
    listed.side_output("late").sink(late, name="late")

    job.start(workers=workers, state_dir=state, restart=RESTARTS, **QUICK).wait(60)

    in_time = [number for result in out.values for number in result.value]
    assert sorted(in_time + late.values) == list(range(COUNT))
    assert [number for number in late.values if number % 50] == []
    assert len(late.values) > 1
