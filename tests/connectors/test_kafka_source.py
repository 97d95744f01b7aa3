"""The Kafka source against a real broker: which records are read, from where to where."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

pytest.importorskip("confluent_kafka", reason="pip install 'flowsnap[kafka]'")

from confluent_kafka import Consumer, Producer, TopicPartition

from flowsnap.connectors import kafka_consumer
from flowsnap.connectors.kafka import Json, KafkaRecord, KafkaSource
from flowsnap.connectors.kafka_client import ClientSettings
from flowsnap.connectors.kafka_topics import PartitionWatch
from flowsnap.core.event_time import EventTime
from flowsnap.core.ids import OperatorId
from flowsnap.core.manifest import SplitPosition
from flowsnap.errors import ConfigError, DataLost, MalformedInput, StoreUnavailable
from flowsnap.operators.watermarks import bounded, monotonous
from flowsnap.runtime.input import SourceInput
from tests.connectors.kafka_reading import gather, opened, read_each, rest, task_copy
from tests.servers.kafka import broker

pytestmark = pytest.mark.slow

AWAY = "127.0.0.1:1"


def numbers(*values: int) -> list[bytes | None]:
    return [b"%d" % value for value in values]


def source(topic: str, **settings: Any) -> KafkaSource:
    return KafkaSource(broker().servers, topic, format=Json(int), **settings)


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
        readers[0].committed({"0": 2})
        settled(reading, topic, 2)

    later = source(topic, group=f"group-of-{topic}", start="committed", until="latest")

    assert [rest(later, split) for split in later.splits(1)] == [[3]]


def settled(reading: KafkaSource, topic: str, offset: int) -> None:
    """Wait until the group has been told."""
    config = {"bootstrap.servers": broker().servers, "group.id": reading.group}
    consumer = Consumer(config)
    for _ in range(1000):
        (found,) = consumer.committed([TopicPartition(topic, 0)], timeout=10)
        if found.offset == offset:
            break
    consumer.close()
    assert found.offset == offset


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


# --- partitions


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


# --- what may be missing


def test_records_that_were_deleted_before_they_were_read_are_an_error() -> None:
    topic = broker().topic()
    broker().write(topic, numbers(*range(10)))
    reading = source(topic)
    splits = reading.splits(1)
    broker().forget(topic, 0, 7)

    wanted = rf"{topic}\[0\] was to be read on at offset 5"
    with (
        opened(reading, splits, [{"0": 5}]) as readers,
        pytest.raises(DataLost, match=wanted) as lost,
    ):
        gather(readers, 1)

    assert not lost.value.restartable
    assert 'on_data_loss="earliest"' in lost.value.__notes__[0]


def test_topic_that_was_made_anew_is_an_error() -> None:
    topic = broker().topic()
    broker().write(topic, numbers(1))
    reading = source(topic)
    splits = reading.splits(1)
    with (
        opened(reading, splits, [{"0": 50}]) as readers,
        pytest.raises(DataLost, match="offset 50"),
    ):
        gather(readers, 1)


@pytest.mark.parametrize(("choice", "left"), [("earliest", [7, 8, 9, 10]), ("latest", [10])])
def test_what_is_left_is_read_where_this_was_chosen_and_the_loss_is_logged(
    choice: str, left: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    topic = broker().topic()
    broker().write(topic, numbers(*range(10)))
    reading = source(topic, on_data_loss=choice)
    splits = reading.splits(1)
    broker().forget(topic, 0, 7)
    with opened(reading, splits, [{"0": 5}]) as readers:
        while "DATA LOSS" not in caplog.text:
            assert read_each(readers) == []
        if choice == "latest":
            reached_end(readers[0])
        broker().write(topic, numbers(10))

        assert gather(readers, len(left)) == left


def reached_end(reader: Any) -> None:
    """Read until the reader knows where its partition ends."""
    (partition,) = reader._partitions
    while partition.end_offset != 10:
        assert reader.read(10).values == []


def test_what_was_deleted_before_a_job_began_at_the_earliest_is_not_lost() -> None:
    topic = broker().topic()
    broker().write(topic, numbers(*range(10)))
    reading = source(topic)
    splits = reading.splits(1)
    broker().forget(topic, 0, 7)

    with opened(reading, splits) as readers:
        assert gather(readers, 3) == [7, 8, 9]


def test_topic_that_is_gone_at_a_restore_is_an_error_and_not_an_end() -> None:
    topic = broker().topic()
    broker().write(topic, numbers(1, 2))
    reading = source(topic)
    splits = reading.splits(1)
    broker().remove(topic)

    gone = pytest.raises(StoreUnavailable, match="is not there any more")
    with opened(reading, splits, [{"0": 1}]) as readers, gone:
        gather(readers, 1)


def test_topic_that_does_not_exist_is_found_at_submission() -> None:
    with pytest.raises(ConfigError, match="asking for topic 'no-such-topic'"):
        source("no-such-topic").splits(1)


def test_broker_that_does_not_answer_is_found_at_submission(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flowsnap.connectors.kafka_topics.REQUEST_S", 0.3)

    with pytest.raises(ConfigError, match=f"at {AWAY} failed"):
        KafkaSource(AWAY, "orders").splits(1)


def test_broker_that_is_away_for_too_long_fails_the_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flowsnap.connectors.kafka_topics.REQUEST_S", 0.1)
    ticks = iter(range(100_000))
    watch = PartitionWatch(
        ClientSettings(AWAY, {}, {}),
        ["orders"],
        interval_ms=1,
        patience_ms=3_000,
        clock=lambda: next(ticks) / 1000,
    )

    with pytest.raises(StoreUnavailable, match=f"no Kafka broker at {AWAY} has answered") as away:
        look_on(watch)

    assert away.value.restartable


def look_on(watch: PartitionWatch) -> None:
    for _ in range(100_000):
        watch.look()


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


def test_checkpoint_of_other_topics_is_refused() -> None:
    topic = broker().topic()
    splits = source(topic).splits(1)

    with pytest.raises(ConfigError, match=f"the checkpoint has read {topic}, and not another"):
        source("another").open_split(splits[0], {"0": 0})
