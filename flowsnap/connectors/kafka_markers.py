"""The marker topic: which epochs have been written, and which attempt may write.

One compacted partition, of which every reader keeps the newest record of each key:

- ``["epoch", run, operator, subtask]`` -> the highest checkpoint that was written;
- ``["fence", run, operator]`` -> ``[attempt, parallelism]``, the newest one and the widest.

Readers of committed records see nothing beyond an open transaction, and a marker may stand behind
one of another job. So a look goes up to the end that the topic has, open or not, and waits until
all before it has been decided: by the owner of a transaction, or by its timeout.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing

import msgspec
from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType

from flowsnap.connectors.kafka_client import REQUEST_S, ClientSettings, cause, said, translated
from flowsnap.errors import ConfigError, StoreUnavailable

POLL_S = 0.02
MARKER_TOPIC = "flowsnap-epochs"
_MARKER_CONFIG = {
    "cleanup.policy": "compact",
    "segment.ms": "3600000",
    "min.cleanable.dirty.ratio": "0.1",
}


class MarkerTopic:
    """What has been committed to the marker topic, as of the last ``read``."""

    def __init__(self, settings: ClientSettings, topic: str) -> None:
        self.topic = topic
        self.epochs: dict[tuple[str, str, int], int] = {}
        self.fences: dict[tuple[str, str], tuple[int, int]] = {}
        self._settings = settings
        self._consumer: Consumer | None = None
        self._admin: AdminClient | None = None
        self._reached = 0

    def read(self, stopping: threading.Event) -> None:
        """Read all that is in the topic now, committed or not, once it is known which.

        Raises:
            StoreUnavailable: the broker does not answer, or a transaction stays open.
        """
        end = self._end()
        deadline_s = time.monotonic() + REQUEST_S
        while self._reached < end:
            self._read_some()
            if self._reached < end and (stopping.is_set() or time.monotonic() > deadline_s):
                raise StoreUnavailable(
                    f"the marker topic {self.topic} was read up to {self._reached} and not to its "
                    f"end {end}: a transaction is open there"
                ).hint(
                    "one of another job ends by its timeout; give each job a marker_topic of its "
                    "own to have them apart"
                )

    def close(self) -> None:
        """Close the connection; the next ``read`` begins anew."""
        consumer, self._consumer, self._admin, self._reached = self._consumer, None, None, 0
        if consumer is not None:
            consumer.close()

    def create(self) -> None:
        """Make the topic where it is missing, and check that it keeps the newest of each key.

        Raises:
            ConfigError: it can't be made, or would forget markers.
        """
        admin = self._settings.admin()
        new = NewTopic(self.topic, num_partitions=1, replication_factor=-1, config=_MARKER_CONFIG)
        with self._settings.submitting(f"making the marker topic {self.topic!r}"):
            try:
                admin.create_topics([new])[self.topic].result(REQUEST_S)
            except KafkaException as error:
                inner = cause(error)
                if inner is None or inner.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
            policy = self._cleanup_policy(admin)
        if policy != "compact":
            raise ConfigError(
                f"the marker topic {self.topic!r} is not compacted but has the cleanup.policy "
                f"{policy!r}: it would forget what was written"
            ).hint("give another marker_topic: it is made as it has to be")

    def _cleanup_policy(self, admin: AdminClient) -> str:
        resource = ConfigResource(ResourceType.TOPIC, self.topic)
        pause, deadline_s = threading.Event(), time.monotonic() + REQUEST_S
        while True:
            try:
                found = admin.describe_configs([resource])[resource].result(REQUEST_S)
                return str(found["cleanup.policy"].value)
            except KafkaException as error:
                # Not every broker has heard yet of a topic that has just been made.
                inner = cause(error)
                is_known = inner is None or inner.code() != KafkaError.UNKNOWN_TOPIC_OR_PART
                if is_known or time.monotonic() > deadline_s:
                    raise
                pause.wait(POLL_S)

    def _end(self) -> int:
        """Return where the topic ends, what is not committed included."""
        at = TopicPartition(self.topic, 0)
        try:
            if self._admin is None:
                self._admin = self._connect()
            asked = self._admin.list_offsets(
                {at: OffsetSpec.latest()},  # type: ignore[no-untyped-call]
                isolation_level=IsolationLevel.READ_UNCOMMITTED,
                request_timeout=REQUEST_S,
            )
            return int(asked[at].result(REQUEST_S).offset)
        except KafkaException as error:
            raise StoreUnavailable(f"asking for the end of {self.topic}: {said(error)}") from error
        except TimeoutError as error:
            raise StoreUnavailable(f"asking for the end of {self.topic} took too long") from error

    def _connect(self) -> AdminClient:
        """Return a client that knows the topic: else its first question may take seconds."""
        admin = self._settings.admin()
        found = admin.list_topics(self.topic, timeout=REQUEST_S).topics[self.topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return admin

    def _read_some(self) -> None:
        if self._consumer is None:
            self._consumer = self._settings.consumer(
                {},
                {
                    "group.id": "flowsnap",
                    "isolation.level": "read_committed",
                    "auto.offset.reset": "earliest",
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "fetch.wait.max.ms": 20,  # How long it takes to hear that this is the end.
                },
            )
            self._consumer.assign([TopicPartition(self.topic, 0, 0)])
        with translated(f"reading the marker topic {self.topic}"):
            for message in self._consumer.consume(10_000, timeout=POLL_S):
                self._take(message)

    def _take(self, message: Message) -> None:
        error, offset = message.error(), message.offset()
        assert offset is not None
        if error is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                raise StoreUnavailable(f"reading the marker topic {self.topic}: {error.str()}")
            self._reached = max(self._reached, offset)
            return
        self._reached = offset + 1
        kind, run, operator, *rest = msgspec.json.decode(message.key() or b"")
        value = msgspec.json.decode(message.value() or b"null")
        if kind == "epoch":
            self.epochs[run, operator, rest[0]] = value
        elif kind == "fence":
            self.fences[run, operator] = (value[0], value[1])


def read_once(settings: ClientSettings, topic: str) -> MarkerTopic:
    """Return a marker topic as it is now, for a look at a submission."""
    markers = MarkerTopic(settings, topic)
    with closing(markers):
        markers.read(threading.Event())
    return markers
