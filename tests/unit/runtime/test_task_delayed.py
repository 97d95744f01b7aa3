"""A task whose operator lets records go later than they come."""

from __future__ import annotations

from flowsnap.core.element import Active, Batch, Idle, Watermark
from flowsnap.operators import Map, RateLimit
from tests.unit.runtime.bench import END, A, B, Bench
from tests.unit.runtime.parts import ListSource

# The clock stands still, so that one record passes and the next never does.


def test_what_becomes_ready_leaves_although_no_batch_is_accepted() -> None:
    bench = Bench(RateLimit(1))

    bench.feed(A, Batch([1, 2]), Batch([3]))

    assert bench.flow == [[1]]
    assert len(bench.runner.inputs[A].queue) == 1


def test_a_watermark_leaves_once_all_before_it_has_although_nothing_more_comes() -> None:
    bench = Bench(RateLimit(1))
    bench.runner.inputs[B].receive(Watermark(5))

    bench.feed(A, Batch([1], [4]), Watermark(5))

    assert bench.flow == [[1], Watermark(5)]


def test_a_watermark_stays_while_something_before_it_is_held() -> None:
    bench = Bench(RateLimit(1))
    bench.runner.inputs[B].receive(Watermark(5))

    bench.feed(A, Batch([1, 2], [3, 4]), Watermark(5))

    assert bench.flow == [[1]]


def test_a_task_is_idle_where_its_input_is_and_nothing_is_held() -> None:
    bench = Bench(RateLimit(1))
    bench.feed(A, Idle())
    bench.feed(B, Idle())
    assert bench.flow == [Idle()]

    bench.feed(A, Active())

    assert bench.flow == [Idle(), Active()]


def test_records_that_are_held_keep_a_task_from_being_idle() -> None:
    bench = Bench(RateLimit(1))
    bench.feed(B, Idle())

    bench.runner.inputs[A].receive(Batch([1, 2]))
    bench.feed(A, Idle())

    assert bench.flow == [[1]]


def test_what_is_held_is_looked_after_and_nothing_is_where_nothing_is_held() -> None:
    bench = Bench(RateLimit(1))
    assert bench.runner.next_step_ms(7) is None

    bench.feed(A, Batch([1, 2]))

    assert bench.runner.next_step_ms(7) == 9


def test_what_is_held_at_the_end_of_input_is_looked_after() -> None:
    bench = Bench(RateLimit(1))

    bench.feed(A, Batch([1, 2]), END)
    bench.feed(B, END)

    assert bench.flow == [[1]]
    assert bench.runner.next_step_ms(7) == 9


def test_nothing_is_looked_after_once_the_task_has_ended() -> None:
    bench = Bench(RateLimit(1))

    bench.feed(A, Batch([1]), END)
    bench.feed(B, END)

    assert bench.flow == [[1], END]
    assert bench.runner.next_step_ms(7) is None


def test_clock_is_not_waited_for_once_the_task_has_ended() -> None:
    class Clocked(Map):
        uses_processing_time = True

        def next_processing_time_ms(self) -> int:
            return 50

    bench = Bench(Clocked(str))
    assert bench.runner.next_step_ms(7) is not None

    bench.feed(A, END)
    bench.feed(B, END)

    assert bench.runner.next_step_ms(7) is None


def test_source_that_may_not_read_on_does_not_keep_its_worker_awake() -> None:
    bench = Bench(RateLimit(1), source=ListSource({"numbers": [1, 2, 3]}))

    bench.work()

    assert bench.runner.next_step_ms(5) == 7
