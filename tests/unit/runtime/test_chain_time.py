"""What each operator of a chain knows of event time, over a restart too."""

from __future__ import annotations

from collections.abc import Iterable

from flowsnap.core.element import Batch
from flowsnap.core.event_time import Bounded
from flowsnap.core.ids import AttemptId, OperatorId
from flowsnap.core.operator import Operator, OperatorContext
from flowsnap.core.watermark import MAX_WATERMARK, MIN_WATERMARK
from flowsnap.operators.watermarks import AssignTimestamps
from flowsnap.runtime.chain import Chain
from flowsnap.runtime.context import NoTables, Place, TaskContext

FIRST, SECOND = OperatorId("op-0"), OperatorId("op-1")


class Listening(Operator):
    """Knows where event time began, and what it was told since."""

    def open(self, context: OperatorContext) -> None:
        self.context = context
        self.began_ms = context.watermark_ms
        self.told: list[int] = []

    def process(self, batch: Batch) -> Batch:
        return batch

    def advance(self, watermark_ms: int) -> Iterable[Batch]:
        assert self.context.watermark_ms == watermark_ms
        self.told.append(watermark_ms)
        return ()


def opened(*operators: Operator, **reached: int) -> Chain:
    """Return a chain in which operator ``op_<n>`` had come so far."""
    names = [OperatorId(f"op-{n}") for n in range(len(operators))]
    place = Place("job", 0, 1, AttemptId(1), wall_ms=lambda: 0)
    chain = Chain(list(zip(names, operators, strict=True)), 0)
    watermarks = {OperatorId(name.replace("_", "-")): at_ms for name, at_ms in reached.items()}
    chain.open({name: TaskContext(NoTables(), name, place) for name in names}, watermarks)
    return chain


def test_operator_goes_on_where_it_was_whatever_comes_to_it_anew() -> None:
    first, second = Listening(), Listening()
    chain = opened(first, second, op_0=10, op_1=40)

    left = [list(chain.advance(at_ms)) for at_ms in (20, 40, 50)]

    assert (first.began_ms, first.told) == (10, [20, 40, 50])
    assert (second.began_ms, second.told) == (40, [50])
    assert left == [[40], [40], [50]]  # What it had told those behind it, holds for them.


def test_operator_that_is_new_begins_where_the_one_before_it_stands() -> None:
    first, second = Listening(), Listening()

    opened(first, second, op_0=10)

    assert second.began_ms == 10


def test_nothing_is_known_of_event_time_behind_an_operator_that_begins_it() -> None:
    behind = Listening()

    opened(AssignTimestamps(int, Bounded(5)), behind, op_0=10)

    assert behind.began_ms == MIN_WATERMARK


def test_snapshot_has_the_event_time_of_every_operator() -> None:
    chain = opened(AssignTimestamps(int, Bounded(5)), Listening())
    assert chain.watermarks() == {}

    list(chain.advance(7))
    chain.process(Batch([100]))
    list(chain.generated())

    assert chain.watermarks() == {FIRST: 7, SECOND: 94}


def test_end_of_input_is_no_event_time_to_go_on_from() -> None:
    chain = opened(listening := Listening(), op_0=10)

    list(chain.end_input())

    assert listening.told == [MAX_WATERMARK]
    assert chain.watermarks() == {}


def test_what_an_operator_has_not_counted_is_not_told() -> None:
    chain = opened(first := Listening(), second := Listening())

    first.context.counter("late").increase(2)
    second.context.counter("late")

    assert chain.counted() == {FIRST: {"late": 2}, SECOND: {}}
