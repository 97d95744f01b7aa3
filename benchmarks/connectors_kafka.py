"""How much of the bare Kafka client's speed is left in the source and the sink?

One broker on the same machine, one process, values of 100 bytes in a topic of four partitions, with
a checkpoint after each tenth of them. The baseline is what one would write by hand with
confluent-kafka and the same settings of the client: ``consume`` in batches and a loop over the
messages; ``produce`` for each record and, at each checkpoint, a ``flush`` or the end of a
transaction. What is made once does not count on either side: topics, clients, and the first record
written, with which they find their ways. The sink that is exactly-once writes every record twice,
into the epoch's file and then into Kafka.
"""

from __future__ import annotations

import copy
import gc
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from itertools import count
from threading import Event
from typing import Any

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.harness import Row, per_second, rounds
from flowsnap.connectors.kafka import KafkaSink, KafkaSource
from flowsnap.connectors.kafka_consumer import DEFAULTS as CONSUMER
from flowsnap.connectors.kafka_format import FormatName
from flowsnap.connectors.kafka_producer import DEFAULTS as PRODUCER
from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.core.operator import Sink, SinkContext, Submission
from tests.servers.kafka.broker import Broker, broker

RECORDS, RECORDS_QUICK = 400_000, 50_000
PARTITIONS, BATCH, EPOCHS = 4, 4_096, 10
POLL_S, PAUSE = 0.002, Event()
VALUE = msgspec.json.encode({"id": 123_456_789, "user": "a" * 40, "text": "b" * 28})
_names = count()

Work = Callable[[], None]
Ready = AbstractContextManager[Work]
"""What is measured, once everything is there that it needs."""


def run(quick: bool) -> list[Row]:
    """Compare reading bytes and JSON, and writing at least once and exactly once."""
    if shutil.which("java") is None or shutil.which("mvn") is None:
        return [Row(case="no broker: install Java 17 and Maven", value=0.0)]
    records, n = (RECORDS_QUICK, 2) if quick else (RECORDS, 5)
    bench = Bench(broker(), records, n)
    gc.collect()
    gc.freeze()
    try:
        return bench.reading() + bench.writing()
    finally:
        gc.unfreeze()


class Bench:
    """A broker, a topic that is full, and how often to measure."""

    def __init__(self, kafka: Broker, records: int, n: int) -> None:
        self._kafka = kafka
        self._records = records
        self._n = n
        self._full = kafka.topic(PARTITIONS)
        for partition in range(PARTITIONS):
            kafka.write(self._full, [VALUE] * (records // PARTITIONS), partition)

    def reading(self) -> list[Row]:
        """Measure how the full topic is read."""
        decode = msgspec.json.Decoder().decode
        return [
            *self._compare(
                "read bytes", partial(self._consumed, None), partial(self._read, "bytes")
            ),
            *self._compare(
                "read JSON", partial(self._consumed, decode), partial(self._read, "json")
            ),
        ]

    def writing(self) -> list[Row]:
        """Measure how an empty topic is written."""
        return [
            *self._compare("write, at-least-once", self._flushed, self._written_at_least_once),
            *self._compare("write, exactly-once", self._transacted, self._written_exactly_once),
        ]

    def _compare(
        self, title: str, by_hand: Callable[[], Ready], by_connector: Callable[[], Ready]
    ) -> list[Row]:
        hand, ours = f"{title}: confluent-kafka", f"{title}: flowsnap"
        cases = {
            hand: partial(self._measured, by_hand),
            ours: partial(self._measured, by_connector),
        }
        return rounds(self._n, cases, warm_up=True).rows(baseline=hand)

    def _measured(self, prepare: Callable[[], Ready]) -> float:
        with prepare() as work:
            return per_second(self._records, work)

    def _shares(self) -> list[int]:
        """Return how many records each checkpoint is of."""
        share = -(-self._records // EPOCHS)
        return [min(share, self._records - done) for done in range(0, self._records, share)]

    # --- by hand --------------------------------------------------------------------------------

    @contextmanager
    def _consumed(self, decode: Callable[[Any], Any] | None) -> Iterator[Work]:
        config = {**CONSUMER, "bootstrap.servers": self._kafka.servers, "enable.auto.commit": False}

        def work() -> None:
            places = [TopicPartition(self._full, number, 0) for number in range(PARTITIONS)]
            consumer.assign(places)
            found = 0
            while found < self._records:
                for message in consumer.consume(BATCH, timeout=0.05):
                    if message.error() is None:
                        value = message.value()
                        if decode is not None:
                            decode(value)
                        found += 1

        with closing(Consumer(config)) as consumer:
            consumer.list_topics(self._full, 30)
            yield work

    @contextmanager
    def _flushed(self) -> Iterator[Work]:
        topic = self._kafka.topic(PARTITIONS)
        producer = self._producer({})
        producer.produce(topic, VALUE)
        producer.flush(60)

        def work() -> None:
            for share in self._shares():
                _produce(producer, topic, share)
                producer.flush(60)

        yield work

    @contextmanager
    def _transacted(self) -> Iterator[Work]:
        topic = self._kafka.topic(PARTITIONS)
        producer = self._producer({"transactional.id": topic})
        producer.init_transactions(30)

        def write(records: int) -> None:
            producer.begin_transaction()
            _produce(producer, topic, records)
            producer.commit_transaction(30)

        def work() -> None:
            for share in self._shares():
                write(share)

        write(1)
        yield work

    def _producer(self, more: dict[str, Any]) -> Producer:
        servers = {"bootstrap.servers": self._kafka.servers}
        return Producer({**PRODUCER, **servers, "enable.idempotence": True, **more})

    # --- connectors -----------------------------------------------------------------------------

    @contextmanager
    def _read(self, format: FormatName) -> Iterator[Work]:
        source = KafkaSource(self._kafka.servers, self._full, format=format)
        splits = source.splits(1)

        def work() -> None:
            readers.extend(source.open_split(split, None) for split in splits)
            found = 0
            while found < self._records:
                before = found
                for reader in readers:
                    batch = reader.read(BATCH)
                    found += 0 if batch is None else len(batch)
                if found == before:
                    PAUSE.wait(readers[0].wait_ms() / 1000)

        readers: list[Any] = []
        yield work
        for reader in readers:
            reader.close()

    @contextmanager
    def _written_at_least_once(self) -> Iterator[Work]:
        with self._sink("at-least-once") as sink:
            _write(sink, 1, [])
            sink.prepare(CheckpointId(1))

            def work() -> None:
                for number, share in enumerate(self._shares(), 2):
                    _write(sink, share, [])
                    sink.prepare(CheckpointId(number))

            yield work

    @contextmanager
    def _written_exactly_once(self) -> Iterator[Work]:
        with self._sink("exactly-once") as sink:
            _write(sink, 1, [])
            _finish(sink, [sink.prepare(CheckpointId(1))])

            def work() -> None:
                pending: list[Any] = []
                for number, share in enumerate(self._shares(), 2):
                    _write(sink, share, pending)
                    prepared = sink.prepare(CheckpointId(number))
                    _finish(sink, pending)
                    pending = [prepared]
                _finish(sink, pending)

            yield work

    @contextmanager
    def _sink(self, guarantee: Any) -> Iterator[Sink]:
        topic = self._kafka.topic(PARTITIONS)
        template = KafkaSink(self._kafka.servers, topic, format="bytes", guarantee=guarantee)
        operator, run_id = OperatorId("out"), f"bench-{next(_names)}-{topic}"
        with tempfile.TemporaryDirectory() as directory:
            template.on_submit(
                Submission(
                    job="bench",
                    operator=operator,
                    job_directory=directory,
                    run_id=run_id,
                    is_fresh=True,
                )
            )
            context = SinkContext(
                job="bench",
                run_id=run_id,
                operator=operator,
                subtask=0,
                parallelism=1,
                attempt=AttemptId(1),
            )
            with closing(copy.copy(template)) as sink:
                sink.open(context)
                sink.recover([])
                yield sink


def _produce(producer: Producer, topic: str, count: int) -> None:
    for _ in range(count):
        try:
            producer.produce(topic, VALUE)
        except BufferError:
            producer.poll(0.5)
            producer.produce(topic, VALUE)


def _write(sink: Sink, count: int, pending: list[Any]) -> None:
    """Write so many records, while what is pending is committed."""
    values = [VALUE] * BATCH
    for start in range(0, count, BATCH):
        if pending and sink.commit(pending) is not False:
            pending.clear()
        sink.write(Batch(values[: count - start]))


def _finish(sink: Sink, pending: list[Any]) -> None:
    while pending and sink.commit(pending) is False:
        PAUSE.wait(POLL_S)
    pending.clear()
