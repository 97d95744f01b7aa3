from __future__ import annotations

from typing import Any

from flowsnap.core.ids import CheckpointId, OperatorId
from flowsnap.core.operator import Split
from flowsnap.runtime.input import SourceInput
from tests.unit.runtime.parts import ListReader, ListSource, at

ONE, TWO, THREE = CheckpointId(1), CheckpointId(2), CheckpointId(3)


class Telling(ListReader):
    """Remembers what it was told of completed checkpoints."""

    told: list[int]

    def committed(self, position: Any) -> None:
        self.told.append(position)


class Curious(ListSource):
    """A source whose readers want to hear of completed checkpoints."""

    is_told_of_checkpoints = True

    def __init__(self, *lists: list[int]) -> None:
        super().__init__({f"split-{n}": values for n, values in enumerate(lists)}, bounded=False)
        self.told: dict[str, list[int]] = {}

    def open_split(self, split: Split, position: int | None) -> Telling:
        reader = Telling(self.lists[split.id], position, self.closed)
        reader.told = self.told.setdefault(split.id, [])
        return reader


def reading(source: ListSource) -> SourceInput:
    positions = [at(name, len(values)) for name, values in source.lists.items()]
    return SourceInput(source, OperatorId("lists"), 0, positions, 1)


def test_reader_is_told_of_the_position_that_the_completed_checkpoint_holds() -> None:
    source = Curious([1, 2, 3, 4])
    made = reading(source)
    made.read(0)
    made.positions(ONE)
    made.read(0)

    made.complete(ONE)

    assert source.told == {"split-0": [1]}


def test_checkpoint_that_was_overtaken_or_aborted_is_not_told_of() -> None:
    source = Curious([1, 2, 3, 4])
    made = reading(source)
    for checkpoint_id in (ONE, TWO, THREE):
        made.read(0)
        made.positions(checkpoint_id)

    for checkpoint_id in (TWO, ONE, TWO):
        made.complete(checkpoint_id)
    assert source.told == {"split-0": [2]}

    made.complete(THREE)
    assert source.told == {"split-0": [2, 3]}


def test_checkpoint_of_which_nothing_was_recorded_is_not_told_of() -> None:
    source = Curious([1])
    made = reading(source)
    made.read(0)
    made.positions()

    made.complete(ONE)

    assert source.told == {"split-0": []}


def test_split_that_was_never_opened_is_told_nothing() -> None:
    source = Curious([1, 2], [3, 4])
    made = reading(source)
    made.read(0)
    made.positions(ONE)

    made.complete(ONE)

    assert source.told == {"split-0": [1]}


def test_source_that_does_not_want_to_hear_is_not_told() -> None:
    source = Curious([1])
    source.is_told_of_checkpoints = False  # type: ignore[misc]  # of this one
    made = reading(source)
    made.read(0)
    made.positions(ONE)

    made.complete(ONE)

    assert source.told == {"split-0": []}
