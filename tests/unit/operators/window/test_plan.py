from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowsnap.core.operator import Operator
from flowsnap.errors import ConfigError
from flowsnap.operators.window import (
    ContinuousProcessingTimeTrigger,
    CountEvictor,
    CountTrigger,
    EventTimeTrigger,
    First,
    Global,
    Reduce,
    Session,
    Sliding,
    Sum,
    Tumbling,
    TumblingCount,
    TumblingProcessingTime,
)
from flowsnap.operators.window.aggregate import Aggregates
from flowsnap.operators.window.aligned import AlignedWindows
from flowsnap.operators.window.function import window_process
from flowsnap.operators.window.operator import ClockedWindowOperator, WindowOperator
from flowsnap.operators.window.plan import WindowPlan
from flowsnap.operators.window.sessions import SessionWindows

CLOCK = EventTimeTrigger(early=ContinuousProcessingTimeTrigger("1s"))


@pytest.mark.parametrize(
    ("plan", "kind"),
    [
        (WindowPlan(Tumbling("1s")), AlignedWindows),
        (WindowPlan(Sliding("1h", "1s")), AlignedWindows),
        (WindowPlan(Sliding("10s", "3331ms")), WindowOperator),
        (WindowPlan(Session("1s")), SessionWindows),
        (WindowPlan(Session("1s"), trigger=CountTrigger(1)), WindowOperator),
        (WindowPlan(Session("1s"), evictor=CountEvictor(1)), WindowOperator),
        (WindowPlan(Tumbling("1s"), trigger=CountTrigger(1)), WindowOperator),
        (WindowPlan(Tumbling("1s"), evictor=CountEvictor(1)), WindowOperator),
        (WindowPlan(Tumbling("1s"), trigger=CLOCK), ClockedWindowOperator),
    ],
)
def test_each_kind_of_window_has_its_operator(plan: WindowPlan, kind: type[Operator]) -> None:
    assert type(plan.aggregate(Aggregates(Sum()))[0]) is kind


def test_records_are_combined_where_only_the_result_is_seen() -> None:
    def is_combined(plan: WindowPlan, aggregates: Aggregates) -> bool:
        return plan.aggregate(aggregates)[1] is not None

    assert is_combined(WindowPlan(Tumbling("1s"), 5), Aggregates(Sum()))
    assert not is_combined(WindowPlan(Tumbling("1s"), 5, "late"), Aggregates(Sum()))
    assert is_combined(WindowPlan(Tumbling("1s")), Aggregates(First()))
    assert not is_combined(WindowPlan(Sliding("2s", "1s")), Aggregates(First()))
    assert not is_combined(WindowPlan(Sliding("2s", "1s")), Aggregates(Reduce(max)))
    assert is_combined(WindowPlan(Sliding("2s", "1s")), Aggregates(Reduce(max, commutative=True)))
    assert not is_combined(WindowPlan(TumblingProcessingTime("1s")), Aggregates(Sum()))
    assert not is_combined(WindowPlan(Session("1s")), Aggregates(Sum()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WindowPlan(Tumbling), "does not say which windows"),  # type: ignore[arg-type]
        (lambda: WindowPlan("1m"), "does not say which windows"),  # type: ignore[arg-type]
        (lambda: WindowPlan(TumblingCount(5), 1), "no record is late"),
        (lambda: WindowPlan(Global(), 0, "late"), "no record is late"),
        (lambda: WindowPlan(TumblingCount(5), trigger=CountTrigger(1)), "of its own"),
        (lambda: WindowPlan(TumblingCount(5), evictor=CountEvictor(1)), "of its own"),
        (lambda: WindowPlan(Tumbling("1s"), trigger=5), "not a trigger"),  # type: ignore[arg-type]
        (lambda: WindowPlan(Tumbling("1s"), evictor=5), "not an evictor"),  # type: ignore[arg-type]
        (lambda: window_process(5), "not a WindowProcess, nor a function"),
        (lambda: window_process(list), "not a WindowProcess, nor a function"),
        (lambda: CountEvictor(0), "count evictor"),
    ],
)
def test_what_does_not_go_together_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
