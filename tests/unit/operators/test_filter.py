from __future__ import annotations

from operator import length_hint

import pytest

from flowsnap.core.element import Batch
from flowsnap.operators.filter import Filter


def is_even(value: int) -> bool:
    return value % 2 == 0


def test_records_that_pass_keep_their_order() -> None:
    assert Filter(is_even).process(Batch([4, 1, 2, 3])) == Batch([4, 2])


def test_event_times_of_dropped_records_are_dropped_with_them() -> None:
    batch = Batch([4, 1, 2, 3], [10, 20, 30, 40])

    assert Filter(is_even).process(batch) == Batch([4, 2], [10, 30])


def test_truth_is_that_of_python() -> None:
    assert Filter(lambda value: value).process(Batch([0, "", "a", None, 7])) == Batch(["a", 7])


def test_given_batch_is_not_changed() -> None:
    batch = Batch([1, 2], [10, 20])

    Filter(is_even).process(batch)

    assert batch == Batch([1, 2], [10, 20])


@pytest.mark.parametrize("timestamps", [None, [1, 2, 3, 4]])
def test_cursor_stands_behind_the_record_that_failed(timestamps: list[int] | None) -> None:
    operator = Filter(lambda value: 1 // value)

    with pytest.raises(ZeroDivisionError):
        operator.process(Batch([4, 2, 0, 1], timestamps))

    assert length_hint(operator.cursor) == 1
