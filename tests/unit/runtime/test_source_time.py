"""Sources that tell event time: split by split, and together with others."""

from __future__ import annotations

from typing import Any

import pytest

from flowsnap.core.element import Batch, Element, Idle, Watermark
from flowsnap.core.event_time import EventTime, WatermarkReport
from flowsnap.core.graph import Partitioning
from flowsnap.core.ids import ChannelId, OperatorId
from flowsnap.core.manifest import SplitPosition
from flowsnap.core.operator import Operator, OperatorContext
from flowsnap.core.watermark import MIN_WATERMARK
from flowsnap.errors import ConfigError, OperatorError
from flowsnap.operators import Map
from flowsnap.operators.watermarks import bounded, monotonous
from flowsnap.runtime.input import SourceInput
from flowsnap.runtime.output import OutputChannel, make_router
from tests.unit.runtime.bench import END, ONE, TASK, A, Bench
from tests.unit.runtime.parts import ListSource


def timed(settings: EventTime, *, bounded: bool = True, **lists: list[Any]) -> ListSource:
    source = ListSource(lists, bounded=bounded)
    source.event_time = settings
    return source


def restored(name: str, mark: int | None, *, is_finished: bool = False) -> SplitPosition:
    return SplitPosition(name, {}, None, 0, is_finished, mark)


def reading(source: ListSource, *splits: SplitPosition, restored_ms: int = MIN_WATERMARK) -> Any:
    known = splits or [restored(name, None) for name in source.lists]
    return SourceInput(source, OperatorId("lists"), 0, known, 100, restored_ms)


# --- the splits of a source


def test_source_sends_a_watermark_behind_its_records_that_all_splits_keep() -> None:
    bench = Bench(Map(str), source=timed(monotonous(timestamp=abs), a=[10, 30], b=[20, 40]))

    bench.work()

    assert bench.flow == [
        ["10"], ["20"], Watermark(9), ["30"], Watermark(19), ["40"], Watermark(29), END
    ]  # fmt: skip


def test_records_of_a_timed_source_have_their_event_times() -> None:
    source = reading(timed(bounded(timestamp="at"), a=[{"at": 7}]))

    assert source.read(0).timestamps == [7]


def test_split_goes_on_at_the_watermark_of_its_position() -> None:
    source = reading(timed(monotonous(timestamp=abs), a=[5], b=[70]), restored("a", 59))

    source.read(0)

    assert source.time.merger.current == 59
    assert [position.watermark_ms for position in source.positions()] == [59]


def test_position_has_the_watermark_of_each_split() -> None:
    source = reading(timed(bounded("3ms", timestamp=abs), a=[10], b=[20], c=[30]))
    for _ in range(2):
        source.read(0)

    assert [position.watermark_ms for position in source.positions()] == [6, 16, None]


def test_finished_split_of_a_checkpoint_holds_nobody_back() -> None:
    source = reading(
        timed(monotonous(timestamp=abs), a=[1], b=[2]),
        restored("a", 3, is_finished=True),
        restored("b", 8),
    )

    assert source.time.merger.current == 8


def test_event_time_of_a_restored_source_does_not_go_back_for_a_new_split() -> None:
    source = reading(
        timed(monotonous(timestamp=abs), a=[1], b=[2]),
        restored("a", 50),
        restored("b", None),
        restored_ms=50,
    )

    assert source.time.merger.current == 50


def test_silent_split_becomes_idle_and_the_task_with_it() -> None:
    source = timed(monotonous(timestamp=abs, idle="10ms"), bounded=False, a=[5, *[None] * 9])
    bench = Bench(Map(str), source=source)

    for now_ms in (0, 30, 60, 90):
        bench.runner.step(now_ms)

    assert bench.flow == [["5"], Watermark(4), Idle()]


def test_snapshot_has_the_event_time_of_the_source() -> None:
    bench = Bench(Map(str), source=timed(monotonous(timestamp=abs), a=[10, 20]))
    bench.runner.step(0)

    bench.runner.trigger(ONE, is_final=False)
    bench.runner.step(0)

    assert bench.snapshots[0].watermarks == {"first": 9, "op-0": 9}


def test_record_without_a_time_is_named() -> None:
    source = reading(timed(bounded(timestamp="at"), a=[{"at": None}]))

    with pytest.raises(OperatorError, match=r"'lists', subtask 0: TypeError.* on record 1 of a"):
        source.read(0)


def test_source_that_gives_no_times_is_refused_where_none_are_selected() -> None:
    with pytest.raises(ConfigError, match="source 'lists' gives its records no event times"):
        reading(timed(bounded(), a=[1])).read(0)


def test_failing_strategy_names_the_source() -> None:
    class Failing:
        def on_batch(self, timestamps: list[int]) -> int:
            raise OSError("no luck")

    source = reading(timed(EventTime(Failing(), bounded(timestamp=abs).stamp), a=[1]))

    with pytest.raises(OperatorError, match="operator 'lists', subtask 0: OSError: no luck"):
        source.read(0)


# --- alignment

IN_GROUP = monotonous(timestamp=abs, group="all", max_drift="10ms")


def test_split_that_is_ahead_waits_and_the_others_are_read() -> None:
    source = reading(timed(IN_GROUP, a=[100, 200], b=[5, 6, 7]))
    source.align(4)

    read = [batch.values[0] for batch in (source.read(0) for _ in range(4)) if batch]

    assert read == [100, 5, 6, 7]
    assert source.read(0) is None
    assert not source.is_exhausted


def test_split_that_waited_is_read_when_its_group_has_caught_up() -> None:
    source = reading(timed(IN_GROUP, a=[100, 200]))
    source.read(0)
    assert source.read(7) is None
    assert source.next_read_ms() > 7

    source.align(95)

    assert source.next_read_ms() == 0
    assert source.read(8).values == [200]


def test_task_tells_how_far_it_lets_its_group_come() -> None:
    bench = Bench(Map(str), source=timed(IN_GROUP, a=[10, 20]))

    assert bench.runner.holds_back(0) == WatermarkReport(TASK, "all", MIN_WATERMARK)
    bench.runner.step(0)
    assert bench.runner.holds_back(0) == WatermarkReport(TASK, "all", 9)
    bench.runner.align({})
    bench.work()
    assert bench.runner.holds_back(0) == WatermarkReport(TASK, "all", None)


def test_task_without_splits_holds_nobody() -> None:
    bench = Bench(Map(str), source=timed(IN_GROUP))

    assert bench.runner.holds_back(0) == WatermarkReport(TASK, "all", None)


def test_task_that_stops_reading_holds_nobody() -> None:
    bench = Bench(Map(str), source=timed(IN_GROUP, a=[10, 20]))
    bench.runner.step(0)

    bench.runner.trigger(ONE, is_final=True)

    assert bench.runner.holds_back(0) == WatermarkReport(TASK, "all", None)


def test_barrier_leaves_although_the_source_waits_for_its_group() -> None:
    bench = Bench(Map(str), source=timed(IN_GROUP, a=[10, 20]))
    bench.work()

    bench.runner.trigger(ONE, is_final=False)
    bench.work()

    assert bench.flow[:2] == [["10"], Watermark(9)]
    assert [snapshot.checkpoint_id for snapshot in bench.snapshots] == [ONE]


def test_other_tasks_are_in_no_group() -> None:
    for bench in (Bench(Map(str)), Bench(Map(str), source=ListSource({"a": [1]}))):
        bench.runner.align({"all": 5})
        assert bench.runner.holds_back(0) is None


# --- what leaves beside, and in batches


class Beside(Operator):
    def open(self, context: OperatorContext) -> None:
        self.side = context.side_output("rest")

    def process(self, batch: Batch) -> Batch:
        self.side.add_all(batch.values)
        return batch


def test_side_output_that_nobody_reads_is_dropped() -> None:
    beside: Any = Beside()
    bench = Bench(beside)

    bench.feed(A, Batch([1, 2, 3]))

    assert bench.flow == [[1, 2, 3]]
    assert beside.side.values == []


def test_records_with_and_without_event_times_do_not_get_into_one_batch() -> None:
    sent: list[Element] = []

    def deliver(channel: ChannelId, element: Element) -> int:
        sent.append(element)
        return 0

    channel = OutputChannel(ChannelId(0), OperatorId("next"), deliver, 65_536)
    channel.grant(9)
    router = make_router(
        Partitioning.HASH,
        [channel],
        0,
        key_groups_of=lambda keys: [0] * len(keys),
        max_parallelism=128,
    )
    batches = [Batch([1], [10], ["a"]), Batch([2], None, ["a"]), Batch([3], [30], ["a"])]
    for batch in batches:
        router.route(batch)
    router.flush()

    assert sent == batches
