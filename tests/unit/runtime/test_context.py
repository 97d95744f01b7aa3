"""What operators emit beside the main output, and what they count."""

from __future__ import annotations

from itertools import repeat

from hypothesis import given
from hypothesis import strategies as st

from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, OperatorId
from flowsnap.runtime.context import NoTables, Place, SideBuffer, TaskContext

Emitted = list[tuple[int, int | None]]


def opened() -> TaskContext:
    place = Place("job", 0, 1, AttemptId(1), wall_ms=lambda: 0)
    return TaskContext(NoTables(), OperatorId("op"), place)


def test_side_output_keeps_the_event_times_where_records_with_and_without_mix() -> None:
    buffer = SideBuffer()

    buffer.add_all([1, 2], [10, 20])
    buffer.add(3)
    buffer.add(4, 40)

    assert buffer.take() == [Batch([1, 2], [10, 20]), Batch([3]), Batch([4], [40])]
    assert buffer.take() == []


@given(st.lists(st.tuples(st.integers(), st.none() | st.integers())))
def test_side_output_loses_no_record_no_time_and_no_order(emitted: Emitted) -> None:
    buffer = SideBuffer()
    for value, at_ms in emitted:
        buffer.add(value, at_ms)

    found: Emitted = []
    for batch in buffer.take():
        times = batch.timestamps or repeat(None, len(batch))
        found += zip(batch.values, times, strict=True)

    assert found == emitted


def test_counter_of_one_name_is_one() -> None:
    context = opened()

    context.counter("late").increase()
    context.counter("late").increase(3)
    context.counter("retries")

    values = {name: counter.value for name, counter in context.counters.items()}
    assert values == {"late": 4, "retries": 0}
