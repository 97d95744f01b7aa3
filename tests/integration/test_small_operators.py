"""The small operators in whole jobs, each through the methods of the streams."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from flowsnap import KeyedProcess, KeyedStream, Pipeline, Stream
from flowsnap.connectors import Collect
from flowsnap.errors import ConfigError

ORDERS = [("ann", 5, 1), ("bob", 7, 2), ("ann", 3, 4), ("bob", 1, 5), ("ann", 8, 9)]


class Draft:
    """A pipeline, and where its end goes."""

    def __init__(self) -> None:
        self.pipeline = Pipeline("small")
        self.out = Collect()

    @property
    def orders(self) -> Stream[Any]:
        return self.pipeline.from_iterable(ORDERS)

    @property
    def by_name(self) -> KeyedStream[Any, Any]:
        return self.orders.key_by(0)

    def outputs(self, stream: Any, workers: int = 0) -> list[Any]:
        stream.sink(self.out)
        if workers:
            self.pipeline.start(workers=workers).wait()
        else:
            self.pipeline.run(workers=0, quiet=True)
        return list(self.out.values)


@pytest.fixture
def draft() -> Draft:
    return Draft()


def test_deduplicate_by_a_selector_and_by_the_key(draft: Draft) -> None:
    assert draft.outputs(draft.orders.deduplicate(0, ttl="1h", name="once")) == ORDERS[:2]


def test_deduplicate_on_a_keyed_stream(draft: Draft) -> None:
    assert draft.outputs(draft.by_name.deduplicate()) == ORDERS[:2]


def test_records_are_their_own_keys_where_none_is_given() -> None:
    draft = Draft()

    assert draft.outputs(draft.pipeline.from_iterable([2, 1, 2, 1]).deduplicate()) == [2, 1]


def test_top_n(draft: Draft) -> None:
    found = draft.outputs(draft.by_name.top_n(1, by=1, emit="final"))

    assert sorted(found) == [("ann", [ORDERS[4]]), ("bob", [ORDERS[1]])]


def test_over_rows(draft: Draft) -> None:
    found = draft.outputs(draft.by_name.over({"mean": ("mean", 1), "n": "count"}, rows=2))

    assert [aggregates for _, aggregates in found] == [
        {"mean": 5, "n": 1},
        {"mean": 7, "n": 1},
        {"mean": 4, "n": 2},
        {"mean": 4, "n": 2},
        {"mean": 5.5, "n": 2},
    ]


def test_over_a_range_of_event_time(draft: Draft) -> None:
    timed = draft.orders.assign_timestamps(lambda order: order[2], "1ms").key_by(0)

    found = draft.outputs(timed.over({"sum": ("sum", 1)}, range="5ms"))

    assert sorted((order, sums["sum"]) for order, sums in found) == sorted(
        zip(ORDERS, [5, 7, 8, 8, 11], strict=True)
    )


def test_stateful_map(draft: Draft) -> None:
    def growth(last: int, order: tuple[str, int, int]) -> tuple[int, int]:
        return order[1], order[1] - last

    assert draft.outputs(draft.by_name.stateful_map(growth, 0)) == [5, 7, -2, -6, 5]


def test_map_batches(draft: Draft) -> None:
    found = draft.outputs(draft.orders.map_batches(lambda batch: batch[::-1]))

    assert sorted(found) == sorted(ORDERS)


def test_rate_limit_slows_the_job_down_and_wakes_up_by_itself(draft: Draft) -> None:
    began = time.monotonic()

    assert draft.outputs(draft.orders.rate_limit(50)) == ORDERS

    assert time.monotonic() - began >= 0.08


class Mean(KeyedProcess[Any, Any]):
    """The running mean of the amounts, as an aggregate in state."""

    def open(self, context: Any) -> None:
        self.mean = context.aggregating_state("mean", self)

    def process(self, order: Any, context: Any) -> Iterator[Any]:
        self.mean.add(order[1])
        yield self.mean.get()

    def create(self) -> tuple[int, int]:
        return 0, 0

    def add(self, accumulator: tuple[int, int], value: int) -> tuple[int, int]:
        return accumulator[0] + 1, accumulator[1] + value

    def result(self, accumulator: tuple[int, int]) -> float:
        return accumulator[1] / accumulator[0]


def test_an_aggregating_state_of_a_step_of_ones_own(draft: Draft) -> None:
    assert draft.outputs(draft.by_name.process(Mean)) == [5, 7, 4, 4, 16 / 3]


def test_all_of_them_on_two_workers(draft: Draft) -> None:
    numbers = draft.pipeline.from_iterable(range(3_000), name="numbers")
    steps = (
        numbers.rate_limit(1e6)
        .map_batches(lambda batch: [n % 100 for n in batch])
        .deduplicate(name="once")
        .key_by(lambda n: n % 7)
        .over({"n": "count"}, rows=100)
        .key_by(lambda pair: pair[0] % 7)
        .stateful_map(lambda seen, pair: (seen + 1, (pair[0], seen + 1)), 0)
        .key_by(lambda pair: pair[0] % 7)
        .top_n(1, by=1, emit="final")
    )

    found = dict(draft.outputs(steps, workers=2))

    assert {key: best[0][1] for key, best in found.items()} == {
        key: len(range(key, 100, 7)) for key in range(7)
    }


@pytest.mark.parametrize(
    "draw",
    [
        lambda d: d.by_name.over({"n": "count"}),
        lambda d: d.by_name.over({"n": "count"}, rows=1, range="1s"),
        lambda d: d.by_name.over({"n": "median"}, rows=1),
        lambda d: d.by_name.top_n(0),
        lambda d: d.by_name.stateful_map(len, []),
        lambda d: d.orders.deduplicate(1.5),
        lambda d: d.orders.rate_limit(0),
        lambda d: d.orders.map_batches("fn"),
        lambda d: d.orders.async_map(len),
        lambda d: d.orders.async_map(len, speed=5),
    ],
)
def test_wrong_arguments_are_refused_where_they_are_drawn(draft: Draft, draw: Any) -> None:
    with pytest.raises(ConfigError) as refusal:
        draw(draft)
    assert refusal.value.__notes__ or "selector" in str(refusal.value)
