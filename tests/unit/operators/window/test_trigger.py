from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from flowsnap.core.operator import Operator
from flowsnap.errors import ConfigError
from flowsnap.operators.window import (
    CollectList,
    ContinuousEventTimeTrigger,
    ContinuousProcessingTimeTrigger,
    CountTrigger,
    EventTimeTrigger,
    Global,
    ProcessingTimeTrigger,
    PurgingTrigger,
    Session,
    Sum,
    Trigger,
    TriggerContext,
    TriggerResult,
    Tumbling,
    Window,
)
from flowsnap.operators.window.aggregate import Aggregates
from flowsnap.operators.window.assigner import Assigner
from flowsnap.operators.window.plan import WindowPlan
from tests.unit.operators.rig import Rig


def operator(trigger: Trigger, assigner: Assigner, lateness_ms: int = 0) -> Operator:
    plan = WindowPlan(assigner, lateness_ms, None, trigger)
    return plan.aggregate(Aggregates(CollectList()))[0]


def rig_of(trigger: Trigger, assigner: Assigner | None = None, lateness_ms: int = 0) -> Rig:
    return Rig(operator(trigger, assigner or Tumbling("10ms"), lateness_ms))


def push(rig: Rig, *times: int) -> Rig:
    return rig.push(times, times, ["a"] * len(times))


def lists(rig: Rig) -> list[Any]:
    return [result.value for result in rig.values]


class OnSecond(Trigger):
    """Fires with every second record, by the timestamps, and remembers in its own way."""

    def reach(self, window: Window, context: TriggerContext) -> int:
        return 1

    def on_records(
        self,
        values: Sequence[Any],
        timestamps: Sequence[int | None],
        window: Window,
        context: TriggerContext,
    ) -> TriggerResult:
        is_second = context.get("odd", False)
        context.put("odd", None if is_second else True)
        return TriggerResult.FIRE if is_second else TriggerResult.CONTINUE


def test_a_count_fires_exactly_at_its_record_however_batches_are_cut() -> None:
    whole = push(rig_of(CountTrigger(2)), 1, 2, 3, 4, 5)
    parts = push(push(rig_of(CountTrigger(2)), 1).restored(), 2, 3, 4, 5)

    assert lists(whole) == lists(parts) == [[1, 2], [1, 2, 3, 4]]


def test_a_purging_trigger_empties_the_window() -> None:
    rig = push(rig_of(PurgingTrigger(CountTrigger(2))), 1, 2, 3, 4, 5).end()

    assert lists(rig) == [[1, 2], [3, 4]]


def test_early_and_on_time_and_late_firings_follow_each_other() -> None:
    trigger = EventTimeTrigger(early=CountTrigger(2), late=CountTrigger(3))
    rig = push(rig_of(trigger, lateness_ms=9), 1, 2, 3).watermark(9).restored()

    push(push(rig, 4, 5), 6).watermark(18)

    assert lists(rig) == [[1, 2], [1, 2, 3], [1, 2, 3, 4, 5, 6]]


def test_without_a_late_trigger_late_records_fire_at_once() -> None:
    rig = push(rig_of(EventTimeTrigger(early=CountTrigger(9)), lateness_ms=9), 1).watermark(9)

    assert lists(push(push(rig, 2), 3)) == [[1], [1, 2], [1, 2, 3]]


def test_early_firings_by_the_clock_end_with_the_window() -> None:
    trigger = EventTimeTrigger(early=ContinuousProcessingTimeTrigger("5ms"))
    rig = push(rig_of(trigger).clock(1002), 1)

    rig = push(rig.clock(1004), 2).restored().clock(1005).clock(1010).watermark(9).clock(1015)

    assert lists(rig) == [[1, 2], [1, 2], [1, 2]]
    assert rig.chain.next_processing_time_ms() is None


def test_a_continuous_trigger_fires_at_the_multiples_and_at_the_end() -> None:
    rig = push(rig_of(ContinuousEventTimeTrigger("4ms"), Tumbling("10ms")), 1).watermark(3)

    rig = push(rig.watermark(4).restored(), 5).watermark(8).watermark(9)

    assert lists(rig) == [[1], [1, 5], [1, 5]]


def test_a_continuous_trigger_that_is_jumped_over_fires_once() -> None:
    rig = push(rig_of(ContinuousEventTimeTrigger("1ms"), Global()), 1).watermark(500)

    assert lists(rig) == [[1]]
    assert lists(rig.end()) == [[1], [1]]


def test_a_continuous_trigger_fires_for_late_records_at_once() -> None:
    rig = push(rig_of(ContinuousEventTimeTrigger("20ms"), lateness_ms=5), 1).watermark(9)

    assert lists(push(rig, 2)) == [[1], [1, 2]]


def test_the_wall_clock_may_decide_alone() -> None:
    rig = push(rig_of(ProcessingTimeTrigger(), Tumbling("10ms")).clock(3), 1)

    assert rig.chain.next_processing_time_ms() == 9
    assert lists(rig.restored().clock(9).watermark(8)) == [[1]]


def test_a_window_that_event_time_clears_leaves_no_timer_behind() -> None:
    rig = push(rig_of(ProcessingTimeTrigger()), 1).watermark(9)

    assert rig.chain.next_processing_time_ms() is None
    assert rig.clock(100).values == []


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        (CountTrigger(3), [[1, 8, 5]]),
        (EventTimeTrigger(early=CountTrigger(9)), [[1, 8, 5]]),
        (ContinuousEventTimeTrigger("3ms"), [[1, 8, 5], [1, 8, 5]]),
        (PurgingTrigger(EventTimeTrigger(late=CountTrigger(2))), [[1, 8, 5]]),
    ],
)
def test_sessions_that_merge_merge_what_their_trigger_knows(
    trigger: Trigger, expected: list[Any]
) -> None:
    rig = push(rig_of(trigger, Session("4ms")), 1, 8).restored()

    push(rig, 5).watermark(7).watermark(8).restored().watermark(20)

    assert lists(rig) == expected


@pytest.mark.parametrize(
    "trigger", [ContinuousProcessingTimeTrigger("5ms"), ProcessingTimeTrigger()]
)
def test_sessions_that_merge_merge_timers_of_the_clock(trigger: Trigger) -> None:
    rig = push(rig_of(trigger, Session("4ms")), 1, 8)

    push(rig, 5).restored().clock(11)

    assert lists(rig) == [[1, 8, 5]]


def test_a_trigger_of_ones_own_is_asked_as_often_as_it_wants() -> None:
    rig = push(push(rig_of(OnSecond()), 1, 2, 3).restored(), 4)

    assert lists(rig) == [[1, 2], [1, 2, 3, 4]]


def test_a_timer_behind_the_life_of_its_window_is_not_kept() -> None:
    class Forever(OnSecond):
        def on_records(self, *args: Any) -> TriggerResult:
            args[-1].register_event_timer(10_000)
            return TriggerResult.CONTINUE

        def on_event_time(self, *args: Any) -> TriggerResult:
            raise AssertionError("the window was gone")

    assert push(rig_of(Forever()), 1).restored().end().values == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CountTrigger(0), "count trigger: 0 is not a positive int"),
        (lambda: ContinuousEventTimeTrigger("0s"), "trigger interval"),
        (lambda: ContinuousProcessingTimeTrigger("soon"), "trigger interval"),
        (lambda: PurgingTrigger(CountTrigger), "is not a trigger"),  # type: ignore[arg-type]
        (lambda: EventTimeTrigger(early="1s"), "is not a trigger"),  # type: ignore[arg-type]
        (lambda: operator(OnSecond(), Session("1s")), "cannot be used with sessions"),
        (lambda: operator(PurgingTrigger(OnSecond()), Session("1s")), "cannot be used"),
        (lambda: operator(EventTimeTrigger(OnSecond()), Session("1s")), "cannot be used"),
    ],
)
def test_wrong_arguments_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_plain_event_time_trigger_is_what_there_is_anyway() -> None:
    plan = WindowPlan(Tumbling("1s"), trigger=EventTimeTrigger())

    assert type(plan.aggregate(Aggregates(Sum()))[0]).__name__ == "AlignedWindows"
