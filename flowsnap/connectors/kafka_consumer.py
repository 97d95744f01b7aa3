"""The consumer of one source subtask: all its partitions over one connection, each in its order.

Partitions are assigned by hand, at exact offsets, and never by a group: which subtask reads what is
the checkpoint's decision. The client hands out messages of all partitions mixed, in runs; they are
parted here, a run at a time, into a queue for each partition. Only a partition with an empty queue
asks for more. One whose queue is long because nobody reads it (its event time is ahead of others,
say) is taken back from the client, and assigned again where it stopped when it is read on.

Errors that the client overcomes by itself (a broker that restarts, a leader that moves) are logged.
What it does not overcome is raised where the partition is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from flowsnap.connectors.kafka_client import LOG, ClientSettings, is_denied, said
from flowsnap.errors import ConfigError, DataLost, StoreUnavailable

QUEUE_RECORDS_MAX = 20_000
"""How many records of a partition that nobody reads are kept before it is taken back."""

DEFAULTS: dict[str, Any] = {
    "group.id": "flowsnap",
    "queued.max.messages.kbytes": 32_768,
    "fetch.queue.backoff.ms": 20,
    "topic.metadata.refresh.interval.ms": 30_000,
}
FIXED = {
    "group.id": "name it with group=",
    "isolation.level": "set it with isolation=",
    "auto.offset.reset": "set it with on_data_loss=",
    "enable.auto.commit": "positions lie in the checkpoint",
    "enable.auto.offset.store": "positions lie in the checkpoint",
    "enable.partition.eof": "the source has to know where a partition ends",
    "group.instance.id": "partitions are not dealt out by a group",
    "group.protocol": "partitions are not dealt out by a group",
}

_LOST = {KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET}
_GONE = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_ID,
}

Run = list[Message]


class Partition:
    """What has been fetched of a partition and not been read.

    ``next_offset`` is that of the next record to be read. ``from_earliest``: what was deleted
    before anything has been read does not count as lost. ``end_offset``: where it was last seen to
    end, once all before that is in the queue. ``error``: why no more can be fetched.
    """

    __slots__ = (
        "end_offset", "error", "fetch_offset", "from_earliest", "is_assigned", "next_offset",
        "number", "queue", "queued", "seen", "topic",
    )  # fmt: skip

    def __init__(self, topic: str, number: int, offset: int, *, from_earliest: bool) -> None:
        self.topic = topic
        self.from_earliest = from_earliest
        self.number = number
        self.next_offset = offset
        self.fetch_offset = offset
        self.end_offset: int | None = None
        self.error: KafkaError | None = None
        self.is_assigned = False
        self.queue: deque[Run] = deque()
        self.queued = 0
        self.seen = -1

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"

    def put(self, run: Run) -> None:
        """Take messages in the order of their offsets; those that came before are dropped."""
        if offset_of(run[0]) < self.fetch_offset:
            # Of a fetch that was under way when the partition was taken back.
            run = [message for message in run if offset_of(message) >= self.fetch_offset]
            if not run:
                return
        self.queue.append(run)
        self.queued += len(run)
        self.fetch_offset = offset_of(run[-1]) + 1

    def take(self, limit: int) -> Run:
        """Return up to ``limit`` messages from the head of the queue, which is not empty."""
        run = self.queue.popleft()
        if len(run) > limit:
            self.queue.appendleft(run[limit:])
            run = run[:limit]
        self.queued -= len(run)
        self.from_earliest = False
        self.next_offset = offset_of(run[-1]) + 1
        return run

    def drop(self) -> None:
        """Forget what is in the queue: it is not to be read."""
        self.queue.clear()
        self.queued = 0


class PartitionConsumer:
    """Fetches the partitions that one subtask has open; used on the thread of its task.

    ``reset``: where to go on if a partition no longer has the offset asked for; None: nowhere.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        isolation: str,
        group: str | None,
        reset: int | None,
        is_one_topic: bool,
    ) -> None:
        named = {} if group is None else {"group.id": group}
        self._settings = settings
        self._client: Consumer = settings.consumer(
            DEFAULTS,
            {
                **named,
                "isolation.level": isolation,
                "auto.offset.reset": "error",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,
                "error_cb": self._take_client_error,
                "on_commit": self._take_commit,
            },
        )
        self._group = group
        self._reset = reset
        # One topic is the common case, and asking each message for its topic makes a string.
        self._place: Callable[[Message], Any] = Message.partition if is_one_topic else _place
        self._open: dict[Any, Partition] = {}
        self._is_one_topic = is_one_topic
        self._served = 0
        self._error: KafkaError | None = None

    @property
    def is_used(self) -> bool:
        """Whether any partition is open."""
        return bool(self._open)

    def open(self, topic: str, number: int, offset: int, *, from_earliest: bool) -> Partition:
        """Return a partition that is read from ``offset`` on."""
        partition = Partition(topic, number, offset, from_earliest=from_earliest)
        self._open[self._key(partition)] = partition
        self._assign(partition)
        return partition

    def close_partition(self, partition: Partition) -> None:
        """Stop to fetch a partition."""
        if self._open.pop(self._key(partition), None) is not None and partition.is_assigned:
            self._take_back(partition)

    def fetch(self, partition: Partition, limit: int) -> None:
        """Have more of a partition in its queue, if there is more at hand; its queue is empty.

        Raises:
            DataLost: the offset to go on at is no longer there.
            ConfigError: the broker does not let us read.
            StoreUnavailable: the partition is gone, or the client has given up.
        """
        if not partition.is_assigned:
            self._assign(partition)
        if self._has_queued() and partition.seen != self._served:
            # The others are read first. If none has been when we are asked again, they are held
            # back by their event time, and we go on without them.
            partition.seen = self._served
            return
        self._receive(limit)
        if partition.error is not None:
            self._overcome(partition, partition.error)
        if self._error is not None:
            raise self._fatal(self._error)

    def take(self, partition: Partition, limit: int) -> Run:
        """Return up to ``limit`` messages of a partition whose queue is not empty."""
        self._served += 1
        return partition.take(limit)

    def commit(self, offsets: Sequence[TopicPartition]) -> None:
        """Tell the group, for whoever watches it, how far checkpoints have come."""
        if self._group is None or not offsets:
            return
        with suppress(KafkaException):  # Nothing depends on it.
            self._client.commit(offsets=list(offsets), asynchronous=True)

    def close(self) -> None:
        """Close the connection."""
        self._open.clear()
        with suppress(KafkaException):
            self._client.unassign()
        self._client.close()

    # --- fetching -----------------------------------------------------------------------------

    def _receive(self, limit: int) -> None:
        try:
            messages = self._client.consume(limit, timeout=0)
        except KafkaException as error:
            raise StoreUnavailable(f"reading from Kafka failed: {said(error)}") from error
        if any(map(Message.error, messages)):
            messages = self._without_errors(messages)
        for place, run in groupby(messages, self._place):
            partition = self._open.get(place)
            if partition is not None and partition.is_assigned:
                partition.put(list(run))
        for partition in self._open.values():
            if partition.queued > QUEUE_RECORDS_MAX and partition.is_assigned:
                self._take_back(partition)

    def _without_errors(self, messages: Sequence[Message]) -> Run:
        for message in messages:
            error = message.error()
            if error is None:
                continue
            partition = self._open.get(self._place(message))
            if partition is None:
                continue  # It has been closed meanwhile.
            if error.code() != KafkaError._PARTITION_EOF:
                partition.error = error
            elif partition.is_assigned:
                offset = message.offset()
                partition.end_offset = offset if offset is not None else partition.end_offset
        return [message for message in messages if message.error() is None]

    def _has_queued(self) -> bool:
        return any(partition.queue for partition in self._open.values())

    def _assign(self, partition: Partition) -> None:
        at = TopicPartition(partition.topic, partition.number, partition.fetch_offset)
        try:
            self._client.incremental_assign([at])
        except KafkaException as error:
            raise StoreUnavailable(f"reading {partition} failed: {said(error)}") from error
        partition.is_assigned = True

    def _take_back(self, partition: Partition) -> None:
        partition.is_assigned = False
        with suppress(KafkaException):  # The client has lost it by itself.
            self._client.incremental_unassign([TopicPartition(partition.topic, partition.number)])

    # --- errors -------------------------------------------------------------------------------

    def _overcome(self, partition: Partition, error: KafkaError) -> None:
        if error.code() in _LOST:
            self._go_on_elsewhere(partition, error)
        elif error.code() in _GONE:
            raise StoreUnavailable(f"{partition} is not there any more: {error.str()}").hint(
                "was the topic deleted? its offsets are not those of a new topic of its name"
            )
        elif is_denied(error):
            raise ConfigError(f"{partition} cannot be read: {error.str()}")
        else:
            partition.error = None  # The client tries again by itself.
            LOG.warning("reading %s: %s", partition, error.str())

    def _go_on_elsewhere(self, partition: Partition, error: KafkaError) -> None:
        at, reset = partition.next_offset, self._reset
        if partition.from_earliest:
            reset = OFFSET_BEGINNING
        elif reset is None:
            raise DataLost(
                f"{partition} was to be read on at offset {at}, which is not there: "
                "data loss: its records were deleted, or the topic was made anew"
            ).hint(
                "to go on with what is left, and know that records are missing, set "
                'on_data_loss="earliest" or "latest"'
            )
        else:
            where = "end" if reset == OFFSET_END else "beginning"
            text = "DATA LOSS: %s has no offset %d any more (%s); going on at its %s"
            LOG.error(text, partition, at, error.str(), where)
        self._take_back(partition)
        partition.error = None
        partition.fetch_offset = reset
        self._assign(partition)

    def _fatal(self, error: KafkaError) -> ConfigError | StoreUnavailable:
        text = f"the Kafka client gave up: {self._settings.hide(error.str())}"
        return ConfigError(text) if is_denied(error) else StoreUnavailable(text)

    def _take_client_error(self, error: KafkaError) -> None:
        is_needless = self._group is None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED
        if error.fatal() or (is_denied(error) and not is_needless):
            self._error = error
        else:
            LOG.warning("Kafka at %s: %s", self._settings.servers, error.str())

    def _take_commit(self, error: KafkaError | None, _: Sequence[TopicPartition]) -> None:
        if error is not None:
            LOG.warning("group %s was not told the positions: %s", self._group, error.str())

    def _key(self, partition: Partition) -> Any:
        return partition.number if self._is_one_topic else (partition.topic, partition.number)


def offset_of(message: Message) -> int:
    """Return the offset of a message that was read, which has one."""
    offset = message.offset()
    assert offset is not None
    return offset


def _place(message: Message) -> tuple[str | None, int | None]:
    return message.topic(), message.partition()


__all__ = ["OFFSET_BEGINNING", "OFFSET_END", "Partition", "PartitionConsumer", "offset_of"]
