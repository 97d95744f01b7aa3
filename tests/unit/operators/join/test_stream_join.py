from __future__ import annotations

from typing import Any

import pytest

from flowsnap.errors import ConfigError
from flowsnap.operators.join import StreamJoin
from flowsnap.operators.join.pairing import PAGE_RECORDS, How, Pairing
from tests.unit.operators.rig import Rig


def rig_of(how: How = "inner", ttl_ms: int | None = None) -> Rig:
    return Rig(StreamJoin(Pairing(), how, ttl_ms), wall_ms=1_000)


def left(rig: Rig, *values: str, key: str = "k") -> Rig:
    return rig.push(values, None, [key] * len(values))


def right(rig: Rig, *values: str, key: str = "k") -> Rig:
    return rig.push(values, None, [key] * len(values), port=1)


def kept(rig: Rig) -> list[Any]:
    name = next(iter(rig.contexts))
    return [
        value
        for side in ("left", "right")
        for _, kept in rig.backend.value_table(name, side, "value").items()
        for value in kept.values
    ]


def test_every_record_meets_all_of_the_other_side() -> None:
    rig = right(left(rig_of(), "a", "b"), "x", "y")

    assert left(rig, "c").values == [
        ("a", "x"),
        ("b", "x"),
        ("a", "y"),
        ("b", "y"),
        ("c", "x"),
        ("c", "y"),
    ]


def test_keys_do_not_meet() -> None:
    assert right(left(rig_of(), "a"), "x", key="other").values == []


def test_a_pair_has_the_later_time_and_none_if_one_has_none() -> None:
    rig = rig_of().push(["a"], [5], ["k"]).push(["x", "y"], [3, 8], ["k", "k"], port=1)
    assert rig.timed == [(("a", "x"), 5), (("a", "y"), 8)]

    assert left(rig, "b").timed[2:] == [(("b", "x"), None), (("b", "y"), None)]


def test_a_record_is_there_until_its_ttl_is_up_and_not_a_ms_longer() -> None:
    rig = left(rig_of(ttl_ms=100), "a")

    assert right(rig.clock(1_099), "x").values == [("a", "x")]
    assert right(rig.clock(1_100), "y").values == [("a", "x")]
    assert kept(rig) == ["x", "y"]
    assert kept(rig.clock(1_200)) == []


def test_a_record_whose_time_is_up_is_not_met_although_no_timer_has_fired() -> None:
    rig = left(rig_of("left", ttl_ms=100), "a")
    rig.now_ms = 1_100

    assert right(rig, "x").values == [("a", None)]


def test_the_next_expiry_is_asked_for() -> None:
    rig = left(rig_of(ttl_ms=100), "a")

    assert rig.chain.next_processing_time_ms() == 1_100
    assert left(rig_of(), "a").chain.next_processing_time_ms() is None


def test_an_unmatched_record_of_an_outer_side_comes_out_when_its_ttl_is_up() -> None:
    rig = right(left(rig_of("full", ttl_ms=100), "a").clock(1_050), "x", key="other")

    assert rig.clock(1_099).values == []
    assert rig.clock(1_100).values == [("a", None)]
    assert rig.clock(1_150).values == [("a", None), (None, "x")]


def test_a_matched_record_never_comes_out_alone() -> None:
    rig = right(left(rig_of("full", ttl_ms=100), "a"), "x")

    assert rig.clock(2_000).end().values == [("a", "x")]


def test_a_record_that_comes_when_all_partners_are_gone_is_unmatched() -> None:
    rig = left(right(rig_of("left", ttl_ms=100), "x").clock(1_050), "a")

    left(rig.clock(1_120), "b")

    assert rig.clock(1_150).values == [("a", "x")], "a goes, which had met x"
    assert rig.clock(1_220).values == [("a", "x"), ("b", None)]


@pytest.mark.parametrize(
    ("how", "alone"),
    [
        ("inner", []),
        ("left", [("b", None)]),
        ("right", [(None, "y")]),
        ("full", [("b", None), (None, "y")]),
    ],
)
def test_without_ttl_unmatched_records_come_out_at_the_end(how: How, alone: list[Any]) -> None:
    rig = right(left(rig_of(how), "a"), "x")

    right(left(rig, "b", key="l"), "y", key="r").clock(10**9)

    assert rig.values == [("a", "x")]
    assert rig.end().values == [("a", "x"), *alone]
    assert kept(rig) == []


def test_what_came_out_at_the_end_does_not_expire_once_more() -> None:
    rig = left(rig_of("left", ttl_ms=100), "a").end()

    assert rig.clock(5_000).values == [("a", None)]
    assert rig.restored().clock(9_000).values == [("a", None)]


def test_many_unmatched_records_come_out_in_pages() -> None:
    rig = rig_of("left")
    count = PAGE_RECORDS + 10
    rig.push(range(count), None, range(count))

    rig.end()

    assert [len(batch) for batch in rig.out] == [PAGE_RECORDS, 10]
    assert sorted(rig.values) == [(n, None) for n in range(count)]


@pytest.mark.fault("F24", promise="P1", oracles="O7")
def test_a_wall_clock_that_goes_back_keeps_what_is_there_a_little_longer() -> None:
    rig = left(rig_of(ttl_ms=100), "a")
    rig.now_ms = 900
    left(rig, "b")

    assert kept(rig.clock(1_099)) == ["a", "b"]
    assert kept(rig.clock(1_100)) == []


def test_ttl_goes_on_over_a_restore() -> None:
    rig = left(rig_of("left", ttl_ms=100), "a").restored()

    assert rig.clock(1_099).values == []
    assert rig.clock(1_100).values == [("a", None)]


def test_a_ttl_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ConfigError, match="ttl: 0 ms is less than 1 ms"):
        rig_of(ttl_ms=0)


def test_an_unknown_kind_of_join_is_refused() -> None:
    with pytest.raises(ConfigError, match="how: 'cross' is not 'inner' or"):
        rig_of("cross")  # type: ignore[arg-type]
