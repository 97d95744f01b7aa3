from __future__ import annotations

from typing import Any

import pytest

from flowsnap.connectors import Generator
from flowsnap.core.operator import SplitReader
from flowsnap.errors import ConfigError


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def square(number: int) -> int:
    return number * number


def read(reader: SplitReader, limit: int = 3) -> list[Any]:
    batch = reader.read(limit)
    assert batch is not None
    return batch.values


def test_record_i_is_the_function_of_i() -> None:
    source = Generator(square, 5)
    reader = source.open_split(source.splits(1)[0], None)

    assert [read(reader), read(reader), reader.read(3)] == [[0, 1, 4], [9, 16], None]


def test_split_k_of_n_makes_every_nth_record_from_k_on() -> None:
    source = Generator(int, 8, splits=3)
    readers = [source.open_split(split, None) for split in source.splits(1)]

    assert [read(reader) for reader in readers] == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_number_of_splits_is_the_parallelism_unless_given() -> None:
    assert [split.id for split in Generator(int).splits(2)] == ["0/2", "1/2"]
    assert [split.id for split in Generator(int, splits=3).splits(2)] == ["0/3", "1/3", "2/3"]


def test_splits_that_would_be_empty_are_left_out() -> None:
    assert [(split.id, split.size) for split in Generator(int, 2).splits(4)] == [
        ("0/4", 1),
        ("1/4", 1),
    ]


def test_count_of_zero_is_one_split_that_ends_at_once() -> None:
    source = Generator(int, 0)
    (split,) = source.splits(4)

    assert source.open_split(split, None).read(3) is None


def test_only_a_generator_with_a_count_is_bounded() -> None:
    assert Generator(int, 3).bounded
    assert not Generator(int).bounded
    assert Generator(int).splits(1)[0].size is None


def test_position_is_the_number_of_the_next_record() -> None:
    source = Generator(int, splits=3)
    split = source.splits(1)[1]
    reader = source.open_split(split, None)
    read(reader)

    assert (reader.position(), reader.progress()) == (10, 3)
    assert read(source.open_split(split, 10)) == [10, 13, 16]


def test_record_whose_function_raises_is_not_passed_over() -> None:
    source = Generator(lambda number: 1 // (number - 4))
    reader = source.open_split(source.splits(1)[0], None)
    read(reader)

    with pytest.raises(ZeroDivisionError):
        reader.read(3)
    assert reader.position() == 3


def test_rate_is_kept_by_the_clock() -> None:
    clock = Clock()
    source = Generator(int, rate=100, clock=clock)
    reader = source.open_split(source.splits(1)[0], None)

    assert [read(reader), read(reader)] == [[0], []]
    clock.now_s += 0.025
    assert [read(reader), read(reader)] == [[1, 2], []]


def test_reader_says_when_the_next_record_is_due() -> None:
    clock = Clock()
    source = Generator(int, rate=4, clock=clock)
    reader = source.open_split(source.splits(1)[0], None)
    read(reader)

    assert reader.wait_ms() == 250
    clock.now_s += reader.wait_ms() / 1000
    assert read(reader) == [1]


def test_rate_is_shared_by_all_splits() -> None:
    clock = Clock()
    source = Generator(int, rate=100, splits=4, clock=clock)
    readers = [source.open_split(split, None) for split in source.splits(1)]
    made = 0

    for _ in range(200):
        clock.now_s += 0.01
        made += sum(len(read(reader, 100)) for reader in readers)

    assert 196 <= made <= 204


def test_reader_that_was_held_back_catches_up_a_tenth_of_a_second_only() -> None:
    clock = Clock()
    source = Generator(int, rate=1000, clock=clock)
    reader = source.open_split(source.splits(1)[0], None)

    clock.now_s += 60
    assert len(read(reader, 10_000)) == 100


def test_limit_holds_below_the_rate() -> None:
    clock = Clock()
    source = Generator(int, rate=1000, clock=clock)
    reader = source.open_split(source.splits(1)[0], None)

    clock.now_s += 60
    assert [len(read(reader, 60)), len(read(reader, 60))] == [60, 40]


@pytest.mark.parametrize(
    "arguments",
    [{"count": -1}, {"rate": 0}, {"rate": -1}, {"rate": float("inf")}, {"splits": 0}, {"fn": [1]}],
)
def test_argument_out_of_range_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Generator(**{"fn": int, **arguments})
