"""How much of the bare Kafka client's speed is left in the source and the sink?

One broker on the same machine, one process, values of 100 bytes in a topic of four partitions. The
baseline is what one would write by hand with confluent-kafka: ``consume`` in batches and a loop
over the messages; ``produce`` for each record and a ``flush``, or a transaction. The sink that is
exactly-once writes every record twice, into the epoch's file and then into Kafka.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.harness import Row, per_second, rounds
from flowsnap.connectors.kafka import KafkaSink, KafkaSource
from flowsnap.connectors.kafka_format import FormatName
from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.core.operator import SinkContext, Submission
from tests.servers.kafka.broker import Broker, broker

RECORDS, RECORDS_QUICK = 400_000, 50_000
BATCH = 4_096
VALUE = msgspec.json.encode({"id": 123_456_789, "user": "a" * 40, "text": "b" * 28})
_names = count()


def run(quick: bool) -> list[Row]:
    """Compare reading bytes and JSON, and writing at least once and exactly once."""
    if shutil.which("java") is None or shutil.which("mvn") is None:
        return [Row(case="no broker: install Java 17 and Maven", value=0.0)]
    records, n = (RECORDS_QUICK, 2) if quick else (RECORDS, 5)
    kafka = broker()
    full = kafka.topic(4)
    _fill(kafka, full, records)
    rows: list[Row] = []
    pairs: tuple[tuple[str, Callable[[], object], Callable[[], object]], ...] = (
        (
            "read bytes",
            partial(_consume, kafka, full, records, decode=None),
            partial(_read, kafka, full, records, "bytes"),
        ),
        (
            "read JSON",
            partial(_consume, kafka, full, records, decode=msgspec.json.Decoder().decode),
            partial(_read, kafka, full, records, "json"),
        ),
        (
            "write, at-least-once",
            partial(_produce, kafka, records, is_transaction=False),
            partial(_write, kafka, records, "at-least-once"),
        ),
        (
            "write, exactly-once",
            partial(_produce, kafka, records, is_transaction=True),
            partial(_write, kafka, records, "exactly-once"),
        ),
    )
    for title, by_hand, by_connector in pairs:
        hand, ours = f"{title}: confluent-kafka", f"{title}: flowsnap"
        cases = {hand: partial(per_second, records, by_hand)}
        cases[ours] = partial(per_second, records, by_connector)
        rows += rounds(n, cases, warm_up=True).rows(baseline=hand)
    return rows


def _fill(kafka: Broker, topic: str, records: int) -> None:
    for partition in range(4):
        kafka.write(topic, [VALUE] * (records // 4), partition)


def _consume(kafka: Broker, topic: str, records: int, decode: Callable[[Any], Any] | None) -> None:
    config = {"bootstrap.servers": kafka.servers, "group.id": "bench", "enable.auto.commit": False}
    with closing(Consumer(config)) as consumer:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(4)])
        found = 0
        while found < records:
            for message in consumer.consume(BATCH, timeout=0.05):
                if message.error() is None:
                    value = message.value()
                    if decode is not None:
                        decode(value)
                    found += 1


def _read(kafka: Broker, topic: str, records: int, format: FormatName) -> None:
    source = KafkaSource(kafka.servers, topic, format=format)
    readers = [source.open_split(split, None) for split in source.splits(1)]
    found, pause = 0, Event()
    while found < records:
        before = found
        for reader in readers:
            batch = reader.read(BATCH)
            found += 0 if batch is None else len(batch)
        if found == before:
            pause.wait(readers[0].wait_ms() / 1000)
    for reader in readers:
        reader.close()


def _produce(kafka: Broker, records: int, *, is_transaction: bool) -> None:
    topic = kafka.topic(4)
    config: dict[str, Any] = {
        "bootstrap.servers": kafka.servers,
        "enable.idempotence": True,
        "linger.ms": 5,
        "compression.type": "lz4",
        "partitioner": "murmur2_random",
        "queue.buffering.max.messages": 500_000,
    }
    if is_transaction:
        config["transactional.id"] = topic
    producer = Producer(config)
    if is_transaction:
        producer.init_transactions(30)
        producer.begin_transaction()
    for _ in range(records):
        try:
            producer.produce(topic, VALUE)
        except BufferError:
            producer.poll(0.5)
            producer.produce(topic, VALUE)
    producer.flush(60)
    if is_transaction:
        producer.commit_transaction(30)


def _write(kafka: Broker, records: int, guarantee: Any) -> None:
    topic = kafka.topic(4)
    template = KafkaSink(kafka.servers, topic, format="bytes", guarantee=guarantee)
    with _opened(template) as sink:
        values = [VALUE] * BATCH
        for start in range(0, records, BATCH):
            sink.write(Batch(values[: records - start]))
        committable = sink.prepare(CheckpointId(1))
        if committable is not None:
            pause = Event()
            while sink.commit([committable]) is False:
                pause.wait(0.002)


@contextmanager
def _opened(template: KafkaSink) -> Iterator[KafkaSink]:
    run_id = f"bench-{next(_names)}-{id(template)}"
    with tempfile.TemporaryDirectory() as directory:
        template.on_submit(
            Submission(
                job="bench",
                operator=OperatorId("out"),
                job_directory=str(Path(directory)),
                run_id=run_id,
                is_fresh=True,
            )
        )
        sink = copy.copy(template)
        sink.open(
            SinkContext(
                job="bench",
                run_id=run_id,
                operator=OperatorId("out"),
                subtask=0,
                parallelism=1,
                attempt=AttemptId(1),
            )
        )
        with closing(sink):
            sink.recover([])
            yield sink
