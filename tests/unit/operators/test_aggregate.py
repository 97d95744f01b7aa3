from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from flowsnap.core.element import Batch
from flowsnap.errors import ConfigError
from flowsnap.operators.aggregate import Count, Fold, Max, Min, Sum
from flowsnap.operators.rolling import PAGE_RECORDS, Rolling
from tests.unit.operators.twin import TwinContext

BATCH = Batch([5, 1, 7, 3], [10, 20, 30, 40], ["a", "b", "a", "a"])


def append(values: list[int], value: int) -> list[int]:
    values.append(value)
    return values


def opened(operator: Rolling, context: TwinContext) -> Rolling:
    operator.open(context)
    return operator


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (Count(), [("a", 1), ("b", 1), ("a", 2), ("a", 3)]),
        (Sum(), [("a", 5), ("b", 1), ("a", 12), ("a", 15)]),
        (Min(), [("a", 5), ("b", 1), ("a", 5), ("a", 3)]),
        (Max(), [("a", 5), ("b", 1), ("a", 7), ("a", 7)]),
        (Fold(0, lambda old, new: old * 10 + new), [("a", 5), ("b", 1), ("a", 57), ("a", 573)]),
        (Fold(list, append), [("a", [5]), ("b", [1]), ("a", [5, 7]), ("a", [5, 7, 3])]),
    ],
)  # fmt: skip
def test_each_record_puts_out_key_and_value_at_its_own_time(
    operator: Rolling, expected: list[Any], context: TwinContext
) -> None:
    assert opened(operator, context).process(BATCH) == Batch(expected, [10, 20, 30, 40])


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (Count("batch"), [("a", 3), ("b", 1)]),
        (Sum("batch"), [("a", 15), ("b", 1)]),
        (Min("batch"), [("a", 3), ("b", 1)]),
        (Max("batch"), [("a", 7), ("b", 1)]),
        (Fold(0, lambda old, new: old * 10 + new, "batch"), [("a", 573), ("b", 1)]),
        (Fold(list, append, "batch"), [("a", [5, 7, 3]), ("b", [1])]),
    ],
)
def test_a_batch_puts_out_every_key_it_touched_once_and_without_a_time(
    operator: Rolling, expected: list[Any], context: TwinContext
) -> None:
    assert opened(operator, context).process(BATCH) == Batch(expected)


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (Count("final"), [("a", 6), ("b", 2)]),
        (Sum("final"), [("a", 30), ("b", 2)]),
        (Min("final"), [("a", 3), ("b", 1)]),
        (Max("final"), [("a", 7), ("b", 1)]),
        (Fold(list, append, "final"), [("a", [5, 7, 3, 5, 7, 3]), ("b", [1, 1])]),
    ],
)
def test_final_values_cover_what_came_before_a_barrier(
    operator: Rolling, expected: list[Any], context: TwinContext
) -> None:
    opened(operator, context).process(BATCH)
    context.freeze()
    operator.process(BATCH)

    assert [sorted(page.values) for page in operator.end_input()] == [expected]


def test_field_is_selected_from_the_records(context: TwinContext) -> None:
    batch = Batch([{"n": 4}, {"n": 3}], None, ["a", "a"])

    assert opened(Sum("each", "n"), context).process(batch).values == [("a", 4), ("a", 7)]


def test_merging_adds_up_partial_values_and_selects_no_field(context: TwinContext) -> None:
    for operator in (Count("final").merging(), Sum("final", "n").merging()):
        opened(operator, context).process(Batch([4, 3, 2], None, ["a", "b", "a"]))

        assert [sorted(page.values) for page in operator.end_input()] == [[("a", 6), ("b", 3)]]


def test_final_output_comes_in_bounded_batches(context: TwinContext) -> None:
    operator = opened(Count("final"), context)
    keys = list(range(2 * PAGE_RECORDS + 1))
    operator.process(Batch(keys, None, keys))

    assert [len(page) for page in operator.end_input()] == [PAGE_RECORDS, PAGE_RECORDS, 1]


@pytest.mark.parametrize("emit", ["each", "batch"])
def test_emitted_accumulator_does_not_change_with_later_records(
    context: TwinContext, emit: Any
) -> None:
    operator = opened(Fold(list, append, emit), context)
    first = operator.process(Batch([1], None, ["a"]))

    operator.process(Batch([2], None, ["a"]))

    assert first.values == [("a", [1])]


@pytest.mark.parametrize(
    ("values", "total"),
    [([True], 1), ([True, True], 2), ([Decimal("0.1")] * 3, Decimal("0.3")), (["x", "y"], "xy")],
)
def test_sum_keeps_the_type_of_its_values(
    context: TwinContext, values: list[Any], total: Any
) -> None:
    outputs = opened(Sum(), context).process(Batch(values, None, ["a"] * len(values)))

    assert repr(outputs.values[-1]) == repr(("a", total))


@pytest.mark.parametrize("operator", [Min(), Max()])
def test_first_of_equal_values_is_kept(operator: Rolling, context: TwinContext) -> None:
    opened(operator, context).process(Batch([1, 1.0], None, ["a", "a"]))

    assert type(context.table(operator.state).get("a")) is int


def test_aggregates_of_different_kinds_have_states_of_different_names() -> None:
    assert len({kind.state for kind in (Count, Sum, Min, Max, Fold)}) == 5


@pytest.mark.parametrize("initial", [[], {}, set(), ([],)])
def test_initial_value_that_could_be_changed_in_place_is_refused(initial: Any) -> None:
    with pytest.raises(ConfigError, match=f"a {type(initial).__name__}, can be changed in place"):
        Fold(initial, append)
