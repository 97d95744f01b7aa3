"""Timers by a wall clock that somebody sets: each is called once, and never before its time.

KAFKA-4051, FLINK-10531: there a clock that was set back had timers called twice, or never.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsnap.operators.process import KeyedProcess, Process
from flowsnap.operators.process_context import ProcessContext
from tests.unit.operators.rig import Rig

Fired = tuple[str, int]


class Remind(KeyedProcess[int, Fired]):
    """Reminds of each key at the time that its record names."""

    def process(self, value: int, context: ProcessContext) -> None:
        context.register_processing_timer(value)

    def on_timer(self, timestamp: int, context: ProcessContext) -> Iterator[Fired]:
        yield context.key, timestamp


class Tick(KeyedProcess[Any, int]):
    """Ticks every 10 ms from the first record on."""

    def process(self, value: Any, context: ProcessContext) -> None:
        context.register_processing_timer(10)

    def on_timer(self, timestamp: int, context: ProcessContext) -> list[int]:
        context.register_processing_timer(timestamp + 10)
        return [timestamp]


def reminders(*times: int) -> Rig:
    rig = Rig(Process(Remind))
    for at in times:
        rig.push([at], None, [f"at {at}"])
    return rig


@pytest.mark.fault("F24", promise="P1", oracles="O7")
def test_clock_that_jumps_forward_calls_every_timer_on_the_way_once_and_in_order() -> None:
    rig = reminders(30, 10, 20, 10_000)

    assert rig.clock(5_000).clock(5_001).values == [("at 10", 10), ("at 20", 20), ("at 30", 30)]


@pytest.mark.fault("F24", promise="P1", oracles="O7")
def test_clock_that_is_set_back_calls_no_timer_again_and_none_too_early() -> None:
    rig = reminders(10, 50).clock(20)

    assert rig.clock(0).clock(20).clock(49).values == [("at 10", 10)]
    assert rig.clock(50).clock(0).clock(60).values == [("at 10", 10), ("at 50", 50)]


@pytest.mark.fault("F24", promise="P1", oracles="O7")
def test_timer_that_was_called_is_not_called_again_by_a_job_restored_on_a_slower_clock() -> None:
    rig = reminders(10, 50).clock(20)

    again = Rig(Process(Remind), saved=rig.snapshot(), wall_ms=0)

    assert again.clock(10).clock(20).values == []
    assert again.clock(50).values == [("at 50", 50)]


def test_ticks_go_on_from_the_last_one_whatever_the_clock_does() -> None:
    rig = Rig(Process(Tick)).push([None], None, ["a"])

    for now_ms in (10, 0, 10, 35, 12, 40):
        rig.clock(now_ms)

    assert rig.values == [10, 20, 30, 40]


@given(
    st.lists(st.integers(0, 30), unique=True, max_size=6),
    st.lists(st.integers(0, 40), min_size=1, max_size=12),
)
def test_each_timer_is_called_once_at_the_first_moment_that_is_not_before_it(
    times: list[int], moments: list[int]
) -> None:
    rig, seen = reminders(*times), []
    for now_ms in moments:
        before = len(rig.values)
        seen += [(now_ms, at) for _, at in rig.clock(now_ms).values[before:]]

    first = [(next(now for now in moments if now >= at), at) for at in times if at <= max(moments)]

    assert sorted(seen) == sorted(first)
