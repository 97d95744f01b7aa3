"""PostgreSQL: a table as an exactly-once sink, by the epoch log and COPY."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Unpack

from flowsnap.connectors.epoch_log import EpochMarker
from flowsnap.connectors.postgres_session import Connection, Dsn
from flowsnap.connectors.rows import Convert, to_plain
from flowsnap.connectors.table import (
    FENCES,
    MARKERS,
    Found,
    TableSettings,
    TableSink,
    create_table,
    on_conflict,
    quoted,
)
from flowsnap.errors import ConfigError, OutputRefused, StorageError, StoreUnavailable

STAGE, ORDER = "flowsnap_stage", "flowsnap_order"

_TABLES = (
    f"""
    create table if not exists {MARKERS} (
        run text not null, operator text not null, subtask integer not null,
        checkpoint bigint not null, primary key (run, operator, subtask)
    )
    """,
    f"""
    create table if not exists {FENCES} (
        run text not null, operator text not null, attempt bigint not null,
        primary key (run, operator)
    )
    """,
)

_MARK = f"""
    insert into {MARKERS} values (%s, %s, %s, %s)
    on conflict (run, operator, subtask) do update set checkpoint = excluded.checkpoint
    where excluded.checkpoint > {MARKERS}.checkpoint
"""

_RAISE_FENCE = f"""
    insert into {FENCES} values (%s, %s, %s)
    on conflict (run, operator) do update set attempt = excluded.attempt
    where excluded.attempt > {FENCES}.attempt
"""

_COLUMNS = """
    select a.attname, t.typcategory = 'A'
    from pg_attribute a join pg_type t on t.oid = a.atttypid
    where a.attrelid = to_regclass(%s) and a.attnum > 0 and not a.attisdropped
      and a.attgenerated = ''
    order by a.attnum
"""

_UNIQUE = """
    select array_agg(a.attname::text)
    from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
    where i.indrelid = to_regclass(%s) and i.indisunique and i.indpred is null
      and i.indexprs is null
    group by i.indexrelid
"""


class Postgres(TableSink):
    """A table of a PostgreSQL database: exactly-once.

    ``dsn`` is a connection string of libpq; a password that is not in it is taken from where libpq
    looks (``PGPASSWORD``, ``~/.pgpass``, a service file) on each worker. See ``TableSink`` for the
    settings. The markers are in two tables of the first schema on the search path.

    Lists go into arrays where the column is one, else dicts and lists become JSON; for a column of
    type json, a str is taken as JSON already.

    Raises:
        ConfigError: a setting is wrong, or psycopg is not installed.
    """

    def __init__(self, dsn: str, table: str, **settings: Unpack[TableSettings]) -> None:
        super().__init__(table, **settings)
        self.dsn = Dsn(dsn)
        self.arrays: tuple[str, ...] = ()
        self._connection: Connection | None = None

    # --- the epoch log ------------------------------------------------------------------------

    def apply(self, marker: EpochMarker | None, rows: Iterator[Any]) -> None:
        with self._translated():
            db = self._connect()
            with db.transaction():
                self._check_fence(db)
                if marker is None or db.execute(_MARK, marker).rowcount == 1:
                    self._write_rows(db, rows)

    def applied(self, marker: EpochMarker) -> bool:
        query = f"select checkpoint from {MARKERS} where (run, operator, subtask) = (%s, %s, %s)"
        with self._translated():
            found = self._connect().execute(query, marker[:3]).fetchone()
        return found is not None and int(found[0]) >= marker.checkpoint_id

    def raise_fence(self) -> None:
        with self._translated():
            db = self._connect()
            with db.transaction():
                self._check_fence(db)
                db.execute(_RAISE_FENCE, self.fence)

    def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def interrupt(self) -> None:
        connection = self._connection
        if connection is not None:
            with self._translated():
                connection.cancel_safe(timeout=1)

    def _check_fence(self, db: Connection) -> None:
        # Shared: a recovery that raises the fence waits for the transactions that have passed it.
        query = f"select attempt from {FENCES} where (run, operator) = (%s, %s) for share"
        found = db.execute(query, self.fence[:2]).fetchone()
        if found is not None and found[0] > self.fence.attempt:
            raise StorageError(
                f"attempt {self.fence.attempt} of operator {self.fence.operator!r} is over: "
                f"{found[0]} writes into {self.table} now"
            )

    def _write_rows(self, db: Connection, rows: Iterator[Any]) -> None:
        names = ", ".join(map(quoted, self.columns))
        if not self.key:
            _copy(db, f"copy {quoted(self.table)} ({names}) from stdin", rows)
            return
        # A key may come several times in an epoch; an insert must not meet it twice.
        db.execute(
            f"create temp table if not exists {STAGE} on commit delete rows as "
            f"select {names}, 0::bigint as {ORDER} from {quoted(self.table)} with no data"
        )
        numbered = ([*row, number] for number, row in enumerate(rows))
        _copy(db, f"copy {STAGE} ({names}, {ORDER}) from stdin", numbered)
        keys = ", ".join(map(quoted, self.key))
        db.execute(
            f"insert into {quoted(self.table)} ({names}) "
            f"select distinct on ({keys}) {names} from {STAGE} order by {keys}, {ORDER} desc"
            + on_conflict(self.columns, self.key)
        )

    # --- the table ----------------------------------------------------------------------------

    def create(self) -> None:
        try:
            with self._translated():
                db = self._connect()
                with db.transaction():
                    # Two jobs that begin at once would both find nothing and fail to make it.
                    db.execute("select pg_advisory_xact_lock(hashtext(%s))", (MARKERS,))
                    for statement in _TABLES:
                        db.execute(statement)
                    if self.types:
                        db.execute(create_table(self.table, self.types, self.key))
        except (StoreUnavailable, OutputRefused) as error:
            raise ConfigError(f"{self.table} cannot be written: {error}").hint(
                "this user needs the right to create tables, or flowsnap_epochs, flowsnap_fences "
                "and the table have to be there"
            ) from error

    def find(self) -> Found | None:
        name = quoted(self.table)
        with self._translated():
            db = self._connect()
            columns = db.execute(_COLUMNS, (name,)).fetchall()
            if not columns:
                return None
            unique = [frozenset(found[0]) for found in db.execute(_UNIQUE, (name,)).fetchall()]
            is_empty = db.execute(f"select 1 from {name} limit 1").fetchone() is None
        self.arrays = tuple(column for column, is_array in columns if is_array)
        return Found([column for column, _ in columns], unique, is_empty)

    def empty(self) -> None:
        with self._translated():
            self._connect().execute(f"delete from {quoted(self.table)}")

    def newest_applied(self, run_ids: Sequence[str], operator: str) -> int:
        query = f"select max(checkpoint) from {MARKERS} where operator = %s and run = any (%s)"
        with self._translated():
            found = self._connect().execute(query, (operator, list(run_ids))).fetchone()
        return 0 if found is None or found[0] is None else int(found[0])

    def convert_column(self, column: str) -> Convert:
        return _to_array if column in self.arrays else to_plain

    # --- the connection -----------------------------------------------------------------------

    def _connect(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self.dsn.connect()
        return self._connection

    def _translated(self) -> Any:
        return self.dsn.translated(f"table {self.table}")


def _copy(db: Connection, statement: str, rows: Iterator[Any]) -> None:
    with db.cursor() as cursor, cursor.copy(statement) as copy:
        write: Callable[[Any], None] = copy.write_row
        for row in rows:
            write(row)


def _to_array(value: Any) -> Any:
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_to_array(item) for item in value]
    return to_plain(value)
