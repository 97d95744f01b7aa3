"""Payments from Kafka, added up in windows of event time, in a table of PostgreSQL.

The job (``flowsnap run payments.py:pipeline``), what writes its input while it runs, and an
independent computation of what the table must hold: each row once, so a row that came twice, or a
payment that was counted twice, shows.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from threading import Event, Thread
from typing import Any

from flowsnap import Pipeline, bounded
from flowsnap.connectors.kafka import KafkaSource
from flowsnap.connectors.postgres import Postgres
from flowsnap.operators.window import Count, Sum, Tumbling

USERS = 20
PARTITIONS = 4
WINDOW_MS = 250
DISORDER_MS = 500
BEGIN_MS = 1_700_000_000_000
PER_SECOND = 500
COLUMNS = {
    "account": "text", "start_ms": "bigint", "n": "bigint", "amount": "bigint", "ids": "bigint",
}  # fmt: skip

Row = tuple[str, int, int, int, int]


# --- the job --------------------------------------------------------------------------------------


def time_of(payment: dict[str, Any]) -> int:
    at_ms: int = payment["at_ms"]
    return at_ms


def row_of(window: Any) -> Row:
    return window.key, window.start, window.n, window.amount, window.ids


def pipeline(servers: str, topic: str, dsn: str) -> Pipeline:
    job = Pipeline("payments")
    watermark = bounded(f"{DISORDER_MS}ms", timestamp=time_of)
    payments = job.source(
        KafkaSource(servers, topic, format="json"), watermark=watermark, name="payments"
    )
    windows = payments.key_by("account", name="by-account").window(Tumbling(f"{WINDOW_MS}ms"))
    totals = windows.aggregate(n=Count(), amount=Sum("amount"), ids=Sum("id"), name="totals")
    totals.map(row_of, name="rows").sink(Postgres(dsn, "totals", columns=COLUMNS), name="out")
    return job


# --- its input ------------------------------------------------------------------------------------


class Payments(Thread):
    """Writes payments into a topic until it is told to stop; ``written`` are those that are there.

    Their times grow by ``1000 / PER_SECOND`` ms on average and are at most ``DISORDER_MS`` out of
    order, so none is late. An account's payments are in one partition.
    """

    def __init__(self, servers: str, topic: str, seed: int) -> None:
        super().__init__(name="payments", daemon=True)
        from confluent_kafka import Producer

        self._producer = Producer({"bootstrap.servers": servers, "enable.idempotence": True})
        self._topic = topic
        self._chance = random.Random(f"payments/{seed}")
        self._is_over = Event()
        self.written: list[dict[str, Any]] = []
        self.lost: list[str] = []

    def run(self) -> None:
        begin_s, made = time.monotonic(), 0
        while not self._is_over.wait(0.02):
            due = int((time.monotonic() - begin_s) * PER_SECOND)
            for number in range(made, due):
                self._write(self._payment(number))
            made = max(made, due)
            self._producer.poll(0)

    def stop(self) -> None:
        """End it, and wait until the broker has all."""
        self._is_over.set()
        self.join()
        assert self._producer.flush(30) == 0
        assert self.lost == []

    def write_ends(self) -> None:
        """Write one last payment into each partition, which closes all windows before it."""
        newest_ms = max(payment["at_ms"] for payment in self.written)
        for partition in range(PARTITIONS):
            end = {"id": partition, "account": f"end-{partition}", "amount": 0}
            self._write({**end, "at_ms": newest_ms + 10 * DISORDER_MS}, partition)
        assert self._producer.flush(30) == 0
        assert self.lost == []

    def _payment(self, number: int) -> dict[str, Any]:
        chance = self._chance
        at_ms = BEGIN_MS + number * 1000 // PER_SECOND + chance.randrange(DISORDER_MS)
        account = f"account-{chance.randrange(USERS)}"
        return {"id": number, "account": account, "at_ms": at_ms, "amount": chance.randrange(1_000)}

    def _write(self, payment: dict[str, Any], partition: int | None = None) -> None:
        def told(error: object, _: object) -> None:
            if error is not None:
                self.lost.append(str(error))
            else:
                self.written.append(payment)

        if partition is None:
            partition = int(payment["account"].rpartition("-")[2]) % PARTITIONS
        self._producer.produce(
            self._topic, json.dumps(payment), partition=partition, on_delivery=told
        )


# --- what must come of it -------------------------------------------------------------------------


def expected(written: Sequence[dict[str, Any]]) -> Counter[Row]:
    """Return the rows of the table, computed from the payments alone."""
    windows: dict[tuple[str, int], list[int]] = {}
    for payment in written:
        start_ms = payment["at_ms"] // WINDOW_MS * WINDOW_MS
        sums = windows.setdefault((payment["account"], start_ms), [0, 0, 0])
        sums[0] += 1
        sums[1] += payment["amount"]
        sums[2] += payment["id"]
    return Counter((*window, *sums) for window, (*sums,) in windows.items())  # type: ignore[misc]
