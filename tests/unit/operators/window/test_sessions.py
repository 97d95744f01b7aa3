from __future__ import annotations

from typing import Any

import pytest

from flowsnap.core.ids import OperatorId
from flowsnap.errors import ConfigError
from flowsnap.operators.window import (
    ApproxDistinctCount,
    CollectList,
    Count,
    DistinctCount,
    Session,
    Sum,
    WindowResult,
)
from flowsnap.operators.window.aggregate import Aggregate, Aggregates
from flowsnap.operators.window.sessions import SessionWindows
from tests.unit.operators.rig import Rig

GAP = Session("10ms")


def rig_of(
    aggregate: Aggregate | None = None, lateness_ms: int = 0, late: str | None = None
) -> Rig:
    aggregates = Aggregates(aggregate or CollectList())
    return Rig(SessionWindows(GAP, aggregates, lateness_ms=lateness_ms, late=late))


def push(rig: Rig, *times: int, key: Any = "k") -> Rig:
    return rig.push(times, times, [key] * len(times))


def spans(rig: Rig) -> list[tuple[int, int, Any]]:
    return [(one.start, one.end, one.value) for one in rig.values]


def test_sessions_that_touch_are_one_and_those_a_ms_further_apart_are_not() -> None:
    assert spans(push(rig_of(), 0, 10).end()) == [(0, 20, [0, 10])]
    assert spans(push(rig_of(), 0, 11).end()) == [(0, 10, [0]), (11, 21, [11])]


def test_result_has_the_last_instant_of_its_session() -> None:
    rig = push(rig_of(), 0, 5).watermark(13)
    assert rig.values == []

    assert rig.watermark(14).timed == [(WindowResult("k", 0, 15, [0, 5]), 14)]


def test_record_between_two_sessions_makes_one_of_them() -> None:
    rig = push(push(push(rig_of(), 0), 18), 9)

    assert spans(rig.end()) == [(0, 28, [0, 18, 9])]


def test_batch_that_makes_one_of_two_sessions_is_as_if_record_by_record() -> None:
    whole = push(push(push(rig_of(), 0), 30), 9, 19, 20).end()
    single = push(push(push(push(push(rig_of(), 0), 30), 9), 19), 20).end()

    assert spans(whole) == spans(single) == [(0, 40, [0, 9, 19, 30, 20])]


def test_keys_have_sessions_of_their_own() -> None:
    rig = push(push(rig_of(Count()), 0, 5, key="a"), 3, key="b").end()

    assert [(one.key, one.value) for one in rig.values] == [("b", 1), ("a", 2)]


def test_sessions_come_out_in_the_order_of_their_ends() -> None:
    rig = push(push(push(rig_of(Count()), 30, key="b"), 0, key="a"), 25, key="a")

    assert [(one.key, one.end) for one in rig.end().values] == [("a", 10), ("a", 35), ("b", 40)]


def test_late_record_is_counted_and_goes_to_the_side_output() -> None:
    rig = push(rig_of(late="late").watermark(9), 0, 1)

    assert rig.side("late") == [0]
    assert rig.counted("late") == 1
    assert spans(rig.end()) == [(1, 11, [1])]


def test_record_is_not_late_if_an_open_session_takes_it() -> None:
    rig = push(push(rig_of(), 5).watermark(13), 0)

    assert spans(rig.end()) == [(0, 15, [5, 0])]


def test_session_fires_again_for_what_comes_within_its_lateness() -> None:
    rig = push(push(rig_of(lateness_ms=5), 0).watermark(9), 0).watermark(14)

    push(rig, 0).end()

    assert spans(rig) == [(0, 10, [0]), (0, 10, [0, 0])]
    assert rig.counted("late") == 1


def test_result_that_left_does_not_change_with_its_session() -> None:
    rig = push(rig_of(lateness_ms=100), 0).watermark(50)

    push(rig, 0, 0)

    assert [one.value for one in rig.values] == [[0], [0, 0], [0, 0, 0]]


@pytest.mark.parametrize("aggregate", [DistinctCount(), ApproxDistinctCount(), Sum()], ids=repr)
def test_accumulator_that_changes_in_place_is_apart_from_its_snapshot(aggregate: Aggregate) -> None:
    rig = push(rig_of(aggregate), 1, 2)
    saved = rig.snapshot()
    expected = push(rig, 3).end().values

    again = push(Rig(*rig.templates, saved=saved), 3).end()

    assert again.values == expected


def test_session_goes_on_after_a_restart_and_is_forgotten_in_time() -> None:
    rig = push(rig_of(lateness_ms=20), 0, 40).watermark(5).restored()
    rig = push(rig, 8).watermark(20).restored()
    rig = push(rig, 9).restored().watermark(48).restored()

    assert spans(rig) == [(0, 18, [0, 8]), (0, 19, [0, 8, 9])]
    assert spans(rig.end())[2:] == [(40, 50, [40])]


def test_gap_may_be_that_of_the_record() -> None:
    operator = SessionWindows(Session(lambda record: record), Aggregates(Count()))

    rig = Rig(operator).push([5, 3, 20], [0, 5, 9], "kkk").end()

    assert spans(rig) == [(0, 8, 2), (9, 29, 1)]


def test_gap_that_is_none_is_named() -> None:
    rig = Rig(SessionWindows(Session(lambda record: 0), Aggregates(Count())))

    with pytest.raises(ConfigError, match="session gap: 0 is not a positive"):
        push(rig, 5)


def test_records_without_event_time_are_refused() -> None:
    with pytest.raises(ConfigError, match="records without event time"):
        rig_of().push([1], None, ["k"])


def test_all_of_state_is_gone_when_all_sessions_are() -> None:
    rig = rig_of(lateness_ms=3)
    for at_ms in range(0, 300, 7):
        push(rig, at_ms, at_ms + 1, key=at_ms % 5).watermark(at_ms - 20)

    rig.watermark(1_000)

    assert list(rig.contexts[OperatorId("op-0")].table("sessions").items()) == []
    assert rig.operators[0].next_ms() is None  # type: ignore[attr-defined]
