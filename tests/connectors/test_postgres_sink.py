"""A real PostgreSQL as a sink: what its tables hold in the end, and what its errors tell."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flowsnap.connectors.postgres import Postgres
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.errors import ConfigError, OperatorError, OutputRefused
from tests.connectors.sinks import committed, opened, submitted
from tests.servers.postgres import Server

pytestmark = pytest.mark.slow

Db = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def dsn(postgres: Server) -> str:
    return postgres.new_schema()


@pytest.fixture
def db(dsn: str) -> Iterator[Db]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def rows(db: Db, query: str = "select * from t order by 1") -> list[tuple[Any, ...]]:
    return db.execute(query.encode()).fetchall()


def test_values_arrive_as_what_they_are(dsn: str, db: Db, tmp_path: Path) -> None:
    db.execute(
        "create table t (i bigint, f float8, s text, b bytea, d date, at timestamptz, n numeric, "
        "u uuid, a int[], j jsonb, l jsonb, flag bool, none text)"
    )
    at = datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    row = (
        2**62, 0.1, "tab\tnew\nline\\N", b"\x00\xff", at.date(), at, Decimal("1.50"),
        uuid.UUID(int=7), [1, 2], {"a": [1]}, [1, "x"], True, None,
    )  # fmt: skip

    committed(submitted(Postgres(dsn, "t"), tmp_path), [row])

    assert rows(db) == [row]


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_by_key_the_last_row_of_an_epoch_and_of_all_epochs_wins(
    dsn: str, db: Db, tmp_path: Path, delivery: Any
) -> None:
    db.execute("create table t (k text, day int, n int, kept text default 'kept', unique (k, day))")
    columns = ["k", "day", "n"]
    sink = submitted(
        Postgres(dsn, "t", columns=columns, key=["k", "day"], delivery=delivery), tmp_path
    )

    committed(sink, [("a", 1, 1), ("a", 1, 2), ("b", 1, 3)], [("a", 1, 4), ("a", 2, 5)])

    assert rows(db, "select * from t order by n") == [
        ("b", 1, 3, "kept"), ("a", 1, 4, "kept"), ("a", 2, 5, "kept"),
    ]  # fmt: skip


def test_row_that_is_all_key_is_there_once(dsn: str, db: Db, tmp_path: Path) -> None:
    sink = submitted(Postgres(dsn, "t", columns={"k": "text"}, key="k"), tmp_path)

    committed(sink, ["a", "b", "a"], ["a"])

    assert rows(db) == [("a",), ("b",)]


def test_names_are_quoted(dsn: str, db: Db, tmp_path: Path) -> None:
    sink = submitted(
        Postgres(dsn, 'odd "name', columns={'a "b': "int", "select": "int"}, key="select"), tmp_path
    )

    committed(sink, [{'a "b': 1, "select": 2}])

    assert rows(db, 'select * from "odd ""name"') == [(1, 2)]


def test_server_that_crashes_under_a_commit_holds_the_epoch_once_in_the_end(
    dsn: str, postgres: Server, tmp_path: Path
) -> None:
    sink = submitted(Postgres(dsn, "t", columns={"n": "int"}), tmp_path)
    with closing(opened(sink)) as task:
        task.recover([])
        task.write(Batch(list(range(1000))))
        committable = task.prepare(CheckpointId(1))
        postgres.stop()
        assert task.commit([committable]) is False
        postgres.start()
        while task.commit([committable]) is False:
            pass
        task.recover([committable])

    with psycopg.connect(dsn) as db:
        assert rows(db, "select count(*), sum(n) from t") == [(1000, 499500)]


def test_commit_goes_on_with_another_connection_when_one_is_cut(
    dsn: str, db: Db, tmp_path: Path
) -> None:
    sink = submitted(Postgres(dsn, "t", columns={"n": "int"}), tmp_path)
    with closing(opened(sink)) as task:
        task.recover([])
        for number in (1, 2, 3):
            task.write(Batch([number]))
            committable = task.prepare(CheckpointId(number))
            db.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where application_name = 'flowsnap'"
            )
            while task.commit([committable]) is False:
                pass

    assert rows(db) == [(1,), (2,), (3,)]


def test_refused_row_is_not_quoted_in_the_error(dsn: str, db: Db, tmp_path: Path) -> None:
    db.execute("create table t (k text constraint positive check (k <> 'canary'))")
    sink = submitted(Postgres(dsn, "t"), tmp_path)

    with pytest.raises(OutputRefused, match=r"CheckViolation \(23514\): positive") as caught:
        committed(sink, ["canary"])

    assert "canary" not in str(caught.value)
    assert rows(db) == []


def test_value_of_the_wrong_type_is_not_quoted_in_the_error(
    dsn: str, db: Db, tmp_path: Path
) -> None:
    db.execute("create table t (n int)")
    sink = submitted(Postgres(dsn, "t"), tmp_path)

    with pytest.raises(OutputRefused, match="InvalidTextRepresentation") as caught:
        committed(sink, ["canary"])

    assert "canary" not in str(caught.value)


def test_job_that_goes_back_is_refused_unless_repeats_are_no_harm(
    dsn: str, db: Db, tmp_path: Path
) -> None:
    sink = Postgres(dsn, "t", columns={"n": "int primary key"})
    committed(submitted(sink, tmp_path), [1], [2], [3])

    with pytest.raises(ConfigError, match="holds the output of checkpoint 3, and the job goes bac"):
        submitted(sink, tmp_path, restored_from=2)
    submitted(sink, tmp_path, restored_from=3)
    submitted(Postgres(dsn, "t", repeats=True), tmp_path, restored_from=2)
    submitted(Postgres(dsn, "t", key="n"), tmp_path, restored_from=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"table": "nothing"}, "the table nothing does not exist"),
        ({"table": "t", "columns": ["x"]}, "the table t has no column 'x'"),
        ({"table": "t", "key": "n"}, "the table t has no unique index on n"),
        ({"table": "t", "existing": "error"}, "the table t holds rows already"),
        ({"table": "t", "columns": {"n": "no_such_type"}}, None),
        ({"table": "u", "columns": {"n": "no_such_type"}}, "u cannot be written: .*no_such_type"),
    ],
)
def test_table_that_does_not_fit_is_found_at_submission(
    dsn: str, db: Db, tmp_path: Path, settings: dict[str, Any], message: str | None
) -> None:
    db.execute("create table t (n int)")
    db.execute("insert into t values (1)")
    if message is None:
        submitted(Postgres(dsn, **settings), tmp_path)  # It is there: its types are not looked at.
        return

    with pytest.raises(ConfigError, match=message):
        submitted(Postgres(dsn, **settings), tmp_path)


def test_existing_rows_are_removed_at_a_fresh_start_where_that_is_wanted(
    dsn: str, db: Db, tmp_path: Path
) -> None:
    db.execute("create table t (n int)")
    db.execute("insert into t values (1)")
    sink = Postgres(dsn, "t", existing="replace")

    submitted(sink, tmp_path, restored_from=1)
    assert rows(db) == [(1,)]
    submitted(sink, tmp_path)
    assert rows(db) == []


def test_record_that_does_not_fit_is_named_without_its_content(
    dsn: str, db: Db, tmp_path: Path
) -> None:
    db.execute("create table t (a int, b int)")

    with pytest.raises(OperatorError, match=r"record 2 of a batch of 2 .a dict. has no column 'b'"):
        committed(submitted(Postgres(dsn, "t"), tmp_path), [{"a": 1, "b": 2}, {"a": "canary"}])


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_password_is_in_nothing_that_is_shown_or_stored(
    dsn: str, tmp_path: Path, delivery: Any
) -> None:
    sink = submitted(Postgres(dsn, "t", columns={"n": "int"}, key="n", delivery=delivery), tmp_path)
    with closing(opened(sink)) as task:
        task.write(Batch([1]))
        shown = [sink, vars(sink), task, vars(task), task.prepare(CheckpointId(1))]

    assert "canary" not in repr(shown)
    stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"canary" in data for data in stored)


@pytest.mark.parametrize(
    "text", ["host=x password=canary y", "postgresql://u:can ary@h:canary/d", "canary"]
)
def test_malformed_connection_string_is_not_quoted(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Postgres(text, "t")

    assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_server_that_cannot_be_reached_is_named_without_the_password(
    dsn: str, tmp_path: Path
) -> None:
    sink = Postgres(f"{dsn} port=1", "t")

    with pytest.raises(ConfigError, match=r"t cannot be written: .*OperationalError") as caught:
        submitted(sink, tmp_path)

    assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_table_that_cannot_keep_refused_rows_is_found_at_submission(
    dsn: str, db: Db, tmp_path: Path
) -> None:
    db.execute("create table t (n int primary key)")
    db.execute("create table other (run text, reason text)")

    with pytest.raises(ConfigError, match=r"other cannot keep refused rows: .*does not exist"):
        submitted(Postgres(dsn, "t", dead_letter_table="other"), tmp_path)
    submitted(Postgres(dsn, "t", dead_letter_table="bad"), tmp_path)
    submitted(Postgres(dsn, "t", dead_letter_table="bad"), tmp_path)
