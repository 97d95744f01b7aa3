"""Dead letters of Kafka, with a real broker: what does not decode, and what cannot be written."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("confluent_kafka", reason="pip install 'flowsnap[kafka]'")

import msgspec
from confluent_kafka import Producer

from flowsnap import Pipeline
from flowsnap.connectors import Collect, DeadLetter
from flowsnap.connectors.kafka import Json, KafkaRecord, KafkaSink, KafkaSource
from tests.connectors.kafka_reading import rest, source
from tests.servers.kafka.broker import broker

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {"checkpoint_interval": "20ms", "quiet": True, "workers": 0}
SECRET = "hunter2"


class Order(msgspec.Struct):
    amount: int


def typed(topic: str, **settings: Any) -> KafkaSource:
    return KafkaSource(broker().servers, topic, format=Json(Order), until="latest", **settings)


def test_value_that_is_not_of_its_format_becomes_a_dead_letter_in_its_place() -> None:
    topic = broker().topic()
    broker().write(topic, [b'{"amount":1}', b'{"amount":"hunter2"}', b'{"amount":3}'])
    reading = typed(topic, on_error="dead-letter")
    (split,) = reading.splits(1)

    first, letter, last = rest(reading, split)

    assert (first, last) == (Order(1), Order(3))
    assert isinstance(letter, DeadLetter)
    assert (letter.raw, letter.offset) == ('{"amount":"hunter2"}', 1)
    assert letter.source == f"{topic}[0]"
    assert letter.reason == "the value: Expected `int`, got `str` - at `$.amount`"
    assert rest(reading, split, {"0": 2}) == [Order(3)]


def test_key_that_is_not_of_its_format_becomes_a_dead_letter() -> None:
    topic = broker().topic()
    producer = Producer({"bootstrap.servers": broker().servers})
    for key in (b"a", b"\xff"):
        producer.produce(topic, b"1", key)
    assert producer.flush(30) == 0
    reading = source(
        topic, until="latest", metadata=True, key_format="string", on_error="dead-letter"
    )
    (split,) = reading.splits(1)

    first, letter = rest(reading, split)

    assert isinstance(first, KafkaRecord)
    assert isinstance(letter, DeadLetter)
    assert letter.reason.startswith("the key: 'utf-8' codec can't decode")


def test_job_writes_what_fits_and_its_dead_letters_go_beside() -> None:
    topic, letters = broker().topic(), Collect()
    sink = KafkaSink(
        broker().servers, topic, format=Json(Order), settings={"message.max.bytes": 1_500}
    )
    pipeline = Pipeline("letters")
    records = [Order(1), {"amount": SECRET}, {"amount": 2, "note": "x" * 2_000}, {"amount": 3}]
    pipeline.from_iterable(records).sink(sink, name="out", dead_letters=letters)

    pipeline.run(**QUICK)

    reading = typed(topic)
    assert rest(reading, reading.splits(1)[0]) == [Order(1), Order(3)]
    assert [letter.offset for letter in letters.values] == [1, 2]
    assert "Expected `int`, got `str`" in letters.values[0].reason
    assert "message.max.bytes is 1500" in letters.values[1].reason
