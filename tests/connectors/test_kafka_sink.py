"""The Kafka sink against a real broker: what it writes, when it shows, what stands in its way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("confluent_kafka", reason="pip install 'flowsnap[kafka]'")

from confluent_kafka import Producer

from flowsnap.connectors.epoch_log import EpochMarker
from flowsnap.connectors.kafka import KafkaRecord, KafkaSink
from flowsnap.connectors.kafka_client import ClientSettings
from flowsnap.connectors.kafka_markers import MarkerTopic, read_once
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId, OperatorId
from flowsnap.core.operator import Submission
from flowsnap.errors import ConfigError, OperatorError, OutputRefused, StoreUnavailable
from tests.contract.sinks import Job, through_manifest
from tests.servers.kafka.broker import broker

pytestmark = pytest.mark.slow

ONE = CheckpointId(1)


def sink_of(topic: str, class_: type[KafkaSink] = KafkaSink, **settings: Any) -> KafkaSink:
    names: Any = {"marker_topic": f"{topic}-markers", "transaction_prefix": topic}
    return class_(broker().servers, topic, **{**names, **settings})


@pytest.fixture
def zombies() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def topic() -> str:
    return broker().topic(4)


@pytest.fixture
def job(topic: str, tmp_path: Path, zombies: ExitStack) -> Job:
    """Return a job of one subtask, which has been submitted."""
    return submitted(sink_of(topic), tmp_path, zombies)


def submitted(template: KafkaSink, directory: Path, zombies: ExitStack) -> Job:
    job = Job(template, directory / "job", zombies, subtasks=1, attempt=1)
    job.submit()
    return job


def write_once(job: Job, batch: Batch) -> None:
    """Write one epoch and commit it."""
    sink = job.open(0)
    sink.recover([])
    sink.write(batch)
    committable = sink.prepare(ONE)
    if committable is not None:
        job.commit(sink, *through_manifest([committable]))


def test_nothing_shows_before_its_checkpoint_is_complete(topic: str, job: Job) -> None:
    sink = job.open(0)
    sink.recover([])
    sink.write(Batch([1, 2]))
    committable = sink.prepare(ONE)
    assert broker().read(topic, isolation="read_uncommitted") == []

    job.commit(sink, committable)

    assert values_in(topic) == [1, 2]


def test_message_says_key_headers_timestamp_partition_and_topic(
    topic: str, tmp_path: Path, zombies: ExitStack
) -> None:
    other = broker().topic(3)
    headers = (("a", b"1"), ("a", b""), ("b", None))
    template = sink_of(
        topic,
        message=lambda value: KafkaRecord(
            value=value, key=f"k{value}", headers=headers, timestamp_ms=9_000, partition=2,
            topic=other,
        ),
    )  # fmt: skip

    write_once(submitted(template, tmp_path, zombies), Batch([7]))

    (message,) = broker().read(other)
    assert (message.key(), message.value(), message.partition()) == (b"k7", b"7", 2)
    assert (message.timestamp()[1], message.headers()) == (9_000, list(headers))
    assert broker().read(topic) == []


def test_records_of_one_key_are_in_one_partition_and_have_their_event_times(
    topic: str, tmp_path: Path, zombies: ExitStack
) -> None:
    template = sink_of(topic, key=lambda value: str(value % 10))
    values = list(range(100))

    write_once(submitted(template, tmp_path, zombies), Batch(values, [1_000 + v for v in values]))

    found = broker().read(topic)
    places = {(message.key(), message.partition()) for message in found}
    assert len(places) == 10
    assert len({partition for _, partition in places}) > 1
    assert {(int(m.value()), m.timestamp()[1]) for m in found} == {(v, 1_000 + v) for v in values}


def test_missing_value_deletes_its_key(topic: str, tmp_path: Path, zombies: ExitStack) -> None:
    template = sink_of(topic, message=lambda key: KafkaRecord(value=None, key=key))

    write_once(submitted(template, tmp_path, zombies), Batch(["gone"]))

    assert [(m.key(), m.value()) for m in broker().read(topic)] == [(b"gone", None)]


@pytest.mark.parametrize("key", [None, str], ids=["bare", "keyed"])
def test_records_wait_for_room_in_the_queue_of_the_client(
    topic: str, tmp_path: Path, zombies: ExitStack, key: Any
) -> None:
    template = sink_of(topic, key=key, settings={"queue.buffering.max.messages": 10})

    write_once(submitted(template, tmp_path, zombies), Batch(list(range(45))))

    assert values_in(topic) == list(range(45))


# --- transactions


class OutlivesItsTransaction(KafkaSink):
    """A sink that takes so long over the first try of an epoch that the broker gives it up."""

    def apply(self, marker: EpochMarker, rows: Iterator[Any]) -> None:
        super().apply(marker, rows if self.__dict__.get("tried") else self._slow(marker, rows))

    def _slow(self, marker: EpochMarker, rows: Iterator[Any]) -> Iterator[Any]:
        self.tried = True
        producer = self._transactions._producers[marker[:3]]
        producer.send([next(rows)])
        producer.client.flush(30)
        seen = len(broker().read(self.topic))
        broker().write(self.topic, [b"-1"])
        while len(broker().read(self.topic)) == seen:
            pass  # What is behind the open transaction shows when the broker has ended it.
        yield from rows


def values_in(topic: str) -> list[int]:
    return sorted(json.loads(message.value()) for message in broker().read(topic))


def test_transaction_that_expires_loses_nothing_and_writes_nothing_twice(
    topic: str, tmp_path: Path, zombies: ExitStack
) -> None:
    settings = {"transaction.timeout.ms": 1_000, "message.timeout.ms": 1_000}
    template = sink_of(topic, OutlivesItsTransaction, settings=settings)
    one = broker().topic(1)
    template.topic = one

    write_once(submitted(template, tmp_path, zombies), Batch([1, 2, 3]))

    assert values_in(one) == [-1, 1, 2, 3]


def test_job_that_was_down_for_longer_than_a_transaction_lives_loses_nothing(
    topic: str, job: Job
) -> None:
    sink = job.open(0)
    sink.recover([])
    sink.write(Batch([1, 2]))
    committable = sink.prepare(ONE)

    # Nothing was begun at the broker, so that there is nothing that it could have given up.
    assert read_once(job.template.settings, f"{topic}-markers").epochs == {}  # type: ignore[attr-defined]
    job.attempt = 2
    job.open(0).recover(through_manifest([committable]))

    assert values_in(topic) == [1, 2]


def test_what_a_dead_attempt_left_open_is_ended_by_the_next_and_readers_go_on(
    topic: str, tmp_path: Path, zombies: ExitStack
) -> None:
    job = submitted(sink_of(topic), tmp_path, zombies)
    dead = Producer(
        {"bootstrap.servers": broker().servers, "transactional.id": f"{topic}-{job.runs[0]}-out-0"}
    )
    dead.init_transactions(30)
    dead.begin_transaction()
    dead.produce(topic, b"-5", partition=0)
    dead.flush(30)
    broker().write(topic, [b"6"], partition=0)
    assert broker().read(topic, isolation="decided") == []

    job.open(0).recover([])

    assert values_in(topic) == [6]


def test_what_a_former_life_left_open_is_ended_by_a_fresh_start(topic: str, job: Job) -> None:
    job.open(0).recover([])
    id_ = f"{topic}-{job.runs[0]}-out-0"
    dead = Producer({"bootstrap.servers": broker().servers, "transactional.id": id_})
    dead.init_transactions(30)
    dead.begin_transaction()
    dead.produce(topic, b"-5", partition=0)
    dead.flush(30)
    broker().write(topic, [b"6"], partition=0)

    job.submit()
    job.attempt = 2
    job.open(0).recover([])

    assert len(job.runs) == 2
    assert values_in(topic) == [6]


def test_late_repeat_of_an_epoch_changes_nothing_after_later_ones(topic: str, job: Job) -> None:
    sink = job.open(0)
    sink.recover([])
    kept = []
    for checkpoint in (1, 2, 3):
        sink.write(Batch([checkpoint]))
        kept.append(sink.prepare(CheckpointId(checkpoint)))
        job.commit(sink, *through_manifest(kept[-1:]))

    job.attempt = 2
    job.open(0).recover(through_manifest(kept))

    assert values_in(topic) == [1, 2, 3]


def test_two_jobs_from_one_savepoint_write_what_it_holds_once(
    topic: str, job: Job, tmp_path: Path, zombies: ExitStack
) -> None:
    sink = job.open(0)
    sink.recover([])
    sink.write(Batch([1, 2]))
    committable = sink.prepare(ONE)
    others = [Job(job.template, tmp_path / f"{n}", zombies, base=n, attempt=1) for n in (10, 20)]
    for other in others:
        other.submit(job.savepoint())

    for other in others:
        other.open(0).recover(through_manifest([committable]))
    job.commit(sink, *through_manifest([committable]))

    assert values_in(topic) == [1, 2]


def test_look_at_the_markers_waits_for_what_another_job_has_open(
    topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowsnap.connectors.kafka_markers.REQUEST_S", 3.0)
    settings = ClientSettings(broker().servers, {}, {})
    MarkerTopic(settings, f"{topic}-markers").create()
    other = Producer({"bootstrap.servers": broker().servers, "transactional.id": topic})
    other.init_transactions(30)
    other.begin_transaction()
    other.produce(f"{topic}-markers", b"3", b'["epoch","run","out",0]')
    other.flush(30)

    with pytest.raises(StoreUnavailable, match="a transaction is open there"):
        read_once(settings, f"{topic}-markers")
    other.commit_transaction(30)

    assert read_once(settings, f"{topic}-markers").epochs == {("run", "out", 0): 3}


# --- what is refused


def test_record_that_is_too_large_is_refused_for_good(topic: str, job: Job) -> None:
    with pytest.raises(OutputRefused, match=r"(?i)too large") as refused:
        write_once(job, Batch(["x" * 2_000_000]))

    assert not refused.value.restartable
    assert broker().read(topic) == []


def test_record_without_a_form_is_named(topic: str, job: Job) -> None:
    sink = job.open(0)

    with pytest.raises(OperatorError, match=r"sink 'out', subtask 0: record 2 of a batch of 3"):
        sink.write(Batch([1, object(), 3]))


def test_what_message_returns_has_to_be_a_kafka_record(
    topic: str, tmp_path: Path, zombies: ExitStack
) -> None:
    sink = submitted(sink_of(topic, message=str), tmp_path, zombies).open(0)

    with pytest.raises(OperatorError, match="became a str by message=, not a KafkaRecord"):
        sink.write(Batch([1]))


def test_topic_that_is_missing_is_found_at_submission(tmp_path: Path, zombies: ExitStack) -> None:
    with pytest.raises(ConfigError, match="topic 'no-such-topic' cannot be written"):
        submitted(sink_of("no-such-topic"), tmp_path, zombies)


def test_marker_topic_that_would_forget_is_refused(
    topic: str, tmp_path: Path, zombies: ExitStack
) -> None:
    with pytest.raises(ConfigError, match=r"is not compacted but has the cleanup\.policy 'delete'"):
        submitted(sink_of(topic, marker_topic=topic), tmp_path, zombies)


@pytest.mark.parametrize("repeats", [False, True])
def test_going_back_before_what_was_written_is_refused_unless_it_is_allowed(
    topic: str, tmp_path: Path, zombies: ExitStack, repeats: bool
) -> None:
    job = submitted(sink_of(topic, repeats=repeats), tmp_path, zombies)
    write_once(job, Batch([1]))
    back = Submission(
        job="job",
        operator=OperatorId("out"),
        job_directory=str(job.directory),
        run_id=job.runs[0],
        is_fresh=False,
        restored_from=CheckpointId(0),
    )

    if repeats:
        job.template.on_submit(back)
    else:
        with pytest.raises(ConfigError, match="goes back to checkpoint 0, but the output up to 1"):
            job.template.on_submit(back)


# --- at-least-once


def test_at_least_once_shows_records_at_the_barrier_and_keeps_nothing_for_the_checkpoint(
    topic: str, tmp_path: Path, zombies: ExitStack
) -> None:
    template = sink_of(topic, guarantee="at-least-once")
    sink = submitted(template, tmp_path, zombies).open(0)
    sink.recover([])
    sink.write(Batch(list(range(1000))))

    assert sink.prepare(ONE) is None

    assert values_in(topic) == list(range(1000))


def test_at_least_once_fails_its_attempt_where_a_record_is_not_taken(
    topic: str, tmp_path: Path, zombies: ExitStack
) -> None:
    short = broker().topic(1, max_message_bytes=100)
    template = sink_of(topic, guarantee="at-least-once", format="bytes")
    template.topic = short
    sink = submitted(template, tmp_path, zombies).open(0)
    sink.write(Batch([bytes(range(256)) * 4]))

    with pytest.raises(OutputRefused, match=f"writing to {short} failed"):
        sink.prepare(ONE)


def test_at_least_once_fails_its_attempt_where_the_broker_is_away(
    topic: str, tmp_path: Path, zombies: ExitStack
) -> None:
    template = sink_of(topic, guarantee="at-least-once", retry_timeout="200ms")
    job = submitted(template, tmp_path, zombies)
    template.settings = ClientSettings("127.0.0.1:1", {}, {})
    sink = job.open(0)
    sink.write(Batch([1]))

    with pytest.raises(StoreUnavailable, match="1 records have not been written"):
        sink.prepare(ONE)
