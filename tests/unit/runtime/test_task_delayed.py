"""A task whose operator lets records go later than they come."""

from __future__ import annotations

from flowsnap.core.element import Active, Batch, Idle, Watermark
from flowsnap.operators import RateLimit
from tests.unit.runtime.bench import END, A, B, Bench

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


def test_requests_are_looked_after_until_the_task_has_ended() -> None:
    bench = Bench(RateLimit(1))
    assert bench.runner.next_step_ms(7) == 9

    bench.feed(A, END)
    bench.feed(B, END)

    assert bench.flow == [END]
    assert bench.runner.next_step_ms(7) is None
