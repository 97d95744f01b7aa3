from __future__ import annotations

from operator import length_hint

import pytest

from flowsnap.core.element import Batch
from flowsnap.operators.flat_map import FlatMap


def test_outputs_of_all_records_follow_each_other() -> None:
    assert FlatMap(str.split).process(Batch(["a b", "", "c"])) == Batch(["a", "b", "c"])


def test_every_output_has_the_event_time_of_its_record() -> None:
    batch = Batch(["a b", "", "c"], [10, 20, 30])

    assert FlatMap(str.split).process(batch) == Batch(["a", "b", "c"], [10, 10, 30])


def test_generators_are_run_to_their_end() -> None:
    assert FlatMap(lambda n: (n for _ in range(n))).process(Batch([1, 0, 2])) == Batch([1, 2, 2])


def test_cursor_stands_behind_the_record_whose_output_is_not_iterable() -> None:
    operator = FlatMap(lambda value: value)

    with pytest.raises(TypeError):
        operator.process(Batch([[1], 5, [2]]))

    assert length_hint(operator.cursor) == 1
