from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from flowsnap.core.operator import MISSING
from flowsnap.errors import ConfigError
from flowsnap.operators.window import (
    Aggregate,
    ApproxDistinctCount,
    CollectList,
    Count,
    DistinctCount,
    First,
    Last,
    Max,
    Mean,
    Min,
    Reduce,
    Sum,
    TopK,
)
from flowsnap.operators.window.aggregate import Aggregates

CASES = [
    (Sum(), 18),
    (Count(), 5),
    (Min(), 1),
    (Max(), 8),
    (Mean(), 3.6),
    (First(), 3),
    (Last(), 5),
    (TopK(3), [8, 5, 3]),
    (TopK(2, by=lambda value: -value), [1, 1]),
    (CollectList(), [3, 1, 8, 1, 5]),
    (DistinctCount(), 4),
    (ApproxDistinctCount(), 4),
    (Reduce(lambda one, other: one * other), 120),
]
VALUES = [3, 1, 8, 1, 5]


@pytest.mark.parametrize(("aggregate", "expected"), CASES)
def test_values_may_come_in_any_parts(aggregate: Aggregate, expected: object) -> None:
    for cut in range(len(VALUES)):
        accumulator = aggregate.create()
        for part in (VALUES[:cut], VALUES[cut:]):
            if part:
                accumulator = aggregate.add_many(accumulator, part)
        assert aggregate.results([accumulator]) == [expected]


@pytest.mark.parametrize(("aggregate", "expected"), CASES)
def test_merging_has_all_values_and_changes_neither_side(
    aggregate: Aggregate, expected: object
) -> None:
    one = aggregate.add_many(aggregate.create(), VALUES[:2])
    other = aggregate.add_many(aggregate.create(), VALUES[2:])
    before = aggregate.results([one, other])

    assert aggregate.results([aggregate.merge(one, other)]) == [expected]
    assert aggregate.results([one, other]) == before


@pytest.mark.parametrize(("aggregate", "expected"), CASES)
def test_an_accumulator_can_be_put_into_another(aggregate: Aggregate, expected: object) -> None:
    one = aggregate.add_many(aggregate.create(), VALUES[:2])
    other = aggregate.add_many(aggregate.create(), VALUES[2:])
    before = aggregate.results([other])

    assert aggregate.results([aggregate.absorb(one, other)]) == [expected]
    assert aggregate.results([other]) == before


@pytest.mark.parametrize(("aggregate", "expected"), CASES)
def test_a_column_folds_each_key_by_itself(aggregate: Aggregate, expected: object) -> None:
    column = aggregate.column()
    keys = ["a", "a", "b", "a", "a", "a", "b"]

    aggregate.fold_into(column, keys[:3], [3, 1, 7])
    aggregate.fold_into(column, keys[3:], [8, 1, 5, 7])

    assert list(column) == ["a", "b"]
    assert aggregate.results(column.values())[0] == expected


@pytest.mark.parametrize(("aggregate", "expected"), CASES)
def test_a_column_merges_another(aggregate: Aggregate, expected: object) -> None:
    column, other = aggregate.column(), aggregate.column()
    aggregate.fold_into(column, ["a", "a"], VALUES[:2])
    aggregate.fold_into(other, ["b", "a", "a", "a"], [9, *VALUES[2:]])

    aggregate.merge_into(column, list(other), other.values())

    assert aggregate.results(column.values())[0] == expected


@pytest.mark.parametrize("aggregate", [CollectList(), TopK(9)])
def test_a_result_does_not_change_with_its_accumulator(aggregate: Aggregate) -> None:
    accumulator = aggregate.add_many(aggregate.create(), [1])
    result = aggregate.result(accumulator)

    aggregate.add_many(accumulator, [2])

    assert result == [1]


def test_sums_are_of_anything_that_can_be_added() -> None:
    assert Sum().add_many(MISSING, [Decimal("0.1")] * 3) == Decimal("0.3")
    assert Sum().add_many(MISSING, ["a", "b"]) == "ab"
    assert math.isclose(Sum().add_many(0.5, [0.25, 0.25]), 1.0)


def test_the_sum_of_one_bool_is_an_int() -> None:
    assert [type(value) for value in Sum().results([True, 2])] == [int, int]


def test_a_selector_says_what_is_aggregated() -> None:
    aggregates = Aggregates(None, {"total": Sum("x"), "n": Count(), "top": TopK(1, by="x")})

    found = aggregates.add_many(MISSING, [{"x": 1}, {"x": 5}])

    assert aggregates.result(found) == {"total": 6, "n": 2, "top": [{"x": 5}]}


def test_one_aggregate_without_a_name_is_the_value_itself() -> None:
    aggregates = Aggregates(Max())

    assert aggregates.result(aggregates.add_many(MISSING, [3, 4])) == 4


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c"]])
def test_several_results_are_dicts_by_name(names: list[str]) -> None:
    aggregates = Aggregates(None, dict.fromkeys(names, Sum()))
    columns = aggregates.columns()
    aggregates.fold_into(columns, ["x", "y"], [1, 2])

    values = aggregates.values([column.values() for column in columns])

    assert values == [dict.fromkeys(names, 1), dict.fromkeys(names, 2)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Aggregates, "pass one aggregate"),
        (lambda: Aggregates(Sum(), {"n": Count()}), "pass one aggregate"),
        (lambda: Aggregates(None, {"n": Count}), "is not an aggregate"),  # type: ignore[dict-item]
        (lambda: Aggregates(None, {"start": Count()}), "'start' is a field"),
        (lambda: TopK(0), "not a positive int"),
        (lambda: Sum(1.5), "does not select anything"),  # type: ignore[arg-type]
        (lambda: TopK(1, by=1.5), "does not select anything"),  # type: ignore[arg-type]
        (lambda: Reduce("sum"), "not a function"),  # type: ignore[arg-type]
        (lambda: ApproxDistinctCount(precision=3), "precision 3 is not between 4 and 18"),
        (lambda: ApproxDistinctCount(precision=19), "precision"),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
