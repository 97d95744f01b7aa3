"""SQLite: a table of a database file as an exactly-once sink, with nothing to install."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from typing import Any, Unpack

from flowsnap.connectors.fenced_table import FencedTable
from flowsnap.connectors.refusal import RowsRefused
from flowsnap.connectors.rows import Row, Unfit
from flowsnap.connectors.table import Found, TableSettings, on_conflict, placeholders, quoted
from flowsnap.errors import (
    ConfigError,
    FlowsnapError,
    OutputRefused,
    StoreUnavailable,
)

BUSY_S = 5.0
"""How long a transaction waits for another one to end, before it counts as a failed try."""

STATEMENT_ROWS = 100

INTEGER_END = 2**63

_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_SCHEMA,
    }
)
"""The primary result codes of what may be over at the next try; https://sqlite.org/rescode.html."""

_OF_ROWS = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG})
"""The primary result codes of what a row is refused for; a trigger's ``raise`` is a constraint."""


class SQLite(FencedTable):
    """A table of the database file ``path``, which is made where it is missing: exactly-once.

    See ``TableSink`` for the settings. Dates, decimals and UUIDs are kept as text, dicts and lists
    as JSON. One writer at a time is what SQLite allows: with several subtasks their commits follow
    one another.

    Raises:
        ConfigError: a setting is wrong.
    """

    mark = "?"

    def __init__(
        self, path: str | os.PathLike[str], table: str, **settings: Unpack[TableSettings]
    ) -> None:
        super().__init__(table, **settings)
        self.path = os.path.abspath(path)
        self._connection: sqlite3.Connection | None = None

    # --- the epoch log ------------------------------------------------------------------------

    def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with self.translated():
                connection.close()

    def interrupt(self) -> None:
        connection = self._connection
        if connection is not None:
            # It may have been closed meanwhile, on the thread that it belongs to.
            with suppress(sqlite3.ProgrammingError):
                connection.interrupt()

    def check_rows(self, rows: Sequence[Sequence[Any]]) -> None:
        for index, row in enumerate(rows):
            if any(type(value) is int and not -INTEGER_END <= value < INTEGER_END for value in row):
                raise Unfit(index, "has an integer of more than 64 bits")

    def try_rows(self, db: sqlite3.Connection, rows: list[Row]) -> None:
        db.execute("savepoint flowsnap_rows")
        try:
            self.insert_rows(db, iter(rows))
        except (sqlite3.Error, OverflowError) as error:
            # A constraint or trigger that rolls back has ended the transaction, savepoint and all.
            if not _is_of_rows(error) or not db.in_transaction:
                raise
            db.execute("rollback to flowsnap_rows")
            raise RowsRefused(str(error)) from None
        finally:
            if db.in_transaction:
                db.execute("release flowsnap_rows")

    # --- the table ----------------------------------------------------------------------------

    def create(self) -> None:
        try:
            with self.transaction() as db:
                for statement in self.missing_tables():
                    db.execute(statement)
        except (StoreUnavailable, OutputRefused) as error:
            raise ConfigError(f"{self.path} cannot be written: {error}").hint(
                "give a file, in a directory that exists, that whoever runs the job may write"
            ) from error

    def find(self) -> Found | None:
        name = quoted(self.table)
        with self.translated():
            db = self.connect()
            columns = db.execute(f"pragma table_info({name})").fetchall()
            if not columns:
                return None
            unique = [
                frozenset(one[2] for one in db.execute(f"pragma index_info({quoted(index[1])})"))
                for index in db.execute(f"pragma index_list({name})").fetchall()
                if index[2] and not index[4]
            ]
            primary = frozenset(column[1] for column in columns if column[5])
            is_empty = db.execute(f"select 1 from {name} limit 1").fetchone() is None
        return Found([column[1] for column in columns], [*unique, primary], is_empty)

    def insert_rows(self, db: sqlite3.Connection, rows: Iterator[Row]) -> None:
        # Many rows in a statement: half as much time again as one by one, and the interpreter is
        # left to the task while they are inserted.
        limit = db.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        count = max(1, min(STATEMENT_ROWS, limit // len(self.columns)))
        many = self._statement(count)
        while chunk := list(islice(rows, count)):
            statement = many if len(chunk) == count else self._statement(len(chunk))
            db.execute(statement, tuple(chain.from_iterable(chunk)))

    def _statement(self, count: int) -> str:
        names = ", ".join(map(quoted, self.columns))
        marks = ", ".join([placeholders(len(self.columns), "?")] * count)
        end = on_conflict(self.columns, self.key)
        return f"insert into {quoted(self.table)} ({names}) values {marks}{end}"

    # --- the connection -----------------------------------------------------------------------

    def connect(self) -> sqlite3.Connection:
        if self._connection is None:
            # The thread of the commits works with it; that of the task interrupts it, no more.
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
        return self._connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with self.translated():
            db = self.connect()
            db.execute("begin immediate")
            try:
                yield db
                db.execute("commit")
            except BaseException:
                if db.in_transaction:
                    db.execute("rollback")
                raise

    @contextmanager
    def translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            raise _as_ours(error, f"{self.path}, table {self.table}") from error


def _is_of_rows(error: Exception) -> bool:
    """Return whether rows are refused for what they hold, and others would not be."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return isinstance(error, (OverflowError, sqlite3.DataError))
    return code & 0xFF in _OF_ROWS


def _as_ours(error: sqlite3.Error | OverflowError, what: str) -> FlowsnapError:
    # What the interface itself raises (a value too large, a closed connection) has no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISMATCH) & 0xFF
    if code in _PASSING:
        return StoreUnavailable(f"{what}: {error}").hint(
            "does another program hold the database, or is the disk full?"
        )
    return OutputRefused(f"{what}: {error}").hint(
        "the checkpoint keeps the rows: mend the table and start the job again, without fresh"
    )
