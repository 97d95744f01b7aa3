"""Whole jobs from Kafka to Kafka, on worker processes that are killed: each record counts once."""

from __future__ import annotations

import json
import os
import signal
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("confluent_kafka", reason="pip install 'flowsnap[kafka]'")

from confluent_kafka import Consumer, TopicPartition

from flowsnap import Pipeline
from flowsnap.connectors.kafka import Json, KafkaSink, KafkaSource
from flowsnap.runtime.job import JobHandle
from tests.acceptance.processes import until
from tests.servers.kafka.broker import Broker, BrokerProcess, broker, skip_without_tools

pytestmark = pytest.mark.slow

KEYS = 7


@dataclass
class Counting:
    """A job that counts the numbers of a topic by key; every update is a record of the output."""

    state: Path
    input: str
    output: str
    broker: Broker
    written: int = 0

    def write(self, count: int, partition: int = 0) -> None:
        """Write the next numbers into a partition."""
        values: list[bytes | None] = [b"%d" % (self.written + n) for n in range(count)]
        self.broker.write(self.input, values, partition)
        self.written += count

    def start(self, workers: int = 2) -> JobHandle:
        """Start the job, or go on with it."""
        servers = self.broker.servers
        source = KafkaSource(
            servers, self.input, format=Json(int), discover_every="50ms", group=self.output
        )
        sink = KafkaSink(
            servers, self.output, key=key_of_pair, marker_topic=f"{self.output}-m",
            transaction_prefix=self.output,
        )  # fmt: skip
        pipeline = Pipeline("counting")
        numbers = pipeline.source(source, name="numbers")
        numbers.key_by(key_of, name="by-key").count(name="counts").sink(sink, name="out")
        return pipeline.start(workers=workers, state_dir=self.state, checkpoint_interval="100ms")

    def found(self) -> dict[int, list[int]]:
        """Return the updates of each key that are committed."""
        updates: dict[int, list[int]] = defaultdict(list)
        for message in self.broker.read(self.output):
            key, count = json.loads(message.value())
            updates[key].append(count)
        return updates

    def await_all(self, job: JobHandle) -> None:
        """Wait until as many updates are there as there were records, or the job has ended."""
        until(lambda: job.is_done or self.total() >= self.written, "all updates")

    def total(self) -> int:
        return sum(map(len, self.found().values()))

    def check(self) -> None:
        """Check that each key has the updates 1 to n, each once and in order."""
        expected: dict[int, int] = defaultdict(int)
        for number in range(self.written):
            expected[number % KEYS] += 1
        assert self.found() == {key: list(range(1, n + 1)) for key, n in expected.items()}


def key_of(number: int) -> int:
    return number % KEYS


def key_of_pair(pair: tuple[int, int]) -> str:
    return str(pair[0])


@pytest.fixture
def counting(tmp_path: Path) -> Counting:
    shared = broker()
    return Counting(tmp_path / "state", shared.topic(3), shared.topic(2), shared)


def test_worker_that_is_killed_between_checkpoints_loses_and_doubles_nothing(
    counting: Counting,
) -> None:
    for partition in range(3):
        counting.write(500, partition)
    job = counting.start()
    until(lambda: counting.total() > 0, "output")

    for worker in (0, 1):
        os.kill(job.worker_pids()[worker], signal.SIGKILL)
        counting.write(500, worker)
        counting.await_all(job)

    job.stop()
    assert str(job.wait(60).state) == "stopped"
    counting.check()


def test_job_goes_on_with_another_parallelism_where_it_was_stopped(counting: Counting) -> None:
    for partition, workers in enumerate((2, 3, 0)):
        counting.write(300, partition)
        job = counting.start(workers)
        counting.await_all(job)
        job.stop()
        job.wait(60)

    counting.check()


def test_partitions_found_while_it_runs_are_read_once_over_kills_and_restarts(
    counting: Counting,
) -> None:
    counting.write(100, 0)
    job = counting.start()
    until(lambda: counting.total() > 0, "output")
    counting.broker.grow(counting.input, 6)
    for partition in (3, 4, 5):
        counting.write(200, partition)
    os.kill(job.worker_pids()[0], signal.SIGKILL)
    counting.await_all(job)
    job.stop()
    job.wait(60)

    counting.write(100, 5)
    again = counting.start(1)
    counting.await_all(again)
    again.stop()
    again.wait(60)

    counting.check()


def test_all_that_is_killed_at_once_is_resumed_from_positions_and_epochs(
    counting: Counting,
) -> None:
    counting.write(1000, 1)
    job = counting.start()
    until(lambda: counting.total() > 0, "output")
    job.cancel()
    job.wait(60)
    counting.write(200, 2)

    again = counting.start()
    counting.await_all(again)
    again.stop()
    again.wait(60)

    counting.check()


def test_group_hears_of_complete_checkpoints_how_far_the_job_has_come(counting: Counting) -> None:
    for partition in range(3):
        counting.write(100, partition)
    config = {"bootstrap.servers": counting.broker.servers, "group.id": counting.output}
    wanted = [TopicPartition(counting.input, partition) for partition in range(3)]
    job = counting.start(0)
    with closing(Consumer(config)) as group:
        until(
            lambda: [one.offset for one in group.committed(wanted, timeout=30)] == [100] * 3,
            "the group to be told",
        )
    job.stop()
    job.wait(60)


@pytest.mark.slow(seconds=35)
@pytest.mark.timeout(300)  # The broker takes its time to start, three times.
def test_broker_that_is_killed_and_comes_back_costs_no_record_and_doubles_none(
    tmp_path: Path,
) -> None:
    skip_without_tools()
    (tmp_path / "kafka").mkdir()
    with closing(BrokerProcess(tmp_path / "kafka")) as process:
        own = Broker(process.address)
        counting = Counting(tmp_path / "state", own.topic(3), own.topic(2), own)
        own.close()  # before the broker is away
        counting.write(2_000, 0)
        job = counting.start(0)
        until(lambda: counting.total() > 0, "output")
        process.kill()
        process.start()
        counting.write(2_000, 1)
        counting.await_all(job)
        job.stop()
        job.wait(60)

        counting.check()
