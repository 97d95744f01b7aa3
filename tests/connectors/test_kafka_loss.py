"""What a Kafka source does where records, topics or brokers are missing: it says so."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("confluent_kafka", reason="pip install 'flowsnap[kafka]'")


from flowsnap.connectors.kafka import KafkaSource
from flowsnap.connectors.kafka_client import ClientSettings
from flowsnap.connectors.kafka_topics import PartitionWatch
from flowsnap.errors import ConfigError, DataLost, StoreUnavailable
from tests.connectors.kafka_reading import (
    gather,
    numbers,
    opened,
    read_each,
    source,
)
from tests.servers.kafka.broker import broker

pytestmark = pytest.mark.slow

AWAY = "127.0.0.1:1"


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
