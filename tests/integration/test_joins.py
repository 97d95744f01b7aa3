"""Whole jobs that join: the result depends on nothing but the records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from flowsnap import JobFailed, KeyedStream, Pipeline
from flowsnap.api.joined import Joined
from flowsnap.config import Restart
from flowsnap.connectors import Collect, Generator
from flowsnap.operators.join import LookupCache
from flowsnap.operators.window.assigner import Assigner, Session, Sliding, Tumbling
from tests.integration.jobs import QUICK, Held, once_after_a_checkpoint

COUNT = 600
WINDOW_MS = 100
TWICE = Restart(strategy="fixed", delay_ms=1, attempts_max=2)

Order = tuple[int, int, str]
"""Key, event time in ms, id."""


def order(number: int) -> Order:
    return number % 11, 10 * number - number * 7_919 % 50, f"o{number}"


def payment(number: int) -> Order:
    return number % 13, 9 * number - number * 104_729 % 50, f"p{number}"


ORDERS, PAYMENTS = [order(n) for n in range(COUNT)], [payment(n) for n in range(COUNT)]


def same(number: int) -> int:
    return number


def keyed(
    job: Pipeline, source: Any, make: Callable[[int], Order], parse: Callable[[int], int] = same
) -> KeyedStream[int, Order]:
    name = make.__name__
    return (
        job.source(source, name=f"{name}s", parallelism=1)
        .map(parse, name=f"{name}-parsed")
        .map(make, name=f"{name}-made")
        .assign_timestamps(1, "50ms", idle=None, name=f"{name}-timed")
        .key_by(0, name=f"{name}-keyed")
    )


def inputs(job: Pipeline) -> tuple[KeyedStream[int, Order], KeyedStream[int, Order]]:
    """Return orders and payments, both up to 50 ms out of order."""
    numbers = Generator(int, COUNT)
    return keyed(job, numbers, order), keyed(job, numbers, payment)


def id_pair(left: Order | None, right: Order | None) -> tuple[str | None, str | None]:
    return left and left[2], right and right[2]


def ids(key: int, lefts: list[Order], rights: list[Order]) -> tuple[int, list[str], list[str]]:
    return key, sorted(left[2] for left in lefts), sorted(right[2] for right in rights)


def result(draw: Callable[[Pipeline], Joined[Any, Any]], workers: int = 0) -> list[Any]:
    """Return what a join puts out, sorted."""
    job, out = Pipeline("joins"), Collect()
    draw(job).apply(id_pair, name="joined").sink(out, name="out")
    if workers:
        job.start(workers=workers).wait()
    else:
        job.run(quiet=True)
    return sorted(out.values, key=str)


def pairs_where(fits: Callable[[Order, Order], bool]) -> list[Any]:
    """Return the pairs of equal keys that fit, by brute force."""
    found = [
        id_pair(left, right)
        for left, right in product(ORDERS, PAYMENTS)
        if left[0] == right[0] and fits(left, right)
    ]
    return sorted(found, key=str)


# --- each join, in this process and on two workers


def by_interval(job: Pipeline) -> Joined[Any, Any]:
    orders, payments = inputs(job)
    return orders.interval_join(payments, lower="-100ms", upper="200ms", upper_inclusive=False)


def is_near(left: Order, right: Order) -> bool:
    return -100 <= right[1] - left[1] < 200


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_interval_join_pairs_what_is_near_in_time(workers: int) -> None:
    assert result(by_interval, workers) == pairs_where(is_near)


def by_window(job: Pipeline) -> Joined[Any, Any]:
    orders, payments = inputs(job)
    return orders.join(payments, window=Tumbling("100ms"))


def is_in_one_window(left: Order, right: Order) -> bool:
    return left[1] // WINDOW_MS == right[1] // WINDOW_MS


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_window_join_pairs_what_is_in_one_window(workers: int) -> None:
    assert result(by_window, workers) == pairs_where(is_in_one_window)


def by_key(job: Pipeline) -> Joined[Any, Any]:
    orders, payments = inputs(job)
    return orders.join(payments, how="full")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_full_join_pairs_equal_keys_and_puts_out_the_others_alone(workers: int) -> None:
    alone: list[Any] = [(None, right[2]) for right in PAYMENTS if right[0] > 10]

    expected = sorted(pairs_where(lambda left, right: True) + alone, key=str)
    assert result(by_key, workers) == expected


def as_of(job: Pipeline) -> Joined[Any, Any]:
    orders, payments = inputs(job)
    return orders.as_of_join(payments, how="left")


def at_their_times() -> list[Any]:
    """Return every order with the newest payment of its key that is not newer, by brute force."""
    found = []
    for left in ORDERS:
        valid = [r for r in PAYMENTS if r[0] == left[0] and r[1] <= left[1]]
        found.append(id_pair(left, max(valid, key=lambda right: right[1], default=None)))
    return sorted(found, key=str)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_as_of_join_finds_the_version_of_the_time(workers: int) -> None:
    assert result(as_of, workers) == at_their_times()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("window", [Sliding("100ms", "50ms"), Session("70ms")], ids=str)
def test_co_group_brings_both_sides_of_a_window_together(window: Assigner, workers: int) -> None:
    job, out = Pipeline("joins"), Collect()
    orders, payments = inputs(job)
    orders.co_group(payments, window=window).apply(ids, name="grouped").sink(out)

    job.start(workers=workers).wait()

    assert sorted(out.values) == sorted(grouped(window))


def grouped(window: Assigner) -> list[Any]:
    """Return the ids of every key and window, by brute force."""
    of_key: dict[int, list[Order]] = defaultdict(list)
    for one in ORDERS + PAYMENTS:
        of_key[one[0]].append(one)
    groups = []
    for key, ones in of_key.items():
        for group in (
            sessions(ones, window.gap_ms) if isinstance(window, Session) else by_start(ones)
        ):
            groups.append(
                ids(key, [o for o in group if o[2][0] == "o"], [o for o in group if o[2][0] == "p"])
            )
    return groups


def sessions(ones: list[Order], gap_ms: int) -> list[list[Order]]:
    found: list[list[Order]] = []
    for one in sorted(ones, key=lambda one: one[1]):
        if found and one[1] - found[-1][-1][1] <= gap_ms:
            found[-1].append(one)
        else:
            found.append([one])
    return found


def by_start(ones: list[Order]) -> list[list[Order]]:
    found: dict[int, list[Order]] = defaultdict(list)
    for one in ones:
        start = one[1] // 50 * 50
        found[start].append(one)
        found[start - 50].append(one)
    return list(found.values())


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_lookup_join_asks_a_table_by_the_key_of_the_stream(workers: int) -> None:
    def lookup(keys: list[int]) -> dict[int, str]:
        return {key: f"row {key}" for key in keys if key < 6}

    job, out = Pipeline("joins"), Collect()
    orders = keyed(job, Generator(int, COUNT), order)
    joined = orders.lookup_join(lookup, how="left", cache=LookupCache(size=3))
    joined.apply(lambda left, row: (left[2], row), name="joined").sink(out)

    job.start(workers=workers).wait()

    expected = [(one[2], f"row {one[0]}" if one[0] < 6 else None) for one in ORDERS]
    assert sorted(out.values) == sorted(expected)


def test_lookup_join_of_a_plain_stream_selects_its_key() -> None:
    job, out = Pipeline("joins"), Collect()
    stream = job.from_iterable([{"n": 1}, {"n": 2}])

    stream.lookup_join(lambda keys: {2: "two"}, by="n").apply(lambda one, row: row).sink(out)
    job.run(quiet=True)

    assert out.values == ["two"]


# --- what else can be drawn


def test_a_stream_may_be_joined_with_itself() -> None:
    job, out = Pipeline("joins"), Collect()
    stream = job.from_iterable([("a", 1), ("a", 2), ("b", 3)]).key_by(0)

    stream.join(stream).apply(lambda one, other: (one[1], other[1])).sink(out)
    job.run(quiet=True)

    assert sorted(out.values) == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 3)]


def test_a_pair_may_come_out_as_several_records() -> None:
    job, out = Pipeline("joins"), Collect()
    one = job.from_iterable([("a", 2), ("b", 0)]).key_by(0)

    one.join(job.from_iterable(["a", "b"]).key_by()).process(lambda n, key: [key] * n[1]).sink(out)
    job.run(quiet=True)

    assert out.values == ["a", "a"]


def straggling(number: int) -> Order:
    return 0, 0 if number == 500 else 10 * number, f"o{number}"


def test_late_records_leave_beside(state: Path) -> None:
    job, out, late = Pipeline("joins"), Collect(), Collect()
    left = keyed(job, Held(COUNT, state, completed=0, splits=1), straggling)
    right = keyed(job, Generator(int, 1), payment)
    joined = left.interval_join(right, lower="-1d", upper="1d").apply(id_pair, name="joined")

    joined.sink(out)
    joined.side_output("late-left").sink(late)
    job.run(quiet=True)

    assert [one[2] for one in late.values] == ["o500"]
    assert sorted(out.values) == sorted((f"o{n}", "p0") for n in range(COUNT) if n != 500)


# --- failures


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        ("interval", lambda: pairs_where(is_near)),
        ("window", lambda: pairs_where(is_in_one_window)),
        ("as_of", at_their_times),
    ],
)
def test_a_crash_in_the_middle_changes_nothing(
    draw: str, expected: Callable[[], list[Any]], state: Path
) -> None:
    def fail() -> None:
        raise OSError("once")

    job, out = Pipeline("joins"), Collect()
    held = Held(COUNT, state, completed=2, splits=1)
    orders = keyed(job, held, order, once_after_a_checkpoint(state, fail))
    payments = keyed(job, held, payment)
    joins: dict[str, Callable[[], Joined[Any, Any]]] = {
        "interval": lambda: orders.interval_join(
            payments, lower="-100ms", upper="200ms", upper_inclusive=False
        ),
        "window": lambda: orders.join(payments, window=Tumbling("100ms")),
        "as_of": lambda: orders.as_of_join(payments, how="left"),
    }
    joins[draw]().apply(id_pair, name="joined").sink(out, name="out")

    ended = job.run(state_dir=state, quiet=True, restart=TWICE, **QUICK)

    assert ended.attempts == 2
    assert sorted(out.values, key=str) == expected()


def test_records_without_event_time_fail_the_job_at_once(state: Path) -> None:
    job = Pipeline("joins")
    timed = job.from_iterable([1]).assign_timestamps(int)
    one = timed.map_batches(lambda records: [*records, 5]).key_by()  # Which loses the times.
    one.interval_join(one, lower="0s", upper="1s").pairs().sink(Collect())

    with pytest.raises(JobFailed, match="input have no event time") as caught:
        job.run(state_dir=state, quiet=True, restart=TWICE)
    assert len(caught.value.history) == 1
