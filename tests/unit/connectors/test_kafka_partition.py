"""The queue of a partition: whatever is fetched twice and read in whatever pieces, each once."""

from __future__ import annotations

from itertools import cycle

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("confluent_kafka", reason="pip install 'flowsnap[kafka]'")

from confluent_kafka import Message

from flowsnap.connectors.kafka_consumer import Partition, offset_of

GAPS = st.lists(st.integers(1, 4), min_size=1, max_size=30)
"""Offsets have gaps: transactions end there, or records were compacted."""


def messages(offsets: list[int]) -> list[Message]:
    return [Message(topic="t", partition=0, offset=offset) for offset in offsets]


def offsets_of(gaps: list[int], start: int) -> list[int]:
    found = []
    for gap in gaps:
        start += gap
        found.append(start)
    return found


FETCHES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 10), st.integers(0, 3), st.integers(1, 5)),
    min_size=1,
    max_size=5,
)
"""How many known records a fetch begins before the new ones, how many new ones it has, how often is
read behind it, and how many at a time."""


@given(GAPS, FETCHES)
def test_every_offset_is_read_once_in_order_however_it_was_fetched(
    gaps: list[int], fetches: list[tuple[int, int, int, int]]
) -> None:
    offsets = offsets_of(gaps, 0)
    found: list[int] = []
    partition = Partition("t", 0, 0, from_earliest=False)
    for back, count, reads, limit in cycle(fetches):
        new = sum(offset < partition.fetch_offset for offset in offsets)
        if run := messages(offsets[max(0, new - back) : new + count]):
            partition.put(run)
        for _ in range(reads if new < len(offsets) else partition.queued):
            if partition.queue:
                found += map(offset_of, partition.take(limit))
                assert partition.next_offset == found[-1] + 1
        if new == len(offsets):
            break

    assert found == offsets
    assert partition.queued == 0


@given(GAPS, st.integers(0, 30), st.integers(1, 7))
def test_position_is_the_offset_of_the_next_record_to_be_read(
    gaps: list[int], read: int, limit: int
) -> None:
    offsets = offsets_of(gaps, -1)
    first = Partition("t", 0, 0, from_earliest=False)
    first.put(messages(offsets))
    before: list[int] = []
    while first.queue and len(before) < read:
        before += map(offset_of, first.take(limit))

    second = Partition("t", 0, first.next_offset, from_earliest=False)
    second.put(messages(offsets))
    after = [offset_of(one) for run in second.queue for one in run]

    assert before + after == offsets
