from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from flowsnap.core.ids import OperatorId
from flowsnap.errors import ConfigError, OperatorError, StateIncompatible
from flowsnap.operators import OverRange, OverRows
from tests.unit.operators.rig import Rig

FIRST = OperatorId("op-0")


def test_rows_are_those_of_the_key_and_the_record_comes_with_them() -> None:
    rig = Rig(OverRows({"total": ("sum", "n"), "seen": "count"}, 2))

    rig.push([{"n": 1}, {"n": 10}, {"n": 2}, {"n": 4}], [7, 8, 9, 9], ["a", "b", "a", "a"])

    assert rig.timed == [
        (({"n": 1}, {"total": 1, "seen": 1}), 7),
        (({"n": 10}, {"total": 10, "seen": 1}), 8),
        (({"n": 2}, {"total": 3, "seen": 2}), 9),
        (({"n": 4}, {"total": 6, "seen": 2}), 9),
    ]


def test_decimals_stay_decimals() -> None:
    rig = Rig(OverRows({"mean": "mean", "sum": "sum"}, 2))

    rig.push([Decimal("0.1"), Decimal("0.2")], keys=["k", "k"])

    assert rig.values[1][1] == {"mean": Decimal("0.15"), "sum": Decimal("0.3")}


def test_aggregates_in_another_order_find_their_columns_after_a_restart() -> None:
    saved = Rig(OverRows({"low": ("min", 0), "high": ("max", 1)}, 9)).push([(1, 2)], keys="k")

    rig = Rig(OverRows({"high": ("max", 1), "low": ("min", 0)}, 9), saved=saved.snapshot())

    assert rig.push([(5, 6)], keys="k").values == [((5, 6), {"low": 1, "high": 6})]


@pytest.mark.parametrize("make", [lambda a: OverRows(a, 2), lambda a: OverRange(a, "1s")])
def test_aggregates_with_other_names_than_in_the_checkpoint_are_refused(make: Any) -> None:
    saved = Rig(make({"a": "count"})).push([1], [1], ["k"]).watermark(1).snapshot()
    rig = Rig(make({"b": "count"}), saved=saved)

    with pytest.raises(StateIncompatible, match=r"\['b'\], but the checkpoint has \['a'\]"):
        rig.push([1], [2], ["k"]).watermark(2)


def test_records_of_one_time_are_in_reach_of_each_other() -> None:
    rig = Rig(OverRange({"n": "count"}, "10ms"))

    rig.push(["x", "y", "z"], [20, 20, 30], ["k", "k", "k"]).watermark(40)

    assert rig.timed == [(("x", {"n": 2}), 20), (("y", {"n": 2}), 20), (("z", {"n": 3}), 30)]


def test_late_record_goes_to_the_side_output() -> None:
    rig = Rig(OverRange({"n": "count"}, "10ms")).watermark(5)

    rig.push(["late", "in time"], [5, 6], ["k", "k"]).watermark(9)

    assert rig.side("late") == ["late"]
    assert rig.values == [("in time", {"n": 1})]


def test_a_key_that_has_had_no_record_for_the_range_goes_from_state() -> None:
    rig = Rig(OverRange({"n": "count"}, "10ms"))
    rig.push([1, 2], [1, 5], ["k", "k"]).watermark(15)
    assert list(rig.contexts[FIRST].table("over-range").items())

    rig.watermark(16)

    assert list(rig.contexts[FIRST].table("over-range").items()) == []
    assert rig.push([3], [17], ["k"]).watermark(17).values[-1] == (3, {"n": 1})


def test_a_range_without_event_times_is_refused() -> None:
    with pytest.raises(OperatorError, match="needs records with event times"):
        Rig(OverRange({"n": "count"}, "1s")).push([1], keys=["k"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: OverRows({}, 3),
        lambda: OverRows("count", 3),  # type: ignore[arg-type]
        lambda: OverRows({"a": "median"}, 3),
        lambda: OverRows({"a": ("sum", 1.5)}, 3),  # type: ignore[dict-item]
        lambda: OverRows({1: "sum"}, 3),  # type: ignore[dict-item]
        lambda: OverRows({"a": "sum"}, 0),
        lambda: OverRows({"a": "sum"}, True),
        lambda: OverRange({"a": "sum"}, "0s"),
        lambda: OverRange({"a": "sum"}, 5),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()
