from __future__ import annotations

from typing import Any

import pytest

from flowsnap.errors import ConfigError
from flowsnap.operators.join import TemporalJoin
from flowsnap.operators.join.pairing import Pairing
from tests.unit.operators.rig import Rig


def rig_of(how: Any = "inner") -> Rig:
    return Rig(TemporalJoin(Pairing(), how))


def left(rig: Rig, *times: int, key: str = "k") -> Rig:
    return rig.push([f"l{t}" for t in times], times, [key] * len(times))


def versions(rig: Rig, *times: int, key: str = "k", values: list[Any] | None = None) -> Rig:
    return rig.push(values or [f"v{t}" for t in times], times, [key] * len(times), port=1)


def kept(rig: Rig, table: str) -> list[Any]:
    items = rig.backend.value_table(next(iter(rig.contexts)), table, "value").items()
    return [value for _, line in items for value in line.values]


def test_a_record_meets_the_version_that_is_valid_at_its_time() -> None:
    rig = left(versions(rig_of(), 10, 20), 10, 19, 20, 25)

    assert rig.watermark(30).timed == [
        (("l10", "v10"), 10),
        (("l19", "v10"), 19),
        (("l20", "v20"), 20),
        (("l25", "v20"), 25),
    ]


def test_a_record_waits_until_the_watermark_has_reached_its_time() -> None:
    rig = left(versions(rig_of(), 10), 20, 15)

    assert rig.watermark(14).values == []
    assert rig.watermark(19).values == [("l15", "v10")]
    assert rig.watermark(20).values == [("l15", "v10"), ("l20", "v10")]


def test_a_version_that_comes_after_the_record_is_met_all_the_same() -> None:
    rig = versions(left(versions(rig_of(), 10), 20), 18, 21)

    assert rig.watermark(20).values == [("l20", "v18")]


@pytest.mark.parametrize(("how", "expected"), [("inner", []), ("left", [("l5", None)])])
def test_a_record_before_the_first_version_meets_none(how: str, expected: list[Any]) -> None:
    rig = left(versions(rig_of(how), 10), 5)

    assert rig.watermark(7).values == expected


def test_a_version_may_say_that_there_is_no_row_any_more() -> None:
    rig = Rig(TemporalJoin(Pairing(), "left", "gone".__eq__))
    versions(rig, 10, 20, values=["v10", "gone"])

    assert left(rig, 15, 25).watermark(30).values == [("l15", "v10"), ("l25", None)]
    assert kept(rig, "versions") == []


def test_of_two_versions_of_one_time_the_last_is_valid() -> None:
    rig = versions(versions(rig_of(), 10, values=["old"]), 10, values=["new"])

    assert left(rig, 10).watermark(10).values == [("l10", "new")]


def test_keys_have_histories_of_their_own() -> None:
    rig = left(versions(rig_of("left"), 10, key="other"), 20)

    assert rig.watermark(20).values == [("l20", None)]


def test_versions_that_nobody_can_meet_any_more_are_forgotten() -> None:
    rig = versions(rig_of(), 10, 20, 30, 40)

    assert kept(rig.watermark(19), "versions") == ["v10", "v20", "v30", "v40"]
    assert kept(rig.watermark(35), "versions") == ["v30", "v40"]
    assert kept(rig.watermark(10**12), "versions") == ["v40"]


def test_records_are_forgotten_when_they_have_left() -> None:
    rig = left(rig_of(), 10, 20)

    assert kept(rig.watermark(15), "waiting") == ["l20"]
    assert kept(rig.watermark(20), "waiting") == []


def test_a_late_record_meets_nothing_whatever_is_left() -> None:
    rig = versions(rig_of("left"), 10).watermark(20)

    left(rig, 20, 21).watermark(30)

    assert rig.values == [("l21", "v10")]
    assert rig.side("late-left") == ["l20"]


def test_a_version_that_came_behind_the_watermark_is_seen_by_later_records() -> None:
    rig = versions(versions(rig_of(), 10).watermark(30), 20, 5)

    assert kept(rig, "versions") == ["v20"]
    assert left(rig, 40).end().values == [("l40", "v20")]


def test_the_end_of_input_lets_everything_out() -> None:
    assert left(versions(rig_of(), 10), 999).end().values == [("l999", "v10")]


@pytest.mark.parametrize(("port", "side"), [(0, "left"), (1, "right")])
def test_records_without_event_time_are_refused(port: int, side: str) -> None:
    with pytest.raises(ConfigError, match=f"as_of_join: the records of the {side} input"):
        rig_of().push(["x"], None, ["k"], port=port)


def test_what_says_that_a_row_is_deleted_must_be_a_function() -> None:
    with pytest.raises(ConfigError, match="as_of_join: deleted 'gone' is not a function"):
        TemporalJoin(Pairing(), deleted="gone")  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["right", "full", None])
def test_only_the_left_side_can_be_outer(how: Any) -> None:
    with pytest.raises(ConfigError, match=f"how: {how!r} is not 'inner' or 'left'"):
        rig_of(how)
