"""From Kafka by event-time windows to PostgreSQL, on real servers, under kill -9: exactly once.

``FLOWSNAP_KILL_S`` says for how many seconds there are kills (40), ``FLOWSNAP_KILL_SEED`` which
(0).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import NamedTuple

import pytest

pytest.importorskip("confluent_kafka", reason="pip install 'flowsnap[kafka]'")
pytest.importorskip("psycopg", reason="pip install 'flowsnap[postgres]'")

import psycopg

from tests.acceptance.processes import children, orphans, until
from tests.connectors import payments
from tests.connectors.payments import Payments, Row, expected
from tests.integration.jobs import checkpoints, doubled_and_lost
from tests.servers.kafka.broker import broker
from tests.servers.postgres import Server

SECONDS = int(os.environ.get("FLOWSNAP_KILL_S", "40"))
SEED = int(os.environ.get("FLOWSNAP_KILL_SEED", "0"))
VICTIMS = ("a worker", "the other worker", "both workers", "the job manager", "all")
DEATHS_MIN = max(len(VICTIMS), SECONDS // 6)
PAUSE_S_MAX = 1.5
MARK = "FLOWSNAP_END_TO_END"
_TURN = Event()  # never set: waiting for it is how the time between two kills passes

Told = Callable[[str, object], None]


class Strike(NamedTuple):
    """Who is killed: so many checkpoints and seconds after both workers are there."""

    victim: str
    checkpoints: int
    pause_s: float


def strikes(seed: int) -> Iterator[Strike]:
    """Yield what is killed and when, without end; each victim once in every five."""
    chance = random.Random(f"strikes/{seed}")
    while True:
        for victim in chance.sample(VICTIMS, len(VICTIMS)):
            yield Strike(victim, chance.choice([0, 1, 1]), chance.uniform(0, PAUSE_S_MAX))


class Job:
    """The job on two workers, below a command that is run again when it is killed."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.state = directory / "state"
        self.log = directory / "log"
        self._mark = str(directory)
        self._command = [
            *(sys.executable, "-m", "flowsnap.cli.main", "run", f"{payments.__file__}:pipeline"),
            *(word for argument in arguments for word in ("--arg", argument)),
            *("--state-dir", str(self.state), "--workers", "2", "--checkpoint-interval", "200ms"),
            *("--set", "restart=fixed", "--set", "restart.delay=20ms"),
            *("--set", "restart.attempts_max=1000"),
        ]
        self.start()

    def start(self) -> None:
        environment = {**os.environ, MARK: self._mark}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self._command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def is_ready(self, newest: int) -> bool:
        """Whether both workers are there, and a checkpoint."""
        assert self.process.poll() is None, f"the job has ended: {self.log.read_text()[-3000:]}"
        workers = children(self.process.pid)
        return len(workers) == 2 and max(checkpoints(self.state), default=0) >= newest

    def strike(self, strike: Strike) -> int:
        """Kill whom the strike is for, when it is time; return how many processes that were."""
        newest = max(checkpoints(self.state), default=0) + strike.checkpoints
        until(partial(self.is_ready, newest), f"what is to be struck: {strike}")
        _TURN.wait(strike.pause_s)
        manager, workers = self.process.pid, children(self.process.pid)
        targets = {
            "a worker": workers[:1],
            "the other worker": workers[1:],
            "both workers": workers,
            "the job manager": [manager],
            "all": [*workers, manager],
        }
        struck = self._kill(targets[strike.victim])
        if strike.victim in {"the job manager", "all"}:
            self.process.wait()
            until(lambda: not orphans(f"{MARK}={self._mark}"), "the workers to follow their parent")
            self.start()
        return struck

    def drain(self) -> None:
        """End the input of the job, and wait until it has finished."""
        command = [sys.executable, "-m", "flowsnap.cli.main", "stop", "--drain"]
        subprocess.run([*command, "--state-dir", str(self.state)], check=True, timeout=60)
        assert self.process.wait(60) == 0

    def close(self) -> None:
        self._kill([self.process.pid, *orphans(f"{MARK}={self._mark}")])
        self.process.wait()

    def _kill(self, pids: list[int]) -> int:
        struck = 0
        for pid in pids:
            with suppress(ProcessLookupError):  # Another one's death has ended it already.
                os.kill(pid, signal.SIGKILL)
                struck += 1
        return struck


class Table:
    """What a reader of the table sees."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def rows(self) -> Counter[Row]:
        with psycopg.connect(self._dsn) as db:
            if db.execute("select to_regclass('totals')").fetchone() == (None,):
                return Counter()
            return Counter(db.execute(f"select {', '.join(payments.COLUMNS)} from totals"))

    def payments(self) -> int:
        """Return how many payments the rows were made of."""
        return sum(row[2] * times for row, times in self.rows().items())


class Scene(NamedTuple):
    """All that takes part."""

    job: Job
    input: Payments
    table: Table


@pytest.fixture
def scene(tmp_path: Path, postgres: Server) -> Iterator[Scene]:
    servers, dsn = broker().servers, postgres.new_schema()
    topic = broker().topic(payments.PARTITIONS)
    source = Payments(servers, topic, SEED)
    job = Job(tmp_path, f"servers={servers}", f"topic={topic}", f"dsn={dsn}")
    source.start()
    try:
        yield Scene(job, source, Table(dsn))
    finally:
        job.close()
        source.stop()


@pytest.mark.slow(seconds=SECONDS)
@pytest.mark.timeout(3 * SECONDS + 240)  # A machine may be slow to recover; kills stop in time.
def test_kills_from_kafka_to_postgres_lose_and_double_no_payment(
    scene: Scene, record_property: Told
) -> None:
    struck = strike_for(SECONDS, scene)
    seen = scene.table.payments()
    scene.input.stop()
    before = len(scene.input.written)
    scene.input.write_ends()
    until(lambda: scene.table.payments() >= before, "all payments to be in the table")
    scene.job.drain()

    rows = scene.table.rows()
    assert doubled_and_lost(rows, expected(scene.input.written)) == ({}, {})
    assert struck.keys() == set(VICTIMS)
    assert struck.total() >= DEATHS_MIN
    assert seen > 0, "nothing was in the table when the kills were over"
    record_property("crashes", struck.total())


def strike_for(seconds: float, scene: Scene) -> Counter[str]:
    """Strike until the time is over and there were enough; return how many died of each victim."""
    print(f"FLOWSNAP_KILL_SEED={SEED}, {seconds} s")
    begin_s, struck = time.monotonic(), Counter[str]()
    for strike in strikes(SEED):
        passed_s = time.monotonic() - begin_s
        if passed_s >= seconds and struck.total() >= DEATHS_MIN and len(struck) == len(VICTIMS):
            break
        died = scene.job.strike(strike)
        print(f"after {passed_s:.1f} s: {strike}, {died} processes")
        if died:
            struck[strike.victim] += died
    return struck


def test_strikes_are_the_same_for_a_seed_and_strike_each_victim_once_in_five() -> None:
    first, second = strikes(7), strikes(7)
    taken = [next(first) for _ in range(10)]

    assert taken == [next(second) for _ in range(10)]
    assert sorted(strike.victim for strike in taken[5:]) == sorted(VICTIMS)
    assert [next(strikes(8)) for _ in range(10)] != taken


def test_rows_that_are_expected_tell_a_payment_that_is_counted_twice() -> None:
    one = {"id": 3, "account": "account-1", "at_ms": 1_010, "amount": 20}
    other = {"id": 4, "account": "account-1", "at_ms": 1_249, "amount": 5}
    later = {"id": 5, "account": "account-1", "at_ms": 1_250, "amount": 7}

    assert expected([one, other, later]) == Counter(
        {("account-1", 1_000, 2, 25, 7): 1, ("account-1", 1_250, 1, 7, 5): 1}
    )
    assert expected([one, one]) == Counter({("account-1", 1_000, 2, 40, 6): 1})
