from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.core.event_time import (
    SILENT_MS,
    Bounded,
    EventTime,
    GroupAlignment,
    SourceTime,
    WatermarkReport,
    promised,
)
from flowsnap.core.ids import TaskId, WorkerId
from flowsnap.core.watermark import MAX_WATERMARK, MIN_WATERMARK

GROUP = EventTime(Bounded(0), group="all", max_drift_ms=10)
W0, W1 = WorkerId(0), WorkerId(1)


def time_of(*marks: int | None, idle_ms: int | None = None) -> SourceTime:
    return SourceTime(EventTime(Bounded(0), idle_ms=idle_ms), list(marks))


def found(time: SourceTime, split: int, *timestamps: int) -> None:
    time.found(split, list(timestamps), list(timestamps))


# --- strategies


class Saying:
    """A strategy that says what it is told."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def on_batch(self, timestamps: list[int]) -> Any:
        return self.answer


def test_bounded_strategy_leaves_room_for_records_that_are_late_by_the_bound() -> None:
    assert Bounded(5).on_batch([20, 30, 10]) == 24
    assert Bounded(0).on_batch([30]) == 29


@pytest.mark.parametrize("answer", [1.5, True, "10", MAX_WATERMARK, MIN_WATERMARK])
def test_answer_that_is_no_point_in_time_is_refused(answer: Any) -> None:
    with pytest.raises(TypeError, match="watermark strategy Saying returned"):
        promised(Saying(answer), [1], [1])


def test_strategy_may_promise_nothing() -> None:
    assert promised(Saying(None), [1], [1]) is None


# --- the splits of a source


def test_source_is_as_far_as_its_slowest_split() -> None:
    time = time_of(None, None)

    found(time, 0, 100)
    assert time.merger.current == MIN_WATERMARK
    found(time, 1, 40)
    assert time.merger.current == 39


def test_split_never_goes_back() -> None:
    time = time_of(None)
    found(time, 0, 100)
    found(time, 0, -7)

    assert time.mark(0) == 99
    assert time.merger.current == 99


def test_times_before_the_epoch_are_times() -> None:
    time = time_of(None)
    found(time, 0, 1)
    found(time, 0, -50)
    assert time.mark(0) == 0

    time = time_of(-100)
    found(time, 0, -50)
    assert time.mark(0) == -51


def test_finished_split_holds_nobody_back() -> None:
    time = time_of(None, None)
    found(time, 0, 100)

    time.finish(1)

    assert time.merger.current == 99


def test_restored_split_goes_on_at_its_own_watermark() -> None:
    time = time_of(50, 20)

    assert time.merger.current == 20
    found(time, 1, 90)
    assert time.merger.current == 50


def test_restored_source_does_not_go_back_for_a_split_that_is_new() -> None:
    time = SourceTime(EventTime(Bounded(0)), [50, None], restored_ms=50)

    found(time, 1, 10)

    assert time.merger.current == 50


def test_each_split_has_a_strategy_of_its_own() -> None:
    class Counting:
        seen = 0

        def on_batch(self, timestamps: list[int]) -> int:
            self.seen += len(timestamps)
            return self.seen

    time = SourceTime(EventTime(Counting()), [None, None])
    found(time, 0, 1, 1, 1)
    found(time, 1, 1)

    assert (time.mark(0), time.mark(1)) == (3, 1)


def test_split_is_idle_when_it_was_found_empty_for_so_long() -> None:
    time = time_of(None, None, idle_ms=100)
    found(time, 0, 50)

    time.found_nothing(1, 1_000)
    time.found_nothing(1, 1_099)
    assert time.merger.current == MIN_WATERMARK
    time.found_nothing(1, 1_100)

    assert time.merger.current == 49


def test_time_in_which_nobody_looked_does_not_make_a_split_idle() -> None:
    time = time_of(None, None, idle_ms=100)
    found(time, 0, 50)
    time.found_nothing(1, 0)
    found(time, 1, 10)

    time.found_nothing(1, 5_000)  # held back until now

    assert time.merger.current == 9


def test_idle_split_counts_again_with_its_next_record() -> None:
    time = time_of(None, None, idle_ms=100)
    time.found_nothing(1, 0)
    time.found_nothing(1, 100)
    found(time, 1, 10)
    found(time, 0, 50)

    assert time.merger.current == 9
    assert not time.merger.is_idle


def test_source_is_idle_when_all_its_open_splits_are() -> None:
    time = time_of(None, None, idle_ms=1)
    time.finish(0)
    time.found_nothing(1, 0)
    time.found_nothing(1, 1)

    assert time.merger.is_idle


# --- alignment


def test_split_is_read_up_to_the_drift_beyond_its_group() -> None:
    time = SourceTime(GROUP, [None])
    time.align(100)

    found(time, 0, 111)
    assert time.may_read(0)
    found(time, 0, 112)
    assert not time.may_read(0)
    time.align(101)
    assert time.may_read(0)


def test_nothing_is_read_beyond_the_first_batch_before_the_group_is_known() -> None:
    time = SourceTime(GROUP, [None])

    assert time.may_read(0)
    found(time, 0, 5)
    assert not time.may_read(0)


def test_group_that_nobody_holds_back_is_read_freely() -> None:
    time = SourceTime(GROUP, [10_000])
    time.align(None)

    assert time.may_read(0)


def test_source_without_a_group_is_read_freely() -> None:
    time = time_of(10_000)
    time.align(0)

    assert time.may_read(0)


def test_slowest_split_holds_the_group() -> None:
    time = SourceTime(GROUP, [30, 20, None])

    assert time.holds_at_ms(0) == MIN_WATERMARK
    time.finish(2)
    assert time.holds_at_ms(0) == 20


def test_subtask_without_splits_holds_nobody() -> None:
    assert SourceTime(GROUP, []).holds_at_ms(0) is None


def test_split_in_which_nothing_is_found_holds_nobody_after_a_while() -> None:
    time = SourceTime(GROUP, [20])
    time.found_nothing(0, 500)

    assert time.holds_at_ms(500 + SILENT_MS - 1) == 20
    assert time.holds_at_ms(500 + SILENT_MS) is None
    found(time, 0, 31)
    assert time.holds_at_ms(9_999) == 30


# --- the group


def report(task: str, watermark_ms: int | None, group: str = "all") -> WatermarkReport:
    return WatermarkReport(TaskId(task), group, watermark_ms)


def test_group_is_known_when_all_workers_have_spoken() -> None:
    group = GroupAlignment([W0, W0, W1])

    assert group.report(W0, [report("a/0", 10)]) is None
    assert group.report(W1, [report("a/1", 5)]) == {"all": 5}


def test_group_is_told_only_when_it_has_moved() -> None:
    group = GroupAlignment([W0])

    assert group.report(W0, [report("a/0", 10), report("b/0", 20)]) == {"all": 10}
    assert group.report(W0, [report("a/0", 10), report("b/0", 30)]) is None
    assert group.report(W0, [report("a/0", 15), report("b/0", 30)]) == {"all": 15}


def test_groups_do_not_wait_for_each_other() -> None:
    group = GroupAlignment([W0])

    told = group.report(W0, [report("a/0", 10, "one"), report("b/0", 20, "two")])

    assert told == {"one": 10, "two": 20}


def test_who_holds_nobody_is_left_out_and_so_is_a_group_of_such() -> None:
    group = GroupAlignment([W0])

    assert group.report(W0, [report("a/0", None), report("b/0", 7)]) == {"all": 7}
    assert group.report(W0, [report("a/0", None), report("b/0", None)]) == {}


def test_job_without_groups_is_told_nothing() -> None:
    group = GroupAlignment([W0])

    assert group.report(W0, []) is None


STEPS = st.lists(
    st.tuples(st.sampled_from(["found", "nothing", "finish"]), st.integers(0, 2), st.integers(0, 9))
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_source_never_promises_more_than_one_of_its_active_splits(
    steps: list[tuple[str, int, int]],
) -> None:
    time, now_ms, finished = time_of(None, None, None, idle_ms=30), 0, set()
    for step, split, number in steps:
        before, now_ms = time.merger.current, now_ms + 10
        if split in finished:
            continue
        if step == "found":
            found(time, split, number)
            assert time.mark(split) is not None
        elif step == "nothing":
            time.found_nothing(split, now_ms)
        else:
            time.finish(split)
            finished.add(split)
        time.merger.check()
        assert time.merger.current >= before
        if step == "found" and time.merger.current > before:
            assert time.merger.current <= (time.mark(split) or 0)
