"""What needs event time says so before anything runs, where no step above can give it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowsnap import ConfigError, KeyedStream, Pipeline, Session, Tumbling, bounded
from flowsnap.connectors import Discard, Generator
from flowsnap.operators.window import Global, TumblingCount, TumblingProcessingTime

NEEDY: dict[str, Callable[[KeyedStream[int, int]], Any]] = {
    "windows": lambda keyed: keyed.window(Tumbling("1s")).count(name="needy"),
    "sessions": lambda keyed: keyed.window(Session("1s")).process(lambda *_: [], name="needy"),
    "over": lambda keyed: keyed.over({"n": "count"}, range="1s", name="needy"),
    "interval": lambda keyed: keyed.interval_join(keyed, lower="0s", upper="1s").pairs(
        name="needy"
    ),
    "co-group": lambda keyed: keyed.co_group(keyed, window=Tumbling("1s")).apply(
        lambda *_: 1, name="needy"
    ),
    "as-of": lambda keyed: keyed.as_of_join(keyed).pairs(name="needy"),
}


@pytest.mark.parametrize("kind", NEEDY)
def test_what_needs_event_time_is_refused_without_it_before_anything_runs(kind: str) -> None:
    job = Pipeline("timeless")
    numbers = job.from_iterable([1], name="numbers").map(abs).filter(bool)
    NEEDY[kind](numbers.key_by()).sink(Discard())

    with pytest.raises(ConfigError, match=r"'needy' \(.*needs event times.*'numbers' have none"):
        job.definition()


@pytest.mark.parametrize("kind", NEEDY)
def test_event_time_may_come_from_any_step_above(kind: str) -> None:
    job = Pipeline("timed")
    timed = job.from_iterable([1]).assign_timestamps(int).map(abs)
    NEEDY[kind](timed.rebalance().filter(bool).key_by()).sink(Discard())

    job.definition()


def test_one_stream_of_a_union_without_event_time_is_found() -> None:
    job = Pipeline("union")
    timed = job.source(Generator(int, 5), watermark=bounded(timestamp=int))
    both = timed.union(job.from_iterable([1], name="timeless"))
    both.window_all(Tumbling("1s")).count().sink(Discard())

    with pytest.raises(ConfigError, match="the records of 'timeless' have none"):
        job.definition()


def test_source_of_ones_own_may_give_event_times_by_itself() -> None:
    class Own(Generator):
        pass

    job = Pipeline("own")
    job.source(Own(int, 5)).window_all(Tumbling("1s")).count().sink(Discard())

    job.definition()


def test_what_goes_by_the_clock_or_by_number_needs_no_event_time() -> None:
    job = Pipeline("timeless")
    keyed = job.from_iterable([1]).key_by()
    for assigner in (TumblingCount(5), Global(), TumblingProcessingTime("1s")):
        keyed.window(assigner).count().sink(Discard())

    job.definition()


def test_window_without_a_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="window: the stream has no keys") as caught:
        Pipeline("job").from_iterable([1]).window(Tumbling("1s"))

    assert "window_all" in caught.value.__notes__[0]
