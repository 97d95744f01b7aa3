"""KafkaSink: records into a topic, exactly-once by the epoch log or at-least-once directly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Literal, TypedDict, Unpack, get_args

from flowsnap.config import Duration, Size
from flowsnap.connectors.epoch_log import INLINE_BYTES, EpochLogSink, EpochMarker
from flowsnap.connectors.fitting import tried
from flowsnap.connectors.kafka_client import REQUEST_S, ClientSettings, KafkaRecord
from flowsnap.connectors.kafka_format import Encode, Format, FormatName, first_misfit, format_of
from flowsnap.connectors.kafka_markers import MARKER_TOPIC, MarkerTopic, read_once
from flowsnap.connectors.kafka_producer import (
    FIXED,
    MESSAGE_BYTES_MAX,
    SLICE_S,
    RecordProducer,
    Row,
    message_bytes,
)
from flowsnap.connectors.kafka_transactions import Transactions
from flowsnap.connectors.typed import cause_of, reason_of
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import Misfits, SinkContext, Submission
from flowsnap.errors import ConfigError, FlowsnapError, StoreUnavailable

Guarantee = Literal["exactly-once", "at-least-once"]


class SinkOptions(TypedDict, total=False):
    """What else a KafkaSink can be told; see there and ``EpochLogSink``."""

    message: Callable[[Any], KafkaRecord]
    key_format: Format | FormatName
    marker_topic: str
    transaction_prefix: str
    repeats: bool
    settings: Mapping[str, Any]
    retry_timeout: Duration
    inline_bytes: Size


class KafkaSink(EpochLogSink):
    """Records as messages of ``topic``.

    ``format`` makes the value of a record; ``key`` is a function from a record to its key, written
    as a string or by ``key_format``. The event time of a record, if it has one, becomes the
    message's timestamp. For all else there is ``message``, a function from a record to a
    KafkaRecord with value, key, headers, timestamp, partition and topic.

    ``guarantee``: ``"exactly-once"`` writes in transactions, one for each checkpoint and subtask,
    which readers with ``isolation.level=read_committed`` see once and as a whole; no transaction is
    open but while one is written. ``"at-least-once"`` writes at once, and again after a failure.

    ``marker_topic`` is made where it is missing; it has the markers of what was written. Ids of
    transactions begin with ``transaction_prefix``, for access rules; both have to stay. A job that
    goes back to an older checkpoint writes again what came after it, which is refused unless
    ``repeats`` allows it. ``settings`` are of the client, in librdkafka's names.

    Raises:
        ConfigError: a setting is wrong.
    """

    _times: Sequence[int] | None
    """The event times of the batch that is being written."""

    def __init__(
        self,
        servers: str,
        topic: str,
        *,
        format: Format | FormatName = "json",
        key: Callable[[Any], Any] | None = None,
        guarantee: Guarantee = "exactly-once",
        **options: Unpack[SinkOptions],
    ) -> None:
        unknown = sorted(options.keys() - SinkOptions.__annotations__.keys())
        if unknown:
            raise ConfigError(f"a Kafka sink has no option {unknown[0]!r}").hint(
                f"it has {', '.join(SinkOptions.__annotations__)}"
            )
        super().__init__(
            retry_timeout=options.get("retry_timeout", "60s"),
            inline_bytes=options.get("inline_bytes", INLINE_BYTES),
        )
        if not isinstance(topic, str) or not topic:
            raise ConfigError(f"topic: {topic!r} is not the name of a topic")
        if guarantee not in get_args(Guarantee):
            raise ConfigError(f"guarantee: {guarantee!r} is not known").hint(
                'write "exactly-once" or "at-least-once"'
            )
        self.topic, self.guarantee = topic, guarantee
        self.format = format_of(format, "format")
        self.key, self.message = key, options.get("message")
        if key is not None and self.message is not None:
            raise ConfigError("key and message are both given").hint("have message give the key")
        self.key_format = format_of(options.get("key_format", "string"), "key_format")
        self.marker_topic = options.get("marker_topic", MARKER_TOPIC)
        self.transaction_prefix = options.get("transaction_prefix", "flowsnap")
        self.repeats = options.get("repeats", False)
        self.settings = ClientSettings(servers, options.get("settings", {}), FIXED)

    def __repr__(self) -> str:
        return f"<KafkaSink {self.guarantee} to {self.topic} at {self.settings.servers}>"

    # --- what the engine calls ----------------------------------------------------------------

    def on_submit(self, submission: Submission) -> None:
        """Check that the topic is there, and make the marker topic."""
        super().on_submit(submission)
        error = self.settings.topic(self.topic, REQUEST_S).error
        if error is not None:
            raise ConfigError(f"topic {self.topic!r} cannot be written: {error.str()}").hint(
                "make the topic first, with as many partitions as it is to have"
            )
        if self.guarantee == "exactly-once":
            MarkerTopic(self.settings, self.marker_topic).create()
            if not self.repeats:
                self._check_repeats(submission)

    def open(self, context: SinkContext) -> None:
        self._begin_encoding()
        self._direct: RecordProducer | None = None
        self._transactions = Transactions(
            self.settings, self.topic, MarkerTopic(self.settings, self.marker_topic)
        )
        self._transactions.prefix = self.transaction_prefix
        super().open(context)
        if self.guarantee == "at-least-once":
            self._direct = RecordProducer(self.settings, self.topic, {})

    def misfits(self, context: SinkContext) -> Misfits:
        """Return what tells the records that have no form in the format, or are too large."""
        self.context = context
        self._begin_encoding()
        limit = self.settings.number("message.max.bytes", MESSAGE_BYTES_MAX)

        def attempt(batch: Batch) -> None:
            self._times = batch.timestamps
            for index, row in enumerate(self.to_rows(batch.values)):
                size = message_bytes(row)
                if size > limit:
                    raise self.refused(
                        f"record {index + 1} of a batch of {len(batch)}",
                        f"has {size} bytes, and message.max.bytes is {limit}",
                    )

        return tried(attempt)

    def write(self, batch: Batch) -> None:
        """Keep the records for the epoch, or send them at once.

        Raises:
            OperatorError: a record has no form in the format.
            StoreUnavailable: the broker does not answer; only where they are sent at once.
        """
        self._times = batch.timestamps
        if self._direct is not None:
            self._direct.send(self.to_rows(batch.values))
        else:
            super().write(batch)

    def prepare(self, checkpoint_id: CheckpointId) -> dict[str, Any] | None:
        """Seal the epoch; or wait until all that was sent has been written.

        Raises:
            StoreUnavailable: the broker does not answer.
        """
        if self._direct is None:
            return super().prepare(checkpoint_id)
        deadline_s = time.monotonic() + self.retry_timeout_ms / 1000
        while self._direct.client.flush(SLICE_S):
            self._direct.check()
            if time.monotonic() > deadline_s:
                raise StoreUnavailable(
                    f"{len(self._direct.client)} records have not been written to {self.topic} "
                    f"within {self.retry_timeout_ms} ms"
                )
        self._direct.check()
        return None

    def recover(self, committables: Sequence[dict[str, Any]]) -> None:
        """Shut older attempts out, and commit what the checkpoint holds.

        Raises:
            StoreUnavailable: the broker does not answer: the next attempt tries again.
        """
        if self._direct is not None and not committables:
            return
        super().recover(committables)
        self._committer.recover([], lambda: self._transactions.keep(0, self.fence))

    def close(self) -> None:
        direct = getattr(self, "_direct", None)
        if direct is not None:
            direct.client.purge()
            direct.client.poll(0)
        super().close()

    # --- the epoch log ------------------------------------------------------------------------

    def to_rows(self, values: list[Any]) -> list[Row]:
        if self.message is not None:
            return self._rows_of(list(map(self.message, values)))
        keys: Sequence[bytes | None] | repeat[None] = repeat(None)
        if self.key is not None:
            keys = self._encoded("the key of", self._encode_key, list(map(self.key, values)))
        raw: list[Any] = self._encoded("", self._encode_value, values)
        if self.key is None and self._times is None and None not in raw:
            return raw
        return list(zip(raw, keys, self._times or repeat(None), strict=False))

    def apply(self, marker: EpochMarker, rows: Iterator[Any]) -> None:
        self._transactions.apply(marker, rows, self.fence)

    def applied(self, marker: EpochMarker) -> bool:
        return self._transactions.is_applied(marker)

    def raise_fence(self) -> None:
        former = self._submission.former_run_ids if self._submission is not None else ()
        former_run = former[-1] if former else None
        self._transactions.raise_fence(self.fence, self.context.parallelism, former_run)

    def disconnect(self) -> None:
        self._transactions.close()

    def interrupt(self) -> None:
        self._transactions.stop()

    # --- records ------------------------------------------------------------------------------

    def _begin_encoding(self) -> None:
        self._times = None
        self._encode_value = self.format.encoder(self.topic)
        self._encode_key = self.key_format.encoder(self.topic, is_key=True)

    def _rows_of(self, records: list[KafkaRecord]) -> list[Row]:
        for index, record in enumerate(records):
            if not isinstance(record, KafkaRecord):
                raise self.refused(
                    f"record {index + 1} of a batch of {len(records)}",
                    f"became a {type(record).__name__} by message=, not a KafkaRecord",
                )
        keys = self._encoded("the key of", self._encode_key, [record.key for record in records])
        raw = self._encoded("", self._encode_value, [record.value for record in records])
        times = self._times or repeat(None)
        return [
            (
                value,
                key,
                at_ms if record.timestamp_ms is None else record.timestamp_ms,
                record.headers or None,
                record.partition,
                record.topic,
            )
            for record, value, key, at_ms in zip(records, raw, keys, times, strict=False)
        ]

    def _encoded(self, what: str, encode: Encode, values: list[Any]) -> list[bytes | None]:
        errors = (self.key_format if what else self.format).errors
        try:
            return encode(values)
        except FlowsnapError:
            raise
        except errors as error:
            index = first_misfit(encode, values, errors)
            shown = f"record {index + 1} of a batch of {len(values)}"
            raise self.refused(
                f"{what} {shown}".strip(), f"cannot be written in the format: {reason_of(error)}"
            ) from cause_of(error)

    def _check_repeats(self, submission: Submission) -> None:
        """Refuse to go back before what has been written, as that can't be taken away."""
        if submission.restored_from is None:
            return
        runs = {submission.run_id, *submission.former_run_ids}
        epochs = read_once(self.settings, self.marker_topic).epochs
        written = [
            checkpoint
            for (run, operator, _), checkpoint in epochs.items()
            if run in runs and operator == submission.operator
        ]
        newest = max(written, default=0)
        if newest > submission.restored_from:
            raise ConfigError(
                f"the job goes back to checkpoint {submission.restored_from}, but the output up to "
                f"{newest} is in topic {self.topic!r} and would be written again"
            ).hint("set repeats=True to allow it, or start from the newest checkpoint")
