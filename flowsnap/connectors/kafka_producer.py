"""A Kafka producer for rows: how the sink hands records to the client, and hears what failed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from flowsnap.connectors.kafka_client import LOG, ClientSettings, translated, write_error

Row = Sequence[Any]
"""``value | key | timestamp in ms | headers | partition | topic``, all but the value or None."""

SLICE_S = 0.5
"""How long a call to the client waits at most before it is looked whether to stop."""

DEFAULTS: dict[str, Any] = {
    "linger.ms": 5,
    "compression.type": "lz4",
    "partitioner": "murmur2_random",  # Where Java's clients put the same key.
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 262_144,
}
FIXED = {
    "transactional.id": "it identifies who wrote an epoch",
    "enable.idempotence": "without it records are written twice",
    "acks": "without all of them records get lost",
    "delivery.report.only.error": "the sink goes by it",
}


class RecordProducer:
    """A producer that hears of failed deliveries only, and says so to whoever goes on."""

    def __init__(self, settings: ClientSettings, topic: str, fixed: dict[str, Any]) -> None:
        self._topic = topic
        self._failed: list[KafkaError] = []
        # Its callbacks do not refer to it: it ends, with its connections, when it is let go of.
        self.client: Producer = settings.producer(
            DEFAULTS,
            {
                "enable.idempotence": True,
                "acks": "all",
                "delivery.report.only.error": True,
                "on_delivery": partial(_take_report, self._failed),
                "error_cb": partial(_take_error, settings.servers),
                **fixed,
            },
        )

    def send(self, rows: Iterable[Row]) -> None:
        """Hand rows to the client, which waits where its queue is full.

        Raises:
            OutputRefused: a record is too large, or its topic does not take it.
            StoreUnavailable: the broker does not answer.
        """
        produce, poll, default = self.client.produce, self.client.poll, self._topic
        with translated(f"writing to {default}"):
            for value, key, timestamp_ms, headers, partition, topic in rows:
                place = -1 if partition is None else partition
                more = None if headers is None else [tuple(one) for one in headers]
                while True:
                    try:
                        produce(
                            topic or default, value, key,
                            partition=place, timestamp=timestamp_ms or 0, headers=more,
                        )  # fmt: skip
                        break
                    except BufferError:
                        poll(SLICE_S)
                        self.check()
            poll(0)
        self.check()

    def check(self) -> None:
        """Raise what a record failed with, if one did."""
        if self._failed:
            raise write_error(f"writing to {self._topic}", self._failed[0])


def _take_report(failed: list[KafkaError], error: KafkaError | None, _: Message) -> None:
    if error is not None and error.code() != KafkaError._PURGE_QUEUE:
        failed.append(error)


def _take_error(servers: str, error: KafkaError) -> None:
    if not error.fatal():  # What is fatal is raised by the next call.
        LOG.warning("Kafka at %s: %s", servers, error.str())
