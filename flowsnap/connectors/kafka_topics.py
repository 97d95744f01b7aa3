"""Which partitions are there, and from which offset to which are they to be read?

Asked once when a job is submitted, so that every attempt begins at the same offsets, whatever has
been written or deleted meanwhile; and asked for again while it runs, for partitions that are new.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from datetime import datetime
from typing import Any, Literal

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)

from flowsnap.connectors.kafka_client import LOG, REQUEST_S, ClientSettings, cause, said
from flowsnap.core.operator import Split
from flowsnap.errors import ConfigError, StoreUnavailable

Start = Literal["earliest", "latest", "committed"] | datetime | Mapping[int, int]
"""Where to begin: by name, by the records' time, or at offsets by partition (of one topic).
``committed``: where the group has come to."""

Until = Literal["latest"] | datetime | Mapping[int, int]
"""Where to end: before the offsets that this means when the job is submitted."""

AGAIN_S = 1.0
"""After how long a question that has failed is asked again."""

MISSING_MAX = 3
"""How many answers in turn do not know a topic that is gone; a new broker may not know it yet."""

Clock = Callable[[], float]
"""Monotonic time in seconds."""


def check_point(point: object, what: str, names: Sequence[str], topics: Sequence[str]) -> None:
    """Check that ``point`` says where in the partitions of ``topics`` to begin or to end.

    Raises:
        ConfigError: it does not.
    """
    if isinstance(point, datetime):
        if point.tzinfo is None:
            raise ConfigError(f"{what}: {point!r} has no time zone").hint(
                "write datetime(..., tzinfo=timezone.utc)"
            )
    elif isinstance(point, Mapping):
        if len(topics) > 1:
            raise ConfigError(f"{what}: offsets by partition are for one topic, not {len(topics)}")
        for partition, offset in point.items():
            if not (_is_count(partition) and _is_count(offset)):
                raise ConfigError(f"{what}: {partition!r}: {offset!r} is not partition: offset")
    elif point not in names:
        shown = ", ".join(f'"{name}"' for name in names)
        raise ConfigError(f"{what}: {point!r} is not known").hint(
            f"give {shown}, a datetime, or offsets as in {{0: 1200, 1: 1350}}"
        )


class TopicQuery:
    """What a submission asks the broker: which splits are there?

    A split is a partition, and every later partition whose number is congruent to its own, modulo
    the number of partitions that there are now. So whoever finds a new one knows whose it is, in
    all attempts and with any parallelism, and nobody has to be asked. When a job goes on later,
    partitions that nobody has read yet become splits of their own; the others stay where they are.
    """

    def __init__(self, settings: ClientSettings, isolation: str, group: str | None) -> None:
        self._settings = settings
        self._isolation = isolation
        self._group = group

    def splits(self, topics: Sequence[str], start: Start, until: Until | None) -> list[Split]:
        """Return the splits of all partitions, in order.

        Raises:
            ConfigError: a topic is missing or must not be read, or no broker answers.
        """
        return self._each(topics, lambda consumer, topic: _splits_of(consumer, topic, start, until))

    def splits_after(
        self, topics: Sequence[str], start: Start, known: Sequence[tuple[Split, Any]]
    ) -> list[Split]:
        """Return the splits of a job that goes on; of ``topics`` that are new, from ``start`` on.

        Raises:
            ConfigError: as for ``splits``; or a partition that was read is not there any more.
        """

        def of_topic(consumer: Consumer, topic: str) -> Iterator[Split]:
            former = [one for one in known if one[0].payload["topic"] == topic]
            if not former:
                return _splits_of(consumer, topic, start, None)
            return _extended(topic, former, len(_partitions(consumer, topic)))

        return self._each(topics, of_topic)

    def _each(
        self, topics: Sequence[str], ask: Callable[[Consumer, str], Iterator[Split]]
    ) -> list[Split]:
        fixed = {"group.id": self._group or "flowsnap", "isolation.level": self._isolation}
        found: list[Split] = []
        self._settings.topic(topics[0], REQUEST_S)
        with closing(self._settings.consumer({}, fixed)) as consumer:
            for topic in topics:
                with self._settings.submitting(f"asking for topic {topic!r}"):
                    found += ask(consumer, topic)
        return found


class PartitionWatch:
    """Asks again and again how many partitions the topics have, without ever waiting.

    Also the proof that the broker is there: a source that has nothing to read would not notice.
    """

    def __init__(
        self,
        settings: ClientSettings,
        topics: Sequence[str],
        *,
        interval_ms: int,
        patience_ms: int,
        clock: Clock = time.monotonic,
    ) -> None:
        self.counts: dict[str, int] = {}
        self._admin = settings.admin()
        self._servers = settings.servers
        self._topics = list(topics)
        self._interval_s = interval_ms / 1000
        self._patience_s = patience_ms / 1000
        self._clock = clock
        self._asked: dict[str, Future[Any]] = {}
        self._next_s = self._answered_s = clock()
        self._missing = 0

    def look(self) -> None:
        """Take the answers that have come, and ask again when it is time.

        Raises:
            StoreUnavailable: there has been no answer for too long.
        """
        now_s = self._clock()
        if self._asked:
            self._take(now_s)
        elif now_s >= self._next_s:
            self._next_s = now_s + self._interval_s
            wanted = TopicCollection(self._topics)
            self._asked = self._admin.describe_topics(wanted, request_timeout=REQUEST_S)

    def _take(self, now_s: float) -> None:
        if not all(answer.done() for answer in self._asked.values()):
            return
        answers, self._asked = self._asked, {}
        try:
            for topic, answer in answers.items():
                self.counts[topic] = len(answer.result().partitions)
        except KafkaException as error:
            self._next_s = min(self._next_s, now_s + AGAIN_S)
            self._fail(error, now_s - self._answered_s)
        else:
            self._answered_s, self._missing = now_s, 0

    def _fail(self, error: KafkaException, silent_s: float) -> None:
        LOG.warning("asking for partitions failed: %s", said(error))
        inner = cause(error)
        if inner is not None and inner.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            self._missing += 1
            if self._missing >= MISSING_MAX:
                raise StoreUnavailable(
                    f"a topic of {', '.join(self._topics)} is not there any more: {said(error)}"
                ).hint("was it deleted? its offsets are not those of a new topic of its name")
        elif silent_s > self._patience_s:
            raise StoreUnavailable(
                f"no Kafka broker at {self._servers} has answered for {silent_s:.0f} s: "
                f"{said(error)}"
            ) from error


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    found = consumer.list_topics(topic, timeout=REQUEST_S).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    return sorted(found.partitions)


def _splits_of(
    consumer: Consumer, topic: str, start: Start, until: Until | None
) -> Iterator[Split]:
    numbers = _partitions(consumer, topic)
    begin = _offsets(consumer, topic, numbers, start, "start")
    end = None if until is None else _offsets(consumer, topic, numbers, until, "until")
    for number in numbers:
        payload = _payload(topic, [number], len(numbers), begin[number])
        payload["is_earliest"] = start == "earliest"
        size = None
        if end is not None:
            payload["until"] = end[number]
            size = max(0, end[number] - begin[number])
        yield Split(f"{topic}/{number}", payload, size)


def _extended(topic: str, known: Sequence[tuple[Split, Any]], count: int) -> Iterator[Split]:
    """Yield the splits that a topic has had, and one for each partition that none of them has."""
    read: set[int] = set()
    for split, position in known:
        numbers = sorted(map(int, position or ())) or list(split.payload["partitions"])
        read.update(numbers)
        yield Split(split.id, {**split.payload, "partitions": numbers, "of": count}, split.size)
    gone = [number for number in read if number >= count]
    if gone:
        raise ConfigError(
            f"topic {topic!r} has {count} partitions, but partition {min(gone)} has been read"
        ).hint("was the topic made anew? start the job afresh, then its positions are forgotten")
    for number in sorted(set(range(count)) - read):
        yield Split(f"{topic}/{number}", _payload(topic, [number], count, 0))


def _payload(topic: str, partitions: list[int], count: int, start: int) -> dict[str, Any]:
    return {
        "topic": topic, "partitions": partitions, "of": count, "start": start, "is_earliest": True,
    }  # fmt: skip


def _offsets(
    consumer: Consumer, topic: str, numbers: Sequence[int], point: Start | Until, what: str
) -> dict[int, int]:
    """Return the offset in each partition that ``point`` means now."""
    match point:
        case "earliest":
            return {number: _range(consumer, topic, number)[0] for number in numbers}
        case "latest":
            return {number: _range(consumer, topic, number)[1] for number in numbers}
        case "committed":
            asked = [TopicPartition(topic, number) for number in numbers]
            answers = consumer.committed(asked, timeout=REQUEST_S)
        case datetime():
            at_ms = round(point.timestamp() * 1000)
            asked = [TopicPartition(topic, number, at_ms) for number in numbers]
            answers = consumer.offsets_for_times(asked, timeout=REQUEST_S)
        case _:
            answers = [TopicPartition(topic, number, offset) for number, offset in point.items()]
    offsets = {}
    for answer in answers:
        if answer.error is not None:
            raise KafkaException(answer.error)
        is_after_all = answer.offset == OFFSET_END or isinstance(point, datetime)
        if answer.offset < 0 and is_after_all:
            answer.offset = _range(consumer, topic, answer.partition)[1]
        offsets[answer.partition] = answer.offset
    return _complete(offsets, topic, numbers, what)


def _complete(
    offsets: dict[int, int], topic: str, numbers: Sequence[int], what: str
) -> dict[int, int]:
    missing = [number for number in numbers if offsets.get(number, -1) < 0]
    unknown = sorted(offsets.keys() - set(numbers))
    if missing or unknown:
        wrong = f"partition {missing[0]} has none" if missing else f"there is no {unknown[0]}"
        raise ConfigError(f"{what}: offsets of {topic!r}, which has {len(numbers)}: {wrong}").hint(
            "every partition needs an offset, by the given mapping or as committed by the group"
        )
    return offsets


def _range(consumer: Consumer, topic: str, number: int) -> tuple[int, int]:
    found = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=REQUEST_S)
    assert found is not None, "it is None only where it was asked for from the cache"
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
