from __future__ import annotations

from itertools import product

import pytest

from flowsnap.core.watermark import MAX_WATERMARK
from flowsnap.errors import ConfigError
from flowsnap.operators.join import WindowJoin
from flowsnap.operators.join.pairing import PAGE_RECORDS, How, Pairing
from flowsnap.operators.window.assigner import Assigner, Global, Sliding, Tumbling, TumblingCount
from tests.unit.operators.rig import Rig


def rig_of(how: How = "inner", assigner: Assigner | None = None, lateness_ms: int = 0) -> Rig:
    return Rig(WindowJoin(Pairing(), assigner or Tumbling("10ms"), how, lateness_ms))


def filled(rig: Rig) -> Rig:
    """Put both sides into the first window, one side each into the next two."""
    rig.push(["l1", "l2", "l11"], [1, 2, 11], ["k"] * 3)
    return rig.push(["r9", "r21"], [9, 21], ["k"] * 2, port=1)


PAIRS = [("l1", "r9"), ("l2", "r9")]


def test_a_window_fires_when_the_watermark_reaches_its_last_ms() -> None:
    rig = filled(rig_of())

    assert rig.watermark(8).values == []
    assert rig.watermark(9).timed == [(pair, 9) for pair in PAIRS]


@pytest.mark.parametrize(
    ("how", "alone"),
    [
        ("inner", []),
        ("left", [("l11", None)]),
        ("right", [(None, "r21")]),
        ("full", [("l11", None), (None, "r21")]),
    ],
)
def test_the_outer_sides_come_out_alone(how: How, alone: list[tuple[str, str]]) -> None:
    assert filled(rig_of(how)).watermark(29).values == PAIRS + alone


def test_the_end_of_input_fires_every_open_window() -> None:
    assert filled(rig_of("full")).end().values == [*PAIRS, ("l11", None), (None, "r21")]


def test_a_window_over_all_of_time_fires_at_the_end() -> None:
    rig = filled(rig_of(assigner=Global())).watermark(10**15)
    assert rig.values == []

    assert rig.end().values == list(product(["l1", "l2", "l11"], ["r9", "r21"]))
    assert {time for _, time in rig.timed} == {MAX_WATERMARK - 1}


def test_a_record_of_a_fired_window_is_late() -> None:
    rig = filled(rig_of()).watermark(9)

    rig.push(["late", "l12"], [9, 12], ["k"] * 2)

    assert rig.side("late-left") == ["late"]
    assert rig.push(["late"], [0], ["k"], port=1).side("late-right") == ["late"]


def test_a_record_that_is_late_for_one_of_its_windows_is_in_the_others() -> None:
    rig = rig_of(assigner=Sliding("10ms", "5ms")).watermark(9)

    rig.push(["l"], [7], ["k"]).push(["r"], [7], ["k"], port=1)

    assert rig.side("late-left") == []
    assert rig.end().timed == [(("l", "r"), 14)]


def test_a_record_between_two_windows_is_in_none_and_not_late() -> None:
    rig = rig_of("left", Sliding("5ms", "10ms"))

    rig.push(["in", "out"], [4, 5], ["k"] * 2)

    assert rig.end().values == [("in", None)]
    assert rig.side("late-left") == []


def test_within_allowed_lateness_a_window_fires_again_with_all_it_holds() -> None:
    rig = filled(rig_of(lateness_ms=5)).watermark(13)
    assert rig.values == PAIRS

    rig.push(["r0"], [0], ["k"], port=1)

    assert rig.timed[2:] == [
        (("l1", "r9"), 9),
        (("l1", "r0"), 9),
        (("l2", "r9"), 9),
        (("l2", "r0"), 9),
    ]
    assert rig.watermark(14).push(["r8"], [8], ["k"], port=1).side("late-right") == ["r8"]
    assert len(rig.end().values) == 6


def test_a_large_window_comes_out_in_pages() -> None:
    rig = rig_of()
    rig.push(list(range(300)), [0] * 300, ["k"] * 300)
    rig.push(list(range(100)), [0] * 100, ["k"] * 100, port=1)

    rig.watermark(9)

    assert [len(batch) for batch in rig.out] == [8200, 8200, 8200, 5400]
    assert PAGE_RECORDS < 8200
    assert rig.values == list(product(range(300), range(100)))


def test_records_without_event_time_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="join: the records of the right input have no event time"
    ):
        rig_of().push(["x"], None, ["k"], port=1)


@pytest.mark.parametrize("assigner", ["1m", None, Tumbling, TumblingCount(3)])
def test_what_is_no_window_in_event_time_is_refused(assigner: Assigner) -> None:
    with pytest.raises(ConfigError, match="is not a window in event time"):
        WindowJoin(Pairing(), assigner)


def test_an_unknown_kind_of_join_is_refused() -> None:
    with pytest.raises(ConfigError, match="how: 'outer' is not 'inner' or 'left' or"):
        rig_of("outer")  # type: ignore[arg-type]
