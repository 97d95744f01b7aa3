"""What a table with ``dead_letter_table`` keeps: what it takes, and beside it what it refuses."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flowsnap.connectors.postgres import Postgres
from flowsnap.connectors.refusal import CHUNK_ROWS, Refused, RowsRefused, insert_each
from flowsnap.connectors.sqlite import SQLite
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.errors import ConfigError, OutputRefused
from tests.contract.sinks import Job, through_manifest
from tests.servers.postgres import Server

SECRET = "hunter2"

Query = Callable[[str], list[Any]]
Table = tuple[Query, Callable[..., Job]]


@pytest.fixture(params=["sqlite", "postgres"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Table]:
    """Yield what asks the database, and what submits a job that writes to the table t."""
    with ExitStack() as stack:
        db: Any
        if request.param == "sqlite":
            target: Any = partial(SQLite, tmp_path / "out.db")
            db = sqlite3.connect(tmp_path / "out.db", isolation_level=None)
        else:
            server: Server = request.getfixturevalue("postgres")
            dsn = server.new_schema()
            target, db = partial(Postgres, dsn), psycopg.connect(dsn, autocommit=True)
        stack.enter_context(closing(db))

        def query(text: str) -> list[Any]:
            cursor = db.execute(text)
            return cursor.fetchall() if cursor.description else []

        def submitted(**settings: Any) -> Job:
            sink = target("t", **{"dead_letter_table": "refused", **settings})
            job = Job(sink, tmp_path / "job", stack)
            job.submit()
            return job

        yield query, submitted


def commit(job: Job, *records: Any) -> None:
    job.attempt += 1
    one = job.open(0)
    one.recover([])
    one.write(Batch(list(records)))
    (committable,) = through_manifest([one.prepare(CheckpointId(7))])
    job.commit(one, committable)


def test_rows_are_taken_and_others_kept_with_the_reason(
    table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    query, submitted = table
    query("create table t (n bigint not null, w text check (w <> 'no'))")

    commit(submitted(), (1, "a"), (2, "no"), (None, SECRET), (3, "c"))

    assert sorted(query("select n, w from t")) == [(1, "a"), (3, "c")]
    kept = query('select number, "row", reason, checkpoint from refused order by number')
    assert [(number, row) for number, row, *_ in kept] == [
        (1, '{"n":2,"w":"no"}'), (2, f'{{"n":null,"w":"{SECRET}"}}'),
    ]  # fmt: skip
    assert "CHECK" in kept[0][2].upper()
    assert "NOT" in kept[1][2].upper()
    assert (
        "table t has refused 2 rows of checkpoint 7, subtask 0: they are in refused" in caplog.text
    )
    assert SECRET not in caplog.text


def test_rows_that_were_tried_together_with_a_refused_one_come_once(table: Table) -> None:
    query, submitted = table
    query("create table t (n bigint check (n <> 950))")

    commit(submitted(), *range(1_200))

    assert query("select n from t order by n") == [(n,) for n in range(1_200) if n != 950]
    assert query("select number from refused") == [(950,)]


def test_last_row_of_a_key_stays_the_last_where_others_are_refused(table: Table) -> None:
    query, submitted = table
    query("create table t (k text primary key, n bigint check (n % 10 < 9))")

    commit(submitted(key="k"), *(("ab"[n % 2], n) for n in range(30)))

    assert sorted(query("select k, n from t")) == [("a", 28), ("b", 27)]
    assert query("select number from refused order by number")[-1] == (29,)


def test_rows_of_a_key_that_is_there_are_refused_where_rows_are_added(table: Table) -> None:
    query, submitted = table
    query("create table t (n bigint primary key)")

    commit(submitted(), 1, 2, 1, 3, 2)

    assert sorted(query("select n from t")) == [(1,), (2,), (3,)]
    assert query("select number from refused order by number") == [(2,), (4,)]


def test_what_is_no_fault_of_a_row_refuses_the_epoch(table: Table) -> None:
    query, submitted = table
    query("create table t (n bigint check (n > 0))")
    job = submitted()
    query("drop table t")

    with pytest.raises(OutputRefused, match="table t"):
        commit(job, 1, -1)
    assert query("select number from refused") == []


def test_wrong_type_and_a_deferred_constraint_refuse_a_row(
    tmp_path: Path, postgres: Server
) -> None:
    dsn = postgres.new_schema()
    with ExitStack() as stack, psycopg.connect(dsn, autocommit=True) as db:
        db.execute("create table people (id int primary key)")
        db.execute(
            "create table t (n int references people deferrable initially deferred, at date)"
        )
        db.execute("insert into people values (1)")
        job = Job(Postgres(dsn, "t", dead_letter_table="refused"), tmp_path, stack)
        job.submit()

        commit(job, (1, "2024-02-28"), (2, "2024-02-28"), (1, "2024-02-30"), ("x", None), (1, None))

        assert db.execute("select count(*) from t").fetchone() == (2,)
        reasons = [row[0] for row in db.execute("select reason from refused order by number")]
        assert [reason.partition(":")[0] for reason in reasons] == [
            "ForeignKeyViolation", "DatetimeFieldOverflow", "InvalidTextRepresentation",
        ]  # fmt: skip


def test_rows_to_blame_are_found_in_order_wherever_they_are() -> None:
    bad = {0, 1, 700, CHUNK_ROWS, CHUNK_ROWS + 499, 2 * CHUNK_ROWS + 9}
    taken: list[int] = []

    def insert(rows: list[Any]) -> None:
        if any(n in bad for (n,) in rows):
            raise RowsRefused("bad")
        taken.extend(n for (n,) in rows)

    refused = list(insert_each(insert, ((n,) for n in range(2 * CHUNK_ROWS + 10))))

    assert refused == [Refused(n, (n,), "bad") for n in sorted(bad)]
    assert taken == [n for n in range(2 * CHUNK_ROWS + 10) if n not in bad]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"dead_letter_table": ""}, "dead_letter_table: '' is not a name"),
        ({"dead_letter_table": "t"}, "dead_letter_table: it is the table itself"),
        ({"key": "n", "delivery": "at-least-once"}, "dead_letter_table: it needs exactly-once"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        SQLite("out.db", "t", **{"dead_letter_table": "refused", **settings})
