from __future__ import annotations

import pytest

from flowsnap.operators.window import ApproxDistinctCount


@pytest.mark.parametrize("precision", [8, 12, 14])
@pytest.mark.parametrize("count", [1, 10, 300, 3_000, 60_000])
def test_the_error_is_within_four_standard_deviations(precision: int, count: int) -> None:
    counter = ApproxDistinctCount(precision=precision)

    found = counter.result(counter.add_many(counter.create(), range(count)))

    assert abs(found - count) <= max(1, 4 * counter.standard_error * count)


@pytest.mark.parametrize(("few", "many"), [(10, 5_000), (5_000, 10), (5_000, 9_000), (7, 11)])
def test_a_merge_is_the_count_of_all(few: int, many: int) -> None:
    counter = ApproxDistinctCount(precision=12)
    one = counter.add_many(counter.create(), range(few))
    other = counter.add_many(counter.create(), range(1, many))

    both = counter.add_many(counter.create(), range(max(few, many)))

    assert counter.result(counter.merge(one, other)) == counter.result(both)


def test_an_accumulator_is_never_larger_than_its_registers() -> None:
    counter = ApproxDistinctCount(precision=10)
    sparse = counter.add_many(counter.create(), range(20))
    dense = counter.add_many(sparse, range(10_000))

    assert isinstance(sparse, dict)
    assert isinstance(dense, bytearray)
    assert len(dense) == 1024


def test_equal_values_are_one_whatever_their_type_and_process() -> None:
    counter = ApproxDistinctCount()

    found = counter.add_many(counter.create(), [1, 1.0, True, "a", ("a", 1)])

    assert counter.result(found) == 3
    assert found == counter.add_many({}, [("a", 1.0), "a", 1])
