"""KafkaSource: the records of topics, partition by partition, from positions in the checkpoint.

A split is a partition, and its position the offset of the next record to read. A partition that
appears while the job runs joins the split that it is congruent to (``kafka_topics.TopicQuery``),
and its offset that split's position; one that appears between two runs is a split of its own.
Kafka's consumer groups are not used: positions are told to a group after each checkpoint for those
who watch its lag, and never read back, unless by ``start="committed"``.

Within a split of several partitions the records come in the order of their Kafka timestamps, as far
as they have been fetched, so that the event time of one does not run away from the others'.

Source: Flink, "Apache Kafka Connector" (KafkaSource); FLIP-27. Deviations: offsets to begin at are
resolved once, at submission, also "latest"; an offset that has gone is an error, not a reset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypedDict, Unpack, get_args

from confluent_kafka import Message, TopicPartition

from flowsnap.config import Duration, duration_ms
from flowsnap.connectors.dead_letters import DEAD_LETTER, OnError, check_on_error, dead_letter
from flowsnap.connectors.kafka_client import ClientSettings, KafkaRecord
from flowsnap.connectors.kafka_consumer import (
    FIXED,
    OFFSET_BEGINNING,
    OFFSET_END,
    Partition,
    PartitionConsumer,
    Run,
    offset_of,
)
from flowsnap.connectors.kafka_format import Decode, Format, FormatName, first_misfit, format_of
from flowsnap.connectors.kafka_topics import PartitionWatch, Start, TopicQuery, Until, check_point
from flowsnap.connectors.typed import cause_of, reason_of
from flowsnap.core.element import Batch
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.errors import ConfigError, FlowsnapError, MalformedInput

Isolation = Literal["read_committed", "read_uncommitted"]
OnDataLoss = Literal["fail", "earliest", "latest"]
_RESETS = {"fail": None, "earliest": OFFSET_BEGINNING, "latest": OFFSET_END}


class SourceOptions(TypedDict, total=False):
    """What else a KafkaSource can be told; see there."""

    metadata: bool
    key_format: Format | FormatName
    isolation: Isolation
    on_data_loss: OnDataLoss
    on_error: OnError
    group: str
    discover_every: Duration
    broker_timeout: Duration
    settings: Mapping[str, Any]


class KafkaSource(Source):
    """The records of one topic or several.

    ``start``: ``"earliest"``, ``"latest"``, ``"committed"`` (where ``group`` has come to), a time,
    or offsets by partition. ``until``: ``"latest"``, a time or offsets; the source then ends there,
    and otherwise never. A record is its value, by ``format``: ``"json"``, ``"string"``,
    ``"bytes"``, ``Json(type)``, ``Avro(registry)``. Where a watermark is asked for that does not
    say what a record's time is, it is Kafka's timestamp.

    Options: ``metadata=True`` gives KafkaRecords, with keys by ``key_format``. ``isolation``:
    ``"read_committed"`` (the default) or ``"read_uncommitted"``. ``on_data_loss``: whether to
    ``"fail"`` (the default) where records to be read have been deleted, or go on at the
    ``"earliest"`` or ``"latest"``. ``on_error="dead-letter"``: what is not of its format leaves by
    the side output of that name. ``group``: is told the positions after each checkpoint, for
    monitoring. ``discover_every``: how often new partitions are looked for. ``broker_timeout``: how
    long no broker may answer. ``settings``: of the client, in librdkafka's names.

    Raises:
        ConfigError: a setting is wrong.
    """

    is_told_of_checkpoints: ClassVar[bool] = True

    def __init__(
        self,
        servers: str,
        topics: str | Sequence[str],
        *,
        format: Format | FormatName = "bytes",
        start: Start = "earliest",
        until: Until | None = None,
        **options: Unpack[SourceOptions],
    ) -> None:
        self.topics = _checked_topics(topics)
        self.format = format_of(format, "format")
        self.start, self.until = start, until
        self.bounded = until is not None
        _check_options(options)
        check_point(start, "start", ("earliest", "latest", "committed"), self.topics)
        if until is not None:
            check_point(until, "until", ("latest",), self.topics)
        self.metadata = options.get("metadata", False)
        self.key_format = format_of(options.get("key_format", "bytes"), "key_format")
        self.isolation = options.get("isolation", "read_committed")
        self.on_data_loss = options.get("on_data_loss", "fail")
        self.group = options.get("group")
        self.has_dead_letters = check_on_error(options.get("on_error", "fail")) == DEAD_LETTER
        if start == "committed" and self.group is None:
            raise ConfigError('start: "committed" needs to know of which group: give group=')
        every, patience = options.get("discover_every", "30s"), options.get("broker_timeout", "2m")
        self.discover_ms = duration_ms(every, "discover_every", at_least_ms=1)
        self.patience_ms = duration_ms(patience, "broker_timeout", at_least_ms=1)
        self.settings = ClientSettings(servers, options.get("settings", {}), FIXED)
        self._subtask: Subtask | None = None

    def __repr__(self) -> str:
        return f"<KafkaSource of {', '.join(self.topics)} at {self.settings.servers}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_subtask": None}  # A copy opens connections of its own.

    def splits(self, parallelism: int) -> list[Split]:
        """Return one split for each partition that there is now.

        Raises:
            ConfigError: a topic is missing or must not be read, or no broker answers.
        """
        query = TopicQuery(self.settings, self.isolation, self.group)
        return query.splits(self.topics, self.start, self.until)

    def splits_after(self, parallelism: int, known: Sequence[tuple[Split, Any]]) -> Sequence[Split]:
        """Return the splits of the checkpoint, and one for each partition that none of them has.

        A bounded source keeps to what it found at its first start.

        Raises:
            ConfigError: as for ``splits``; or a partition that was read is not there any more.
        """
        if not known:
            return self.splits(parallelism)
        if self.bounded:
            return [split for split, _ in known]
        query = TopicQuery(self.settings, self.isolation, self.group)
        return query.splits_after(self.topics, self.start, known)

    def open_split(self, split: Split, position: dict[str, int] | None) -> SplitReader:
        """Return a reader of one partition, and of those that have joined it."""
        if self._subtask is None or self._subtask.is_closed:
            self._subtask = Subtask(self)
        return KafkaReader(self._subtask, split, position)


class Subtask:
    """What all readers of one subtask share."""

    def __init__(self, source: KafkaSource) -> None:
        self.is_closed = False
        self.consumer = PartitionConsumer(
            source.settings,
            isolation=source.isolation,
            group=source.group,
            reset=_RESETS[source.on_data_loss],
            is_one_topic=len(source.topics) == 1,
        )
        self.watch = PartitionWatch(
            source.settings,
            source.topics,
            interval_ms=source.discover_ms,
            patience_ms=source.patience_ms,
        )
        self.is_bounded = source.bounded
        event_time = source.event_time
        is_timed = event_time is not None and event_time.stamp is None
        self.to_batch = Conversion(source, is_timed=is_timed)

    def leave(self) -> None:
        """Close the connection behind the last reader."""
        if not self.is_closed and not self.consumer.is_used:
            self.is_closed = True
            self.consumer.close()


class Conversion:
    """Makes batches of messages; ``is_timed``: with Kafka's timestamps as their event times."""

    def __init__(self, source: KafkaSource, *, is_timed: bool) -> None:
        self._value = source.format.decoder()
        self._key = source.key_format.decoder()
        self._value_errors = source.format.errors
        self._key_errors = source.key_format.errors
        self._has_metadata = source.metadata
        self._is_timed = is_timed
        self._is_kept = source.has_dead_letters

    def batch(self, run: Run, partition: Partition) -> Batch:
        """Return the records of messages of one partition, dead letters among them if wanted.

        Raises:
            MalformedInput: a value or key is not of its format, and dead letters are not wanted.
        """
        times = [message.timestamp()[1] for message in run] if self._is_timed else None
        try:
            return Batch(self._values(run), times)
        except _Unreadable as error:
            if self._is_kept:
                return Batch([self._value_or_letter(one, partition) for one in run], times)
            offset = offset_of(run[error.index])
            raise MalformedInput(
                f"{partition}: {error.what} at offset {offset} is not what was expected: {error}",
                file=str(partition),
                offset=offset,
            ).hint('to skip such records, or send them elsewhere: on_error="dead-letter"') from (
                error.__cause__
            )

    def _values(self, run: Run) -> list[Any]:
        raw = list(map(Message.value, run))
        values = _decoded("the value", self._value, raw, self._value_errors)
        if not self._has_metadata:
            return values
        raw = list(map(Message.key, run))
        keys = _decoded("the key", self._key, raw, self._key_errors)
        return list(map(_record, values, keys, run))

    def _value_or_letter(self, message: Message, partition: Partition) -> Any:
        try:
            return self._values([message])[0]
        except _Unreadable as error:
            reason = f"{error.what}: {error}"
            return dead_letter(message.value() or b"", reason, str(partition), offset_of(message))


class _Unreadable(Exception):
    """A value or a key is not of its format: that of the message at ``index`` of a run."""

    def __init__(self, what: str, index: int, error: Exception) -> None:
        super().__init__(reason_of(error))
        self.what = what
        self.index = index


def _decoded(
    what: str, decode: Decode, raw: list[Any], errors: tuple[type[Exception], ...]
) -> list[Any]:
    try:
        return decode(raw)
    except FlowsnapError:
        raise  # Of a schema registry: the record may be well.
    except errors as error:
        raise _Unreadable(what, first_misfit(decode, raw, errors), error) from cause_of(error)


class KafkaReader(SplitReader):
    """Reads the partitions of one split; a position is ``{partition: next offset}``."""

    def __init__(self, subtask: Subtask, split: Split, position: dict[str, int] | None) -> None:
        payload = split.payload
        self._subtask = subtask
        self._consumer = subtask.consumer
        self._topic: str = payload["topic"]
        self._numbers: list[int] = payload["partitions"]
        self._stride: int = payload["of"]
        self._until: int | None = payload.get("until")
        self._size = split.size
        self._count = self._stride  # of the partitions that we know of
        self._start: int = payload["start"]
        self._partitions: list[Partition] = []
        if position is None:
            self._add(self._numbers[0], self._start, from_earliest=payload["is_earliest"])
        for number, offset in sorted((position or {}).items()):
            self._add(int(number), offset)

    def read(self, limit: int) -> Batch | None:
        """Return up to ``limit`` records of one partition.

        Raises:
            DataLost: the position is no longer there.
            MalformedInput: a record is not of the format.
            StoreUnavailable: no broker has answered for too long, or the topic is gone.
        """
        self._subtask.watch.look()
        if self._until is None:
            self._look_for_new()
        elif self._is_at_end():
            return None
        if not all(partition.queue for partition in self._partitions):
            for partition in self._partitions:
                if not partition.queue:
                    self._consumer.fetch(partition, limit)
        head = self._head()
        if head is None:
            return None if self._is_at_end() else Batch([])
        run = self._consumer.take(head, min(limit, self._together(head)))
        if self._until is not None and head.next_offset > self._until:
            run = [message for message in run if offset_of(message) < self._until]
            head.drop()
            if not run:
                return None
        return self._subtask.to_batch.batch(run, head)

    def position(self) -> dict[str, int]:
        return {str(one.number): one.next_offset for one in self._partitions}

    def progress(self) -> int | None:
        if self._size is None:
            return None
        if self._is_at_end():
            return self._size
        return min(max(0, self._partitions[0].next_offset - self._start), self._size)

    def wait_ms(self) -> int:
        return 5

    def committed(self, position: dict[str, int]) -> None:
        """Tell the group how far a checkpoint has come, for whoever watches its lag."""
        self._consumer.commit(
            [
                TopicPartition(self._topic, int(number), offset)
                for number, offset in position.items()
            ]
        )

    def close(self) -> None:
        for partition in self._partitions:
            self._consumer.close_partition(partition)
        self._subtask.leave()

    # --- partitions ---------------------------------------------------------------------------

    def _add(self, number: int, offset: int, *, from_earliest: bool = False) -> None:
        opened = self._consumer.open(self._topic, number, offset, from_earliest=from_earliest)
        self._partitions.append(opened)
        self._count = max(self._count, number + 1)

    def _look_for_new(self) -> None:
        count = self._subtask.watch.counts.get(self._topic, 0)
        if count <= self._count:
            return
        known = {partition.number for partition in self._partitions}
        for first in self._numbers:
            for number in range(first, count, self._stride):
                if number not in known:
                    self._add(number, 0, from_earliest=True)
        self._count = count

    def _head(self) -> Partition | None:
        """Return the partition to read from: that with the earliest record in its queue."""
        queued = [partition for partition in self._partitions if partition.queue]
        if len(queued) < 2:
            return queued[0] if queued else None
        return min(queued, key=lambda partition: _time_ms(partition.queue[0][0]))

    def _together(self, head: Partition) -> int:
        """Return how many records of ``head`` are not later than the next of the others."""
        run = head.queue[0]
        others = [_time_ms(p.queue[0][0]) for p in self._partitions if p.queue and p is not head]
        if not others:
            return len(run)
        until_ms = min(others)
        later = (index for index, message in enumerate(run) if _time_ms(message) > until_ms)
        return max(1, next(later, len(run)))

    def _is_at_end(self) -> bool:
        """Return whether a bounded split has been read; it is of one partition."""
        (partition, *_) = self._partitions
        if self._until is None or partition.queue:
            return False
        if partition.next_offset >= self._until:
            return True
        if partition.end_offset is None or partition.end_offset < self._until:
            return False
        # The last offsets are of no record: they are a transaction's end, or were compacted.
        partition.next_offset = self._until
        return True


def _record(value: Any, key: Any, message: Message) -> KafkaRecord:
    headers: Any = message.headers() or ()
    return KafkaRecord(
        value=value,
        key=key,
        headers=tuple(headers),
        timestamp_ms=_time_ms(message),
        partition=message.partition(),
        topic=message.topic(),
        offset=message.offset(),
    )


def _time_ms(message: Message) -> int:
    return message.timestamp()[1]


def _checked_topics(topics: str | Sequence[str]) -> tuple[str, ...]:
    given = (topics,) if isinstance(topics, str) else tuple(topics)
    if not given or not all(isinstance(topic, str) and topic for topic in given):
        raise ConfigError(f"topics: {topics!r} is not a topic").hint("give one name, or a list")
    if len(set(given)) < len(given):
        raise ConfigError(f"topics: {topics!r} names a topic twice")
    return given


def _check_options(options: SourceOptions) -> None:
    unknown = sorted(options.keys() - SourceOptions.__annotations__.keys())
    if unknown:
        raise ConfigError(f"a Kafka source has no option {unknown[0]!r}").hint(
            f"it has {', '.join(SourceOptions.__annotations__)}"
        )
    for name, known in (("isolation", Isolation), ("on_data_loss", OnDataLoss)):
        value = options.get(name)
        if value is not None and value not in get_args(known):
            raise ConfigError(f"{name}: {value!r} is not one of {', '.join(get_args(known))}")
