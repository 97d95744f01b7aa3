"""What the operators count themselves, for the status of a job."""

from __future__ import annotations

import pytest

from flowsnap.core.operator import Operator
from flowsnap.operators import Deduplicate, OverRange, RateLimit
from flowsnap.operators.join import CoGroup, IntervalJoin, TemporalJoin
from flowsnap.operators.join.pairing import Pairing
from flowsnap.operators.pattern import MatchPattern, Pattern
from flowsnap.operators.window import Count, CountTrigger, Session, Sliding, Tumbling
from flowsnap.operators.window.aggregate import Aggregates
from flowsnap.operators.window.plan import WindowPlan
from tests.unit.operators.rig import Rig


def windows(plan: WindowPlan) -> Operator:
    return plan.aggregate(Aggregates(Count()))[0]


@pytest.mark.parametrize(
    "operator",
    [
        windows(WindowPlan(Tumbling("10ms"), late="late")),
        windows(WindowPlan(Session("10ms"))),
        windows(WindowPlan(Sliding("10ms", "5ms"), trigger=CountTrigger(3))),
        OverRange({"n": "count"}, "10ms"),
        MatchPattern(Pattern.begin("a"), len),
        CoGroup(Pairing(), Tumbling("10ms")),
        IntervalJoin(Pairing(), -5, 5),
        TemporalJoin(Pairing()),
    ],
    ids=lambda operator: type(operator).__name__,
)
def test_late_records_are_counted_whoever_gets_them(operator: Operator) -> None:
    rig = Rig(operator).watermark(100)

    rig.push([1, 2, 3], [20, 200, 30], "kkk").push([4], [40], "k")

    assert rig.counted("late") == 3


def test_records_that_were_there_before_are_counted() -> None:
    rig = Rig(Deduplicate()).push("abc", keys="xxy").push("d", keys="y")

    assert rig.counted("duplicates") == 2


def test_records_that_a_rate_holds_back_are_counted_once() -> None:
    rig = Rig(RateLimit(10)).push([1, 2, 3]).poll().poll()
    rig.now_ms = 100
    rig.poll()

    assert rig.counted("delayed") == 2
