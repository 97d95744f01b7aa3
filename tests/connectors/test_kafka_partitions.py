"""The partitions of a Kafka source: new ones, held-back ones, and the event time of each."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("confluent_kafka", reason="pip install 'flowsnap[kafka]'")

from confluent_kafka import Producer

from flowsnap.connectors import kafka_consumer
from flowsnap.connectors.kafka import KafkaSource
from flowsnap.core.event_time import EventTime
from flowsnap.core.ids import OperatorId
from flowsnap.core.manifest import SplitPosition
from flowsnap.errors import ConfigError
from flowsnap.operators.watermarks import bounded, monotonous
from flowsnap.runtime.input import SourceInput
from tests.connectors.kafka_reading import (
    gather,
    numbers,
    opened,
    read_each,
    source,
    task_copy,
)
from tests.servers.kafka.broker import broker

pytestmark = pytest.mark.slow


def test_new_partitions_are_found_and_their_positions_are_in_the_snapshot() -> None:
    topic = broker().topic(2)
    broker().write(topic, numbers(1), 0)
    reading = source(topic, discover_every="50ms")
    splits = reading.splits(2)
    with opened(reading, splits) as readers:
        gather(readers, 1)
        broker().grow(topic, 5)
        for partition in (2, 3, 4):
            broker().write(topic, numbers(partition, 10 + partition), partition)

        assert sorted(gather(readers, 6)) == [2, 3, 4, 12, 13, 14]
        positions = [reader.position() for reader in readers]

    assert positions == [{"0": 1, "2": 2, "4": 2}, {"1": 0, "3": 2}]
    broker().write(topic, numbers(99), 4)
    with opened(reading, splits, positions) as readers:
        assert gather(readers, 1) == [99]


def test_partition_that_no_checkpoint_knows_of_is_found_again_and_read_from_its_beginning() -> None:
    topic = broker().topic(1)
    reading = source(topic, discover_every="50ms")
    splits = reading.splits(1)
    before = {"0": 0}
    broker().grow(topic, 2)
    broker().write(topic, numbers(1, 2), 1)
    with opened(reading, splits, [before]) as readers:
        assert gather(readers, 2) == [1, 2]

    with opened(reading, splits, [before]) as readers:  # It failed before the next checkpoint.
        assert gather(readers, 2) == [1, 2]
        assert readers[0].position() == {"0": 0, "1": 2}


def test_partition_that_appears_between_two_runs_is_a_split_of_its_own() -> None:
    topic = broker().topic(2)
    reading = source(topic, discover_every="50ms")
    former = list(zip(reading.splits(1), [{"0": 0, "2": 0}, None], strict=True))
    broker().grow(topic, 5)

    splits = reading.splits_after(1, former)

    assert [split.id for split in splits] == [f"{topic}/{number}" for number in (0, 1, 3, 4)]
    broker().grow(topic, 10)  # Whoever has a partition has those that are congruent to it.
    for partition in range(10):
        broker().write(topic, numbers(partition), partition)
    with opened(reading, splits, [{"0": 0, "2": 0}, None, None, None]) as readers:
        assert sorted(gather(readers, 10)) == list(range(10))
        held = [sorted(map(int, reader.position())) for reader in readers]
    assert held == [[0, 2, 5, 7], [1, 6], [3, 8], [4, 9]]


def test_topic_that_is_new_in_the_pipeline_is_read_beside_those_of_the_checkpoint() -> None:
    first, second = broker().topic(1), broker().topic(1)
    known = [(split, {"0": 7}) for split in source(first).splits(1)]
    both = KafkaSource(broker().servers, [first, second], start="latest")
    broker().write(second, numbers(1, 2))

    splits = both.splits_after(1, known)

    assert [(split.id, split.payload["start"]) for split in splits] == [
        (f"{first}/0", 0),
        (f"{second}/0", 2),
    ]


def test_topic_that_has_fewer_partitions_than_were_read_is_refused() -> None:
    reading = source(broker().topic(1))
    known = [(split, {"0": 5, "3": 1}) for split in reading.splits(1)]

    with pytest.raises(ConfigError, match="has 1 partitions, but partition 3 has been read"):
        reading.splits_after(1, known)


def test_bounded_source_that_goes_on_keeps_its_end_and_its_partitions() -> None:
    topic = broker().topic(1)
    broker().write(topic, numbers(1))
    reading = source(topic, until="latest")
    known = [(split, {"0": 1}) for split in reading.splits(1)]
    broker().write(topic, numbers(2))
    broker().grow(topic, 2)

    assert reading.splits_after(1, known) == [known[0][0]]


def test_partitions_of_one_split_come_in_the_order_of_their_timestamps() -> None:
    topic = broker().topic(2)
    producer = Producer({"bootstrap.servers": broker().servers})
    for at in range(20):
        partition = 0 if at < 5 or at % 2 else 1
        producer.produce(topic, b"%d" % at, partition=partition, timestamp=1_000_000 + at)
    assert producer.flush(30) == 0
    reading = source(topic)
    split = reading.splits(1)[0]
    joined = type(split)(split.id, {**split.payload, "of": 1})
    with opened(reading, [joined], [{"0": 0, "1": 0}]) as (reader,):
        while not all(one.queue for one in reader._partitions):  # type: ignore[attr-defined]
            for one in reader._partitions:  # type: ignore[attr-defined]
                reader._consumer.fetch(one, 100)  # type: ignore[attr-defined]

        assert gather([reader], 20) == list(range(20))


def test_several_topics_are_read_by_one_subtask() -> None:
    topics = [broker().topic(2), broker().topic(1)]
    broker().write(topics[0], numbers(1), 1)
    broker().write(topics[1], numbers(2), 0)
    reading = KafkaSource(broker().servers, topics, format="json", metadata=True)
    with opened(reading, reading.splits(1)) as readers:
        found = gather(readers, 2)

    assert {(one.topic, one.partition, one.value) for one in found} == {
        (topics[0], 1, 1),
        (topics[1], 0, 2),
    }


def test_partition_that_nobody_reads_is_taken_back_and_read_on_without_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_consumer, "QUEUE_RECORDS_MAX", 50)
    topic = broker().topic(2)
    broker().write(topic, numbers(*range(1000)), 0)
    reading = source(topic)
    with opened(reading, reading.splits(1)) as (held, other):
        for _ in range(100):
            read_each([other], 10)
        broker().write(topic, numbers(-1), 1)

        assert gather([other], 1, 10) == [-1]  # The one that is held back is in nobody's way.
        (waiting,) = held._partitions  # type: ignore[attr-defined]
        assert 50 < waiting.queued < 200
        assert not waiting.is_assigned
        assert gather([held], 1000, 10) == list(range(1000))


def restored(splits: Any) -> list[SplitPosition]:
    return [
        SplitPosition(split.id, split.payload, split.size, None, False, None) for split in splits
    ]


def timed(reading: KafkaSource, settings: EventTime) -> SourceInput:
    reading.event_time = settings
    copy = task_copy(reading)
    return SourceInput(copy, OperatorId("kafka"), 0, restored(reading.splits(1)), 100)


def read_all(input: SourceInput) -> list[Any]:
    found: list[Any] = []
    while not input.is_exhausted:
        batch = input.read(0)
        found += [] if batch is None else zip(batch.values, batch.timestamps or [], strict=True)
    input.close()
    return found


def test_watermark_is_the_least_of_the_partitions() -> None:
    topic = broker().topic(2)
    broker().write(topic, numbers(5000, 6000), 0)
    broker().write(topic, numbers(10), 1)
    input = timed(source(topic), monotonous(timestamp=abs))
    time = input.time
    assert time is not None

    while input.records_read < 3:
        assert time.merger.current < 10
        input.read(0)

    assert (time.mark(0), time.mark(1)) == (5999, 9)
    assert time.merger.current == 9
    input.close()


def test_timestamps_of_kafka_are_the_event_times_where_nothing_else_is_said() -> None:
    topic = broker().topic()
    producer = Producer({"bootstrap.servers": broker().servers})
    producer.produce(topic, b"1", timestamp=1_700_000_000_123)
    assert producer.flush(30) == 0

    assert read_all(timed(source(topic, until="latest"), bounded("1s"))) == [(1, 1_700_000_000_123)]
