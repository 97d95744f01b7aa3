"""Whole jobs in event time: the result depends on nothing but the records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowsnap import (
    BroadcastContext,
    BroadcastProcess,
    CoProcess,
    KeyedProcess,
    OutputTag,
    Pipeline,
    ProcessContext,
    Stream,
    bounded,
    monotonous,
    split,
)
from flowsnap.config import Restart
from flowsnap.connectors import Collect, FromIterable, Generator
from flowsnap.core.element import Batch
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.core.watermark import MAX_WATERMARK
from tests.integration.jobs import QUICK, Held, once_after_a_checkpoint

COUNT = 1_200
BUCKET_MS = 200
TWICE = Restart(strategy="fixed", delay_ms=1, attempts_max=2)
LATE: OutputTag[int] = OutputTag("late")


def time_of(number: int) -> int:
    """Return the event time of a number: up to 60 ms out of order."""
    return 10 * number - number * 7_919 % 60


def key_of(number: int) -> int:
    return number % 7


class Buckets(KeyedProcess[int, tuple[int, int, list[int]]]):
    """Puts out the numbers of each key and bucket once, when event time has passed its end."""

    def open(self, context: ProcessContext) -> None:
        self.numbers = context.map_state("numbers")

    def process(self, value: int, context: ProcessContext) -> None:
        assert context.timestamp is not None
        end = context.timestamp // BUCKET_MS * BUCKET_MS + BUCKET_MS
        if end - 1 <= context.watermark:
            context.output(LATE, value)
        else:
            self.numbers.put(end, [*(self.numbers.get(end) or ()), value])
            context.register_event_timer(end - 1)

    def on_timer(self, timestamp: int, context: ProcessContext) -> Iterator[Any]:
        end = timestamp + 1
        yield context.key, end, sorted(self.numbers.get(end) or ())
        self.numbers.remove(end)


def expected(count: int = COUNT) -> list[tuple[int, int, list[int]]]:
    """Return what Buckets puts out, by brute force."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number in range(count):
        end = time_of(number) // BUCKET_MS * BUCKET_MS + BUCKET_MS
        found[key_of(number), end].append(number)
    return sorted((key, end, numbers) for (key, end), numbers in found.items())


def drawn(numbers: Stream[int], name: str = "job") -> tuple[Collect, Collect]:
    """Have the buckets of a stream with event time collected, and what came late."""
    buckets, late = Collect(), Collect()
    found = numbers.key_by(key_of, name="by-key").process(Buckets, name="buckets")
    found.sink(buckets, name="out")
    found.side_output(LATE).sink(late, name="late")
    return buckets, late


def by_source(source: Source, parse: Callable[[int], int]) -> tuple[Pipeline, Stream[int]]:
    job = Pipeline("job")
    strategy = bounded("60ms", timestamp=time_of)
    return job, job.source(source, watermark=strategy, name="numbers").map(parse, name="parse")


def by_operator(source: Source, parse: Callable[[int], int]) -> tuple[Pipeline, Stream[int]]:
    job = Pipeline("job")
    numbers = job.source(source, name="numbers", parallelism=1).map(parse, name="parse")
    return job, numbers.assign_timestamps(time_of, "60ms", idle=None, name="times")


class Chunked(Source):
    """The numbers below COUNT in ``splits`` strides, read ``size`` at a time."""

    discovers = False

    def __init__(self, size: int, splits: int) -> None:
        self.size = size
        self.numbers = Generator(int, COUNT, splits=splits)

    def splits(self, parallelism: int) -> list[Split]:
        return self.numbers.splits(parallelism)

    def open_split(self, split: Split, position: Any) -> SplitReader:
        return ChunkReader(self.numbers.open_split(split, position), self.size)


class ChunkReader(SplitReader):
    def __init__(self, reader: SplitReader, size: int) -> None:
        self._reader = reader
        self._size = size

    def read(self, limit: int) -> Batch | None:
        return self._reader.read(min(limit, self._size))

    def position(self) -> Any:
        return self._reader.position()


# --- the result is always the same


@pytest.mark.parametrize("size", [1, 7, 5_000])
@pytest.mark.parametrize("splits", [1, 3])
def test_result_does_not_depend_on_how_the_input_is_cut(size: int, splits: int) -> None:
    job, numbers = by_source(Chunked(size, splits), int)
    buckets, late = drawn(numbers)

    job.run(quiet=True)

    assert sorted(buckets.values) == expected()
    assert late.values == []


@pytest.mark.parametrize(
    "workers", [0, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))]
)
def test_result_does_not_depend_on_the_number_of_workers(workers: int) -> None:
    job, numbers = by_source(Chunked(40, 3), int)
    buckets, late = drawn(numbers)

    job.start(workers=workers).wait()

    assert sorted(buckets.values) == expected()
    assert late.values == []


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [by_source, by_operator])
def test_result_is_the_same_after_a_crash_in_the_middle(
    make: Any, workers: int, state: Path
) -> None:
    def fail() -> None:
        raise OSError("once")

    splits = 1 if make is by_operator else 2
    held = Held(COUNT, state, completed=2, splits=splits)
    job, numbers = make(held, once_after_a_checkpoint(state, fail))
    buckets, late = drawn(numbers)

    result = job.start(workers=workers, state_dir=state, restart=TWICE, **QUICK).wait()

    assert result.attempts == 2
    assert sorted(buckets.values) == expected()
    assert late.values == []


@pytest.mark.parametrize(("before", "after"), [(2, 0), (0, 2)])
def test_timers_find_their_keys_after_a_rescale(before: int, after: int, state: Path) -> None:
    job, numbers = by_source(Held(COUNT, state, completed=10**9), int)
    buckets, late = drawn(numbers)
    handle = job.start(workers=before, state_dir=state, **QUICK)
    handle.stop()
    handle.wait()
    first = list(buckets.values)

    again, numbers = by_source(Held(COUNT, state), int)
    buckets, late = drawn(numbers)
    again.start(workers=after, state_dir=state, **QUICK).wait()

    assert len(first) < len(expected())
    assert sorted(buckets.values) == expected()
    assert late.values == []


# --- several inputs


def test_event_time_of_a_union_is_that_of_the_slowest() -> None:
    job = Pipeline("job")
    strategy = bounded("60ms", timestamp=time_of)
    halves = [
        job.source(FromIterable(range(start, COUNT, 2)), watermark=strategy, parallelism=1)
        for start in (0, 1)
    ]
    buckets, late = drawn(halves[0].union(halves[1]))

    job.run(quiet=True)

    assert sorted(buckets.values) == expected()
    assert late.values == []


class Together(CoProcess[int, int, tuple[int, list[int], list[int]]]):
    """Puts out what both inputs had for a key, at the end of its minute."""

    def open(self, context: ProcessContext) -> None:
        self.left = context.list_state("left")
        self.right = context.list_state("right")

    def process_left(self, value: int, context: ProcessContext) -> None:
        self.left.add(value)
        context.register_event_timer(5_000)

    def process_right(self, value: int, context: ProcessContext) -> None:
        self.right.add(value)
        context.register_event_timer(5_000)

    def on_timer(self, timestamp: int, context: ProcessContext) -> Iterator[Any]:
        yield context.key, sorted(self.left.get()), sorted(self.right.get())


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_two_keyed_inputs_meet_by_key_and_in_time(workers: int) -> None:
    job, found = Pipeline("job"), Collect()
    times = monotonous(timestamp=abs)
    left = job.source(FromIterable(range(900)), watermark=times, parallelism=1).key_by(key_of)
    right = job.source(FromIterable(range(600)), watermark=times, parallelism=1).key_by(key_of)
    left.connect(right).process(Together, name="together").sink(found)

    job.start(workers=workers).wait()

    assert sorted(found.values) == [
        (key, list(range(key, 900, 7)), list(range(key, 600, 7))) for key in range(7)
    ]


class Fines(BroadcastProcess[int, tuple[int, str], tuple[int, str]]):
    """Puts out the numbers of which there is a rule by the end of the input."""

    def open(self, context: ProcessContext) -> None:
        self.seen = context.list_state("seen")

    def process(self, value: int, context: BroadcastContext) -> None:
        self.seen.add(value)
        context.register_event_timer(MAX_WATERMARK - 1)

    def process_broadcast(self, value: tuple[int, str], context: BroadcastContext) -> None:
        context.broadcast[value[0]] = value[1]

    def on_timer(self, timestamp: int, context: BroadcastContext) -> Iterator[tuple[int, str]]:
        rule = context.broadcast.get(context.key)
        yield from ((value, rule) for value in self.seen.get() if rule)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_every_subtask_has_the_broadcast_rules(workers: int) -> None:
    job, found = Pipeline("job"), Collect()
    rules = job.from_iterable([(2, "b"), (5, "wrong"), (5, "e")]).broadcast()
    numbers = job.from_iterable(range(70)).key_by(key_of)
    numbers.connect(rules).process(Fines, name="fines").sink(found)

    job.start(workers=workers).wait()

    both = [(n, "b") for n in range(2, 70, 7)] + [(n, "e") for n in range(5, 70, 7)]
    assert sorted(found.values) == sorted(both)


def test_broadcast_rules_outlive_a_crash_and_a_rescale(state: Path) -> None:
    rules = [(key, f"rule {key}") for key in range(7)]

    def run(workers: int, completed: int, found: Collect, *, stop: bool) -> None:
        job = Pipeline("job")
        shared = job.from_iterable(rules, name="rules").broadcast()
        numbers = job.source(Held(200, state, completed=completed), name="numbers").key_by(key_of)
        numbers.connect(shared).process(Fines, name="fines").sink(found, name="out")
        handle = job.start(workers=workers, state_dir=state, **QUICK)
        if stop:
            handle.stop()
        handle.wait()

    run(1, 10**9, Collect(), stop=True)
    found = Collect()
    run(3, 0, found, stop=False)

    assert sorted(found.values) == [(n, f"rule {key_of(n)}") for n in range(200)]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_split_makes_two_streams_of_one(workers: int) -> None:
    job, even, odd = Pipeline("job"), Collect(), Collect()
    evens, odds = split(job.from_iterable(range(100)), lambda n: n % 2 == 0)
    evens.map(str).sink(even)
    odds.rebalance().map(str).sink(odd)

    job.start(workers=workers).wait()

    assert sorted(even.values) == sorted(map(str, range(0, 100, 2)))
    assert sorted(odd.values) == sorted(map(str, range(1, 100, 2)))


class Echo(KeyedProcess[int, int]):
    """Lets each number leave beside, when event time has passed it."""

    def process(self, value: int, context: ProcessContext) -> None:
        context.register_event_timer(time_of(value), value)

    def on_timer(self, timestamp: int, context: ProcessContext) -> None:
        context.output("echo", context.timer_name)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_what_timers_emit_to_a_side_output_is_not_late(workers: int) -> None:
    job, numbers = by_source(Chunked(20, 2), int)
    echo = numbers.key_by(key_of, name="first").process(Echo, name="echo")
    buckets, late = drawn(echo.side_output("echo"))

    job.start(workers=workers).wait()

    assert late.values == []
    assert sorted(buckets.values) == expected()


# --- idleness


class Waiting(Source):
    """Has some values, then nothing until ``released`` is there, and then comes to its end."""

    bounded = False

    def __init__(self, released: Path, *values: int) -> None:
        self.released = released
        self.values = values

    def splits(self, parallelism: int) -> list[Split]:
        return [Split("all")]

    def open_split(self, split: Split, position: int | None) -> SplitReader:
        return WaitingReader(self, position or 0)


class WaitingReader(SplitReader):
    def __init__(self, source: Waiting, position: int) -> None:
        self._source = source
        self._next = position

    def read(self, limit: int) -> Batch | None:
        values = list(self._source.values[self._next :])
        self._next += len(values)
        return None if not values and self._source.released.exists() else Batch(values)

    def position(self) -> int:
        return self._next


class Release(KeyedProcess[int, int]):
    """Ends the silence as soon as event time gets on."""

    def __init__(self, released: Path) -> None:
        self.released = released

    def process(self, value: int, context: ProcessContext) -> None:
        context.register_event_timer(value)

    def on_timer(self, timestamp: int, context: ProcessContext) -> Iterator[int]:
        if context.watermark < MAX_WATERMARK:
            self.released.touch()
        yield timestamp


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_idle_source_holds_nobody_back(workers: int, tmp_path: Path) -> None:
    job, found, released = Pipeline("job"), Collect(), tmp_path / "released"
    idle, never = monotonous(timestamp=abs, idle="20ms"), monotonous(timestamp=abs)
    silent = job.source(Waiting(released), watermark=idle, name="silent")
    numbers = job.source(Waiting(released, *range(1, 50)), watermark=never, name="numbers")
    both = numbers.union(silent).key_by(key_of)
    both.process(Release(released), name="release").sink(found)

    job.start(workers=workers).wait(60)

    assert sorted(found.values) == list(range(1, 50))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_idle_subtask_behind_the_source_holds_nobody_back(workers: int, tmp_path: Path) -> None:
    job, found, released = Pipeline("job"), Collect(), tmp_path / "released"
    silent = job.source(Waiting(released), name="silent", parallelism=1)
    numbers = job.source(Waiting(released, *range(1, 50)), name="numbers", parallelism=1)
    first = silent.assign_timestamps(abs, "0s", idle="20ms")
    both = numbers.assign_timestamps(abs, "0s", idle=None).union(first).key_by(key_of)
    both.process(Release(released), name="release").sink(found)

    job.start(workers=workers).wait(60)

    assert sorted(found.values) == list(range(1, 50))


# --- alignment


class Steady(Source):
    """``count`` multiples of ``factor``, a few at a time."""

    discovers = False

    def __init__(self, count: int, factor: int) -> None:
        self.numbers = Generator(lambda n: n * factor, count, splits=1)

    def splits(self, parallelism: int) -> list[Split]:
        return self.numbers.splits(parallelism)

    def open_split(self, split: Split, position: Any) -> SplitReader:
        return ChunkReader(self.numbers.open_split(split, position), 5)


def test_aligned_sources_stay_together() -> None:
    job, found = Pipeline("job"), Collect()
    in_group = monotonous(timestamp=abs, group="all", max_drift="100ms")
    slow = job.source(Steady(400, 1), watermark=in_group, name="slow")
    fast = job.source(Steady(40, 10), watermark=in_group, name="fast")
    slow.union(fast).sink(found)

    job.run(quiet=True)

    assert ahead(found.values) <= 100 + 5 * 10


def ahead(values: list[int]) -> int:
    """Return how far values come in before others that are less."""
    greatest, most = 0, 0
    for value in values:
        greatest = max(greatest, value)
        most = max(most, greatest - value)
    return most


@pytest.mark.parametrize("workers", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_alignment_does_not_wait_for_who_has_nothing_to_read(workers: int, tmp_path: Path) -> None:
    job, found, released = Pipeline("job"), Collect(), tmp_path / "released"
    in_group = monotonous(timestamp=abs, idle="50ms", group="all", max_drift="20ms")
    silent = job.source(Waiting(released), watermark=in_group, name="silent")
    short = job.source(FromIterable(range(3)), watermark=in_group, name="short")
    numbers = job.source(Steady(300, 1), watermark=in_group, name="numbers")
    everything = numbers.union(short, silent).key_by(key_of)
    everything.process(Release(released), name="release").sink(found)

    job.start(workers=workers).wait(60)

    assert sorted(set(found.values)) == list(range(300))
