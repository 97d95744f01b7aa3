from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import pytest

from flowsnap.connectors import FromIterable
from flowsnap.errors import ConfigError, StorageError


def read(source: FromIterable, parallelism: int = 1, limit: int = 2) -> list[list[Any]]:
    """Return the batches of all splits."""
    batches = []
    for split in source.splits(parallelism):
        reader = source.open_split(split, None)
        while (batch := reader.read(limit)) is not None:
            batches.append(batch.values)
    return batches


@pytest.mark.parametrize(
    "values",
    [[1, 2, 3], (1, 2, 3), range(1, 4), deque([1, 2, 3]), {1: "a", 2: "b", 3: "c"}],
    ids=["list", "tuple", "range", "deque", "dict"],
)
def test_whatever_can_be_iterated_again_is_read_in_order(values: Iterable[int]) -> None:
    assert read(FromIterable(values)) == [[1, 2], [3]]


def test_function_that_returns_an_iterator_is_called_for_every_reader() -> None:
    source = FromIterable(lambda: iter("abc"))

    assert [read(source), read(source)] == [[["a", "b"], ["c"]]] * 2


def test_generator_function_is_accepted() -> None:
    def count() -> Iterable[int]:
        yield from range(3)

    assert read(FromIterable(count)) == [[0, 1], [2]]


def test_sequence_is_cut_into_contiguous_slices() -> None:
    source = FromIterable(range(10))

    assert [split.id for split in source.splits(1)] == ["0:10"]
    assert [split.id for split in source.splits(3)] == ["0:3", "3:6", "6:10"]
    assert read(source, 3, limit=100) == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]


def test_slices_that_would_be_empty_are_left_out() -> None:
    assert [split.id for split in FromIterable([7, 8]).splits(4)] == ["0:1", "1:2"]


def test_empty_sequence_is_one_split_that_ends_at_once() -> None:
    assert len(FromIterable([]).splits(4)) == 1
    assert read(FromIterable([]), 4) == []


def test_what_is_no_sequence_is_one_split() -> None:
    assert [split.id for split in FromIterable(lambda: range(9)).splits(4)] == ["all"]


def test_batch_is_a_list_of_its_own() -> None:
    values = [1, 2]

    assert read(FromIterable(values))[0] is not values


@pytest.mark.parametrize("values", [[10, 11, 12, 13, 14], lambda: range(10, 15)])
def test_position_is_an_index(values: Any) -> None:
    source = FromIterable(values)
    (split,) = source.splits(1)
    reader = source.open_split(split, None)
    reader.read(3)

    assert reader.position() == 3
    assert source.open_split(split, 3).read(9).values == [13, 14]  # type: ignore[union-attr]


@pytest.mark.parametrize("values", [iter([1]), (n for n in [1]), map(int, "1"), enumerate("a")])
def test_what_can_be_read_only_once_is_refused(values: Iterable[Any]) -> None:
    with pytest.raises(ConfigError, match="only once"):
        FromIterable(values)


@pytest.mark.parametrize("values", [{1, 2}, frozenset("ab")])
def test_set_is_refused_because_its_order_differs_between_processes(values: Iterable[Any]) -> None:
    with pytest.raises(ConfigError, match="no order"):
        FromIterable(values)


def test_what_cannot_be_iterated_is_refused() -> None:
    with pytest.raises(ConfigError, match="can't be iterated"):
        FromIterable(7)  # type: ignore[arg-type]  # the point of the test


def test_fewer_values_than_were_read_before_is_a_storage_error() -> None:
    function, sequence = FromIterable(lambda: range(3)), FromIterable([1, 2, 3])

    with pytest.raises(StorageError, match="3 values where 5"):
        function.open_split(function.splits(1)[0], 5)
    with pytest.raises(StorageError, match="3 values where 4"):
        sequence.open_split(FromIterable([1, 2, 3, 4]).splits(1)[0], None)
