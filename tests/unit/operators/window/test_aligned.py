from __future__ import annotations

import pytest

from flowsnap.core.watermark import MIN_WATERMARK
from flowsnap.errors import ConfigError
from flowsnap.operators.rolling import PAGE_RECORDS
from flowsnap.operators.window import (
    Count,
    DistinctCount,
    Sliding,
    Sum,
    Tumbling,
    WindowResult,
)
from flowsnap.operators.window.aggregate import Aggregates
from flowsnap.operators.window.aligned import AlignedWindows
from flowsnap.operators.window.assigner import Assigner
from flowsnap.operators.window.combine import CombineWindows
from tests.unit.operators.rig import Rig

TOTALS = Aggregates(None, {"total": Sum(), "n": Count()})


def rig_of(assigner: Sliding, lateness_ms: int = 0, late: str | None = None) -> Rig:
    return Rig(AlignedWindows(assigner, TOTALS, lateness_ms=lateness_ms, late=late))


def combined(assigner: Sliding, lateness_ms: int = 0, keys_max: int = 100) -> Rig:
    merging = AlignedWindows(assigner, TOTALS, lateness_ms=lateness_ms, is_merging=True)
    return Rig(CombineWindows(assigner, TOTALS, keys_max=keys_max), merging)


def push(rig: Rig, *times: int, key: str = "a") -> Rig:
    return rig.push(times, times, [key] * len(times))


def result(start: int, end: int, total: int, n: int, key: str = "a") -> WindowResult[str, object]:
    return WindowResult(key, start, end, {"total": total, "n": n})


@pytest.mark.parametrize("make", [rig_of, combined])
def test_results_have_the_last_instant_of_their_window(make: type[Rig]) -> None:
    rig = push(make(Tumbling("10ms")), 1, 2, 10).watermark(8)  # type: ignore[arg-type]

    assert rig.values == []
    assert rig.watermark(9).timed == [(result(0, 10, 3, 2), 9)]
    assert rig.end().values[1:] == [result(10, 20, 10, 1)]


@pytest.mark.parametrize("make", [rig_of, combined])
def test_a_late_record_is_dropped_and_counted(make: type[Rig]) -> None:
    rig = push(make(Tumbling("10ms")).watermark(9), 9, 10)  # type: ignore[arg-type]

    assert rig.counted("late", len(rig.operators) - 1) == 1
    assert rig.end().values == [result(10, 20, 10, 1)]


def test_a_late_record_goes_to_the_side_output_with_its_time() -> None:
    rig = push(rig_of(Tumbling("10ms"), 3, "late").watermark(12), 9, 10)

    assert rig.side("late") == [9]


@pytest.mark.parametrize("make", [rig_of, combined])
def test_a_late_firing_has_the_keys_that_were_added_to(make: type[Rig]) -> None:
    rig = make(Sliding("10ms", "5ms"), 6)  # type: ignore[arg-type]
    push(push(rig, 6), 7, key="b").watermark(14)

    push(rig.restored(), 8)

    assert rig.values[4:] == [result(0, 10, 14, 2), result(5, 15, 14, 2)]


def test_a_window_that_is_over_does_not_fire_again_for_a_slice_it_shares() -> None:
    rig = push(rig_of(Sliding("10ms", "5ms")), 6).watermark(9)

    push(rig, 7).end()

    assert rig.values == [result(0, 10, 6, 1), result(5, 15, 13, 2)]


def test_nothing_is_left_when_all_windows_are_over() -> None:
    rig = rig_of(Sliding("10ms", "5ms"), 3)
    rig = push(rig, -20, 3, 40).restored().end()

    assert list(rig.restored().contexts["op-0"].table("windows").items()) == []  # type: ignore[index]


def test_rows_leave_in_pages_when_there_are_too_many() -> None:
    count = PAGE_RECORDS + 5
    rig = Rig(CombineWindows(Tumbling("10ms"), TOTALS, keys_max=10))

    rig.push([1] * count, [0] * count, range(count))

    assert [len(batch) for batch in rig.out] == [count]


def test_many_keys_fire_in_pages() -> None:
    count = 2 * PAGE_RECORDS + 1
    rig = rig_of(Tumbling("10ms")).push([1] * count, [0] * count, range(count))

    rig.restored().end()

    assert [len(batch) for batch in rig.out] == [PAGE_RECORDS, PAGE_RECORDS, 1]


def test_accumulators_that_change_in_place_are_not_shared_between_windows() -> None:
    operator = AlignedWindows(Sliding("10ms", "5ms"), Aggregates(DistinctCount()))
    rig = push(Rig(operator), 1, 6).watermark(4)

    push(rig, 7).watermark(9)
    push(rig, 11, 12).end()

    assert [(one.start, one.value) for one in rig.values] == [(-5, 1), (0, 3), (5, 4), (10, 2)]


def test_records_without_event_time_are_refused() -> None:
    assigner: Assigner = Tumbling("10ms")
    assert isinstance(assigner, Sliding)
    for rig in (rig_of(assigner), combined(assigner)):
        with pytest.raises(ConfigError, match="records without event time"):
            rig.push([1], None, ["a"])


@pytest.mark.parametrize("lateness", [0, 6])
def test_a_restart_that_sets_event_time_back_fires_nothing_again(lateness: int) -> None:
    rig = push(rig_of(Sliding("10ms", "5ms"), lateness), 6).watermark(9)

    again = Rig(*rig.templates, saved=rig.snapshot())
    again.watermark_ms = MIN_WATERMARK  # Upstream begins anew.
    push(again, 3).watermark(8)

    refired = [result(-5, 5, 3, 1), result(0, 10, 9, 2)]
    assert again.values == (refired if lateness else [])
    assert again.end().values[-1] == result(5, 15, 6, 1)
