"""The operator around the matcher: order, lateness, time that is up, and what a snapshot keeps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from flowsnap import ConfigError
from flowsnap.core.operator import Operator
from flowsnap.errors import StateIncompatible
from flowsnap.operators.pattern import LATE, Match, MatchPattern, Pattern, Skip
from tests.unit.operators.rig import Rig

AB = Pattern.begin("a", lambda r: r[0] == "a").followed_by("b", lambda r: r[0] == "b")


def text(match: Match) -> str:
    return " ".join(record for records in match.values() for record in records)


def rig(pattern: Pattern = AB, **settings: Any) -> Rig:
    return Rig(MatchPattern(pattern, text, **settings))


def push(rig: Rig, records: str, times: Iterable[int] | None = None, key: Any = "k") -> None:
    values = records.split()
    rig.push(values, times, [key] * len(values))


def test_records_count_in_the_order_of_their_times() -> None:
    ran = rig()
    push(ran, "b1 a1 b2", [5, 3, 4])

    assert ran.watermark(10).timed == [("a1 b2", 4)]


def test_records_of_one_time_count_as_they_came() -> None:
    ran = rig()
    push(ran, "b1 a1", [5, 5])
    push(ran, "b2", [5])

    assert ran.watermark(5).timed == [("a1 b2", 5)]


def test_nothing_comes_out_before_the_watermark_has_passed() -> None:
    ran = rig()
    push(ran, "a1 b1", [3, 5])

    assert ran.watermark(4).values == []
    assert ran.watermark(5).values == ["a1 b1"]


def test_late_record_goes_to_the_side_output() -> None:
    ran = rig().watermark(10)
    push(ran, "a1 a2 b1", [10, 11, 12])

    assert ran.watermark(20).values == ["a2 b1"]
    assert ran.side(LATE) == ["a1"]


def test_records_without_times_count_as_they_come() -> None:
    ran = rig()
    push(ran, "b1 a1 b2")

    assert ran.timed == [("a1 b2", None)]


def test_keys_have_nothing_to_do_with_each_other() -> None:
    ran = rig()
    ran.push(["a1", "a2", "b1"], None, ["k", "l", "l"])

    assert ran.values == ["a2 b1"]


def test_flat_function_may_return_nothing() -> None:
    def twice(match: Match) -> list[str] | None:
        return match["b"] * 2 if "b2" in match["b"] else None

    ran = Rig(MatchPattern(AB, twice, is_flat=True))
    push(ran, "a b1 a b2")

    assert ran.values == ["b2", "b2"]


def test_time_that_is_up_tells_what_there_was() -> None:
    ran = rig(AB.within("10ms"), timed_out="gone")
    push(ran, "a1 a2 b", [0, 5, 10])

    assert ran.watermark(9).side("gone") == []
    assert ran.watermark(20).side("gone") == [{"a": ["a1"]}]
    assert ran.timed == [("a2 b", 10)]


def test_time_is_up_without_a_further_record() -> None:
    ran = rig(AB.within("10ms"), timed_out="gone")
    push(ran, "a1 a2", [0, 5])

    assert ran.watermark(10).side("gone") == [{"a": ["a1"]}]
    assert ran.watermark(15).side("gone") == [{"a": ["a2"]}]


def test_last_not_comes_out_when_its_time_is_up() -> None:
    alone = Pattern.begin("a", lambda r: r[0] == "a").not_followed_by("b", lambda r: r[0] == "b")
    ran = rig(alone.within("10ms"))
    push(ran, "a1 b a2", [0, 3, 4])

    assert ran.watermark(13).values == []
    assert ran.watermark(14).timed == [("a2", 14)]


def test_time_is_that_of_the_wall_clock_where_records_have_none() -> None:
    ran = rig(AB.within("10ms"), timed_out="gone")
    push(ran, "a1")
    ran.clock(9)
    push(ran, "b1 a2")

    assert ran.operators[0].next_processing_time_ms() == 10
    ran.clock(19)
    push(ran, "b2")

    assert ran.values == ["a1 b1"]
    assert ran.side("gone") == [{"a": ["a2"]}]


def test_end_lets_out_what_was_held_back_and_is_not_late() -> None:
    same = Pattern.begin("a", lambda r: r[0] == "a").followed_by(
        "b", lambda r, so_far: r[1] == so_far["a"][0][1]
    )
    ran = rig(same, skip=Skip.PAST_LAST)
    push(ran, "a1 a2 b2", [0, 1, 2])

    assert ran.watermark(50).values == []
    assert ran.end().timed == [("a2 b2", 51)]


def test_end_lets_out_the_longest_loop() -> None:
    ran = rig(Pattern.begin("a", lambda r: r[0] == "a").one_or_more().greedy(), skip=Skip.PAST_LAST)
    push(ran, "a1 a2")

    assert ran.values == []
    assert ran.end().timed == [("a1 a2", None)]


def test_state_goes_when_nothing_is_under_way() -> None:
    ran = rig(AB.within("10ms"))
    push(ran, "c a b", [0, 1, 2])
    ran.watermark(30)

    assert list(ran.contexts["op-0"].table("runs").items()) == []  # type: ignore[index]


@pytest.mark.parametrize("times", [None, [1, 4, 6, 12, 13]])
def test_restore_between_any_two_records_changes_nothing(times: list[int] | None) -> None:
    def outcome(restore_at: int) -> tuple[list[Any], list[Any]]:
        ran, gone = rig(AB.within("10ms"), timed_out="gone", skip=Skip.PAST_LAST), []
        for index, record in enumerate(["a1", "c", "b1", "a2", "b2"]):
            push(ran, record, times and [times[index]])
            ran = ran.restored() if index == restore_at else ran
            ran.clock(5 * index).watermark(3 * index)
            gone += ran.side("gone")
        return ran.end().timed, gone + ran.side("gone")

    assert len({str(outcome(restore_at)) for restore_at in range(-1, 5)}) == 1


def test_match_that_is_held_back_is_part_of_a_snapshot() -> None:
    same = Pattern.begin("a", lambda r: r[0] == "a").followed_by(
        "b", lambda r, so_far: r[1] == so_far["a"][0][1]
    )
    ran = rig(same, skip=Skip.PAST_LAST)
    push(ran, "a1 b0 a2 b2")

    ran = ran.restored()

    assert ran.values == []
    assert ran.end().values == ["a2 b2"]


def test_partial_matches_of_another_pattern_are_refused() -> None:
    ran = rig()
    push(ran, "a1")
    again = Rig(MatchPattern(AB.next("c"), text), saved=ran.snapshot())

    with pytest.raises(StateIncompatible, match="another pattern"):
        push(again, "b1")


def test_conditions_may_change_between_lives() -> None:
    ran = rig()
    push(ran, "a1")
    other = Pattern.begin("a").followed_by("b", lambda r: r == "c")
    again = Rig(MatchPattern(other, text), saved=ran.snapshot())
    push(again, "c")

    assert again.values == ["a1 c"]


def test_records_with_and_without_times_are_refused() -> None:
    ran = rig()
    push(ran, "a1")

    with pytest.raises(ConfigError, match="some records have event times"):
        push(ran, "b1", [5])


def refused(**settings: Any) -> Operator:
    return MatchPattern(**{"pattern": AB, "fn": text, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pattern": "a b"}, "not a Pattern"),
        ({"skip": "past_last"}, "not a Skip"),
        ({"skip": Skip.to_first("c")}, "no step 'c' takes records"),
        ({"timed_out": "gone"}, "needs a pattern whose time can be up"),
        ({"pattern": AB.within("1s"), "timed_out": "late"}, "side output of late records"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        refused(**settings)
