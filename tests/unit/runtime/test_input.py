from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flowsnap.core.element import Barrier, Batch, Element
from flowsnap.core.ids import ChannelId, CheckpointId, OperatorId
from flowsnap.core.manifest import SplitPosition
from flowsnap.core.operator import Split, SplitReader
from flowsnap.errors import OperatorError, PeerProtocolError
from flowsnap.failpoint import arm
from flowsnap.runtime.input import InputChannel, SourceInput
from tests.unit.runtime.parts import ListReader, ListSource, at


def channel(capacity: int = 4) -> tuple[InputChannel, list[int]]:
    granted: list[int] = []
    made = InputChannel(ChannelId(5), capacity, lambda _, credits: granted.append(credits))
    return made, granted


def reading(source: ListSource, *positions: SplitPosition) -> SourceInput:
    splits = positions or [at(name, len(values)) for name, values in source.lists.items()]
    return SourceInput(source, OperatorId("lists"), 2, splits, 100)


def values(source: SourceInput) -> list[Any]:
    """Read until nothing is there; the values in the order in which they came."""
    read: list[Any] = []
    while (batch := source.read(0)) is not None:
        read += batch.values
    return read


# --- channels


def test_a_channel_grants_all_its_capacity_at_the_start() -> None:
    made, granted = channel(4)

    made.replenish()

    assert granted == [4]


def test_credit_goes_back_in_lots_of_half_the_capacity() -> None:
    made, granted = channel(4)
    made.replenish()
    for _ in range(4):
        made.receive(Batch([1]))

    made.release()
    assert granted == [4]

    made.release()
    assert granted == [4, 2]


def test_a_batch_beyond_the_credit_is_refused() -> None:
    made, _ = channel(2)
    made.replenish()
    made.receive(Batch([1]))
    made.receive(Batch([2]))

    with pytest.raises(PeerProtocolError, match="beyond the granted credit"):
        made.receive(Batch([3]))


def test_a_barrier_takes_no_credit_and_keeps_its_place() -> None:
    made, _ = channel(2)
    made.replenish()
    elements: list[Element] = [Batch([1]), Barrier(CheckpointId(1)), Batch([2])]

    for element in elements:
        made.receive(element)

    assert list(made.queue) == elements


# --- sources


def test_bounded_splits_are_read_one_after_the_other() -> None:
    source = reading(ListSource({"a": [1, 2], "b": [3], "c": []}))

    assert values(source) == [1, 2, 3]
    assert source.is_exhausted
    assert source.records_read == 3


def test_unbounded_splits_are_read_in_turn() -> None:
    source = ListSource({"a": [1, 2, 3], "b": [10, 20]}, bounded=False)

    assert values(reading(source)) == [1, 10, 2, 20, 3]


def test_a_split_with_nothing_to_read_now_does_not_hold_back_the_others() -> None:
    source = reading(ListSource({"a": [None, 1], "b": [10]}))

    batch = source.read(now_ms=100)

    assert batch is not None
    assert batch.values == [10]


def test_when_nothing_is_there_the_source_says_when_to_ask_again() -> None:
    source = reading(ListSource({"a": [None, 1], "b": [None, 2]}))

    assert source.read(now_ms=100) is None
    assert not source.is_exhausted
    assert source.next_read_ms() == 130


def test_a_position_is_where_the_next_read_goes_on() -> None:
    lists = {"a": [1, 2, 3], "b": [4]}
    first = reading(ListSource(lists))
    first.read(0)
    first.read(0)

    second = reading(ListSource(lists), *first.positions())

    assert [p.position for p in first.positions()] == [2, None]
    assert values(second) == [3, 4]


def test_a_finished_split_is_never_read_again_but_stays_in_the_positions() -> None:
    lists = {"a": [1], "b": [2]}
    first = reading(ListSource(lists))
    assert values(first) == [1, 2]

    again = reading(ListSource(lists), *first.positions())

    assert again.is_exhausted
    assert again.positions() == first.positions()
    assert all(position.is_finished for position in again.positions())


def test_progress_counts_finished_and_half_read_splits() -> None:
    source = reading(ListSource({"a": [1, 2], "b": [3, 4], "c": [5]}))

    for _ in range(3):
        source.read(0)

    assert source.progress() == (3, 5)


def test_progress_is_unknown_as_soon_as_one_split_has_no_known_end() -> None:
    source = reading(ListSource({"a": [1], "b": [2]}), at("a", 1), at("b", None))

    assert source.progress() == (0, 0)


def test_a_reader_is_closed_once_when_its_split_ends_or_the_source_does() -> None:
    lists = ListSource({"a": [1], "b": [2, 3], "c": [4]})
    source = reading(lists)
    for _ in range(2):
        source.read(0)

    source.close()
    source.close()

    assert lists.closed == ["reader", "reader"]  # "a" at its end, "b" half read; "c" was never open


class Failing(ListSource):
    """Its readers raise in the method called ``where``."""

    def __init__(self, where: str) -> None:
        super().__init__({"a": [None], "b": [None]})
        self.where = where

    def open_split(self, split: Split, position: int | None) -> SplitReader:
        reader = ListReader(self.lists[split.id], position, self.closed)
        setattr(reader, self.where, self.fail)
        return reader

    def fail(self, *_: object) -> None:
        raise ValueError("no such line")


def use(source: SourceInput) -> None:
    source.read(0)
    source.progress()
    source.positions()


@pytest.mark.parametrize("where", ["read", "wait_ms", "position", "progress"])
def test_what_a_reader_raises_names_the_operator_and_the_subtask(where: str) -> None:
    source = reading(Failing(where))

    with pytest.raises(OperatorError, match="operator 'lists', subtask 2: ValueError") as caught:
        use(source)

    assert isinstance(caught.value.__cause__, ValueError)


def test_every_reader_is_closed_although_one_fails_at_it() -> None:
    closed: list[str] = []

    class Stubborn(ListReader):
        def close(self) -> None:
            super().close()
            raise OSError("busy")

    class Source(ListSource):
        def open_split(self, split: Split, position: int | None) -> SplitReader:
            return Stubborn(self.lists[split.id], position, closed)

    source = reading(Source({"a": [None, None], "b": [None, None]}))
    source.read(0)

    with pytest.raises(OperatorError, match="busy"):
        source.close()

    assert closed == ["reader", "reader"]


def test_the_failpoint_of_a_read_fires_after_it(request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda: arm(""))
    source = reading(ListSource({"a": [1, 2]}))
    arm("src.read=raise@2")

    assert source.read(0) == Batch([1])
    with pytest.raises(OSError, match=r"src\.read"):
        source.read(0)


def positions_of(source: SourceInput) -> Sequence[Any]:
    return [position.position for position in source.positions()]


def test_positions_of_what_was_never_opened_are_those_it_was_given() -> None:
    source = reading(ListSource({"a": [1, 2], "b": [3, 4]}), at("a", 2), at("b", 2, 1))

    assert positions_of(source) == [None, 1]
