from __future__ import annotations

from operator import length_hint
from typing import Any

import pytest

from flowsnap.core.element import Batch
from flowsnap.errors import ConfigError, OperatorError
from flowsnap.operators.join import IntervalJoin
from flowsnap.operators.join.pairing import Pairing
from tests.unit.operators.rig import Rig


def rig_of(lower: int = -5, upper: int = 10, pairing: Pairing | None = None) -> Rig:
    return Rig(IntervalJoin(pairing or Pairing(), lower, upper))


def kept(rig: Rig, side: str) -> list[Any]:
    return [
        value for _, _, value in rig.backend.map_table(next(iter(rig.contexts)), side).all_items()
    ]


def left(rig: Rig, *times: int, key: str = "k") -> Rig:
    return rig.push([f"l{t}" for t in times], times, [key] * len(times))


def right(rig: Rig, *times: int, key: str = "k") -> Rig:
    return rig.push([f"r{t}" for t in times], times, [key] * len(times), port=1)


def test_both_bounds_belong_to_the_interval() -> None:
    rig = right(rig_of(), 94, 95, 110, 111)

    assert left(rig, 100).values == [("l100", "r95"), ("l100", "r110")]


def test_whichever_side_comes_second_makes_the_pair() -> None:
    rig = left(rig_of(), 100)

    assert right(rig, 94, 95, 110, 111).values == [("l100", "r95"), ("l100", "r110")]


def test_a_pair_has_the_later_time_of_the_two() -> None:
    rig = left(rig_of(), 100)

    assert [time for _, time in right(rig, 97, 104).timed] == [100, 104]


def test_keys_do_not_meet() -> None:
    assert left(right(rig_of(), 100, key="other"), 100).values == []


def test_records_of_one_batch_find_partners_in_order_of_time() -> None:
    rig = right(rig_of(0, 10), 9, 3, 3, 1)

    assert left(rig, 2, 1).values == [
        ("l2", "r3"),
        ("l2", "r3"),
        ("l2", "r9"),
        ("l1", "r1"),
        ("l1", "r3"),
        ("l1", "r3"),
        ("l1", "r9"),
    ]


def test_an_interval_may_lie_wholly_before_the_left_record() -> None:
    rig = left(rig_of(-20, -10), 100)

    assert right(rig, 79, 80, 90, 91).values == [("l100", "r80"), ("l100", "r90")]


def test_what_is_older_than_the_watermark_is_late_and_meets_nothing() -> None:
    rig = left(rig_of(), 100).watermark(103)

    right(rig, 102, 103)

    assert rig.values == [("l100", "r103")]
    assert rig.side("late-right") == ["r102"]
    assert left(rig, 90).side("late-left") == ["l90"]


def test_a_record_as_old_as_the_watermark_still_meets_the_oldest_it_may() -> None:
    rig = left(rig_of(0, 31), 31).watermark(62)

    assert right(rig, 62).values == [("l31", "r62")]


def test_state_is_gone_when_only_late_records_could_ask_for_it() -> None:
    rig = left(right(rig_of(), 100), 100)
    assert kept(rig, "left")
    assert kept(rig, "right")

    rig.watermark(130)

    assert kept(rig, "left") == kept(rig, "right") == []


def test_a_record_whose_partners_would_all_be_late_is_not_kept() -> None:
    rig = left(rig_of(-20, -10).watermark(95), 100)

    assert kept(rig, "left") == []


def test_state_is_cut_into_pieces_along_time() -> None:
    rig = left(rig_of(), *range(160))

    assert [len(bucket.times) for bucket in kept(rig, "left")] == [16] * 10


def test_function_may_return_any_number_of_outputs_and_none_for_none() -> None:
    pairing = Pairing(lambda one, other: None if other == "r1" else [one, other], is_flat=True)
    rig = right(rig_of(pairing=pairing), 1, 2)

    assert left(rig, 0).timed == [("l0", 2), ("r2", 2)]


def test_a_text_in_place_of_outputs_is_refused() -> None:
    rig = right(rig_of(pairing=Pairing(lambda one, other: one, is_flat=True)), 1)

    with pytest.raises(OperatorError, match="returned a str, not an iterable of outputs"):
        left(rig, 0)


def test_the_record_on_which_the_function_failed_is_named() -> None:
    operator = IntervalJoin(Pairing(lambda one, other: 1 // 0), 0, 0)
    rig = right(Rig(operator), 3)

    with pytest.raises(OperatorError, match=r"on record 2 of a batch of 4"):
        left(rig, 1, 3, 5, 7)
    assert length_hint(rig.operators[0].cursor) == 2


@pytest.mark.parametrize(("port", "side"), [(0, "left"), (1, "right")])
def test_records_without_event_time_are_refused(port: int, side: str) -> None:
    with pytest.raises(
        ConfigError, match=f"interval_join: the records of the {side} input"
    ) as caught:
        rig_of().push(["x"], None, ["k"], port=port)
    assert caught.value.__notes__ == ["call assign_timestamps(...) on both streams, before key_by"]


def test_an_empty_interval_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no time is between lower \(3 ms\) and upper \(2 ms\)"):
        IntervalJoin(Pairing(), 3, 2)


def test_the_lists_of_a_batch_are_not_changed() -> None:
    batch = Batch([1, 2], [5, 4], ["a", "a"])
    operator = rig_of().operators[0]

    operator.process(batch)
    operator.process_port(batch, 1)

    assert batch == Batch([1, 2], [5, 4], ["a", "a"])
