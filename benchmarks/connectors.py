"""How much of a bare client's speed is left in a connector?

One subtask, without the engine. A source is read to its end; a sink is given all records in batches
of 1,024, with a checkpoint after each tenth of them, and commits as the engine has it do: while the
next records come. The bare client does the same by hand: it reads lines and decodes them, or writes
each tenth in one transaction. Records are tuples of an integer, a float and two short strings.
``by hand, binary`` is what COPY can do where the type of every column and value is known before.

``epoch of ...`` tells how long it takes until a checkpoint with an epoch of that size is durable,
the epoch in the manifest or in a file beside it; the limit between them (``inline_bytes``) is from
there.
"""

from __future__ import annotations

import csv
import gc
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg.rows import dict_row

from benchmarks.harness import Row, per_second, rounds
from flowsnap.connectors import (
    CsvFiles,
    JsonLinesFiles,
    ParquetFiles,
    Postgres,
    PostgresTable,
    SQLite,
    TextFiles,
)
from flowsnap.connectors.epoch_stage import EpochStage
from flowsnap.core.element import Batch
from flowsnap.core.graph import JobGraph
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId, TaskId
from flowsnap.core.manifest import CheckpointManifest, PreparedOutput, TaskSnapshot, encode
from flowsnap.core.operator import Sink, SinkContext, Source, Submission
from tests.servers.postgres import HOW_TO_GET_IT, Server, programs

RECORDS, RECORDS_QUICK = 300_000, 30_000
BATCH_RECORDS = 1_024
READ_RECORDS = 4_096  # as the engine asks for
EPOCHS = 10
EPOCH_KB = (4, 16, 64, 256, 1_024)
POLL_S, PAUSE = 0.002, Event()
COLUMNS = {"id": "bigint", "amount": "double precision", "name": "text", "city": "text"}
TABLE = f"({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})"
SINK = OperatorId("out")

Case = Callable[[], float]
Prepare = Callable[[], Callable[[], None]]


def run(quick: bool) -> list[Row]:
    """Compare every connector with the bare client."""
    with tempfile.TemporaryDirectory(prefix="flowsnap-bench-") as name:
        bench = Bench(Path(name), RECORDS_QUICK if quick else RECORDS, 1 if quick else 5)
        # What the benchmark itself holds is not to be searched for garbage while it measures.
        gc.collect()
        gc.freeze()
        try:
            return bench.files() + bench.sqlite() + bench.postgres() + bench.epochs()
        finally:
            gc.unfreeze()


class Bench:
    """The records, a directory for what is made of them, and how often to measure."""

    def __init__(self, directory: Path, records: int, n: int) -> None:
        self.directory = directory
        self.count = records
        self.n = n
        self.values = [(n, n / 7, f"customer {n % 1000}", f"city {n % 97}") for n in range(records)]
        share = -(-records // EPOCHS)
        self.shares = [self.values[start : start + share] for start in range(0, records, share)]
        self.lives = 0

    def files(self) -> list[Row]:
        """Measure lines and JSON values, read and written."""
        path = self.directory / "in.jsonl"
        path.write_bytes(msgspec.json.Encoder().encode_lines(self.values))
        text, values = partial(_read_text, path), partial(_read_json, path)
        return [
            *self._compare("text files, read", text, partial(_drain, TextFiles(path))),
            *self._compare("JSON lines, read", values, partial(_drain, JsonLinesFiles(path))),
            *self._compare("JSON lines, written", self._write_lines, self._into_lines),
            *self._csv_and_parquet(),
        ]

    def _csv_and_parquet(self) -> list[Row]:
        names, rows = list(COLUMNS), [dict(zip(COLUMNS, one, strict=True)) for one in self.values]
        csv_path, parquet_path = self.directory / "in.csv", self.directory / "in.parquet"
        with open(csv_path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([names, *self.values])
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, parquet_path)
        into_csv = partial(self._into_files, CsvFiles, columns=names)
        into_parquet = partial(self._into_files, ParquetFiles, schema=table.schema)
        by_hand = partial(_read_parquet, parquet_path)
        return [
            *self._compare(
                "CSV, read", partial(_read_csv, csv_path), partial(_drain, CsvFiles(csv_path))
            ),
            *self._compare("CSV, written", self._write_csv, into_csv),
            *self._compare("Parquet, read", by_hand, partial(_drain, ParquetFiles(parquet_path))),
            *self._compare("Parquet, written", partial(self._write_parquet, table), into_parquet),
        ]

    def sqlite(self) -> list[Row]:
        """Measure rows added to a table of SQLite."""
        return self._compare("SQLite, rows added", self._insert, self._into_sqlite)

    def postgres(self) -> list[Row]:
        """Measure rows added to a table of PostgreSQL, and replaced by key, on a server of ours."""
        place = programs()
        if place is None:
            return [Row(case="PostgreSQL", value=0, note=HOW_TO_GET_IT)]
        directory = Path(tempfile.mkdtemp(prefix="flowsnap-pg-"))
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, directory)
            server = Server(place, directory)
            server.start()
            stack.callback(server.stop)
            dsn = server.new_schema()
            added = self._compare(
                "PostgreSQL, rows added",
                partial(self._copy, dsn, is_keyed=False),
                partial(self._into_postgres, dsn, is_keyed=False),
                binary=partial(self._copy, dsn, is_keyed=False, is_binary=True),
            )
            replaced = self._compare(
                "PostgreSQL, rows by key",
                partial(self._copy, dsn, is_keyed=True),
                partial(self._into_postgres, dsn, is_keyed=True),
            )
            return added + replaced + self._read_table(dsn)

    def _read_table(self, dsn: str) -> list[Row]:
        with psycopg.connect(dsn) as db:
            db.execute("create unique index on bare (id)")
        source = partial(PostgresTable, dsn, "bare", by="id", bounded=True, poll_interval="0s")
        return self._compare(
            "PostgreSQL, rows read", partial(_select, dsn), lambda: _drain(source())
        )

    def epochs(self) -> list[Row]:
        """Measure how long a checkpoint takes that holds an epoch, by its size and place."""
        cases: dict[str, Case] = {}
        for size_kb in EPOCH_KB:
            for place, inline_bytes in (("manifest", 2**40), ("file", 0)):
                case = partial(self._keep, size_kb * 1024, inline_bytes)
                cases[f"epoch of {size_kb} KB, {place}"] = case
        return rounds(4 * self.n + 1, cases).rows("ms", is_lower_better=True)

    def _compare(self, title: str, bare: Prepare, ours: Prepare, **others: Prepare) -> list[Row]:
        """Compare the connector with what is written by hand, which may be done in other ways."""
        hand = f"{title}: by hand"
        sides = {
            hand: bare,
            **{f"{hand}, {how}": other for how, other in others.items()},
            f"{title}: connector": ours,
        }
        cases = {name: partial(self._measured, prepare) for name, prepare in sides.items()}
        return rounds(self.n, cases).rows(baseline=hand)

    def _measured(self, prepare: Prepare) -> float:
        return per_second(self.count, prepare())

    # --- by hand: each prepares, and returns what is measured -----------------------------------

    def _write_lines(self) -> Callable[[], None]:
        encode = msgspec.json.Encoder().encode

        def work() -> None:
            for number, share in enumerate(self.shares):
                with open(self.directory / f"bare-{number}.jsonl", "wb") as file:
                    for value in share:
                        file.write(encode(value) + b"\n")
                    file.flush()
                    os.fsync(file.fileno())

        return work

    def _write_csv(self) -> Callable[[], None]:
        def work() -> None:
            for number, share in enumerate(self.shares):
                path = self.directory / f"bare-{number}.csv"
                with open(path, "w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerows(share)
                    file.flush()
                    os.fsync(file.fileno())

        return work

    def _write_parquet(self, table: pa.Table) -> Callable[[], None]:
        def work() -> None:
            for number, share in enumerate(self.shares):
                columns = map(pa.array, zip(*share, strict=True))
                part = pa.Table.from_arrays(list(columns), names=table.schema.names)
                with open(self.directory / f"bare-{number}.parquet", "wb") as file:
                    pq.write_table(part, file, compression="zstd")
                    file.flush()
                    os.fsync(file.fileno())

        return work

    def _insert(self) -> Callable[[], None]:
        path = self.directory / "bare.db"
        path.unlink(missing_ok=True)

        def work() -> None:
            with closing(sqlite3.connect(path)) as db:
                db.execute(f"create table t {TABLE}")
                for share in self.shares:
                    with db:
                        db.executemany("insert into t values (?, ?, ?, ?)", share)

        return work

    def _copy(self, dsn: str, *, is_keyed: bool, is_binary: bool = False) -> Callable[[], None]:
        with psycopg.connect(dsn) as db:
            db.execute("drop table if exists bare")
            db.execute(f"create table bare {TABLE}".encode())
            if is_keyed:
                db.execute("alter table bare add primary key (id)")

        def work() -> None:
            target = "stage" if is_keyed else "bare"
            with psycopg.connect(dsn, autocommit=True) as db:
                if is_keyed:
                    db.execute("create temp table stage (like bare) on commit delete rows")
                for share in self.shares:
                    with db.transaction():
                        _copy_rows(db, target, share, is_binary=is_binary)
                        if is_keyed:
                            db.execute(_MERGE)

        return work

    # --- connectors -----------------------------------------------------------------------------

    def _into_lines(self) -> Callable[[], None]:
        return self._into(JsonLinesFiles(self.directory / f"out-{self.lives}"))

    def _into_files(self, class_: Callable[..., Sink], **settings: Any) -> Callable[[], None]:
        return self._into(class_(self.directory / f"out-{self.lives}", **settings))

    def _into_sqlite(self) -> Callable[[], None]:
        path = self.directory / "out.db"
        path.unlink(missing_ok=True)
        return self._into(SQLite(path, "t", columns=COLUMNS))

    def _into_postgres(self, dsn: str, *, is_keyed: bool) -> Callable[[], None]:
        key = "id" if is_keyed else None
        with psycopg.connect(dsn) as db:
            db.execute("drop table if exists t")
        return self._into(Postgres(dsn, "t", columns=COLUMNS, key=key))

    def _into(self, sink: Sink) -> Callable[[], None]:
        self.lives += 1
        run_id = f"r{self.lives}"
        sink.on_submit(
            Submission(
                job="bench",
                run_id=run_id,
                operator=SINK,
                job_directory=str(self.directory / "job"),
                is_fresh=True,
            )
        )
        sink.open(
            SinkContext(
                job="bench",
                run_id=run_id,
                operator=SINK,
                subtask=0,
                parallelism=1,
                attempt=AttemptId(1),
            )
        )
        sink.recover([])
        return lambda: _write_epochs(sink, self.shares)

    def _keep(self, size_bytes: int, inline_bytes: int) -> float:
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        stage = EpochStage(str(directory), _context(), inline_bytes)
        data = os.urandom(size_bytes - 64)
        started_s = time.perf_counter()
        stage.append(data, 1)
        sent = msgspec.msgpack.decode(msgspec.msgpack.encode(stage.seal()))
        with open(directory / "manifest.json", "wb") as file:
            file.write(encode(_manifest(sent)))
            file.flush()
            os.fsync(file.fileno())
        return (time.perf_counter() - started_s) * 1000


_MERGE = """
    insert into bare select * from stage on conflict (id) do update set amount = excluded.amount,
    name = excluded.name, city = excluded.city
"""


def _copy_rows(
    db: psycopg.Connection[Any], table: str, rows: list[Any], *, is_binary: bool
) -> None:
    form = " (format binary)" if is_binary else ""
    with db.cursor() as cursor, cursor.copy(f"copy {table} from stdin{form}".encode()) as copy:
        if is_binary:
            copy.set_types(["int8", "float8", "text", "text"])
        for row in rows:
            copy.write_row(row)


def _read_text(path: Path) -> Callable[[], None]:
    def work() -> None:
        with open(path, encoding="utf-8") as file:
            for line in file:
                line.rstrip("\n")

    return work


def _read_json(path: Path) -> Callable[[], None]:
    decode = msgspec.json.Decoder().decode

    def work() -> None:
        with open(path, "rb") as file:
            for line in file:
                decode(line)

    return work


def _read_csv(path: Path) -> Callable[[], None]:
    def work() -> None:
        with open(path, newline="", encoding="utf-8") as file:
            for _ in csv.DictReader(file):
                pass

    return work


def _read_parquet(path: Path) -> Callable[[], None]:
    def work() -> None:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(READ_RECORDS):
                batch.to_pylist()

    return work


def _select(dsn: str) -> Callable[[], None]:
    def work() -> None:
        with psycopg.connect(dsn) as db, db.cursor("rows", row_factory=dict_row) as cursor:
            cursor.execute("select * from bare order by id")
            while cursor.fetchmany(READ_RECORDS):
                pass

    return work


def _drain(source: Source) -> Callable[[], None]:
    def work() -> None:
        for split in source.splits(1):
            with closing(source.open_split(split, None)) as reader:
                while (batch := reader.read(READ_RECORDS)) is not None:
                    if not batch.values:
                        PAUSE.wait(reader.wait_ms() / 1000)

    return work


def _write_epochs(sink: Sink, shares: list[list[Any]]) -> None:
    """Write each share and take a checkpoint; what is complete is committed meanwhile."""
    pending: list[Any] = []
    with closing(sink):
        for number, share in enumerate(shares, 1):
            for start in range(0, len(share), BATCH_RECORDS):
                if pending and sink.commit(pending) is not False:
                    pending = []
                sink.write(Batch(share[start : start + BATCH_RECORDS]))
            prepared = sink.prepare(CheckpointId(number))
            _finish(sink, pending)
            pending = [prepared]
        _finish(sink, pending)


def _finish(sink: Sink, pending: list[Any]) -> None:
    while pending and sink.commit(pending) is False:
        PAUSE.wait(POLL_S)


def _context() -> SinkContext:
    return SinkContext(
        job="bench", run_id="r", operator=SINK, subtask=0, parallelism=1, attempt=AttemptId(1)
    )


def _manifest(committable: Any) -> CheckpointManifest:
    prepared = (PreparedOutput(CheckpointId(1), committable),)
    return CheckpointManifest(
        job="bench",
        run_id="r",
        checkpoint_id=CheckpointId(1),
        attempt=AttemptId(1),
        graph=JobGraph("bench", (), ()),
        tasks=(TaskSnapshot(TaskId("out/0"), (SINK,), 0, prepared=prepared),),
        triggered_at_ms=0,
        duration_ms=0,
        versions={},
    )
