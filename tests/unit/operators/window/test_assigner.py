from __future__ import annotations

import doctest
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from flowsnap.core.watermark import MAX_WATERMARK
from flowsnap.errors import ConfigError
from flowsnap.operators.window import (
    ALL_TIME,
    Global,
    Session,
    Sliding,
    SlidingCount,
    Tumbling,
    TumblingCount,
    Window,
    assigner,
    merging,
)


@pytest.mark.parametrize("module", [assigner, merging])
def test_sessions_in_the_docstrings_hold(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("time", "start"),
    [(0, 0), (9, 0), (10, 10), (-1, -10), (-10, -10), (-11, -20)],
)
def test_a_window_begins_where_the_one_before_ends_also_before_the_epoch(
    time: int, start: int
) -> None:
    assert Tumbling("10ms").windows(time, None) == [Window(start, start + 10)]


@pytest.mark.parametrize(("offset", "start"), [("3ms", -7), ("-3ms", -3), ("0s", 0), ("-9ms", -9)])
def test_an_offset_moves_windows_in_either_direction(offset: str, start: int) -> None:
    assert Tumbling("10ms", offset).windows(0, None) == [Window(start, start + 10)]


def test_an_offset_may_be_a_negative_timedelta() -> None:
    day = Tumbling("1d", offset=timedelta(hours=-8))

    assert day.windows(0, None)[0].start == -8 * 3_600_000


def test_sliding_windows_overlap_and_come_earliest_first() -> None:
    assert Sliding("10ms", "4ms").windows(9, None) == [Window(0, 10), Window(4, 14), Window(8, 18)]


def test_a_record_between_windows_with_gaps_belongs_to_none() -> None:
    sliding = Sliding("3ms", "10ms")

    assert sliding.windows(-8, None) == [Window(-10, -7)]
    assert sliding.windows(3, None) == []
    assert sliding.in_gap([2, 3, 9, 10]) == [False, True, True, False]


def test_every_window_is_made_of_whole_slices() -> None:
    sliding = Sliding("10ms", "4ms", "1ms")

    assert (sliding.slice_ms, sliding.slices_per_window) == (2, 5)
    assert sliding.slices([0, 1, 2, 3]) == [-1, 1, 1, 3]
    for start in range(-9, 11, 2):
        assert sliding.first_end(start) == sliding.windows(start, None)[0].end


@pytest.mark.parametrize("watermark", range(-25, 25))
@pytest.mark.parametrize("lateness", [0, 7])
def test_the_first_time_kept_is_that_of_a_window_not_over(watermark: int, lateness: int) -> None:
    sliding = Sliding("10ms", "4ms", "1ms")

    first = sliding.first_kept_ms(watermark, lateness)

    assert sliding.windows(first, None)[-1].last_ms + lateness > watermark
    assert sliding.windows(first - 1, None)[-1].last_ms + lateness <= watermark


def test_a_session_has_the_gap_of_its_record() -> None:
    session = Session(lambda record: "2ms" if record == "short" else 7)

    assert session.windows(-5, "short") == (Window(-5, -3),)
    assert session.windows(-5, "long") == (Window(-5, 2),)


@pytest.mark.parametrize("gap", [0, -1, "0s"])
def test_a_gap_that_is_not_positive_is_refused_when_it_comes(gap: Any) -> None:
    with pytest.raises(ConfigError, match="session gap"):
        Session(lambda record: gap).windows(0, None)


@pytest.mark.parametrize("kind", [Global(), TumblingCount(2), SlidingCount(2, 1)])
def test_count_windows_are_all_of_time(kind: Global) -> None:
    assert kind.windows(5, None) == (ALL_TIME,)
    assert ALL_TIME.last_ms < MAX_WATERMARK


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tumbling("0s"), "window size"),
        (lambda: Tumbling(timedelta(seconds=-1)), "window size"),
        (lambda: Tumbling("ten"), "not a duration"),
        (lambda: Tumbling("1s", "1s"), "offset"),
        (lambda: Tumbling("1s", "-1s"), "offset"),
        (lambda: Tumbling("1s", "-"), "not a duration"),
        (lambda: Sliding("1s", "0s"), "window every"),
        (lambda: Sliding("10s", "1s", "2s"), "offset"),
        (lambda: Session("0s"), "session gap"),
        (lambda: TumblingCount(0), "count window size: 0 is not a positive int"),
        (lambda: TumblingCount(True), "not a positive int"),
        (lambda: SlidingCount(5, 0), "count window every"),
        (lambda: SlidingCount(-5, 1), "count window size"),
    ],
)
def test_a_length_that_is_not_positive_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
