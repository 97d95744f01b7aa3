"""Windows against the shortest program that does the same, one record at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.core.operator import Operator
from flowsnap.core.watermark import MAX_WATERMARK, MIN_WATERMARK
from flowsnap.operators.window import (
    Aggregate,
    CollectList,
    ContinuousEventTimeTrigger,
    Count,
    CountTrigger,
    DistinctCount,
    EventTimeTrigger,
    First,
    Last,
    Max,
    Mean,
    PurgingTrigger,
    Session,
    SessionProcessingTime,
    Sliding,
    SlidingCount,
    SlidingProcessingTime,
    Sum,
    TopK,
    Trigger,
    Tumbling,
    TumblingCount,
    TumblingProcessingTime,
    WindowResult,
)
from flowsnap.operators.window.aggregate import Aggregates
from flowsnap.operators.window.aligned import AlignedWindows
from flowsnap.operators.window.assigner import Assigner, Window
from flowsnap.operators.window.combine import CombineWindows
from flowsnap.operators.window.function import Buffered, CalledProcess, Contents, Incremental
from flowsnap.operators.window.operator import WindowOperator
from flowsnap.operators.window.plan import WindowPlan
from flowsnap.operators.window.sessions import SessionWindows
from tests.unit.operators.rig import Rig

Record = tuple[str, int, int]
"""Key, event time, number."""

RECORD = st.tuples(st.sampled_from("abc"), st.integers(-40, 60), st.integers(0, 9))
STEP = st.one_of(
    st.lists(RECORD, max_size=8),
    st.lists(RECORD, min_size=1, max_size=3),
    st.integers(-40, 60),
    st.just("restore"),
)
STEPS = st.lists(STEP, max_size=20)
LATENESS = st.sampled_from([0, 0, 3, 15])


def ms(count: int) -> str:
    return f"{count}ms"


@st.composite
def aligned(draw: st.DrawFn) -> Sliding:
    size, every = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    offset = draw(st.integers(1 - every, every - 1))
    return Sliding(ms(size), ms(every), ms(offset))


class Model:
    """What windows do, by the definition: every window has the list of its records."""

    def __init__(
        self, assigner: Assigner, lateness: int, value: Callable[[list[int]], Any]
    ) -> None:
        self.assigner = assigner
        self.lateness = lateness
        self.value = value
        self.windows: dict[tuple[str, Window], list[int]] = {}
        self.watermark = MIN_WATERMARK
        self.emitted: list[tuple[str, int, int, Any]] = []
        self.late: list[Record] = []

    def record(self, record: Record) -> None:
        key, time, number = record
        windows = [
            self.merged(key, window) if self.assigner.is_merging else window
            for window in self.assigner.windows(time, record)
        ]
        kept = [window for window in windows if not self.is_over(window)]
        if windows and not kept:
            self.late.append(record)
        for window in kept:
            self.windows.setdefault((key, window), []).append(number)
            if window.last_ms <= self.watermark:
                self.fire(key, window)

    def merged(self, key: str, window: Window) -> Window:
        touching = sorted(
            other
            for own, other in self.windows
            if own == key and other.start <= window.end and window.start <= other.end
        )
        if not touching:
            return window
        start = min(window.start, touching[0].start)
        whole = Window(start, max(window.end, *(other.end for other in touching)))
        numbers = [n for other in touching for n in self.windows.pop((key, other))]
        self.windows[key, whole] = numbers
        return whole

    def is_over(self, window: Window) -> bool:
        return window.last_ms + self.lateness <= self.watermark

    def fire(self, key: str, window: Window) -> None:
        self.emitted.append((key, *window, self.value(self.windows[key, window])))

    def advance(self, watermark: int) -> None:
        before, self.watermark = self.watermark, max(self.watermark, watermark)
        for key, window in sorted(self.windows, key=lambda pair: (pair[1].end, pair)):
            if before < window.last_ms <= self.watermark:
                self.fire(key, window)
        self.windows = {k: v for k, v in self.windows.items() if not self.is_over(k[1])}


def run(steps: list[Any], model: Model, *operators: Operator) -> Rig:
    """Take both through the steps and to the end of input."""
    rig = Rig(*operators)
    for step in steps:
        if step == "restore":
            rig = without_watermark(rig)
        elif isinstance(step, int):
            rig.watermark(step)
            model.advance(step)
        else:
            rig.push(step, [time for _, time, _ in step], [key for key, _, _ in step])
            for record in step:
                model.record(record)
    rig.end()
    model.advance(MAX_WATERMARK)
    return rig


def without_watermark(rig: Rig) -> Rig:
    """Restore as in a chain whose input begins its event time anew."""
    again = Rig(*rig.templates, saved=rig.snapshot())
    again.watermark_ms = MIN_WATERMARK
    again.out = rig.out
    return again


def plain(results: list[Any]) -> list[Any]:
    return [(r.key, r.start, r.end, r.value) if isinstance(r, WindowResult) else r for r in results]


def final(results: list[Any]) -> dict[Any, Any]:
    """Return what each window put out last."""
    return {result[:3]: result[3] for result in results}


def check(rig: Rig, model: Model) -> None:
    found = plain(rig.values)
    assert final(found) == final(model.emitted)
    if model.lateness == 0:
        assert sorted(found) == sorted(model.emitted)
    assert all(time == result[2] - 1 for result, time in zip(found, times(rig), strict=True))


def times(rig: Rig) -> Iterator[int | None]:
    return (time for _, time in rig.timed)


def totals(numbers: list[int]) -> dict[str, Any]:
    return {
        "total": sum(numbers),
        "n": len(numbers),
        "greatest": max(numbers),
        "mean": sum(numbers) / len(numbers),
        "different": len(set(numbers)),
        "top": sorted(numbers, reverse=True)[:2],
    }


TOTALS: dict[str, Aggregate] = {
    "total": Sum(2),
    "n": Count(),
    "greatest": Max(2),
    "mean": Mean(2),
    "different": DistinctCount(2),
    "top": TopK(2, 2),
}


def in_order(numbers: list[int]) -> dict[str, Any]:
    return {"all": numbers[:], "first": numbers[0], "last": numbers[-1]}


IN_ORDER: dict[str, Aggregate] = {"all": CollectList(2), "first": First(2), "last": Last(2)}


PAUSES = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), max_size=30)
CLOCKED: list[tuple[Assigner, Assigner]] = [
    (TumblingProcessingTime("7ms", "2ms"), Tumbling("7ms", "2ms")),
    (SlidingProcessingTime("9ms", "4ms"), Sliding("9ms", "4ms")),
    (SessionProcessingTime("5ms"), Session("5ms")),
]


def moments(key: str, window: Window, records: list[int]) -> Iterator[Any]:
    yield (key, *window, records)


def listed(key: str, window: Window, records: list[Record]) -> Iterator[Any]:
    yield (key, *window, [number for _, _, number in records])


@settings(max_examples=150, deadline=None)
@given(aligned(), LATENESS, STEPS)
def test_slices_give_what_windows_of_single_records_give(
    assigner: Sliding, lateness: int, steps: list[Any]
) -> None:
    model = Model(assigner, lateness, totals)
    operator = AlignedWindows(assigner, Aggregates(None, TOTALS), lateness_ms=lateness, late="late")

    rig = run([step for step in steps if step != "restore"], model, operator)

    check(rig, model)
    assert rig.side("late") == model.late


@settings(max_examples=150, deadline=None)
@given(aligned(), LATENESS, STEPS, st.sampled_from([0, 3, 1000]))
def test_slices_survive_a_restore_anywhere(
    assigner: Sliding, lateness: int, steps: list[Any], keys_max: int
) -> None:
    model = Model(assigner, lateness, totals)
    operator = AlignedWindows(assigner, Aggregates(None, TOTALS), lateness_ms=lateness)
    operator.keys_max = keys_max

    rig = run(steps, model, operator)

    check(rig, model)


@settings(max_examples=150, deadline=None)
@given(aligned(), LATENESS, STEPS, st.sampled_from([1, 3, 1000]))
def test_combining_before_the_shuffle_changes_nothing(
    assigner: Sliding, lateness: int, steps: list[Any], keys_max: int
) -> None:
    model = Model(assigner, lateness, sum)
    aggregates = Aggregates(Sum(2))

    rig = run(
        steps,
        model,
        CombineWindows(assigner, aggregates, keys_max=keys_max),
        AlignedWindows(assigner, aggregates, lateness_ms=lateness, is_merging=True),
    )

    check(rig, model)


@pytest.mark.parametrize(
    ("contents", "value"),
    [
        (Incremental(Aggregates(None, TOTALS)), totals),
        (Incremental(Aggregates(None, IN_ORDER)), in_order),
        (Buffered(CalledProcess(listed)), list),
    ],
)
@settings(max_examples=80, deadline=None)
@given(assigner=st.one_of(aligned(), st.integers(1, 20).map(lambda n: Session(ms(n)))),
       lateness=LATENESS, steps=STEPS)  # fmt: skip
def test_general_windows_give_what_the_definition_gives(
    contents: Contents,
    value: Callable[[list[int]], Any],
    assigner: Assigner,
    lateness: int,
    steps: list[Any],
) -> None:
    model = Model(assigner, lateness, value)

    rig = run(steps, model, WindowOperator(assigner, contents, lateness_ms=lateness))

    check(rig, model)


@pytest.mark.parametrize(("aggregates", "value"), [(TOTALS, totals), (IN_ORDER, in_order)])
@settings(max_examples=150, deadline=None)
@given(gap=st.integers(1, 20), lateness=LATENESS, steps=STEPS)
def test_runs_give_what_sessions_of_single_records_give(
    aggregates: dict[str, Aggregate],
    value: Callable[[list[int]], Any],
    gap: int,
    lateness: int,
    steps: list[Any],
) -> None:
    assigner = Session(ms(gap))
    model = Model(assigner, lateness, value)

    operator = SessionWindows(assigner, Aggregates(None, aggregates), lateness_ms=lateness)

    check(run(steps, model, operator), model)


@pytest.mark.parametrize("is_fast", [False, True])
@settings(max_examples=100, deadline=None)
@given(lateness=LATENESS, steps=STEPS)
def test_sessions_with_a_gap_per_record_and_late_records(
    is_fast: bool, lateness: int, steps: list[Any]
) -> None:
    assigner = Session(lambda record: record[2] + 1)
    model = Model(assigner, lateness, totals)
    aggregates = Aggregates(None, TOTALS)
    operator: Operator
    if is_fast:
        operator = SessionWindows(assigner, aggregates, lateness_ms=lateness, late="late")
    else:
        contents = Incremental(aggregates)
        operator = WindowOperator(assigner, contents, lateness_ms=lateness, late="late")

    rig = run([step for step in steps if step != "restore"], model, operator)

    check(rig, model)
    assert sorted(rig.side("late")) == sorted(model.late)


@pytest.mark.parametrize("is_combined", [False, True])
@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 30), lateness=LATENESS, steps=STEPS)
def test_slices_of_tumbling_windows_keep_the_order_of_arrival(
    is_combined: bool, size: int, lateness: int, steps: list[Any]
) -> None:
    assigner = Tumbling(ms(size))
    model = Model(assigner, lateness, in_order)
    aggregates = Aggregates(None, IN_ORDER)
    operators: list[Operator] = [CombineWindows(assigner, aggregates)] if is_combined else []
    operators.append(
        AlignedWindows(assigner, aggregates, lateness_ms=lateness, is_merging=is_combined)
    )

    check(run(steps, model, *operators), model)


@settings(max_examples=80, deadline=None)
@given(STEPS, st.integers(1, 5))
def test_tumbling_count_windows_cut_the_records_of_a_key(steps: list[Any], n: int) -> None:
    operator, _ = WindowPlan(TumblingCount(n)).aggregate(Aggregates(CollectList(2)))

    rig = run(steps, Model(Tumbling("1s"), 0, len), operator)

    by_key = arrived(steps)
    assert {(r.key, tuple(r.value)) for r in rig.values} == {
        (key, tuple(numbers[at : at + n]))
        for key, numbers in by_key.items()
        for at in range(0, len(numbers) - n + 1, n)
    }


@settings(max_examples=80, deadline=None)
@given(STEPS, st.integers(1, 5), st.integers(1, 5))
def test_sliding_count_windows_look_back_over_the_last_records(
    steps: list[Any], n: int, every: int
) -> None:
    operator, _ = WindowPlan(SlidingCount(n, every)).aggregate(Aggregates(CollectList(2)))

    rig = run(steps, Model(Tumbling("1s"), 0, len), operator)

    found = [(r.key, tuple(r.value)) for r in rig.values]
    assert sorted(found) == sorted(
        (key, tuple(numbers[max(0, at - n) : at]))
        for key, numbers in arrived(steps).items()
        for at in range(every, len(numbers) + 1, every)
    )


def arrived(steps: list[Any]) -> dict[str, list[int]]:
    by_key: dict[str, list[int]] = {}
    for step in steps:
        for key, _, number in step if isinstance(step, list) else ():
            by_key.setdefault(key, []).append(number)
    return by_key


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(aligned(), st.integers(1, 20).map(lambda n: Session(ms(n)))),
    st.lists(RECORD, max_size=30),
    st.lists(st.integers(1, 6), max_size=30),
    st.sampled_from([IN_ORDER, TOTALS]),
)
def test_the_cut_into_batches_does_not_change_what_comes_out(
    assigner: Assigner, records: list[Record], cuts: list[int], aggregates: dict[str, Aggregate]
) -> None:
    operator, _ = WindowPlan(assigner, late="late").aggregate(Aggregates(None, aggregates))
    batches, rest = [], records
    for cut in cuts:
        batches.append(rest[:cut])
        rest = rest[cut:]

    whole = run([records], Model(assigner, 0, len), operator)
    in_parts = run([*batches, rest], Model(assigner, 0, len), operator)

    assert sorted(plain(whole.values), key=str) == sorted(plain(in_parts.values), key=str)


TRIGGERS: list[Trigger] = [
    CountTrigger(2),
    PurgingTrigger(CountTrigger(3)),
    EventTimeTrigger(early=CountTrigger(2), late=CountTrigger(2)),
    PurgingTrigger(EventTimeTrigger(early=ContinuousEventTimeTrigger("4ms"))),
    ContinuousEventTimeTrigger("3ms"),
]


@pytest.mark.parametrize("trigger", TRIGGERS)
@settings(max_examples=60, deadline=None)
@given(st.one_of(aligned(), st.integers(1, 20).map(lambda n: Session(ms(n)))), STEPS)
def test_triggers_see_the_same_however_the_input_is_cut_and_restored(
    trigger: Trigger, assigner: Assigner, steps: list[Any]
) -> None:
    operator, _ = WindowPlan(assigner, trigger=trigger).aggregate(Aggregates(CollectList(2)))
    one_by_one: list[Any] = []
    for step in steps:
        one_by_one += [[record] for record in step] if isinstance(step, list) else [step]

    in_batches = run(steps, Model(assigner, 0, len), operator)
    singly = run([s for s in one_by_one if s != "restore"], Model(assigner, 0, len), operator)

    assert sorted(plain(in_batches.values)) == sorted(plain(singly.values))


@settings(max_examples=80, deadline=None)
@given(PAUSES, st.integers(0, 30), st.sampled_from(CLOCKED))
def test_windows_by_the_clock_are_those_of_the_moments_as_event_times(
    steps: list[tuple[str, int]], cut: int, assigners: tuple[Assigner, Assigner]
) -> None:
    clocked, timed = (
        WindowPlan(one, late=None).process(CalledProcess(moments)) for one in assigners
    )
    rig, model, now = Rig(clocked), Rig(timed), 0
    for number, (key, pause) in enumerate(steps):
        now += pause
        rig = (rig.restored() if number == cut else rig).clock(now).push([now], keys=[key])
        model.push([now], [now], [key])

    assert sorted(rig.clock(now + 99).values) == sorted(model.end().values)
