"""SQLite: a table of a database file as an exactly-once sink, with nothing to install."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from typing import Any, Unpack

from flowsnap.connectors.epoch_log import EpochMarker
from flowsnap.connectors.table import (
    FENCES,
    MARKERS,
    Found,
    TableSettings,
    TableSink,
    create_table,
    on_conflict,
    placeholders,
    quoted,
)
from flowsnap.errors import (
    ConfigError,
    FlowsnapError,
    OutputRefused,
    StorageError,
    StoreUnavailable,
)

BUSY_S = 5.0
"""How long a transaction waits for another one to end, before it counts as a failed try."""

STATEMENT_ROWS = 100

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

_TABLES = f"""
    create table if not exists {MARKERS} (
        run text not null, operator text not null, subtask integer not null,
        checkpoint integer not null, primary key (run, operator, subtask)
    ) without rowid;
    create table if not exists {FENCES} (
        run text not null, operator text not null, attempt integer not null,
        primary key (run, operator)
    ) without rowid;
"""

_MARK = f"""
    insert into {MARKERS} values (?, ?, ?, ?)
    on conflict (run, operator, subtask) do update set checkpoint = excluded.checkpoint
    where excluded.checkpoint > {MARKERS}.checkpoint
"""

_RAISE_FENCE = f"""
    insert into {FENCES} values (?, ?, ?)
    on conflict (run, operator) do update set attempt = excluded.attempt
    where excluded.attempt > {FENCES}.attempt
"""


class SQLite(TableSink):
    """A table of the database file ``path``, which is made where it is missing: exactly-once.

    See ``TableSink`` for the settings. Dates, decimals and UUIDs are kept as text, dicts and lists
    as JSON. One writer at a time is what SQLite allows: with several subtasks their commits follow
    one another.

    Raises:
        ConfigError: a setting is wrong.
    """

    def __init__(
        self, path: str | os.PathLike[str], table: str, **settings: Unpack[TableSettings]
    ) -> None:
        super().__init__(table, **settings)
        self.path = os.path.abspath(path)
        self._connection: sqlite3.Connection | None = None

    # --- the epoch log ------------------------------------------------------------------------

    def apply(self, marker: EpochMarker | None, rows: Iterator[Any]) -> None:
        with self._transaction() as db:
            self._check_fence(db)
            if marker is None or db.execute(_MARK, marker).rowcount == 1:
                self._insert(db, rows)

    def applied(self, marker: EpochMarker) -> bool:
        query = f"select checkpoint from {MARKERS} where (run, operator, subtask) = (?, ?, ?)"
        with self._translated():
            found = self._connect().execute(query, marker[:3]).fetchone()
        return found is not None and found[0] >= marker.checkpoint_id

    def raise_fence(self) -> None:
        with self._transaction() as db:
            self._check_fence(db)
            db.execute(_RAISE_FENCE, self.fence)

    def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with self._translated():
                connection.close()

    def interrupt(self) -> None:
        connection = self._connection
        if connection is not None:
            # It may have been closed meanwhile, on the thread that it belongs to.
            with suppress(sqlite3.ProgrammingError):
                connection.interrupt()

    def _check_fence(self, db: sqlite3.Connection) -> None:
        query = f"select attempt from {FENCES} where (run, operator) = (?, ?)"
        found = db.execute(query, self.fence[:2]).fetchone()
        if found is not None and found[0] > self.fence.attempt:
            raise StorageError(
                f"attempt {self.fence.attempt} of operator {self.fence.operator!r} is over: "
                f"{found[0]} writes into {self.table} now"
            )

    # --- the table ----------------------------------------------------------------------------

    def create(self) -> None:
        try:
            with self._transaction() as db:
                for statement in filter(str.strip, _TABLES.split(";")):
                    db.execute(statement)
                if self.types:
                    db.execute(create_table(self.table, self.types, self.key))
        except (StoreUnavailable, OutputRefused) as error:
            raise ConfigError(f"{self.path} cannot be written: {error}").hint(
                "give a file, in a directory that exists, that whoever runs the job may write"
            ) from error

    def find(self) -> Found | None:
        name = quoted(self.table)
        with self._translated():
            db = self._connect()
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

    def empty(self) -> None:
        with self._transaction() as db:
            db.execute(f"delete from {quoted(self.table)}")

    def newest_applied(self, run_ids: Sequence[str], operator: str) -> int:
        marks = placeholders(len(run_ids), "?")
        query = f"select max(checkpoint) from {MARKERS} where operator = ? and run in {marks}"
        with self._translated():
            found = self._connect().execute(query, (operator, *run_ids)).fetchone()
        return found[0] or 0

    def _insert(self, db: sqlite3.Connection, rows: Iterator[Any]) -> None:
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

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            # The thread of the commits works with it; that of the task interrupts it, no more.
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
        return self._connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated():
            db = self._connect()
            db.execute("begin immediate")
            try:
                yield db
                db.execute("commit")
            except BaseException:
                if db.in_transaction:
                    db.execute("rollback")
                raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            raise _as_ours(error, f"{self.path}, table {self.table}") from error


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
