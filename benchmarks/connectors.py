"""How much of a bare client's speed is left in a connector?

One subtask, without the engine: a source is read to its end; a sink is given all records in batches
of 1,024, then prepares and commits them as one epoch. The bare client does the same by hand: it
reads lines and decodes them, or inserts the same rows in one transaction. Records are tuples of an
integer, a float and two short strings, or their JSON.

``epoch`` tells what becomes of an epoch in the manifest and in a file of the job directory: the
time until it is durable, for the limit between the two.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event
from typing import Any

import msgspec

from benchmarks.harness import Row, per_second, rounds
from flowsnap.connectors import JsonLinesFiles, TextFiles
from flowsnap.connectors.sqlite import SQLite
from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.core.manifest import CheckpointManifest, PreparedOutput, TaskSnapshot, encode
from flowsnap.core.graph import JobGraph
from flowsnap.core.ids import TaskId
from flowsnap.core.operator import Sink, SinkContext, Source, Submission

RECORDS, RECORDS_QUICK = 300_000, 30_000
BATCH_RECORDS = 1_024
EPOCHS = 10
POLL_S, PAUSE = 0.002, Event()
COLUMNS = {"id": "bigint", "amount": "double precision", "name": "text", "city": "text"}
NAMES = ", ".join(COLUMNS)

Case = Callable[[], float]


def run(quick: bool) -> list[Row]:
    """Compare every connector with the bare client."""
    records = RECORDS_QUICK if quick else RECORDS
    n = 1 if quick else 5
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flowsnap-")))
        bench = Bench(directory, records)
        rows = bench.files(n) + bench.sqlite(n) + bench.postgres(n) + bench.epochs(n)
    return rows


class Bench:
    """The records, and a directory for what is made of them."""

    def __init__(self, directory: Path, records: int) -> None:
        self.directory = directory
        self.count = records
        self.values = [
            (n, n / 7, f"customer {n % 1000}", f"city {n % 97}") for n in range(records)
        ]
        self._lives = 0

    # --- cases --------------------------------------------------------------------------------

    def files(self, n: int) -> list[Row]:
        """Lines and JSON values, read and written."""
        path = self.directory / "in.jsonl"
        path.write_bytes(msgspec.json.Encoder().encode_lines(self.values))
        cases: list[tuple[str, Case, Case]] = [
            ("text files, read", lambda: self._lines(path), lambda: self._read(TextFiles(path))),
            (
                "JSON lines, read",
                lambda: self._json_lines(path),
                lambda: self._read(JsonLinesFiles(path)),
            ),
            ("JSON lines, written", self._write_lines, lambda: self._write(self._jsonl())),
        ]
        return [row for case in cases for row in _compare(n, *case)]

    def sqlite(self, n: int) -> list[Row]:
        """A table of SQLite, by adding rows."""
        return _compare(
            n, "SQLite, written", self._insert, lambda: self._write(self._sqlite())
        )

    def postgres(self, n: int) -> list[Row]:
        """A table of PostgreSQL, by adding rows and by key, where a server can be started."""
        return []

    def epochs(self, n: int) -> list[Row]:
        """What it costs to keep epochs of several sizes, in the manifest and beside it."""
        return []

    def _shares(self) -> list[list[Any]]:
        share = -(-self.count // EPOCHS)
        return [self.values[start : start + share] for start in range(0, self.count, share)]

    # --- bare clients -------------------------------------------------------------------------

    def _lines(self, path: Path) -> float:
        def work() -> None:
            with open(path, encoding="utf-8") as file:
                while batch := [line.rstrip("\n") for _, line in zip(range(BATCH_RECORDS), file)]:
                    assert batch

        return per_second(self.count, work)

    def _json_lines(self, path: Path) -> float:
        def work() -> None:
            with open(path, "rb") as file:
                while batch := [json.loads(line) for _, line in zip(range(BATCH_RECORDS), file)]:
                    assert batch

        return per_second(self.count, work)

    def _write_lines(self) -> float:
        def work() -> None:
            with open(self.directory / "bare.jsonl", "w", encoding="utf-8") as file:
                for value in self.values:
                    file.write(json.dumps(value) + "\n")
                file.flush()
                os.fsync(file.fileno())

        return per_second(self.count, work)

    def _insert(self) -> float:
        path = self.directory / "bare.db"
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"create table t ({', '.join(map(' '.join, COLUMNS.items()))})")
            db.commit()

            def work() -> None:
                for epoch in self._shares():
                    with db:
                        db.executemany("insert into t values (?, ?, ?, ?)", epoch)

            return per_second(self.count, work)

    # --- connectors ---------------------------------------------------------------------------

    def _jsonl(self) -> Sink:
        return JsonLinesFiles(self.directory / f"out-{self._lives}")

    def _sqlite(self) -> Sink:
        path = self.directory / "out.db"
        path.unlink(missing_ok=True)
        return SQLite(path, "t", columns=COLUMNS)

    def _read(self, source: Source) -> float:
        def work() -> None:
            for split in source.splits(1):
                with closing(source.open_split(split, None)) as reader:
                    while reader.read(BATCH_RECORDS) is not None:
                        pass

        return per_second(self.count, work)

    def _write(self, sink: Sink) -> float:
        self._lives += 1
        place = dict(job="bench", run_id=f"r{self._lives}", operator=OperatorId("out"))
        sink.on_submit(
            Submission(**place, job_directory=str(self.directory / "job"), is_fresh=True)
        )
        sink.open(SinkContext(**place, subtask=0, parallelism=1, attempt=AttemptId(1)))
        with closing(sink):
            sink.recover([])

            return per_second(self.count, lambda: _run_epochs(sink, self.values))


def _run_epochs(sink: Sink, values: list[Any]) -> None:
    """Write all values, a checkpoint after each share of them; commit as the engine does it."""
    share = -(-len(values) // EPOCHS)
    pending: list[Any] = []
    for number in range(EPOCHS):
        epoch = values[number * share : (number + 1) * share]
        for start in range(0, len(epoch), BATCH_RECORDS):
            if pending and sink.commit(pending) is not False:
                pending = []
            sink.write(Batch(epoch[start : start + BATCH_RECORDS]))
        while pending and sink.commit(pending) is False:
            PAUSE.wait(POLL_S)
        committable = sink.prepare(CheckpointId(number + 1))
        pending = [committable]
    while sink.commit(pending) is False:
        PAUSE.wait(POLL_S)


def _compare(n: int, title: str, bare: Case, connector: Case) -> list[Row]:
    hand = f"{title}: by hand"
    return rounds(n, {hand: bare, f"{title}: connector": connector}).rows(baseline=hand)
