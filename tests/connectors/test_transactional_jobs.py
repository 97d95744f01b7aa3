"""Whole jobs into databases, over failures of the job and of the database: each record once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flowsnap import Pipeline
from flowsnap.config import Restart
from flowsnap.connectors import Collect
from flowsnap.connectors.postgres import Postgres
from flowsnap.connectors.postgres_cdc import PostgresChanges
from flowsnap.connectors.postgres_table import PostgresTable
from flowsnap.connectors.sqlite import SQLite
from flowsnap.core.operator import Sink
from flowsnap.errors import JobFailed
from tests.integration.jobs import NEVER, QUICK, Held, census, checkpoints, until
from tests.servers.postgres import Server

pytestmark = pytest.mark.slow

COUNT = 2_000
TWICE = Restart(strategy="fixed", delay_ms=1, attempts_max=2)
COLUMNS = {"n": "integer"}

Made = tuple[Sink, Callable[[], list[int]]]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "state"
    with census(directory):
        yield directory


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    """Return a sink and what its table holds."""
    if request.param == "postgres":
        server: Server = request.getfixturevalue("postgres")
        dsn = server.new_schema()
        return Postgres(dsn, "t", columns=COLUMNS), lambda: in_postgres(dsn)
    path = tmp_path / "out.db"
    return SQLite(path, "t", columns=COLUMNS, inline_bytes=100), lambda: in_sqlite(path)


def in_sqlite(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        return [row[0] for row in db.execute("select n from t order by n")]


def in_postgres(dsn: str) -> list[int]:
    with psycopg.connect(dsn) as db:
        return [row[0] for row in db.execute("select n from t order by n")]


def numbers(sink: Sink, state: Path, completed: int = 2, parse: Any = None) -> Pipeline:
    pipeline = Pipeline("numbers")
    stream = pipeline.source(Held(COUNT, state, completed), name="numbers")
    stream.map(parse or (lambda n: n), name="parse").sink(sink, name="out", parallelism=2)
    return pipeline


def test_job_writes_each_record_once(made: Made, state: Path) -> None:
    sink, rows = made

    numbers(sink, state).run(state_dir=state, quiet=True, **QUICK)

    assert rows() == list(range(COUNT))
    assert list(state.rglob("epoch-*.log")) == []


def test_operator_that_fails_doubles_and_loses_nothing(
    made: Made, state: Path, tmp_path: Path
) -> None:
    sink, rows = made

    def parse(n: int) -> int:
        if n == COUNT - 100 and not (tmp_path / "failed").exists():
            (tmp_path / "failed").touch()
            raise ValueError("once")
        return n

    result = numbers(sink, state, parse=parse).run(
        state_dir=state, quiet=True, restart=TWICE, **QUICK
    )

    assert result.attempts == 2
    assert rows() == list(range(COUNT))


def test_job_that_is_stopped_goes_on_with_another_parallelism(made: Made, state: Path) -> None:
    sink, rows = made
    handle = numbers(sink, state, NEVER).start(state_dir=state, **QUICK)
    until(lambda: len(checkpoints(state)) >= 2, "some checkpoints")
    handle.cancel()
    handle.wait()
    assert len(rows()) < COUNT

    numbers(sink, state).run(state_dir=state, quiet=True, workers=1, **QUICK)

    assert rows() == list(range(COUNT))


def test_table_that_refuses_fails_the_job_which_goes_on_when_it_is_mended(
    state: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.db"
    sink = SQLite(path, "t", columns=COLUMNS)
    with closing(sqlite3.connect(path)) as db:
        db.execute("create table t (n integer)")
        db.execute(
            "create trigger no before insert on t when new.n = 5 "
            "begin select raise(abort, 'no'); end"
        )
        with pytest.raises(JobFailed, match="no") as caught:
            numbers(sink, state).run(state_dir=state, quiet=True, restart=TWICE, **QUICK)
        assert len(caught.value.history) == 1
        db.execute("drop trigger no")

    numbers(sink, state).run(state_dir=state, quiet=True, **QUICK)

    assert in_sqlite(path) == list(range(COUNT))


@pytest.mark.slow
def test_server_that_crashes_under_a_job_holds_each_record_once_in_the_end(
    state: Path, postgres: Server
) -> None:
    dsn = postgres.new_schema()
    handle = numbers(Postgres(dsn, "t", columns=COLUMNS), state, 12).start(
        state_dir=state, checkpoints_retained=1_000, **QUICK
    )
    until(lambda: len(checkpoints(state)) >= 2, "some checkpoints")
    postgres.stop()
    postgres.start()
    handle.wait()

    assert in_postgres(dsn) == list(range(COUNT))


def test_changes_of_a_table_are_counted_once_over_a_failure(
    state: Path, postgres: Server, tmp_path: Path
) -> None:
    dsn = postgres.new_schema()
    sink = Postgres(dsn, "copy", columns={"n": "int"})

    def number(change: Any) -> int:
        if change.after["n"] == 150 and not (tmp_path / "failed").exists():
            (tmp_path / "failed").touch()
            raise ValueError("once")
        return int(change.after["n"])

    source = PostgresChanges(dsn, "t", slot="jobs")
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("create table t (n int primary key)")
        db.execute("insert into t select generate_series(0, 99)")
        pipeline = Pipeline("changes")
        pipeline.source(source, name="changes").map(number, name="number").sink(sink, name="out")
        handle = pipeline.start(state_dir=state, restart=TWICE, **QUICK)
        until(lambda: counted(db) == 100, "the rows")
        db.execute("insert into t select generate_series(100, 199)")
        until(lambda: counted(db) == 200, "the changes")
        db.execute("insert into t select generate_series(200, 299)")
        until(lambda: counted(db) == 300, "more changes")
        handle.cancel()
        handle.wait()
        found = db.execute("select n from copy order by n").fetchall()
    source.drop()

    assert [row[0] for row in found] == list(range(300))


def counted(db: psycopg.Connection[Any]) -> int:
    (found,) = db.execute("select count(*) from copy").fetchone() or (0,)
    return int(found)


def test_password_is_in_no_file_that_a_job_leaves(state: Path, postgres: Server) -> None:
    sink = Postgres(postgres.new_schema(), "t", columns=COLUMNS, inline_bytes=100)

    numbers(sink, state).run(state_dir=state, quiet=True, **QUICK)

    files = [path for path in state.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert [path for path in files if b"canary" in path.read_bytes()] == []


def test_table_is_read_to_its_end_by_a_job(state: Path, postgres: Server) -> None:
    dsn = postgres.new_schema()
    with psycopg.connect(dsn) as db:
        db.execute("create table t (id serial primary key)")
        db.execute("insert into t select from generate_series(1, 500)")
    pipeline = Pipeline("table")
    source = PostgresTable(dsn, "t", by="id", bounded=True)
    pipeline.source(source, name="t").map(lambda row: row["id"]).sink(sink := Collect())

    pipeline.run(state_dir=state, quiet=True)

    assert sink.values == list(range(1, 501))
