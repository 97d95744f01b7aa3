from __future__ import annotations

from collections import Counter
from operator import add, length_hint
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.core.element import Batch
from flowsnap.operators.aggregate import Count, Max, Min, Sum
from flowsnap.operators.combine import Combine
from flowsnap.operators.reduce import Reduce
from flowsnap.operators.rolling import PAGE_RECORDS, Rolling
from tests.unit.operators.twin import TwinContext

BATCH = Batch([5, 1, 7, 3], [10, 20, 30, 40], ["a", "b", "a", "a"])


def opened(combine: Combine, context: TwinContext) -> Combine:
    combine.open(context)
    return combine


def partials(batches: Any) -> list[tuple[Any, Any]]:
    return [pair for b in batches for pair in zip(b.keys, b.values, strict=True)]


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        (Count("batch"), [3, 1]),
        (Sum("batch"), [15, 1]),
        (Min("batch"), [3, 1]),
        (Max("batch"), [7, 1]),
        (Reduce(add, "batch"), [15, 1]),
    ],
)
def test_per_batch_partial_values_leave_with_their_batch(
    aggregate: Rolling, expected: list[int], context: TwinContext
) -> None:
    combine = opened(Combine(aggregate), context)

    assert combine.process(BATCH) == Batch(expected, None, ["a", "b"])
    assert list(combine.before_barrier()) == []


def test_final_partial_values_stay_until_a_barrier(context: TwinContext) -> None:
    combine = opened(Combine(Count("final")), context)

    assert combine.process(BATCH) == Batch([], None, [])
    combine.process(BATCH)
    assert list(combine.before_barrier()) == [Batch([6, 2], None, ["a", "b"])]
    assert list(combine.end_input()) == []


def test_final_partial_values_leave_at_the_end_of_input(context: TwinContext) -> None:
    combine = opened(Combine(Sum("final")), context)
    combine.process(BATCH)

    assert list(combine.end_input()) == [Batch([15, 1], None, ["a", "b"])]


def test_partial_values_leave_once_there_are_more_keys_than_allowed(context: TwinContext) -> None:
    combine = opened(Combine(Count("final"), keys_max=2), context)

    assert combine.process(Batch(list("ab"), None, list("ab"))).keys == []
    assert combine.process(Batch(list("ca"), None, list("ca"))).keys == ["a", "b", "c"]
    assert list(combine.before_barrier()) == []


def test_what_leaves_is_cut_into_bounded_batches(context: TwinContext) -> None:
    combine = opened(Combine(Count("final"), keys_max=PAGE_RECORDS), context)
    keys = list(range(PAGE_RECORDS))
    sizes = [len(combine.process(Batch(keys, None, [key + n for key in keys]))) for n in (0, 1, 1)]

    assert sizes == [0, PAGE_RECORDS, 1]


@settings(max_examples=60)
@given(
    batches=st.lists(st.lists(st.integers(0, 12), min_size=1), max_size=12),
    barriers=st.sets(st.integers(0, 12)),
    keys_max=st.integers(1, 15),
)
def test_no_record_is_lost_or_counted_twice(
    batches: list[list[int]], barriers: set[int], keys_max: int
) -> None:
    combine = opened(Combine(Count("final"), keys_max=keys_max), TwinContext())
    out: list[Batch] = []
    for number, keys in enumerate(batches):
        out.append(combine.process(Batch(keys, None, keys)))
        out += combine.before_barrier() if number in barriers else ()
    out += combine.end_input()

    total: Counter[int] = Counter()
    for key, count in partials(out):
        total[key] += count
    assert total == Counter(key for keys in batches for key in keys)


@given(st.lists(st.tuples(st.integers(0, 3), st.text("xyz", max_size=2)), min_size=1))
def test_records_of_a_key_are_reduced_in_their_order(pairs: list[tuple[int, str]]) -> None:
    reduce = Reduce(add, "final")
    combine, merging = opened(Combine(reduce, keys_max=1), TwinContext()), reduce.merging()
    merging.open(TwinContext())
    for key, value in pairs:
        merging.process(combine.process(Batch([value], None, [key])))
    for batch in combine.end_input():
        merging.process(batch)

    expected = {k: "".join(v for key, v in pairs if key == k) for k, _ in pairs}
    assert dict(merging.table.items()) == expected


def test_field_is_selected_before_combining(context: TwinContext) -> None:
    combine = opened(Combine(Max("batch", "n")), context)

    assert combine.process(Batch([{"n": 4}, {"n": 9}], None, ["a", "a"])).values == [9]


def test_cursor_stands_behind_the_record_that_failed(context: TwinContext) -> None:
    combine = opened(Combine(Sum("final", "n")), context)

    with pytest.raises(KeyError):
        combine.process(Batch([{"n": 1}, {"n": 2}, {}, {"n": 3}], None, ["a"] * 4))

    assert length_hint(combine.cursor) == 1


def test_copies_of_one_template_share_nothing() -> None:
    template = Count("final")
    first, second = (opened(Combine(template), TwinContext()) for _ in range(2))

    first.process(BATCH)

    assert list(second.end_input()) == []
