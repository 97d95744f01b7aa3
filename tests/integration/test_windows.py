"""Windows in whole pipelines: event time from its source, the shuffle, side outputs, a restart."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowsnap import ConfigError, Pipeline, Stream
from flowsnap.connectors import Collect
from flowsnap.core.ids import OperatorId
from flowsnap.operators import OutputTag
from flowsnap.operators.window import (
    ALL_TIME,
    Count,
    First,
    Global,
    Session,
    Sliding,
    SlidingCount,
    Sum,
    Tumbling,
    TumblingCount,
    Window,
    WindowResult,
)
from flowsnap.operators.window.assigner import Assigner

Event = tuple[str, int, int]
"""User, seconds, amount."""

EVENTS: list[Event] = [("ann", 1, 5), ("bob", 2, 7), ("ann", 11, 1), ("ann", 9, 2), ("bob", 35, 1)]


def timed(job: Pipeline, events: list[Event], out_of_orderness: str = "5s") -> Stream[Event]:
    stream = job.from_iterable(events)
    return stream.assign_timestamps(lambda event: event[1] * 1000, out_of_orderness, idle=None)


def run(job: Pipeline, stream: Stream[Any]) -> list[Any]:
    """Return what a stream puts out, in some order that is always the same."""
    out = Collect()
    stream.sink(out)
    job.run(quiet=True)
    return sorted(out.values, key=str)


def result(user: Any, start: int, end: int, value: Any) -> WindowResult[Any, Any]:
    return WindowResult(user, start * 1000, end * 1000, value)


def test_several_aggregates_of_tumbling_windows() -> None:
    job = Pipeline("windows")
    windows = timed(job, EVENTS).key_by(0).window(Tumbling("10s"))

    assert run(job, windows.aggregate(total=Sum(2), n=Count())) == [
        result("ann", 0, 10, {"total": 7, "n": 2}),
        result("ann", 10, 20, {"total": 1, "n": 1}),
        result("bob", 0, 10, {"total": 7, "n": 1}),
        result("bob", 30, 40, {"total": 1, "n": 1}),
    ]


@pytest.mark.parametrize(
    ("shortcut", "expected"), [("sum", 7), ("min", 2), ("max", 5), ("mean", 3.5)]
)
def test_the_usual_aggregates_have_shortcuts(shortcut: str, expected: float) -> None:
    job = Pipeline("windows")
    windows = timed(job, EVENTS).key_by(0).window(Tumbling("10s"))

    assert run(job, getattr(windows, shortcut)(2))[0] == result("ann", 0, 10, expected)


def test_a_window_can_be_reduced() -> None:
    job = Pipeline("windows")
    windows = timed(job, EVENTS).key_by(0).window(Sliding("20s", "10s"))

    found = run(job, windows.reduce(max))

    assert [one.value for one in found if one.key == "ann"] == [
        ("ann", 9, 2),
        ("ann", 11, 1),
        ("ann", 11, 1),
    ]


def joined(one: Any, other: Any) -> Any:
    """Not commutative, but associative."""
    return one[0], other[1], one[2] + other[2]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "assigner", [Tumbling("10s"), Sliding("20s", "5s"), Session("3s"), TumblingCount(25)], ids=repr
)
def test_a_window_is_reduced_in_the_order_of_arrival(assigner: Assigner, workers: int) -> None:
    job, out = Pipeline("windows"), Collect()
    events: list[Any] = [(f"user-{n % 5}", n - n * 37 % 6, f"{n:03}") for n in range(500)]
    keyed = timed(job, events, "6s").key_by(0)
    keyed.window(assigner).reduce(joined, name="joined").sink(out)

    job.start(workers=workers).wait()

    texts = [one.value[2] for one in out.values]
    assert texts
    for text in texts:
        numbers = [text[at : at + 3] for at in range(0, len(text), 3)]
        assert numbers == sorted(numbers)


def test_sessions_are_processed_with_all_their_records() -> None:
    def spans(user: str, window: Window, events: list[Event]) -> Iterator[Any]:
        yield user, window.start // 1000, [amount for _, _, amount in events]

    job = Pipeline("windows")
    windows = timed(job, EVENTS).key_by(0).window(Session("9s"))

    assert run(job, windows.process(spans)) == [
        ("ann", 1, [5, 1, 2]),
        ("bob", 2, [7]),
        ("bob", 35, [1]),
    ]


def test_late_records_come_out_beside() -> None:
    job, late = Pipeline("windows"), Collect()
    events: list[Event] = [*EVENTS, ("bob", 3, 100)]
    tag = OutputTag[Event]("late")
    counts = timed(job, events, "1s").rebalance().key_by(0).window(Tumbling("10s"), late=tag)
    stream = counts.count()
    stream.side_output(tag).sink(late)

    found = run(job, stream)

    assert len(late.values) + sum(one.value for one in found) == len(events)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_late_records_are_counted_in_the_status(workers: int) -> None:
    job = Pipeline("windows")
    events: list[Event] = [("ann", n, 1) for n in range(9_000)] + [("ann", 3, 1), ("bob", 4, 1)]
    counts = timed(job, events, "1s").key_by(0).window(Tumbling("10s")).count(name="counts")
    counts.sink(Collect())

    handle = job.start(workers=workers)
    handle.wait()

    counters = {one.name: one.counters for one in handle.status().operators}
    assert counters[OperatorId("counts")] == {"late": 2}


def test_windows_without_a_key_have_one_subtask() -> None:
    job = Pipeline("windows")
    windows = timed(job, EVENTS).window_all(Tumbling("1m"))

    assert run(job, windows.sum(2, name="all")) == [result(None, 0, 60, 16)]
    widths = {one.name: one.parallelism for one in job.definition(2).graph.operators}
    assert widths[OperatorId("all")] == 1


def test_count_windows_need_no_event_time() -> None:
    job = Pipeline("windows")
    users = job.from_iterable(EVENTS).key_by(0)

    assert run(job, users.window(TumblingCount(2)).sum(2)) == [
        WindowResult("ann", *ALL_TIME, 6),
        WindowResult("bob", *ALL_TIME, 8),
    ]


def test_all_records_of_a_key_come_out_at_the_end() -> None:
    job = Pipeline("windows")
    users = job.from_iterable(EVENTS).key_by(0)

    found = run(job, users.window(Global()).aggregate(first=First(1), n=Count()))

    assert [(one.key, one.first, one.n) for one in found] == [("ann", 1, 3), ("bob", 2, 2)]


@pytest.mark.parametrize("combined", [True, False])
def test_two_workers_put_out_what_one_does(tmp_path: Path, combined: bool) -> None:
    events = [(f"user-{n % 97}", n // 50, n % 11) for n in range(6_000)]
    job, out = Pipeline("windows"), Collect()
    late = None if combined else "late"
    windows = timed(job, events, "1s").key_by(0).window(Sliding("20s", "10s"), late=late)
    windows.aggregate(total=Sum(2), n=Count()).sink(out)

    job.start(workers=2, state_dir=tmp_path, checkpoint_interval="200ms").wait(60)

    totals: dict[Any, list[int]] = {}
    for user, at, amount in events:
        for window in Sliding("20s", "10s").windows(at * 1000, None):
            totals.setdefault((user, *window), []).append(amount)
    found = {(one.key, one.start, one.end): one.value for one in out.values}
    assert len(out.values) == len(found)
    assert found == {w: {"total": sum(a), "n": len(a)} for w, a in totals.items()}


class Pausing:
    """Waits at one record for somebody to open the other end of a pipe, if there is a pipe."""

    def __init__(self, pipe: Path, at: Event) -> None:
        self.pipe = pipe
        self.at = at

    def __call__(self, event: Event) -> Event:
        if event == self.at and self.pipe.exists():
            self.pipe.read_bytes()
        return event


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("assigner", [Sliding("20s", "10s"), Session("2s")])
def test_windows_go_on_from_a_checkpoint_also_with_another_parallelism(
    tmp_path: Path, assigner: Assigner, workers: int
) -> None:
    events = [(f"user-{n % 97}", n // 400 + n % 3, n) for n in range(40_000)]
    pipe, whole, job, out = tmp_path / "pipe", Pipeline("whole"), Pipeline("parts"), Collect()
    os.mkfifo(pipe)
    windows = timed(job, events).map(Pausing(pipe, events[30_000])).key_by(0).window(assigner)
    windows.aggregate(total=Sum(2), n=Count(), name="totals").sink(out)
    stream = timed(whole, events).key_by(0).window(assigner).aggregate(total=Sum(2), n=Count())

    handle = job.start(state_dir=tmp_path / "state")
    with pipe.open("wb"):
        handle.stop()
    assert handle.wait(60).state == "stopped"
    pipe.unlink()
    result = job.run(quiet=True, state_dir=tmp_path / "state", workers=workers)

    assert result.restored_from is not None
    assert sorted(out.values, key=str) == run(whole, stream)


def test_mistakes_are_named_before_anything_runs() -> None:
    job = Pipeline("windows")
    keyed = job.from_iterable(EVENTS).key_by(0)

    with pytest.raises(ConfigError, match="no record is late"):
        keyed.window(SlidingCount(5, 1), allowed_lateness="1s")
    with pytest.raises(ConfigError, match="allowed_lateness"):
        keyed.window(Tumbling("1s"), allowed_lateness="soon")
    with pytest.raises(ConfigError, match="not a name for a side output"):
        keyed.window(Tumbling("1s"), late="a/b")
    with pytest.raises(ConfigError, match="has one subtask"):
        job.from_iterable(EVENTS).window_all(Tumbling("1s")).count(parallelism=2)
    with pytest.raises(ConfigError, match="not a function"):
        keyed.window(Tumbling("1s")).reduce("max")  # type: ignore[arg-type]
