from __future__ import annotations

from typing import Any

import pytest

from flowsnap.errors import ConfigError
from flowsnap.operators.join import CoGroup
from flowsnap.operators.join.pairing import Pairing
from flowsnap.operators.window.assigner import Assigner, Session, Tumbling
from tests.unit.operators.rig import Rig

GAP = Session("10ms")


def rig_of(assigner: Assigner = GAP, lateness_ms: int = 0) -> Rig:
    return Rig(CoGroup(Pairing(), assigner, lateness_ms))


def left(rig: Rig, *times: int, key: str = "k") -> Rig:
    return rig.push(list(times), times, [key] * len(times))


def right(rig: Rig, *times: int, key: str = "k") -> Rig:
    return rig.push(list(times), times, [key] * len(times), port=1)


def sessions(rig: Rig) -> list[Any]:
    table = rig.backend.value_table(next(iter(rig.contexts)), "sessions", "value")
    return [window for _, windows in table.items() for window in windows]


def test_the_function_gets_the_records_of_both_sides_as_they_came() -> None:
    rig = right(left(rig_of(Tumbling("10ms")), 7, 3), 5)

    assert rig.watermark(9).timed == [(("k", [7, 3], [5]), 9)]


def test_a_side_without_records_is_an_empty_list() -> None:
    rig = right(left(rig_of(Tumbling("10ms")), 7), 15)

    assert rig.end().values == [("k", [7], []), ("k", [], [15])]


def test_what_the_function_does_to_its_lists_is_not_seen_by_the_next_firing() -> None:
    def drain(key: str, lefts: list[int], rights: list[int]) -> tuple[int, ...]:
        return tuple(lefts.pop() for _ in range(len(lefts)))

    rig = left(Rig(CoGroup(Pairing(drain), Tumbling("10ms"), 5)), 1, 2).watermark(9)

    assert left(rig, 3).values == [(2, 1), (3, 2, 1)]


def test_both_sides_make_one_session() -> None:
    rig = right(left(rig_of(), 0, 18), 9)

    assert sessions(rig) == [(0, 28)]
    assert rig.watermark(26).values == []
    assert rig.watermark(27).timed == [(("k", [0, 18], [9]), 27)]


def test_sessions_that_touch_are_one_and_those_that_do_not_are_two() -> None:
    assert sessions(left(rig_of(), 0, 10, 21)) == [(0, 20), (21, 31)]


def test_a_record_may_bring_several_sessions_of_older_batches_together() -> None:
    rig = right(left(rig_of(), 0, 30, 16), 60)

    left(rig, 8, 23)

    assert sessions(rig) == [(0, 40), (60, 70)]
    (key, lefts, rights) = rig.watermark(39).values[0]
    assert (key, sorted(lefts), rights) == ("k", [0, 8, 16, 23, 30], [])
    assert rig.end().values[1:] == [("k", [], [60])]


def test_the_sessions_of_a_key_are_its_own() -> None:
    assert sessions(left(left(rig_of(), 0, key="a"), 5, key="b")) == [(0, 10), (5, 15)]


def test_a_record_that_would_be_late_alone_is_taken_in_by_an_open_session() -> None:
    rig = left(rig_of(), 12).watermark(20)

    left(rig, 5, -4, -9)

    assert rig.side("late-left") == []
    assert sessions(rig) == [(-9, 22)]


def test_a_record_is_late_if_no_open_session_takes_it_in() -> None:
    rig = left(rig_of(), 12).watermark(20)

    left(rig, 1, 5)  # In this order 1 is on its own, whatever comes after it in the batch.

    assert rig.side("late-left") == [1]


def test_a_fired_session_grows_within_allowed_lateness_and_fires_once_more() -> None:
    rig = left(rig_of(lateness_ms=20), 0).watermark(15)
    assert rig.values == [("k", [0], [])]

    right(rig, 8)
    assert rig.watermark(17).values[1:] == [("k", [0], [8])]

    rig.watermark(36)
    assert sessions(rig) == [(0, 18)]
    assert sessions(rig.watermark(37)) == []
    assert len(rig.end().values) == 2


def test_a_session_that_has_grown_does_not_fire_at_its_former_end() -> None:
    rig = right(left(rig_of(lateness_ms=20), 0), 8)

    assert rig.watermark(16).values == []
    assert rig.watermark(17).values == [("k", [0], [8])]


def test_nothing_is_left_when_all_has_fired() -> None:
    rig = right(left(rig_of(), 0, 50, 12), 30, 9).end()

    assert sessions(rig) == []
    table = rig.backend.map_table(next(iter(rig.contexts)), "windows")
    assert list(table.all_items()) == []


def test_records_without_event_time_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="co_group: the records of the left input have no event time"
    ):
        rig_of().push(["x"], None, ["k"])
