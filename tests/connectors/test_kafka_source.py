"""The Kafka source against a real broker: which records are read, from where to where."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

pytest.importorskip("confluent_kafka", reason="pip install 'flowsnap[kafka]'")
pytest.importorskip("fastavro", reason="pip install 'flowsnap[avro]'")

from contextlib import ExitStack, closing
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from flowsnap.connectors.kafka import KafkaRecord, KafkaSink, KafkaSource
from flowsnap.connectors.kafka_avro import Avro
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import SplitReader
from flowsnap.errors import ConfigError, MalformedInput
from tests.acceptance.processes import until
from tests.connectors.kafka_reading import (
    gather,
    numbers,
    opened,
    rest,
    source,
)
from tests.contract.sinks import Job
from tests.servers.kafka.broker import broker
from tests.servers.schema_registry import Schemas, serving

pytestmark = pytest.mark.slow


# --- where it begins and ends


def test_bounded_source_ends_where_the_topic_ended_at_submission() -> None:
    topic = broker().topic()
    broker().write(topic, numbers(1, 2, 3))
    reading = source(topic, until="latest")
    (split,) = reading.splits(1)

    broker().write(topic, numbers(4, 5))

    assert rest(reading, split) == [1, 2, 3]
    assert split.size == 3


def test_latest_is_where_the_topic_ended_at_submission_also_for_a_later_attempt() -> None:
    topic = broker().topic()
    broker().write(topic, numbers(1, 2))
    reading = source(topic, start="latest")
    splits = reading.splits(1)

    broker().write(topic, numbers(3))

    for _ in range(2):
        with opened(reading, splits) as readers:
            assert gather(readers, 1) == [3]


def test_offsets_say_where_to_begin_and_to_end() -> None:
    topic = broker().topic(2)
    broker().write(topic, numbers(*range(10)), 0)
    broker().write(topic, numbers(*range(10, 20)), 1)
    reading = source(topic, start={0: 3, 1: 9}, until={0: 5, 1: 10})

    assert [rest(reading, split) for split in reading.splits(1)] == [[3, 4], [19]]


def test_time_says_where_to_begin_and_to_end() -> None:
    topic = broker().topic()
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    producer = Producer({"bootstrap.servers": broker().servers})
    for hour in range(6):
        at_ms = round((begin + timedelta(hours=hour)).timestamp() * 1000)
        producer.produce(topic, b"%d" % hour, timestamp=at_ms)
    assert producer.flush(30) == 0
    after = begin + timedelta(minutes=90)

    some = source(topic, start=after, until=after + timedelta(hours=2))
    none = source(topic, start=begin + timedelta(days=1), until="latest")

    assert [rest(some, split) for split in some.splits(1)] == [[2, 3]]
    assert [rest(none, split) for split in none.splits(1)] == [[]]


def test_group_is_told_the_positions_of_checkpoints_and_can_be_begun_from() -> None:
    topic = broker().topic()
    broker().write(topic, numbers(1, 2, 3))
    reading = source(topic, group=f"group-of-{topic}")
    with opened(reading, reading.splits(1)) as readers:
        gather(readers, 3)
        until(lambda: told(readers[0], reading, topic) == 2, "the group to be told")

    later = source(topic, group=f"group-of-{topic}", start="committed", until="latest")

    assert [rest(later, split) for split in later.splits(1)] == [[3]]


def told(reader: SplitReader, reading: KafkaSource, topic: str) -> int:
    """Tell the group, as each checkpoint does anew, and return what it has heard."""
    reader.committed({"0": 2})
    config = {"bootstrap.servers": broker().servers, "group.id": reading.group}
    with closing(Consumer(config)) as consumer:
        (found,) = consumer.committed([TopicPartition(topic, 0)], timeout=10)
    offset: int = found.offset
    return offset


def test_group_that_has_committed_nothing_cannot_be_begun_from() -> None:
    reading = source(broker().topic(), group="nobody", start="committed")

    with pytest.raises(ConfigError, match="partition 0 has none"):
        reading.splits(1)


@pytest.mark.parametrize(
    ("offsets", "wrong"), [({0: 0}, "partition 1 has none"), ({0: 0, 1: 0, 2: 0}, "there is no 2")]
)
def test_offsets_have_to_be_of_all_partitions_and_of_no_others(
    offsets: dict[int, int], wrong: str
) -> None:
    with pytest.raises(ConfigError, match=wrong):
        source(broker().topic(2), start=offsets).splits(1)


# --- transactions


def write_transaction(topic: str, *values: int, commit: bool | None) -> Producer:
    """Write in a transaction; None: and leave it open."""
    producer = Producer({"bootstrap.servers": broker().servers, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in numbers(*values):
        producer.produce(topic, value)
    producer.flush(30)
    if commit is not None:
        (producer.commit_transaction if commit else producer.abort_transaction)(30)
    return producer


def test_only_what_is_committed_is_read_and_a_bounded_source_ends_behind_a_transaction() -> None:
    topic = broker().topic()
    write_transaction(topic, 1, 2, commit=True)
    write_transaction(topic, 3, 4, commit=False)
    write_transaction(topic, 5, commit=True)
    write_transaction(topic, 6, commit=False)

    committed = source(topic, until="latest")
    everything = source(topic, until="latest", isolation="read_uncommitted")

    assert [rest(committed, split) for split in committed.splits(1)] == [[1, 2, 5]]
    assert [rest(everything, split) for split in everything.splits(1)] == [[1, 2, 3, 4, 5, 6]]


def test_open_transaction_holds_what_is_behind_it_back_until_it_is_committed() -> None:
    topic = broker().topic()
    broker().write(topic, numbers(1))
    producer = write_transaction(topic, 2, commit=None)
    broker().write(topic, numbers(3))
    reading = source(topic)
    with opened(reading, reading.splits(1)) as readers:
        assert gather(readers, 1) == [1]

        producer.commit_transaction(30)

        assert gather(readers, 2) == [2, 3]


# --- records


def test_record_may_come_with_all_that_kafka_keeps() -> None:
    topic = broker().topic()
    producer = Producer({"bootstrap.servers": broker().servers})
    headers: Any = [("a", b"1"), ("a", None), ("b", b"")]
    producer.produce(topic, b"7", b"key", headers=headers, timestamp=1_700_000_000_000)
    producer.produce(topic, None, b"gone", timestamp=1_700_000_000_001)
    assert producer.flush(30) == 0
    reading = source(topic, until="latest", metadata=True, key_format="string")
    (split,) = reading.splits(1)

    found = rest(reading, split)

    assert found[0] == KafkaRecord(
        value=7,
        key="key",
        headers=(("a", b"1"), ("a", None), ("b", b"")),
        timestamp_ms=1_700_000_000_000,
        partition=0,
        topic=topic,
        offset=0,
    )
    assert (found[1].value, found[1].key) == (None, "gone")


def test_value_that_is_not_of_its_format_ends_the_job_with_its_place() -> None:
    topic = broker().topic()
    broker().write(topic, [b"1", b"two", b"3"])
    reading = source(topic)
    place = rf"{topic}\[0\]: the value at offset 1"
    malformed = pytest.raises(MalformedInput, match=place)
    with opened(reading, reading.splits(1)) as readers, malformed as wrong:
        gather(readers, 3)

    assert (wrong.value.file, wrong.value.offset) == (f"{topic}[0]", 1)
    assert not wrong.value.restartable


def test_avro_values_and_keys_go_through_kafka_with_a_registry(tmp_path: Path) -> None:
    topic, schemas = broker().topic(), Schemas()
    fields = [{"name": "id", "type": "long"}, {"name": "user", "type": "string"}]
    schema = {"type": "record", "name": "Order", "fields": fields}
    orders = [{"id": number, "user": f"user-{number}"} for number in range(100)]
    with serving(schemas) as url, ExitStack() as zombies:
        sink = KafkaSink(
            broker().servers, topic, format=Avro(url, schema), key=lambda order: order["user"],
            key_format=Avro(url, {"type": "string"}), guarantee="at-least-once",
        )  # fmt: skip
        job = Job(sink, tmp_path / "job", zombies, subtasks=1)
        job.submit()
        writer = job.open(0)
        writer.write(Batch(orders))
        writer.prepare(CheckpointId(1))
        read = Avro(url)
        source = KafkaSource(
            broker().servers, topic, format=read, key_format=read, metadata=True, until="latest"
        )
        found = [record for split in source.splits(1) for record in rest(source, split)]

    assert [record.value for record in found] == orders
    assert [record.key for record in found] == [order["user"] for order in orders]
    assert sorted(schemas.subjects) == [f"{topic}-key", f"{topic}-value"]
