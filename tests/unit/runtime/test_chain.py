from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, OperatorId
from flowsnap.core.operator import LazyOperator, Operator, Sink
from flowsnap.errors import ConfigError, OperatorError
from flowsnap.operators import Filter, FlatMap, Map
from flowsnap.runtime.chain import Chain
from flowsnap.runtime.context import NoTables, Place, TaskContext


class Holding(Operator):
    """Keeps everything until a barrier or the end."""

    def __init__(self) -> None:
        self.held: list[Any] = []

    def process(self, batch: Batch) -> Batch:
        self.held += batch.values
        return Batch([])

    def before_barrier(self) -> Iterable[Batch]:
        held, self.held = self.held, []
        yield Batch(held)

    def end_input(self) -> Iterable[Batch]:
        return self.before_barrier()


class Gathering(Sink):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[Any] = []

    def write(self, batch: Batch) -> None:
        self.written += batch.values


def chain(*operators: Operator | Sink) -> Chain:
    names = [OperatorId(f"op-{n}") for n in range(len(operators))]
    place = Place("job", 3, 4, AttemptId(1), wall_ms=lambda: 0)
    opened = Chain(list(zip(names, operators, strict=True)), 3)
    opened.open({name: TaskContext(NoTables(), name, place) for name in names}, {})
    return opened


def values(batch: Batch | None) -> list[Any]:
    assert batch is not None
    return batch.values


def test_a_batch_goes_through_every_operator_in_order() -> None:
    fused = chain(Map(lambda n: n + 1), Filter(lambda n: n % 2), FlatMap(lambda n: [n] * 2))

    assert values(fused.process(Batch([1, 2, 3, 4]))) == [3, 3, 5, 5]


def test_records_are_counted_for_every_operator() -> None:
    fused = chain(Map(lambda n: n + 1), Filter(lambda n: n % 2), FlatMap(lambda n: [n] * 2))

    fused.process(Batch([1, 2, 3, 4]))

    counted = [(c.records_in, c.records_out) for _, c in fused.counters()]
    assert counted == [(4, 4), (4, 2), (2, 4)]


def test_event_times_follow_their_records_through_fused_operators() -> None:
    fused = chain(Map(lambda n: n + 1), Map(str), FlatMap(lambda text: [text] * int(text)))

    output = fused.process(Batch([0, 1], timestamps=[10, 20]))

    assert output == Batch(["1", "2", "2"], timestamps=[10, 20, 20])


def test_what_a_sink_took_does_not_come_out() -> None:
    sink = Gathering()

    assert chain(Map(str), sink).process(Batch([1, 2])) is None
    assert sink.written == ["1", "2"]


def test_what_an_operator_holds_leaves_through_the_rest_of_the_chain_before_a_barrier() -> None:
    sink = Gathering()
    held = chain(Map(lambda n: n * 10), Holding(), Map(str), sink)

    held.process(Batch([1, 2]))

    assert sink.written == []
    assert list(held.before_barrier()) == []
    assert sink.written == ["10", "20"]


def test_the_last_output_of_each_operator_passes_those_behind_it() -> None:
    first, second = Holding(), Holding()
    both = chain(first, second)
    both.process(Batch([1]))

    assert [batch.values for batch in both.end_input()] == [[1]]


@pytest.mark.parametrize("timestamps", [None, [1, 2, 3, 4]], ids=["untimed", "timed"])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_operator_and_the_record_that_failed_are_named(
    position: int, timestamps: list[int] | None
) -> None:
    def explode(value: int) -> int:
        return 1 // (value - 7)

    steps: list[Operator] = [Map(lambda n: n) for _ in range(3)]
    steps[position] = Map(explode)
    with pytest.raises(OperatorError, match=r"record 3 of a batch of 4") as caught:
        chain(*steps).process(Batch([5, 6, 7, 8], timestamps))

    assert caught.value.operator == f"op-{position}"
    assert caught.value.subtask == 3
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_the_content_of_a_failing_record_is_not_told() -> None:
    with pytest.raises(OperatorError) as caught:
        chain(Map(lambda text: text.nothing)).process(Batch(["secret-word"]))

    assert "secret" not in str(caught.value)
    assert "a str of length 11" in str(caught.value)


def test_our_own_errors_pass_unchanged() -> None:
    class Refusing(LazyOperator):
        def lazy(self, values: Iterable[Any]) -> Iterable[Any]:
            raise ConfigError("no")

    with pytest.raises(ConfigError, match=r"^no$"):
        chain(Refusing()).process(Batch([1]))


def test_every_operator_is_closed_although_one_fails_at_it() -> None:
    closed: list[str] = []

    class Failing(Holding):
        def close(self) -> None:
            closed.append("failing")
            raise OSError("cannot close")

    class Fine(Holding):
        def close(self) -> None:
            closed.append("fine")

    with pytest.raises(OSError, match="cannot close"):
        chain(Failing(), Fine()).close()

    assert closed == ["failing", "fine"]
