from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from flowsnap.core.operator import OperatorContext
from flowsnap.errors import ConfigError, OperatorError
from flowsnap.operators.window import (
    ALL_TIME,
    Assigner,
    CollectList,
    Count,
    CountEvictor,
    Evictor,
    Global,
    Session,
    Sliding,
    SlidingCount,
    Sum,
    TimeEvictor,
    Tumbling,
    TumblingCount,
    Window,
    WindowProcess,
    WindowResult,
)
from flowsnap.operators.window.aggregate import Aggregates
from flowsnap.operators.window.function import window_process
from flowsnap.operators.window.plan import WindowPlan
from tests.unit.operators.rig import Rig


def rows(key: str, window: Window, records: list[Any]) -> Iterator[Any]:
    yield key, *window, records


def listing(assigner: Assigner, *, lateness_ms: int = 0, evictor: Evictor | None = None) -> Rig:
    plan = WindowPlan(assigner, lateness_ms, "late", evictor=evictor)
    return Rig(plan.process(window_process(rows)))


def collecting(assigner: Assigner, evictor: Evictor | None = None) -> Rig:
    return Rig(WindowPlan(assigner, evictor=evictor).aggregate(Aggregates(CollectList()))[0])


def push(rig: Rig, *times: int, key: str = "a") -> Rig:
    return rig.push(times, times, [key] * len(times))


def test_a_function_is_given_the_records_in_order_of_arrival() -> None:
    rig = push(listing(Tumbling("10ms")), 5, 3, 12, 4).watermark(9)

    assert rig.timed == [(("a", 0, 10, [5, 3, 4]), 9)]


def test_a_window_fires_once_and_its_state_is_cleared() -> None:
    rig = push(listing(Tumbling("10ms")), 5).watermark(9).restored().watermark(30).end()

    assert rig.values == [("a", 0, 10, [5])]
    assert list(rig.contexts["op-0"].table("open").items()) == []  # type: ignore[index]


def test_a_record_within_lateness_makes_the_window_fire_again_at_once() -> None:
    rig = push(listing(Tumbling("10ms"), lateness_ms=5), 5).watermark(13)

    push(rig.restored(), 7)

    assert rig.values == [("a", 0, 10, [5]), ("a", 0, 10, [5, 7])]


def test_a_record_beyond_lateness_goes_to_the_side_output() -> None:
    rig = push(listing(Tumbling("10ms"), lateness_ms=5), 5).watermark(14)

    push(rig, 7, 10)

    assert rig.side("late") == [7]
    assert rig.end().values == [("a", 0, 10, [5]), ("a", 10, 20, [10])]


def test_a_record_is_late_only_if_no_window_takes_it() -> None:
    rig = listing(Sliding("10ms", "5ms")).watermark(9)

    push(rig, 5, 4).end()

    assert rig.values == [("a", 5, 15, [5])]
    assert rig.side("late") == [4]


def test_late_records_that_nobody_wants_are_counted() -> None:
    operator = WindowPlan(Tumbling("10ms")).process(window_process(rows))
    rig = Rig(operator).watermark(9)

    push(rig, 5, 6, 10)

    assert rig.counted("late") == 2


def test_sessions_exactly_a_gap_apart_are_one() -> None:
    rig = push(listing(Session("10ms")), 0, 20, 31).restored()

    push(rig, 10).end()

    assert rig.values == [("a", 0, 30, [0, 20, 10]), ("a", 31, 41, [31])]


def test_a_session_that_has_grown_does_not_fire_at_its_former_end() -> None:
    rig = push(listing(Session("10ms")), 0)

    push(rig, 5).watermark(9).restored().watermark(14)

    assert rig.timed == [(("a", 0, 15, [0, 5]), 14)]


def test_a_record_is_not_late_if_a_session_takes_it() -> None:
    rig = push(listing(Session("10ms"), lateness_ms=0), 10).watermark(15)

    push(rig, -11, 1, 0).end()

    assert rig.values == [("a", 0, 20, [10, 1, 0])]
    assert rig.side("late") == [-11]


def test_sessions_are_of_one_key() -> None:
    rig = push(listing(Session("10ms")), 0, key="a")

    push(rig, 5, key="b").end()

    assert rig.values == [("a", 0, 10, [0]), ("b", 5, 15, [5])]


def test_count_windows_need_no_event_time() -> None:
    rig = collecting(TumblingCount(2)).push([1, 2, 3], None, ["a"] * 3).restored()

    rig.push([4, 5], None, ["a", "a"]).end()

    assert rig.values == [
        WindowResult("a", *ALL_TIME, [1, 2]),
        WindowResult("a", *ALL_TIME, [3, 4]),
    ]
    assert {time for _, time in rig.timed} == {None}


def test_a_full_count_window_leaves_no_state() -> None:
    rig = push(collecting(TumblingCount(2)), 1, 2)

    context = rig.contexts["op-0"]  # type: ignore[index]
    assert [list(context.table(name).items()) for name in ("open",)] == [[]]


def test_the_time_of_a_count_window_is_that_of_its_last_record() -> None:
    rig = push(collecting(SlidingCount(2, 2)), 7, 5, 6, 4)

    assert rig.timed == [
        (WindowResult("a", *ALL_TIME, [7, 5]), 5),
        (WindowResult("a", *ALL_TIME, [6, 4]), 4),
    ]


def test_all_of_time_ends_with_the_input() -> None:
    rig = push(collecting(Global()), 1, 2).watermark(1000).restored()

    assert rig.values == []
    assert rig.end().values == [WindowResult("a", *ALL_TIME, [1, 2])]


def test_windows_of_ones_own_may_begin_together() -> None:
    class Nested(Assigner):
        def windows(self, timestamp_ms: int, value: Any) -> Sequence[Window]:
            return (Window(0, 10), Window(0, 20))

    rig = push(collecting(Nested()), 5).restored().end()

    assert rig.values == [WindowResult("a", 0, 10, [5]), WindowResult("a", 0, 20, [5])]


@pytest.mark.parametrize(
    ("evictor", "first", "second"),
    [
        (CountEvictor(2), [3, 4], [4, 5]),
        (CountEvictor(2, is_after=True), [1, 2, 3, 4], [3, 4, 5]),
        (TimeEvictor("2ms"), [3, 4], [4, 5]),
        (TimeEvictor("2ms", is_after=True), [1, 2, 3, 4], [3, 4, 5]),
    ],
)
def test_what_an_evictor_removes_is_gone_for_good(
    evictor: Evictor, first: list[int], second: list[int]
) -> None:
    rig = push(listing(Tumbling("10ms"), lateness_ms=9, evictor=evictor), 1, 2, 3, 4).watermark(9)

    push(rig.restored(), 5)

    assert [value[3] for value in rig.values] == [first, second]


def test_aggregates_with_an_evictor_see_the_records_that_stay() -> None:
    plan = WindowPlan(Tumbling("10ms"), evictor=CountEvictor(2))
    operator, combine = plan.aggregate(Aggregates(None, {"total": Sum(), "n": Count()}))

    rig = push(Rig(operator), 1, 2, 3).end()

    assert combine is None
    assert rig.values == [WindowResult("a", 0, 10, {"total": 5, "n": 2})]


def test_a_window_whose_records_are_all_evicted_puts_out_nothing() -> None:
    class All(Evictor):
        def keep(self, records: list[Any], window: Window) -> list[Any]:
            return []

    assert push(listing(Tumbling("10ms"), evictor=All()), 1).end().values == []


def test_a_window_process_has_a_life_and_state_of_the_key() -> None:
    class Numbered(WindowProcess[int, Any]):
        def open(self, context: OperatorContext) -> None:
            self.number = context.value_state("number", 0)

        def process(self, key: Any, window: Window, records: list[int]) -> Iterator[Any]:
            self.number.update(self.number.value() + 1)
            yield key, self.number.value(), records

    rig = Rig(WindowPlan(Tumbling("10ms")).process(window_process(Numbered)))
    push(push(rig, 1, 11), 2, key="b")

    assert rig.restored().end().values == [("a", 1, [1]), ("b", 1, [2]), ("a", 2, [11])]


def test_a_process_may_return_none_but_no_single_value() -> None:
    nothing = WindowPlan(Tumbling("10ms")).process(
        window_process(lambda key, window, records: None)
    )
    text = WindowPlan(Tumbling("10ms")).process(window_process(lambda key, window, records: "ab"))

    assert push(Rig(nothing), 1).end().values == []
    with pytest.raises(OperatorError, match="returned a str, not an iterable"):
        push(Rig(text), 1).end()


def test_records_without_event_time_are_refused() -> None:
    with pytest.raises(ConfigError, match="records without event time"):
        listing(Tumbling("10ms")).push([1], None, ["a"])
    with pytest.raises(ConfigError, match="records without event time"):
        collecting(Global(), TimeEvictor("1s")).push([1], None, ["a"]).end()
