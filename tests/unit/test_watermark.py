from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from flowsnap.core.ids import ChannelId
from flowsnap.core.watermark import MAX_WATERMARK, MIN_WATERMARK, WatermarkMerger
from flowsnap.errors import LocalProtocolError

A, B, C = ChannelId(0), ChannelId(1), ChannelId(2)


def merger(*marks: int) -> WatermarkMerger:
    """Return a merger of as many channels as ``marks``, each at its mark."""
    merged = WatermarkMerger([ChannelId(number) for number in range(len(marks))])
    for number, mark in enumerate(marks):
        merged.receive(ChannelId(number), mark)
    return merged


def test_event_time_stands_at_its_beginning_until_every_channel_has_spoken() -> None:
    time = WatermarkMerger([A, B])

    assert time.receive(A, 100) is None
    assert time.current == MIN_WATERMARK
    assert time.receive(B, 40) == 40


def test_merged_watermark_is_the_minimum_and_is_told_only_when_it_rises() -> None:
    time = merger(10, 20, 30)

    assert time.receive(C, 50) is None
    assert time.receive(A, 15) == 15
    assert time.receive(A, 25) == 20
    assert time.current == 20


def test_older_watermark_of_a_channel_is_ignored() -> None:
    time = merger(10, 20)

    assert time.receive(A, 9) is None
    assert time.receive(A, 10) is None
    assert time.receive(B, 30) is None
    assert time.current == 10


def test_idle_channel_holds_nobody_back_until_it_is_active() -> None:
    time = merger(10, 20)

    assert time.idle(A) == 20
    assert time.receive(B, 30) == 30
    assert time.active(A) is None
    assert time.receive(B, 40) is None
    assert time.receive(A, 35) == 35


def test_watermark_of_an_idle_channel_counts_once_it_is_active() -> None:
    time = merger(10, 20)
    time.idle(A)

    assert time.receive(A, 60) is None
    assert time.receive(B, 50) == 50
    assert time.receive(B, 70) == 70


def test_event_time_stands_still_while_all_channels_are_idle() -> None:
    time = merger(20, 10)

    assert time.idle(B) == 20
    assert not time.is_idle
    assert time.idle(A) is None
    assert time.is_idle
    assert time.receive(A, 99) is None
    assert time.current == 20


def test_channel_that_wakes_first_decides_alone_how_far_event_time_is() -> None:
    time = merger(30, 10)
    time.idle(A)
    time.idle(B)

    assert time.active(A) == 30


def test_ended_channel_counts_as_infinity() -> None:
    time = merger(10, 20)

    assert time.end(A) == 20
    assert time.receive(B, 25) == 25
    assert time.end(B) == MAX_WATERMARK


def test_ended_channels_do_not_make_the_records_of_an_idle_one_late() -> None:
    time = merger(10, 20)
    time.idle(B)

    assert time.end(A) is None
    assert time.is_idle
    assert time.active(B) == 20


def test_channel_that_ends_while_it_is_idle_has_ended() -> None:
    time = merger(10, 20)
    time.idle(A)
    time.end(A)

    assert not time.is_idle
    assert time.end(B) == MAX_WATERMARK
    assert not time.is_idle


def test_event_time_ends_also_when_all_channels_were_idle_before_they_ended() -> None:
    time = merger(10, 20)
    time.idle(A)
    time.idle(B)

    assert time.end(A) is None
    assert time.end(B) == MAX_WATERMARK


@pytest.mark.parametrize(
    "call",
    [lambda time: time.receive(C, 1), lambda time: time.idle(C), lambda time: time.active(C)],
)
def test_unknown_channel_is_refused(call: Callable[[WatermarkMerger], int | None]) -> None:
    time = merger(10, 20)

    with pytest.raises(LocalProtocolError, match="unknown channel 2"):
        call(time)

    time.check()
    assert time.current == 10


def test_task_without_inputs_stays_at_the_beginning_of_event_time() -> None:
    time = WatermarkMerger([])

    time.check()
    assert time.current == MIN_WATERMARK
    assert not time.is_idle


STEPS: list[Callable[[WatermarkMerger], int | None]] = [
    lambda time: time.receive(A, time.current + 3),
    lambda time: time.receive(B, time.current + 5),
    lambda time: time.idle(A),
    lambda time: time.idle(B),
    lambda time: time.active(A),
    lambda time: time.end(B),
]


def test_event_time_only_ever_rises_and_every_rise_is_told() -> None:
    for steps in product(STEPS, repeat=4):
        time = merger(0, 0)
        for step in steps:
            before = time.current
            told = step(time)
            time.check()
            assert time.current >= before
            assert told == (time.current if time.current > before else None)
