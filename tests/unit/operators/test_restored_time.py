"""Event time goes on where it was, for each operator by itself, whatever comes from upstream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flowsnap.core.operator import Operator
from flowsnap.core.watermark import MIN_WATERMARK
from flowsnap.operators import KeyBy, KeyedProcess, OverRange, Process, ProcessContext
from flowsnap.operators.join import CoGroup, IntervalJoin, TemporalJoin
from flowsnap.operators.join.pairing import Pairing
from flowsnap.operators.pattern import MatchPattern, Pattern
from flowsnap.operators.window import CollectList, Session, Tumbling
from flowsnap.operators.window.aggregate import Aggregates
from flowsnap.operators.window.function import window_process
from flowsnap.operators.window.plan import WindowPlan
from tests.unit.operators.rig import Rig


class Watching(KeyedProcess[int, int]):
    """Puts out what event time it knows, and again when a timer says so."""

    def process(self, value: int, context: ProcessContext) -> Iterator[int]:
        context.register_event_timer(value)
        yield context.watermark

    def on_timer(self, timestamp: int, context: ProcessContext) -> Iterator[int]:
        yield context.watermark


def from_the_beginning(rig: Rig) -> Rig:
    """Restore a rig in front of which event time begins anew."""
    again = rig.restored()
    again.watermark_ms = MIN_WATERMARK
    return again


@pytest.mark.parametrize(
    "operator",
    [
        WindowPlan(Tumbling("10ms"), late="late").aggregate(Aggregates(CollectList()))[0],
        WindowPlan(Session("10ms")).aggregate(Aggregates(CollectList()))[0],
        WindowPlan(Session("10ms")).process(window_process(lambda key, window, records: records)),
        OverRange({"n": "count"}, "10ms"),
        MatchPattern(Pattern.begin("a"), len),
        CoGroup(Pairing(), Tumbling("10ms")),
        IntervalJoin(Pairing(), -5, 5),
        TemporalJoin(Pairing()),
    ],
    ids=lambda operator: type(operator).__name__,
)
def test_what_was_late_before_a_restart_is_late_after_it(operator: Operator) -> None:
    rig = from_the_beginning(Rig(operator).push([1], [150], "k").watermark(100))

    rig.push([2], [50], "k").watermark(70).push([3], [90], "k")

    assert rig.counted("late") == 2


def test_timers_know_the_event_time_from_before_a_restart() -> None:
    rig = from_the_beginning(Rig(Process(Watching)).push([120], keys="k").watermark(100))

    rig.push([90], keys="k").watermark(90).watermark(110).watermark(130)

    assert rig.values == [MIN_WATERMARK, 100, 110, 130]


def test_operator_put_in_between_takes_over_the_event_time_of_the_one_before_it() -> None:
    saved = Rig(KeyBy(abs)).watermark(100).snapshot()

    rig = Rig(KeyBy(abs), OverRange({"n": "count"}, "10ms"), saved=saved).push([1], [50])

    assert rig.counted("late", 1) == 1
