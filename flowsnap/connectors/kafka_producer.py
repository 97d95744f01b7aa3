"""A Kafka producer for rows: how the sink hands records to the client, and hears what failed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice, repeat
from operator import length_hint
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from flowsnap.connectors.kafka_client import (
    LOG,
    ClientSettings,
    is_denied,
    translated,
    write_error,
)

Row = Sequence[Any]
"""``value | key | timestamp in ms | headers | partition | topic``, each of them or None; the last
three may be left out together. A row that is bytes is its value, and has nothing else."""

SHORT = 3
"""How many fields a row has without them."""

AT_ONCE = 4_096
"""How many rows are looked at together."""

SLICE_S = 0.5
"""How long a call to the client waits at most before it is looked whether to stop."""

ROOM_S = 0.05
"""How long room in the client's queue is waited for before it is looked again."""

MESSAGE_BYTES_MAX = 1_000_000
"""The client's own limit of a message, where message.max.bytes does not say another."""

_HEAD_BYTES = 36
"""What the client adds to a message for its head before it compares it with the limit."""

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
                "error_cb": partial(_take_error, settings.servers, self._failed),
                **fixed,
            },
        )

    def send(self, rows: Iterable[Row]) -> None:
        """Hand rows to the client, which waits where its queue is full.

        Raises:
            OutputRefused: a record is too large, or its topic does not take it.
            StoreUnavailable: the broker does not answer.
        """
        rest = iter(rows)
        with translated(f"writing to {self._topic}"):
            while some := list(islice(rest, AT_ONCE)):
                if set(map(type, some)) == {bytes}:
                    self._send_values(some)
                else:
                    self._send_rows(some)
            self.client.poll(0)
        self.check()

    def _send_values(self, values: list[Any]) -> None:
        """Send values that have nothing beside them; the loop is map's, which costs the least."""
        rest = iter(values)
        while length_hint(rest):
            try:
                deque(map(self.client.produce, repeat(self._topic), rest), maxlen=0)
            except BufferError:
                self._produce(_in_full(values[-1 - length_hint(rest)]))

    def _send_rows(self, rows: list[Row]) -> None:
        produce, default = self.client.produce, self._topic
        for row in rows:
            try:  # By position: named arguments double what a call costs.
                if isinstance(row, bytes):
                    produce(default, row)
                elif len(row) == SHORT:
                    produce(default, row[0], row[1], -1, None, None, row[2] or 0)
                else:
                    self._produce(row)
            except BufferError:
                self._produce(_in_full(row))

    def _produce(self, row: Row) -> None:
        value, key, timestamp_ms, headers, partition, topic = row
        more = None if headers is None else [tuple(one) for one in headers]
        place = -1 if partition is None else partition
        while True:
            try:
                self.client.produce(
                    topic or self._topic, value, key,
                    partition=place, timestamp=timestamp_ms or 0, headers=more,
                )  # fmt: skip
                return
            except BufferError:
                self.client.poll(ROOM_S)
                self.check()

    def check(self) -> None:
        """Raise what a record failed with, if one did, or what the client is not let in for."""
        if self._failed:
            raise write_error(f"writing to {self._topic}", self._failed[0])


def message_bytes(row: Row) -> int:
    """Return the size of a row's message, as the client compares it with message.max.bytes."""
    value, key, _, headers, *_ = _in_full(row)
    size = _HEAD_BYTES + len(value or b"") + len(key or b"")
    for name, content in headers or ():
        size += _field_bytes(name.encode()) + _field_bytes(content)
    return size


def _in_full(row: Row) -> Row:
    short = (row, None, None) if isinstance(row, bytes) else row
    return (*short, None, None, None) if len(short) == SHORT else short


def _field_bytes(content: bytes | str | None) -> int:
    """Return the size of a part of a header behind its length, a zigzag varint; -1 for None."""
    if content is None:
        return 1
    data = content.encode() if isinstance(content, str) else content
    return len(data) + max(1, ((2 * len(data)).bit_length() + 6) // 7)


def _take_report(failed: list[KafkaError], error: KafkaError | None, _: Message) -> None:
    if error is not None and error.code() != KafkaError._PURGE_QUEUE:
        failed.append(error)


def _take_error(servers: str, failed: list[KafkaError], error: KafkaError) -> None:
    if is_denied(error):  # The client would try to log in for ever.
        failed.append(error)
    if not error.fatal():  # What is fatal is raised by the next call.
        LOG.warning("Kafka at %s: %s", servers, error.str())
