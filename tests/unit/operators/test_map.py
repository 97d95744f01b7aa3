from __future__ import annotations

from operator import length_hint

import pytest

from flowsnap.core.element import Batch
from flowsnap.operators.map import Map


def double(value: int) -> int:
    return 2 * value


def test_every_record_is_replaced_in_order() -> None:
    assert Map(double).process(Batch([1, 2, 3])) == Batch([2, 4, 6])


def test_event_times_stay_with_their_records() -> None:
    assert Map(double).process(Batch([1, 2], [10, 20])) == Batch([2, 4], [10, 20])


def test_keys_are_dropped_since_the_record_they_were_made_of_is_gone() -> None:
    assert Map(double).process(Batch([1], None, ["a"])).keys is None


def test_empty_batch_comes_out_empty() -> None:
    assert Map(double).process(Batch([])) == Batch([])


def test_cursor_stands_behind_the_record_that_failed() -> None:
    operator = Map(lambda value: 1 // value)

    with pytest.raises(ZeroDivisionError):
        operator.process(Batch([4, 0, 2, 1]))

    assert length_hint(operator.cursor) == 2


def test_lazy_asks_for_one_record_per_output() -> None:
    asked = iter([1, 2, 3])

    outputs = iter(Map(double).lazy(asked))

    assert (next(outputs), next(asked)) == (2, 2)
