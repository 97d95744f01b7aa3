from __future__ import annotations

from typing import Any

import pytest

from flowsnap.core.operator import Operator
from flowsnap.errors import ConfigError
from flowsnap.operators.window import (
    CollectList,
    Count,
    CountEvictor,
    CountTrigger,
    EventTimeTrigger,
    Session,
    SessionProcessingTime,
    Sliding,
    SlidingProcessingTime,
    Sum,
    Tumbling,
    TumblingProcessingTime,
    Window,
    WindowResult,
)
from flowsnap.operators.window.aggregate import Aggregates
from flowsnap.operators.window.assigner import Assigner
from flowsnap.operators.window.function import window_process
from flowsnap.operators.window.plan import WindowPlan
from tests.unit.operators.rig import Rig

ASSIGNERS = [
    TumblingProcessingTime("10ms"),
    SlidingProcessingTime("10ms", "5ms"),
    SessionProcessingTime("10ms"),
]


def listed(key: Any, window: Window, records: list[int]) -> list[Any]:
    return [WindowResult(key, window.start, window.end, records)]


def operators(assigner: Assigner) -> list[Operator]:
    """Return the operators for aggregates, and for all records, of the same windows."""
    plan = WindowPlan(assigner)
    return [plan.aggregate(Aggregates(CollectList()))[0], plan.process(window_process(listed))]


def fed(rig: Rig, *times: int) -> Rig:
    """Push a record at each of these moments of the wall clock."""
    for at_ms in times:
        rig.clock(at_ms).push([at_ms], keys=["k"])
    return rig


def spans(rig: Rig) -> list[tuple[int, int, list[int]]]:
    return sorted((one.start, one.end, one.value) for one in rig.values)


def test_window_is_that_of_the_moment_whatever_the_event_time() -> None:
    rig = Rig(operators(ASSIGNERS[0])[0], wall_ms=7)

    rig.push([1], [5_000], ["k"]).clock(12).push([2], None, ["k"]).clock(20)

    assert rig.timed == [
        (WindowResult("k", 0, 10, [1]), 9),
        (WindowResult("k", 10, 20, [2]), 19),
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_window_comes_out_as_soon_as_its_end_is_there(which: int) -> None:
    rig = fed(Rig(operators(ASSIGNERS[0])[which]), 3, 9)
    assert rig.chain.next_processing_time_ms() == 10
    assert rig.clock(9).values == []

    assert spans(rig.clock(10)) == [(0, 10, [3, 9])]
    assert rig.chain.next_processing_time_ms() is None


@pytest.mark.parametrize("which", [0, 1])
def test_sliding_windows_overlap_in_processing_time_too(which: int) -> None:
    rig = fed(Rig(operators(ASSIGNERS[1])[which]), 3, 7).clock(30)

    assert spans(rig) == [(-5, 5, [3]), (0, 10, [3, 7]), (5, 15, [7])]


@pytest.mark.parametrize("which", [0, 1])
def test_session_ends_after_so_long_without_a_record(which: int) -> None:
    rig = fed(Rig(operators(ASSIGNERS[2])[which]), 3, 12, 21, 40).clock(100)

    assert spans(rig) == [(3, 31, [3, 12, 21]), (40, 50, [40])]


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=repr)
@pytest.mark.parametrize("which", [0, 1])
def test_end_of_input_lets_open_windows_out(assigner: Assigner, which: int) -> None:
    rig = fed(Rig(operators(assigner)[which]), 6).end()

    assert {tuple(one.value) for one in rig.values} == {(6,)}


@pytest.mark.parametrize("assigner", ASSIGNERS, ids=repr)
@pytest.mark.parametrize("which", [0, 1])
def test_window_that_came_due_during_a_restart_comes_out_after_it(
    assigner: Assigner, which: int
) -> None:
    operator = operators(assigner)[which]
    whole = fed(Rig(operator), 3, 4).clock(5_000)
    saved = fed(Rig(operator), 3, 4).snapshot()

    again = Rig(operator, saved=saved, wall_ms=5_000).clock(5_000)

    assert spans(again) == spans(whole) != []


def test_event_time_that_goes_by_changes_nothing() -> None:
    rig = fed(Rig(operators(ASSIGNERS[0])[0]), 3).watermark(1_000_000)

    assert (rig.values, rig.watermarks) == ([], [1_000_000])
    assert spans(fed(rig, 4).clock(10)) == [(0, 10, [3, 4])]


@pytest.mark.fault("F24", promise="P1", oracles="O7")
def test_clock_that_is_set_back_opens_no_window_again() -> None:
    rig = fed(Rig(operators(ASSIGNERS[0])[0]), 3).clock(10)

    rig.now_ms = 5
    rig.push([5], None, ["k"]).clock(30)

    assert spans(rig) == [(0, 10, [3]), (10, 20, [5])]


def test_triggers_and_evictors_go_by_the_clock_as_well() -> None:
    early = EventTimeTrigger(early=CountTrigger(2))
    plan = WindowPlan(TumblingProcessingTime("10ms"), trigger=early, evictor=CountEvictor(2))
    rig = fed(Rig(plan.process(window_process(listed))), 1, 2, 3).clock(10)

    assert [one.value for one in rig.values] == [[1, 2], [2, 3]]


@pytest.mark.parametrize(
    ("clocked", "timed"),
    [
        (TumblingProcessingTime("7ms", "2ms"), Tumbling("7ms", "2ms")),
        (SlidingProcessingTime("9ms", "3ms"), Sliding("9ms", "3ms")),
        (SessionProcessingTime("5ms"), Session("5ms")),
    ],
)
def test_results_are_those_of_event_time_for_the_same_moments(
    clocked: Assigner, timed: Assigner
) -> None:
    moments = [1, 2, 8, 9, 9, 15, 30, 31, 37, 50]
    totals = Aggregates(None, {"n": Count(), "total": Sum()})

    by_clock = fed(Rig(WindowPlan(clocked).aggregate(totals)[0]), *moments).clock(100)

    in_time = Rig(WindowPlan(timed, late="late").aggregate(totals)[0])
    in_time.push(moments, moments, ["k"] * len(moments)).watermark(99)
    assert sorted(by_clock.values, key=repr) == sorted(in_time.values, key=repr)


def test_lateness_is_refused_where_no_record_can_be_late() -> None:
    settings: dict[str, Any]
    for settings in ({"lateness_ms": 5}, {"late": "late"}):
        with pytest.raises(ConfigError, match=r"TumblingProcessingTime.* no record is late"):
            WindowPlan(TumblingProcessingTime("1s"), **settings)
