"""The timers of a keyed step, against brute force."""

from __future__ import annotations

from collections.abc import Iterator
from operator import length_hint
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.core.watermark import MAX_WATERMARK, MIN_WATERMARK
from flowsnap.errors import ConfigError, OperatorError
from flowsnap.operators.process import KeyedProcess, Process
from flowsnap.operators.process_context import ProcessContext
from tests.unit.operators.rig import Rig

Fired = tuple[str, int, str, Any]


class Alarm(KeyedProcess[tuple[Any, ...], Fired]):
    """Does what its records say: ("event" | "processing" | "-event" | ..., time, name)."""

    def process(self, value: tuple[Any, ...], context: ProcessContext) -> None:
        what, at, name = value
        call = {
            "event": context.register_event_timer,
            "-event": context.delete_event_timer,
            "processing": context.register_processing_timer,
            "-processing": context.delete_processing_timer,
        }[what]
        call(at, name)

    def on_timer(self, timestamp: int, context: ProcessContext) -> Iterator[Fired]:
        yield context.kind or "", timestamp, context.key, context.timer_name


class Remembering(KeyedProcess[int, tuple[str, int, list[int]]]):
    """Keeps a sum and a list, and puts both out at the time that each record names."""

    def open(self, context: ProcessContext) -> None:
        self.sum = context.value_state("sum", default=0)
        self.all = context.list_state("all")

    def process(self, value: int, context: ProcessContext) -> None:
        self.sum.update(self.sum.value() + value)
        self.all.add(value)
        context.register_event_timer(value)

    def on_timer(self, timestamp: int, context: ProcessContext) -> Iterator[Any]:
        yield context.key, self.sum.value(), list(self.all.get())


class Chain(KeyedProcess[int, int]):
    """Each timer sets the next, up to the time that the record names."""

    def process(self, value: int, context: ProcessContext) -> None:
        context.register_event_timer(1, value)

    def on_timer(self, timestamp: int, context: ProcessContext) -> list[int]:
        if timestamp < context.timer_name:
            context.register_event_timer(timestamp + 1, context.timer_name)
        return [timestamp]


class Looking(KeyedProcess[str, Any]):
    """Puts out what the context says."""

    def process(self, value: str, context: ProcessContext) -> Iterator[Any]:
        context.register_event_timer(10, "name")
        yield self.seen(context)

    def on_timer(self, timestamp: int, context: ProcessContext) -> Iterator[Any]:
        context.output("beside", context.key)
        yield self.seen(context)

    def seen(self, context: ProcessContext) -> Any:
        return (
            context.key, context.timestamp, context.watermark, context.kind, context.timer_name
        )  # fmt: skip


class Failing(KeyedProcess[Any, Any]):
    def process(self, value: Any, context: ProcessContext) -> None:
        context.register_event_timer(value)

    def on_timer(self, timestamp: int, context: ProcessContext) -> Any:
        return "text" if timestamp == 7 else 1 // 0


def push(rig: Rig, key: str, what: str, at: int, name: Any = None) -> Rig:
    return rig.push([(what, at, name)], [0], [key])


def test_event_timer_fires_once_when_event_time_has_passed_it() -> None:
    rig = push(Rig(Process(Alarm)), "a", "event", 10)

    assert rig.watermark(9).values == []
    assert rig.watermark(10).values == [("event", 10, "a", None)]
    assert rig.watermark(99).values == [("event", 10, "a", None)]


def test_timers_fire_in_the_order_of_their_times() -> None:
    rig = Rig(Process(Alarm))
    for key, at in [("b", 30), ("a", 20), ("c", 10), ("a", 30)]:
        push(rig, key, "event", at)

    fired = [(at, key) for _, at, key, _ in rig.watermark(50).values]

    assert fired == [(10, "c"), (20, "a"), (30, "a"), (30, "b")]


def test_registering_again_changes_nothing_and_a_name_tells_timers_apart() -> None:
    rig = Rig(Process(Alarm))
    for name in (None, None, "x", "x", ("y", 1)):
        push(rig, "a", "event", 10, name)

    fired = rig.watermark(10).values

    assert sorted(map(repr, (name for *_, name in fired))) == ["'x'", "('y', 1)", "None"]


def test_deleted_timer_does_not_fire_and_may_be_absent() -> None:
    rig = push(Rig(Process(Alarm)), "a", "event", 10)
    push(rig, "b", "event", 10)

    push(rig, "a", "-event", 10)
    push(rig, "a", "-event", 11)

    assert rig.watermark(20).values == [("event", 10, "b", None)]


def test_timer_in_the_past_fires_with_the_next_watermark() -> None:
    rig = Rig(Process(Alarm)).watermark(100)

    push(rig, "a", "event", 10)

    assert rig.values == []
    assert rig.watermark(101).values == [("event", 10, "a", None)]


def test_timer_may_set_the_next_one_also_within_one_watermark() -> None:
    rig = Rig(Process(Chain)).push([5], [0], ["a"])

    assert rig.watermark(3).values == [1, 2, 3]
    assert rig.end().values == [1, 2, 3, 4, 5]


def test_outputs_of_an_event_timer_have_its_time() -> None:
    rig = push(Rig(Process(Alarm)), "a", "event", 10).watermark(50)

    assert [at for _, at in rig.timed] == [10]


def test_processing_timer_fires_by_the_wall_clock_and_gives_no_event_time() -> None:
    rig = push(Rig(Process(Alarm)), "a", "processing", 500)

    assert rig.chain.next_processing_time_ms() == 500
    assert rig.watermark(10_000).clock(499).values == []
    assert rig.clock(600).timed == [(("processing", 500, "a", None), None)]
    assert rig.clock(700).chain.next_processing_time_ms() is None


def test_deleted_processing_timer_does_not_fire() -> None:
    rig = push(Rig(Process(Alarm)), "a", "processing", 500)

    push(rig, "a", "-processing", 500)

    assert rig.clock(600).values == []


def test_at_the_end_of_input_event_timers_fire_and_processing_timers_do_not() -> None:
    rig = push(Rig(Process(Alarm)), "a", "event", 10**15)
    push(rig, "a", "processing", 1)

    assert rig.end().values == [("event", 10**15, "a", None)]


def test_context_tells_the_record_or_the_timer_at_hand() -> None:
    rig = Rig(Process(Looking)).push(["x"], [5], ["a"]).watermark(12).push(["x"], [15], ["b"])

    assert rig.values == [
        ("a", 5, MIN_WATERMARK, None, None),
        ("a", 10, 12, "event", "name"),
        ("b", 15, 12, None, None),
    ]
    assert rig.side("beside") == ["a"]
    assert rig.end().values[-1] == ("b", 10, MAX_WATERMARK, "event", "name")


def test_timers_and_every_state_outlive_a_restore() -> None:
    rig = Rig(Process(Remembering)).push([10, 20], [0, 0], ["a", "a"])

    rig = rig.restored().watermark(15).restored().push([5], [16], ["a"]).restored().end()

    assert rig.values == [("a", 30, [10, 20]), ("a", 35, [10, 20, 5]), ("a", 35, [10, 20, 5])]


def test_step_without_on_timer_cannot_set_timers() -> None:
    class NoTimer(KeyedProcess[int, int]):
        def process(self, value: int, context: ProcessContext) -> None:
            context.register_event_timer(value)

    with pytest.raises(ConfigError, match="step 'op-0' uses timers, but has no on_timer"):
        Rig(Process(NoTimer)).push([1], [0], ["a"])


@pytest.mark.parametrize("at", [1.5, None, "10", True])
def test_timer_for_no_int_is_refused_and_its_record_named(at: Any) -> None:
    with pytest.raises(OperatorError, match=r"a timer is set for an int of ms.* on record 1"):
        Rig(Process(Failing)).push([at], [0], ["a"])


@pytest.mark.parametrize(("at", "message"), [(7, "returned a str, not an"), (8, "ZeroDivision")])
def test_failing_timer_names_its_step(at: int, message: str) -> None:
    rig = Rig(Process(Failing)).push([at], [0], ["a"])

    with pytest.raises(OperatorError, match=f"operator 'op-0', subtask 0: .*{message}"):
        rig.watermark(10)


def test_cursor_of_a_batch_stands_behind_the_record_that_failed() -> None:
    rig = Rig(Process(Failing))

    with pytest.raises(OperatorError, match="on record 2 of a batch of 3"):
        rig.push([1, "x", 2], [0, 0, 0], ["a", "b", "c"])

    assert length_hint(rig.operators[0].cursor) == 1


def test_many_timers_leave_in_pages() -> None:
    rig = Rig(Process(Alarm))
    rig.push([("event", n, None) for n in range(5_000)], [0] * 5_000, ["a"] * 5_000)

    rig.watermark(10_000)

    assert [len(batch) for batch in rig.out] == [4_096, 904]


# --- against brute force

KEYS, TIMES = st.sampled_from("abc"), st.integers(0, 30)
SET = st.tuples(
    st.sampled_from(["event", "-event", "processing", "-processing"]),
    KEYS,
    TIMES,
    st.sampled_from([None, "x"]),
)
PASS = st.tuples(st.sampled_from(["watermark", "clock", "restore"]), TIMES)


@settings(max_examples=150, deadline=None)
@given(st.lists(SET | PASS, max_size=25))
def test_timers_fire_once_and_in_order_whatever_happens(steps: list[tuple[Any, ...]]) -> None:
    rig, expected = Rig(Process(Alarm)), list[Fired]()
    waiting: dict[str, set[tuple[int, str, Any]]] = {"event": set(), "processing": set()}
    for step in steps:
        match step:
            case ("restore", _):
                rig = rig.restored()
            case ("watermark" | "clock" as which, at):
                kind = "event" if which == "watermark" else "processing"
                is_new = which == "clock" or at > rig.watermark_ms
                due = sorted((t for t in waiting[kind] if is_new and t[0] <= at), key=by_time)
                waiting[kind].difference_update(due)
                expected += [(kind, *timer) for timer in due]
                getattr(rig, which)(at)
            case _:
                what, key, at, name = step
                push(rig, key, what, at, name)
                timers = waiting[what.removeprefix("-")]
                (timers.discard if what[0] == "-" else timers.add)((at, key, name))
    assert rig.values == expected
    left = sorted(waiting["event"], key=by_time)
    assert rig.end().values == expected + [("event", *timer) for timer in left]


def by_time(timer: tuple[int, str, Any]) -> tuple[int, str, bool]:
    at, key, name = timer
    return at, key, name is not None
