"""The Kafka source against a real broker keeps what every source keeps."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

pytest.importorskip("confluent_kafka", reason="pip install 'flowsnap[kafka]'")

from confluent_kafka import Producer

from flowsnap.connectors.kafka import KafkaSource
from flowsnap.core.operator import Source
from tests.contract.test_source import (  # noqa: F401 - they are collected here as well
    test_all_splits_together_give_every_record_once_in_order,
    test_parallel_splits_give_every_record_once,
    test_position_does_not_change_without_a_read,
    test_progress_never_falls_and_ends_at_the_size,
    test_restored_at_any_position_it_goes_on_with_the_next_record,
    test_splits_are_the_same_each_time_and_have_names_of_their_own,
    test_splits_that_depend_on_the_parallelism_are_kept_by_a_restored_job,
)
from tests.servers.kafka.broker import broker

pytestmark = pytest.mark.slow

VALUES = [f"{number}" for number in range(7)]


def plain(topic: str) -> None:
    for partition in (0, 2):
        broker().write(topic, [value.encode() for value in VALUES], partition)


def in_transactions(topic: str) -> None:
    """Write what ``plain`` does, with the ends of transactions and aborted records between."""
    producer = Producer({"bootstrap.servers": broker().servers, "transactional.id": topic})
    producer.init_transactions(30)
    for number, value in enumerate(VALUES):
        producer.begin_transaction()
        for partition in (0, 2):
            producer.produce(topic, value, partition=partition)
        producer.commit_transaction(30)
        if number % 3 == 0:
            producer.begin_transaction()
            producer.produce(topic, "aborted", partition=0)
            producer.flush(30)
            producer.abort_transaction(30)


@pytest.fixture(params=[plain, in_transactions])
def case(request: pytest.FixtureRequest) -> tuple[Source, list[Any]]:
    """Return a source and its records, split after split."""
    topic = broker().topic(3)
    request.param(topic)
    return KafkaSource(broker().servers, topic, format="string", until="latest"), VALUES * 2


def test_end_stays_the_end(case: tuple[Source, list[Any]]) -> None:
    source, _ = case
    for split in source.splits(1):
        reader = source.open_split(split, None)
        while reader.read(2) is not None:
            pass  # An empty batch says that what is left may be the end of a transaction.
        position = reader.position()
        assert [reader.read(2), reader.read(2)] == [None, None]
        reader.close()

        with closing(source.open_split(split, position)) as again:
            assert [again.read(2), again.read(2)] == [None, None]
            assert again.position() == position
