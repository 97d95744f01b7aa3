"""Rows that were copied as CSV, and value by value: a real PostgreSQL sees no difference."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from flowsnap.connectors.postgres_copy import BATCH_ROWS, as_csv, copy_rows
from flowsnap.connectors.postgres_session import Dsn
from tests.servers.postgres import Server

pytestmark = pytest.mark.slow

TEXTS = [
    "", " ", "null", "NULL", "\\N", "\\.", "a,b", '"', '\\"', "\\\\", "'", "],[", "{}", "ä€😀",
    None, "true", "1", "x" * 5000,
]  # fmt: skip
NUMBERS = [
    0, -0.0, 0.1, 1 / 3, 1e16, 1e-7, 5e-324, 1.7976931348623157e308, 123456789012345678, -(2**63),
    2**63 - 1, None,
]  # fmt: skip
CASES = [
    ("text", "S", TEXTS),
    ("jsonb", "U", ['{"a": "\\\\n,\\""}', "null", '"text"', "[1,2]", None]),
    ("float8", "N", NUMBERS),
    ("numeric", "N", NUMBERS),
    ("bool", "B", [True, False, None]),
    ("timestamptz", "D", ["2026-01-02 03:04:05.000006+00:00", "infinity", None]),
    ("text[]", "A", ["{}", '{"a,b",null}', None]),
]


@pytest.mark.parametrize(("type_", "category", "values"), CASES, ids=[case[0] for case in CASES])
def test_column_holds_the_same_whichever_way_its_rows_went(
    postgres: Server, type_: str, category: str, values: list[Any]
) -> None:
    rows = list(enumerate(values))
    with Dsn(postgres.new_schema()).connect() as db:
        for table in ("fast", "slow"):
            db.execute(f"create table {table} (n int, v {type_})".encode())
        assert as_csv(rows, ["N", category]) is not None
        copy_rows(db, '"fast" ("n", "v")', ["N", category], rows)
        with db.cursor() as cursor, cursor.copy("copy slow from stdin") as copy:
            for row in rows:
                copy.write_row(row)

        fast, slow = (
            db.execute(f"select n, v::text from {table} order by n".encode()).fetchall()
            for table in ("fast", "slow")
        )

    assert fast == slow


def test_rows_of_both_kinds_arrive_in_their_order(postgres: Server) -> None:
    rows = [(n, "line\nbreak" if n == BATCH_ROWS else "plain") for n in range(3 * BATCH_ROWS)]
    with Dsn(postgres.new_schema()).connect() as db:
        db.execute("create table t (n int, v text, came serial)")
        copy_rows(db, '"t" ("n", "v")', ["N", "S"], rows)

        assert db.execute("select n, v from t order by came").fetchall() == rows


def test_text_is_taken_whatever_encoding_the_connection_has(postgres: Server) -> None:
    with Dsn(f"{postgres.new_schema()} client_encoding=latin1").connect() as db:
        db.execute("create table t (v text)")
        copy_rows(db, '"t" ("v")', ["S"], [("ä",), ("line\nä",)])

        assert db.execute("select v from t").fetchall() == [("ä",), ("line\nä",)]


def test_value_that_does_not_fit_is_refused_as_the_server_refuses_it(postgres: Server) -> None:
    with Dsn(postgres.new_schema()).connect() as db:
        db.execute("create table t (v int2)")

        with pytest.raises(psycopg.errors.NumericValueOutOfRange):
            copy_rows(db, '"t" ("v")', ["N"], [(1,), (2**40,)])
