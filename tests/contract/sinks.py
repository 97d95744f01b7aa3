"""A job of one sink, driven as the engine does it, and the sinks that the contract is tried on."""

from __future__ import annotations

import copy
import gzip
import io
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from threading import Event
from typing import Any, ClassVar

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowsnap import failpoint
from flowsnap.connectors import Collect, CommittedCallback, CsvFiles, JsonLinesFiles
from flowsnap.connectors.epoch_log import EpochMarker
from flowsnap.connectors.parquet_files import ParquetFiles
from flowsnap.connectors.postgres import Postgres
from flowsnap.connectors.sqlite import SQLite
from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.core.manifest import PreparedOutput, decode, encode
from flowsnap.core.operator import Sink, SinkContext, Submission
from flowsnap.errors import OutputRefused, StorageError, StoreUnavailable
from flowsnap.serialize import dump, load
from tests.manifests import checkpoint, task, words
from tests.places import in_memory
from tests.servers.postgres import Server

BATCHES = [[10, 11], [], [20], [30, 31, 32], [40]]
COUNT = task("count/0")

Visible = Callable[[], list[Any]]


class Crash(Exception):
    """The process is gone."""


@dataclass(frozen=True)
class Savepoint:
    """How far a job had come, and what it had not committed."""

    batches_done: int
    checkpoint: int
    pending: tuple[Any, ...]


@dataclass
class Job:
    """A job of one sink: what is complete is never lost, whatever happens to the sink.

    Subtask k of n writes ``value * 10 + k`` for each value of a batch; ``is_idle`` tells which of
    them have nothing to write. With ``is_late`` a commit is asked for after the next prepare.
    """

    template: Sink
    directory: Path
    zombies: ExitStack
    subtasks: int = 2
    is_idle: Callable[[int], bool] = lambda subtask: False
    is_late: bool = False
    base: int = 0
    attempt: int = 0
    checkpoint: int = 0
    batches_done: int = 0
    pending: list[Any] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    _crash_at: tuple[str, int] = ("", 0)

    def submit(self, restored: Savepoint | None = None) -> None:
        """Begin a life of the job: go on from where it is, or from a savepoint as another run."""
        is_fresh = self.batches_done == 0 and restored is None
        if is_fresh or restored is not None:
            self.runs.append(f"run-{self.base}-{len(self.runs)}")
        if restored is not None:
            self.batches_done, self.pending = restored.batches_done, list(restored.pending)
        self.directory.mkdir(exist_ok=True)
        self.template.on_submit(
            Submission(
                job="job",
                operator=OperatorId("out"),
                job_directory=str(self.directory),
                run_id=self.runs[-1],
                is_fresh=is_fresh,
                former_run_ids=tuple(self.runs[:-1]),
                restored_from=None if is_fresh else CheckpointId(self.checkpoint),
            )
        )

    def savepoint(self) -> Savepoint:
        """Return what a savepoint taken now would hold."""
        return Savepoint(self.batches_done, self.checkpoint, tuple(self.pending))

    def arm(self, point: str, hit: int) -> None:
        """Crash at the ``hit``-th passage of a place."""
        if point.startswith("sink."):
            failpoint.arm(f"{point}=raise@{hit}")
        else:
            self._crash_at = (point, hit)

    def disarm(self) -> None:
        """Crash no more."""
        failpoint.arm("")
        self._crash_at = ("", 0)

    def run_and_crash(self, point: str, hit: int = 1) -> None:
        """Run until a place is passed for the ``hit``-th time, or to the end if it never is."""
        pending = list(self.pending)
        self.arm(point, hit)
        with suppress(Crash, StorageError, StoreUnavailable):
            self.run()
        self.disarm()
        # The manifest still holds what recovery was given, whether or not it got far.
        self.pending += [old for old in pending if old not in self.pending]

    def run(self) -> None:
        """Run an attempt to the end of the input."""
        self.attempt += 1
        sinks = [self.open(subtask) for subtask in range(self.subtasks)]
        self._pass("opened")
        sinks[0].recover(through_manifest(self.pending))
        self.pending = []
        self._pass("recovered")
        late: list[tuple[Sink, Any]] = []
        for values in BATCHES[self.batches_done :]:
            prepared = self._checkpoint(sinks, values)
            for sink, committable in late if self.is_late else prepared:
                self.commit(sink, committable)
            late = prepared
        for sink, committable in late if self.is_late else []:
            self.commit(sink, committable)
        self._pass("finished")

    def _checkpoint(self, sinks: list[Sink], values: list[int]) -> list[tuple[Sink, Any]]:
        self.checkpoint += 1  # Of a checkpoint that fails the id is not used again.
        for subtask, sink in enumerate(sinks):
            if not self.is_idle(subtask):
                sink.write(Batch(self._records(values, subtask)))
        self._pass("written")
        prepared = [(sink, sink.prepare(CheckpointId(self.checkpoint))) for sink in sinks]
        prepared = [(sink, committable) for sink, committable in prepared if committable]
        self.pending += [committable for _, committable in prepared]
        self.batches_done += 1
        for subtask in filter(lambda subtask: not self.is_idle(subtask), range(self.subtasks)):
            self.written += self._records(values, subtask)
        self._pass("complete")
        return prepared

    def _records(self, values: list[int], subtask: int) -> list[int]:
        return [(self.base + value) * 10 + subtask for value in values]

    def commit(self, sink: Sink, committable: Any) -> None:
        """Have a sink commit, as the engine does: asking again while it is under way."""
        while sink.commit([committable]) is False:
            Event().wait(0.001)  # As the engine asks again, which has other things to do.
        self.pending = [one for one in self.pending if one != committable]

    def open(self, subtask: int) -> Sink:
        """Return the sink of a subtask in the current attempt."""
        sink: Sink = copy.copy(load(dump(self.template)))
        sink.open(
            SinkContext(
                job="job",
                run_id=self.runs[-1],
                operator=OperatorId("out"),
                subtask=subtask,
                parallelism=self.subtasks,
                attempt=AttemptId(self.attempt),
            )
        )
        # A crashed sink is not closed in time; what it holds is closed long afterwards, as by a
        # process that was paused, and must do no harm then.
        self.zombies.callback(sink.close)
        return sink

    def _pass(self, point: str) -> None:
        name, hits = self._crash_at
        if name == point:
            self._crash_at = (name, hits - 1)
            if hits == 1:
                raise Crash


def through_manifest(committables: list[Any]) -> list[Any]:
    """Return committables as a restored checkpoint has them."""
    prepared = tuple(PreparedOutput(CheckpointId(1), one) for one in committables)
    manifest = checkpoint(words(), {COUNT: {"prepared": prepared}})
    found = decode(encode(manifest), "manifest.json").tasks
    outputs = [output for task in found for output in task.prepared]
    return [output.committable for output in outputs]


class Faults:
    """What the next calls to ``apply`` meet: "before", "after" or "refuse"; "" for nothing."""

    planned: ClassVar[list[str]] = []

    def apply_with(self, apply: Callable[[], None]) -> None:
        """Apply, with the fault that is planned for this call."""
        fault = self.planned.pop(0) if self.planned else ""
        if fault == "before":
            raise StoreUnavailable("the store does not answer")
        if fault == "refuse":
            raise OutputRefused("the store refuses")
        apply()
        if fault == "after":
            raise StoreUnavailable("the answer of the store was lost")


class FaultyPostgres(Postgres, Faults):
    def apply(self, marker: EpochMarker | None, rows: Iterator[Any]) -> None:
        self.apply_with(lambda: super(FaultyPostgres, self).apply(marker, rows))


class FaultyCallback(CommittedCallback, Faults):
    def apply(self, marker: EpochMarker, rows: Iterator[Any]) -> None:
        self.apply_with(lambda: super(FaultyCallback, self).apply(marker, rows))


class FaultySQLite(SQLite, Faults):
    def apply(self, marker: EpochMarker | None, rows: Iterator[Any]) -> None:
        self.apply_with(lambda: super(FaultySQLite, self).apply(marker, rows))


def json_lines(directory: Path) -> tuple[Sink, Visible]:
    def visible() -> list[Any]:
        parts = sorted((directory / "out").glob("part-*.jsonl"))
        return [json.loads(line) for part in parts for line in part.read_text().splitlines()]

    return JsonLinesFiles(directory / "out", existing="append"), visible


def parted(directory: Path) -> tuple[Sink, Visible]:
    def visible() -> list[Any]:
        parts = sorted((directory / "out").glob("*/part-*.jsonl.gz"))
        return [json.loads(line) for part in parts for line in gzip.open(part)]

    template = JsonLinesFiles(
        directory / "out",
        existing="append",
        partition_by=lambda value: str(value % 3),
        roll_size=1,
        compression="gzip",
    )
    return template, visible


def csv(directory: Path) -> tuple[Sink, Visible]:
    def visible() -> list[Any]:
        parts = sorted((directory / "out").glob("part-*.csv"))
        return [int(line) for part in parts for line in part.read_text().split()[1:]]

    return CsvFiles(directory / "out", columns=["n"], existing="append"), visible


def parquet(directory: Path) -> tuple[Sink, Visible]:
    def visible() -> list[Any]:
        parts = sorted((directory / "out").glob("part-*.parquet"))
        return [row["n"] for part in parts for row in pq.read_table(part).to_pylist()]

    schema = pa.schema([("n", pa.int64())])
    return ParquetFiles(directory / "out", schema=schema, existing="append"), visible


def shown_in_bucket(directory: Path, pattern: str) -> list[bytes]:
    """Return what the committed parts in a bucket hold."""
    place = in_memory(directory)
    return [place.read(name) for name in place.names() if fnmatch(name, pattern)]


def json_lines_bucket(directory: Path) -> tuple[Sink, Visible]:
    def visible() -> list[Any]:
        parts = shown_in_bucket(directory, "part-*.jsonl")
        return [json.loads(line) for part in parts for line in part.splitlines()]

    return JsonLinesFiles(in_memory(directory).path, existing="append"), visible


def parted_bucket(directory: Path) -> tuple[Sink, Visible]:
    def visible() -> list[Any]:
        parts = shown_in_bucket(directory, "[0-9]/part-*.jsonl.gz")
        return [json.loads(line) for part in parts for line in gzip.decompress(part).splitlines()]

    template = JsonLinesFiles(
        in_memory(directory).path,
        existing="append",
        partition_by=lambda value: str(value % 3),
        roll_size=1,
        compression="gzip",
    )
    return template, visible


def csv_bucket(directory: Path) -> tuple[Sink, Visible]:
    def visible() -> list[Any]:
        parts = shown_in_bucket(directory, "part-*.csv")
        return [int(line) for part in parts for line in part.split()[1:]]

    return CsvFiles(in_memory(directory).path, columns=["n"], existing="append"), visible


def parquet_bucket(directory: Path) -> tuple[Sink, Visible]:
    def visible() -> list[Any]:
        parts = map(io.BytesIO, shown_in_bucket(directory, "part-*.parquet"))
        return [row["n"] for part in parts for row in pq.read_table(part).to_pylist()]

    schema = pa.schema([("n", pa.int64())])
    return ParquetFiles(in_memory(directory).path, schema=schema, existing="append"), visible


def hidden(directory: Path) -> list[str]:
    """Return what a job whose files are below a directory, or in its bucket, has left hidden."""
    files = [str(path) for pattern in ("*.tmp", "*.log") for path in directory.rglob(pattern)]
    return files + [name for name in in_memory(directory).names() if name.startswith(".")]


def callback(_: Path) -> tuple[Sink, Visible]:
    told: dict[EpochMarker, list[Any]] = {}
    template = FaultyCallback(
        lambda records, epoch: told.update({epoch: records}),
        applied=told.__contains__,
        retry_timeout="2s",
    )
    return template, lambda: [value for records in told.values() for value in records]


def collect(_: Path) -> tuple[Sink, Visible]:
    sink = Collect()
    return sink, lambda: sink.values


def sqlite(directory: Path, **settings: Any) -> tuple[Sink, Visible]:
    path = directory / "out.db"

    def visible() -> list[Any]:
        with closing(sqlite3.connect(path)) as db:
            return [row[0] for row in db.execute("select n from numbers")]

    settings = {"columns": {"n": "integer"}, "repeats": True, "retry_timeout": "2s", **settings}
    template = FaultySQLite(path, "numbers", **settings)
    return template, visible


def sqlite_by_file(directory: Path) -> tuple[Sink, Visible]:
    return sqlite(directory, inline_bytes=0)


def sqlite_upsert(directory: Path) -> tuple[Sink, Visible]:
    return sqlite(directory, key="n")


SOME_REFUSED = {"n": "bigint check (n % 4 < 2)"}
"""A table that refuses some of the numbers; they are kept beside, and shown with the others."""


def sqlite_refusing(directory: Path) -> tuple[Sink, Visible]:
    template, visible = sqlite(directory, columns=SOME_REFUSED, dead_letter_table="refused")

    def visible_and_refused() -> list[Any]:
        with closing(sqlite3.connect(directory / "out.db")) as db:
            refused = [row[0] for row in db.execute("select json_extract(row, '$.n') from refused")]
        return visible() + refused

    return template, visible_and_refused


def postgres(dsn: str, **settings: Any) -> tuple[Sink, Visible]:
    def visible() -> list[Any]:
        with psycopg.connect(dsn) as db:
            return [row[0] for row in db.execute("select n from numbers")]

    settings = {"columns": {"n": "bigint"}, "repeats": True, "retry_timeout": "2s", **settings}
    template = FaultyPostgres(dsn, "numbers", **settings)
    return template, visible


def postgres_refusing(dsn: str, **settings: Any) -> tuple[Sink, Visible]:
    settings = {"columns": SOME_REFUSED, "dead_letter_table": "refused", **settings}
    template, visible = postgres(dsn, **settings)

    def visible_and_refused() -> list[Any]:
        with psycopg.connect(dsn) as db:
            refused = db.execute("select (\"row\"::json ->> 'n')::bigint from refused").fetchall()
        return visible() + [row[0] for row in refused]

    return template, visible_and_refused


def postgres_upsert(dsn: str) -> tuple[Sink, Visible]:
    return postgres(dsn, key="n")


def sqlite_eager(directory: Path) -> tuple[Sink, Visible]:
    return sqlite(directory, key="n", delivery="at-least-once")


def postgres_eager(dsn: str) -> tuple[Sink, Visible]:
    return postgres(dsn, key="n", delivery="at-least-once")


IN_FILES: dict[str, Callable[[Path], tuple[Sink, Visible]]] = {
    "json lines": json_lines,
    "json lines in directories": parted,
    "csv": csv,
    "parquet": parquet,
    "json lines in a bucket": json_lines_bucket,
    "json lines in directories in a bucket": parted_bucket,
    "csv in a bucket": csv_bucket,
    "parquet in a bucket": parquet_bucket,
    "committed callback": callback,
    "collect": collect,
    "sqlite": sqlite,
    "sqlite, epochs in files": sqlite_by_file,
    "sqlite by key": sqlite_upsert,
    "sqlite that refuses rows": sqlite_refusing,
    "sqlite at least once": sqlite_eager,
}
IN_SERVERS: dict[str, Callable[[str], tuple[Sink, Visible]]] = {
    "postgres": postgres,
    "postgres by key": postgres_upsert,
    "postgres that refuses rows": postgres_refusing,
    "postgres at least once": postgres_eager,
}
REFUSING = ["sqlite that refuses rows", "postgres that refuses rows"]
EPOCH_LOGS = [
    "sqlite", "sqlite, epochs in files", "sqlite by key", "postgres", "postgres by key",
    "postgres that refuses rows", "committed callback",
]  # fmt: skip
EAGER = ["sqlite at least once", "postgres at least once"]
FORMATS = ["json lines", "json lines in directories", "csv", "parquet"]
FILES = [*FORMATS, *(f"{name} in a bucket" for name in FORMATS)]
SINKS = [
    *FILES, "committed callback", "collect", "sqlite", "sqlite, epochs in files",
    "sqlite that refuses rows", "postgres",
]  # fmt: skip

Case = tuple[Job, Visible]


@contextmanager
def made(name: str, request: pytest.FixtureRequest, directory: Path) -> Iterator[Case]:
    """Yield a job and what its sink shows."""
    if name in IN_FILES:
        template, visible = IN_FILES[name](directory)
    else:
        server: Server = request.getfixturevalue("postgres")
        template, visible = IN_SERVERS[name](server.new_schema())
    with ExitStack() as zombies:
        yield Job(template, directory / "job", zombies), visible
    failpoint.arm("")
    Faults.planned.clear()
