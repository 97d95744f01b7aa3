"""A connection that dies while a transaction is being committed is not used for another one.

FLINK-25126: there what was left of a commit that had failed was taken for the next transaction.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flowsnap.connectors import SQLite
from flowsnap.connectors.postgres import Postgres
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import Sink
from tests.connectors.sinks import opened, submitted

DIES_IN_ITS_SECOND_COMMIT = """
    create sequence commits;
    create table t (n int, pid int default pg_backend_pid());
    create function die() returns trigger language plpgsql as $$ begin
        if nextval('commits') = 2 then perform pg_terminate_backend(pg_backend_pid()); end if;
        return null;
    end $$;
    create constraint trigger die after insert on t deferrable initially deferred
        for each row execute function die();
"""


def commit_each(sink: Sink, numbers: list[int]) -> None:
    """Write each number in an epoch of its own, and commit it."""
    with closing(opened(sink)) as task:
        task.recover([])
        for number in numbers:
            task.write(Batch([number]))
            committable = task.prepare(CheckpointId(number))
            while task.commit([committable]) is False:
                pass


@pytest.mark.slow
@pytest.mark.fault("F12", promise="P2", oracles="O3")
def test_connection_that_dies_in_a_commit_is_replaced_for_that_and_the_next_one(
    postgres: Any, tmp_path: Path
) -> None:
    dsn = postgres.new_schema()
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(DIES_IN_ITS_SECOND_COMMIT)

        commit_each(submitted(Postgres(dsn, "t", columns=["n"]), tmp_path), [1, 2, 3])

        rows = db.execute("select n, pid from t order by n").fetchall()
    assert [n for n, _ in rows] == [1, 2, 3]
    (_, dead), (_, fresh), (_, kept) = rows
    assert dead != fresh == kept


def test_connection_whose_commit_has_failed_is_closed_and_the_next_try_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowsnap.connectors.sqlite.BUSY_S", 0.001)
    template = SQLite(tmp_path / "out.db", "t", columns={"n": "int"}, retry_timeout="10s")
    sink = submitted(template, tmp_path)
    made: list[sqlite3.Connection] = []
    with (
        closing(opened(sink)) as task,
        closing(sqlite3.connect(task.path, isolation_level=None)) as db,
    ):
        monkeypatch.setattr(sqlite3, "connect", recording(made))
        task.write(Batch([1]))
        committable = task.prepare(CheckpointId(1))
        db.execute("begin")
        db.execute("select * from t").fetchall()  # a reader keeps the commit from its end
        while len(made) < 2:
            assert task.commit([committable]) is False
        db.execute("rollback")
        while task.commit([committable]) is False:
            pass

        assert db.execute("select n from t").fetchall() == [(1,)]
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            made[0].execute("select 1")


def recording(made: list[sqlite3.Connection]) -> Any:
    """Return a ``sqlite3.connect`` that keeps what it returns."""
    connect = sqlite3.connect

    def recorded(*arguments: Any, **settings: Any) -> sqlite3.Connection:
        made.append(connect(*arguments, **settings))
        return made[-1]

    return recorded
