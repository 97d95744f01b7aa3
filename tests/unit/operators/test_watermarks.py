from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.core.event_time import Bounded, EventTime
from flowsnap.core.watermark import MIN_WATERMARK
from flowsnap.errors import ConfigError, OperatorError
from flowsnap.operators import KeyBy
from flowsnap.operators.watermarks import (
    AssignTimestamps,
    bounded,
    epoch_ms,
    event_time_of,
    monotonous,
    punctuated,
    strategy_of,
)
from flowsnap.operators.window import Count, Tumbling
from flowsnap.operators.window.aggregate import Aggregates
from flowsnap.operators.window.plan import WindowPlan
from tests.unit.operators.rig import Rig


@dataclass
class Event:
    at: Any


def assigning(delay_ms: int = 0, **settings: Any) -> AssignTimestamps:
    return AssignTimestamps(abs, Bounded(delay_ms), **settings)


# --- timestamps


def test_every_record_gets_the_time_that_the_function_returns() -> None:
    rig = Rig(assigning())

    rig.push([3, -5, 4], keys=["a", "b", "a"])

    assert rig.timed == [(3, 3), (-5, 5), (4, 4)]
    assert rig.out[0].keys == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("selector", "record"), [("at", {"at": 7}), ("at", Event(7)), (1, ("x", 7))]
)
def test_time_may_be_a_field_or_an_item(selector: Any, record: Any) -> None:
    rig = Rig(AssignTimestamps(selector, Bounded(0)))

    assert rig.push([record]).timed == [(record, 7)]


def test_aware_datetime_counts_in_ms_since_the_epoch_wherever_it_is() -> None:
    noon = datetime(2024, 5, 1, 12, 0, 0, 123_999, tzinfo=UTC)
    elsewhere = noon.astimezone(timezone(timedelta(hours=5, minutes=30)))
    rig = Rig(AssignTimestamps("at", Bounded(0))).push([Event(noon), Event(elsewhere), Event(5)])

    assert rig.out[0].timestamps == [1_714_564_800_123, 1_714_564_800_123, 5]


def test_time_before_the_epoch_is_rounded_down() -> None:
    assert epoch_ms(datetime(1969, 12, 31, 23, 59, 59, 999_500, tzinfo=UTC)) == -1


@pytest.mark.parametrize(
    ("time", "message"),
    [
        (None, "TypeError: the record has no timestamp"),
        (datetime(2024, 5, 1), "ValueError: the timestamp 2024-05-01T00:00:00 has no time zone"),
        (1.5, "TypeError: the timestamp is a float, not an int of ms or an aware datetime"),
        (True, "TypeError: the timestamp is a bool"),
        ("12:00", "TypeError: the timestamp is a str"),
        (2**62 + 1, "ValueError: the timestamp 4611686018427387905 is out of range"),
    ],
)
def test_what_is_no_time_is_refused_and_its_record_named(time: Any, message: str) -> None:
    rig = Rig(AssignTimestamps("at", Bounded(0)))

    with pytest.raises(OperatorError, match="on record 2 of a batch of 3") as raised:
        rig.push([Event(1), Event(time), Event(3)])

    assert f"operator 'op-0', subtask 0: {message}" in str(raised.value)


def test_failure_of_the_users_function_names_the_record() -> None:
    rig = Rig(AssignTimestamps(lambda n: 1 // n, Bounded(0)))

    with pytest.raises(OperatorError, match=r"ZeroDivisionError.* on record 3 of a batch of 4"):
        rig.push([1, 1, 0, 1])


def test_times_of_a_batch_are_not_changed_in_place() -> None:
    values = [5, 1]
    rig = Rig(assigning(max_future_ms=0)).push(values)

    assert values == [5, 1]
    assert rig.out[0].timestamps == [5, 1]


# --- watermarks


def test_watermark_follows_the_greatest_time_at_a_distance_once_per_batch() -> None:
    rig = Rig(assigning(delay_ms=10))

    rig.push([100, 300, 200]).push([250]).push([305])

    assert rig.watermarks == [289, 294]


def test_watermarks_from_upstream_end_here() -> None:
    rig = Rig(assigning())

    rig.watermark(1_000).push([5])

    assert rig.watermarks == [4]


def test_record_in_the_far_future_takes_event_time_only_so_far() -> None:
    rig = Rig(assigning(max_future_ms=50), wall_ms=1_000)

    rig.push([10**9, 3]).clock(5_000).push([1_100])

    assert rig.watermarks == [1_049, 1_099]
    assert rig.timed[0] == (10**9, 10**9)


def test_custom_strategy_may_hold_its_peace() -> None:
    class Every:
        def on_batch(self, timestamps: list[int]) -> int | None:
            return min(timestamps) if len(timestamps) > 1 else None

    rig = Rig(AssignTimestamps(abs, Every())).push([5]).push([9, 7]).push([8, 3])

    assert rig.watermarks == [7]


def test_punctuated_strategy_listens_to_the_records() -> None:
    strategy = strategy_of(punctuated(lambda event: event.get("done")))
    rig = Rig(AssignTimestamps("at", strategy))

    rig.push([{"at": 50}]).push([{"at": 60, "done": 40}, {"at": 70}]).push([{"at": 1, "done": 30}])

    assert rig.watermarks == [40]


def test_restored_watermark_is_told_again_and_nothing_is_late_that_was_not() -> None:
    rig = Rig(assigning(delay_ms=10)).push([500]).restored()

    rig.push([495]).push([520])

    assert rig.watermarks == [489, 509]


def test_after_a_restart_all_subtasks_begin_at_the_least_of_their_watermarks() -> None:
    rig = Rig(assigning()).push([100])
    saved = rig.snapshot()
    (state,) = saved.operator_states
    other = Rig(assigning()).push([40]).snapshot().operator_states[0]

    union = type(state)(state.operator, state.name, state.kind, state.values + other.values)
    again = Rig(assigning(), saved=type(saved)(saved.directory, (), (union,), {}, False))

    assert state.kind == "union"
    assert again.watermarks == [39]


def test_subtask_that_had_seen_nothing_has_all_begin_anew() -> None:
    assert Rig(assigning()).restored().watermarks == []


# --- idleness


def test_subtask_is_idle_after_no_record_for_so_long_and_looks_twice() -> None:
    rig = Rig(assigning(idle_ms=30), wall_ms=1_000).push([5])
    (operator,) = rig.operators

    assert operator.next_processing_time_ms() == 1_030
    assert not rig.clock(1_030).chain.is_idle(False)
    assert rig.clock(1_030).chain.is_idle(False)
    assert operator.next_processing_time_ms() is None


def test_record_that_had_waited_keeps_a_subtask_active() -> None:
    rig = Rig(assigning(idle_ms=30), wall_ms=1_000).push([5])

    rig.clock(9_000).push([6]).clock(9_030)

    assert not rig.chain.is_idle(False)


def test_idle_subtask_is_active_with_its_next_record() -> None:
    rig = Rig(assigning(idle_ms=30)).clock(30).clock(30)
    assert rig.chain.is_idle(False)

    rig.push([5])

    assert not rig.chain.is_idle(False)
    assert rig.operators[0].next_processing_time_ms() == 60


def test_without_idleness_the_clock_is_not_asked() -> None:
    assert Rig(assigning()).chain.next_processing_time_ms() is None


# --- against brute force


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(-50, 50), max_size=4), max_size=8),
    st.integers(0, 20),
    st.integers(0, 8),
)
def test_watermark_is_that_of_all_records_so_far_wherever_it_was_restored(
    batches: list[list[int]], delay_ms: int, cut: int
) -> None:
    rig = Rig(AssignTimestamps(int, Bounded(delay_ms)))
    seen: list[int] = []
    for number, batch in enumerate(batches):
        rig = rig.restored() if number == cut else rig
        rig.push(batch)
        seen += batch
        reached = max(seen) - delay_ms - 1 if seen else MIN_WATERMARK
        assert rig.operators[0].watermark_ms in {reached, None}
        assert max(rig.watermarks, default=MIN_WATERMARK) == reached
    assert rig.watermarks == sorted(rig.watermarks)


# --- settings


def test_strategies_for_a_source_say_what_their_splits_need() -> None:
    settings = bounded("5s", timestamp="at", idle="1m", group="all", max_drift="2s")

    assert settings.strategy == Bounded(5_000)
    assert (settings.idle_ms, settings.group, settings.max_drift_ms) == (60_000, "all", 2_000)
    assert settings.stamp is not None
    assert monotonous().strategy == Bounded(0)
    assert event_time_of(Bounded(3)) == EventTime(Bounded(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bounded("soon"), "out_of_orderness: 'soon' is not a duration"),
        (lambda: bounded(idle="0s"), "idle: '0s' is shorter than 1 ms"),
        (lambda: bounded(max_drift="far"), "max_drift: 'far' is not a duration"),
        (lambda: bounded(group=3), "group: 3 is not a name"),  # type: ignore[arg-type]
        (lambda: bounded(timestamp=True), "timestamp: True does not select anything"),
        (lambda: punctuated("done"), "punctuated: 'done' is not a function"),  # type: ignore[arg-type]
        (lambda: AssignTimestamps(None, Bounded(0)), "must be selected from the record"),
        (lambda: strategy_of("bounded"), "'bounded' is not a watermark strategy"),
        (lambda: strategy_of(Bounded), "is not a watermark strategy"),
        (lambda: strategy_of(bounded(group="g")), "are for a source"),
        (lambda: strategy_of(bounded(timestamp="at")), "are for a source"),
    ],
)
def test_wrong_settings_are_refused_when_they_are_made(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=12), st.randoms())
def test_event_time_does_not_look_at_the_wall_clock(times: list[int], clock: Random) -> None:
    counts = WindowPlan(Tumbling("10ms"), late="late").aggregate(Aggregates(Count()))[0]
    still, wild = (Rig(assigning(delay_ms=5), KeyBy(bool), counts) for _ in range(2))

    for at_ms in times:
        still.push([at_ms])
        wild.clock(clock.randrange(10**12)).push([at_ms])

    assert (wild.end().timed, wild.watermarks) == (still.end().timed, still.watermarks)
