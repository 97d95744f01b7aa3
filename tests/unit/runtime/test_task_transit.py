"""What was in transit over a restore, and event time: none of it is late that was not late then."""

from __future__ import annotations

from collections.abc import Iterable

from flowsnap.core.element import Batch, Watermark
from flowsnap.core.event_time import Bounded
from flowsnap.core.ids import OperatorId
from flowsnap.core.operator import Operator
from flowsnap.operators.map import Map
from flowsnap.operators.watermarks import AssignTimestamps
from tests.unit.runtime.bench import Bench

FIRST, SECOND = OperatorId("op-0"), OperatorId("op-1")
REACHED = {FIRST: 100, SECOND: 50}
"""Once two tasks, now one chain: the second had not heard yet of what the first had reached."""


class Seen(Operator):
    """Tells of each record how far event time had come, and when it is told of event time."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def process(self, batch: Batch) -> Batch:
        self.told += batch.values
        return batch

    def advance(self, watermark_ms: int) -> Iterable[Batch]:
        self.told.append(Watermark(watermark_ms))
        return [Batch([f"timer of {watermark_ms}"])]


def test_event_time_goes_on_only_behind_what_was_in_transit() -> None:
    seen = Seen()
    bench = Bench(Map(str), seen, transit=[(SECOND, 0, Batch(["late?"], [60]))], reached=REACHED)
    assert bench.flow == []

    bench.work()

    assert seen.told == ["late?", Watermark(100)]
    assert bench.flow == [["late?"], ["timer of 100"], Watermark(100)]


def test_timers_of_an_operator_that_was_behind_leave_before_the_watermark_of_the_first() -> None:
    bench = Bench(Map(str), Seen(), reached=REACHED)

    assert bench.flow == [["timer of 100"], Watermark(100)]


def test_restored_generator_tells_event_time_only_behind_what_was_in_transit() -> None:
    seen = Seen()
    transit = [(SECOND, 0, Batch([60], [60])), (FIRST, 0, Batch([120])), (FIRST, 0, Batch([130]))]
    bench = Bench(AssignTimestamps(int, Bounded(5)), seen, transit=transit, reached=REACHED)

    bench.work()

    assert seen.told == [60, 120, 130, Watermark(124)]
