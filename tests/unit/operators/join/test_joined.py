from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from flowsnap import KeyedStream, Pipeline
from flowsnap.connectors import Collect
from flowsnap.core.operator import Operator
from flowsnap.errors import ConfigError
from flowsnap.operators.join import IntervalJoin, LookupJoin, StreamJoin, WindowJoin
from flowsnap.operators.window.assigner import Tumbling, TumblingProcessingTime

Keyed = KeyedStream[Any, Any]
BY_CLOCK = TumblingProcessingTime("1s")


def keyed(job: Pipeline) -> Keyed:
    return job.from_iterable([1]).assign_timestamps(int).key_by()


def drawn(draw: Callable[[Keyed, Keyed], Any]) -> Operator:
    """Return the operator that a join of two streams is."""
    job = Pipeline("job")
    left, right = keyed(job), keyed(job)
    draw(left, right).pairs(name="joined").sink(Collect())
    right.count().sink(Collect())
    code = next(code for name, code in job.definition().code.items() if name == "joined")
    assert isinstance(code, Operator)
    return code


def bounds(**arguments: Any) -> tuple[int, int]:
    join = drawn(lambda left, right: left.interval_join(right, **arguments))
    assert isinstance(join, IntervalJoin)
    return join.lower_ms, join.upper_ms


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        ("-5s", "10s", (-5_000, 10_000)),
        (" - 2s", "-1s", (-2_000, -1_000)),
        (timedelta(seconds=-1), timedelta(0), (-1_000, 0)),
    ],
)
def test_bounds_may_be_negative(lower: Any, upper: Any, expected: tuple[int, int]) -> None:
    assert bounds(lower=lower, upper=upper) == expected


def test_an_exclusive_bound_is_one_ms_further_in() -> None:
    assert bounds(lower="0s", upper="1s", lower_inclusive=False) == (1, 1_000)
    assert bounds(lower="0s", upper="1s", upper_inclusive=False) == (0, 999)


def test_ttl_window_and_lateness_reach_the_operator() -> None:
    by_ttl = drawn(lambda left, right: left.join(right, how="left", ttl="2s"))
    by_window = drawn(
        lambda left, right: left.join(
            right, how="full", window=Tumbling("1s"), allowed_lateness="3s"
        )
    )

    assert isinstance(by_ttl, StreamJoin)
    assert (by_ttl.how, by_ttl.ttl_ms) == ("left", 2_000)
    assert isinstance(by_window, WindowJoin)
    assert (by_window.how, by_window.allowed_lateness_ms) == ("full", 3_000)


def test_a_lookup_goes_by_the_key_of_a_keyed_stream_unless_told_otherwise() -> None:
    by_key = drawn(lambda left, _: left.lookup_join(dict.fromkeys))
    by_field = drawn(lambda left, _: left.lookup_join(dict.fromkeys, by="id"))

    assert isinstance(by_key, LookupJoin)
    assert isinstance(by_field, LookupJoin)
    assert (by_key.is_by_key, by_field.is_by_key) == (True, False)


def test_the_inputs_are_ports_and_come_by_hash() -> None:
    job = Pipeline("job")
    keyed(job).join(keyed(job)).pairs(name="joined").sink(Collect())

    edges = [edge for edge in job.definition(2).graph.edges if edge.target == "joined"]
    assert [(edge.port, edge.partitioning) for edge in edges] == [(0, "hash"), (1, "hash")]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda x, y: x.interval_join(y, lower="1s", upper="0s"), "no time is between lower"),
        (
            lambda x, y: x.interval_join(y, lower="0s", upper="0s", upper_inclusive=False),
            "no time is between lower",
        ),
        (lambda x, y: x.interval_join(y, lower="soon", upper="0s"), "interval_join lower: 'soon'"),
        (lambda x, y: x.interval_join(y, lower="0s", upper=5), "interval_join upper: 5"),
        (lambda x, y: x.join(y, how="outer"), "how: 'outer' is not"),
        (lambda x, y: x.join(y, window="1m"), "join: '1m' is not a window in event time"),
        (lambda x, y: x.join(y, ttl="0s"), "join ttl: '0s' is shorter than 1 ms"),
        (lambda x, y: x.join(y, ttl="1s", window=Tumbling("1s")), "a window and a ttl exclude"),
        (lambda x, y: x.join(y, allowed_lateness="1s"), "allowed_lateness is that of a window"),
        (lambda x, y: x.co_group(y, window=None), "co_group: None is not a window in event time"),
        (
            lambda x, y: x.join(y, window=BY_CLOCK),
            "join: TumblingProcessingTime.* is not a",
        ),
        (lambda x, y: x.as_of_join(y, how="right"), "how: 'right' is not 'inner' or 'left'"),
        (lambda x, y: x.lookup_join("table"), "lookup_join: 'table' is not a function"),
        (lambda x, y: x.join(y).apply("fn"), "join: 'fn' is not a function"),
        (lambda x, y: x.join(y).apply(None), "join: None is not a function"),
        (lambda x, y: x.join(y).process(None), "join: None is not a function"),
        (lambda x, y: x.co_group(y, window=Tumbling("1s")).apply(None), "None is not a function"),
        (lambda x, y: x.join(keyed(Pipeline("b"))), "belong to different pipelines"),
        (lambda x, y: x.join(y.map(abs)), "is not a keyed stream"),
        (lambda x, y: x.interval_join([1], lower="0s", upper="1s"), "is not a keyed stream"),
        (lambda x, y: x.as_of_join(None), "as_of_join: None is not a keyed stream"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_where_they_are_given(
    draw: Callable[[Any, Any], Any], message: str
) -> None:
    job = Pipeline("job")
    left, right = keyed(job), keyed(job)

    with pytest.raises(ConfigError, match=message):
        draw(left, right)
