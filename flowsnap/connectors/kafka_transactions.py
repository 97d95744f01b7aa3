"""Epochs into Kafka: the records of one and its marker in one transaction, once.

What makes check-then-write safe is the transactional id, which is that of the epoch's *writer*:
``<prefix>-<run>-<operator>-<subtask>``. Whoever applies an epoch first initialises a producer with
that id. This ends the open transaction of any other with the same id, and shuts it out. Only then
are the markers read (``kafka_markers.py``). So between the look and the commit nobody else can have
applied the epoch, or the commit is refused; and then all is done anew.

A zombie that begins anew itself is stopped by the *fence*: the number of the newest attempt, which
a recovery commits before it takes the ids of all subtasks from former attempts.

Source: Kafka, KIP-98 (transactions, fencing by producer epochs).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec
from confluent_kafka import KafkaException

from flowsnap.connectors.epoch_log import EpochMarker, Fence
from flowsnap.connectors.kafka_client import REQUEST_S, ClientSettings, cause, translated
from flowsnap.connectors.kafka_markers import MarkerTopic
from flowsnap.connectors.kafka_producer import SLICE_S, RecordProducer, Row
from flowsnap.errors import StorageError

ABORT_S = 2.0
"""How long the end of a transaction that has failed is waited for."""

Writer = tuple[str, str, int]
"""The run, operator and subtask that an epoch is of."""


class Transactions:
    """The transactions of one sink task; used on the thread of its commits, but for ``stop``."""

    prefix = "flowsnap"

    def __init__(self, settings: ClientSettings, topic: str, markers: MarkerTopic) -> None:
        self._settings = settings
        self._topic = topic
        self._markers = markers
        self._producers: dict[Writer, RecordProducer] = {}
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Make a call that waits return soon; from any thread."""
        self._stopping.set()

    def is_applied(self, marker: EpochMarker) -> bool:
        """Return whether an epoch, or a later one of its writer, has been applied.

        Raises:
            StoreUnavailable: the broker does not answer, or another transaction is in the way.
        """
        if marker[:3] not in self._producers:
            self._begin(marker[:3])
            self._read_markers()
        return self._markers.epochs.get(marker[:3], 0) >= marker.checkpoint_id

    def apply(self, marker: EpochMarker, rows: Iterator[Row], fence: Fence) -> None:
        """Write the records and the marker; ``is_applied`` was asked before, and said no.

        Raises:
            StorageError: a later attempt has shut this one out.
            StoreUnavailable: the outcome is unknown; ``is_applied`` finds it out, after ``close``.
            OutputRefused: the broker does not take a record; nothing is written.
        """
        self.check(fence)
        producer = self._producers[marker[:3]]
        with self._transaction(producer):
            producer.send(rows)
            key = msgspec.json.encode(["epoch", *marker[:3]])
            value = msgspec.json.encode(marker.checkpoint_id)
            producer.send([(value, key, None, None, 0, self._markers.topic)])
        self._markers.epochs[marker[:3]] = marker.checkpoint_id

    def check(self, fence: Fence) -> None:
        """Raise StorageError, if a later attempt than ``fence`` has begun."""
        newest, _ = self._markers.fences.get(fence[:2], (0, 0))
        if newest > fence.attempt:
            raise StorageError(
                f"attempt {fence.attempt} of operator {fence.operator!r} is over: "
                f"{newest} writes into {self._topic} now"
            )

    def raise_fence(self, fence: Fence, parallelism: int, former_run: str | None) -> None:
        """Shut former attempts of the run out; what they have open is ended.

        The first attempt of a run ends what the run before it has open, if there was one.

        Raises:
            StorageError: a later attempt was there before.
            StoreUnavailable: the broker does not answer.
        """
        own = (fence.run_id, fence.operator, 0)
        self._begin(own)
        self._read_markers()
        self.check(fence)
        former, width = self._markers.fences.get(fence[:2], (0, 0))
        width = max(width, parallelism)
        producer = self._producers[own]
        with self._transaction(producer):
            key = msgspec.json.encode(["fence", *fence[:2]])
            value = msgspec.json.encode([fence.attempt, width])
            producer.send([(value, key, None, None, 0, self._markers.topic)])
        if former:
            for subtask in range(1, width):
                self._begin((fence.run_id, fence.operator, subtask))
            self._read_markers()  # One of them may have applied something before it was stopped.
        elif former_run is not None:
            _, width = self._markers.fences.get((former_run, fence.operator), (0, 0))
            for subtask in range(width):
                self._begin((former_run, fence.operator, subtask))

    def keep(self, subtask: int, fence: Fence) -> None:
        """Close the producers of all writers but one."""
        own = (fence.run_id, fence.operator, subtask)
        self._producers = {id_: one for id_, one in self._producers.items() if id_ == own}

    def close(self) -> None:
        """Close all connections; what is open is ended when its id is initialised next."""
        producers, self._producers = self._producers, {}
        for producer in producers.values():
            producer.client.purge()
        self._markers.close()

    # --- the client ---------------------------------------------------------------------------

    def _begin(self, writer: Writer) -> None:
        if writer in self._producers:
            return
        id_ = "-".join((self.prefix, *map(str, writer)))
        producer = RecordProducer(self._settings, self._topic, {"transactional.id": id_})
        self._repeat("beginning transactions", producer, producer.client.init_transactions)
        self._producers[writer] = producer

    @contextmanager
    def _transaction(self, producer: RecordProducer) -> Iterator[None]:
        with translated("beginning a transaction"):
            producer.client.begin_transaction()
        try:
            yield
            self._repeat("committing", producer, producer.client.commit_transaction)
        except BaseException:
            # Readers wait for its end. If this fails too, the next initialisation ends it.
            with suppress(KafkaException):
                producer.client.abort_transaction(ABORT_S)
            raise
        finally:
            producer.client.poll(0)

    def _repeat(self, action: str, producer: RecordProducer, call: Callable[[float], None]) -> None:
        deadline_s = time.monotonic() + REQUEST_S
        while True:
            try:
                call(SLICE_S)
                return
            except KafkaException as error:
                producer.client.poll(0)
                producer.check()  # It says why; the exception only that it failed.
                inner = cause(error)
                is_late = self._stopping.is_set() or time.monotonic() > deadline_s
                if inner is None or not inner.retriable() or is_late:
                    with translated(action):
                        raise

    def _read_markers(self) -> None:
        self._markers.read(self._stopping)
