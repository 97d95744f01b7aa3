"""PostgreSQL: a table as an exactly-once sink, by the epoch log and COPY."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Unpack

from flowsnap.connectors.epoch_log import EpochMarker
from flowsnap.connectors.fenced_table import FencedTable
from flowsnap.connectors.postgres_copy import copy_rows
from flowsnap.connectors.postgres_session import Connection, Dsn, refusing
from flowsnap.connectors.rows import Convert, Row, Unfit, to_plain
from flowsnap.connectors.table import MARKERS, Found, TableSettings, on_conflict, quoted
from flowsnap.errors import ConfigError, OutputRefused, StoreUnavailable

STAGE, ORDER = "flowsnap_stage", "flowsnap_order"

_COLUMNS = """
    select a.attname, t.typcategory::text
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


class Postgres(FencedTable):
    """A table of a PostgreSQL database: exactly-once.

    ``dsn`` is a connection string of libpq; a password that is not in it is taken from where libpq
    looks (``PGPASSWORD``, ``~/.pgpass``, a service file) on each worker. See ``TableSink`` for the
    settings. The markers are in two tables of the first schema on the search path.

    Lists go into arrays where the column is one, else dicts and lists become JSON; for a column of
    type json, a str is taken as JSON already.

    Raises:
        ConfigError: a setting is wrong, or psycopg is not installed.
    """

    mark = "%s"
    shared_lock = " for share"

    def __init__(self, dsn: str, table: str, **settings: Unpack[TableSettings]) -> None:
        super().__init__(table, **settings)
        self.dsn = Dsn(dsn)
        self.categories: dict[str, str] = {}  # of the columns' types, as PostgreSQL has them
        self._connection: Connection | None = None

    # --- the epoch log ------------------------------------------------------------------------

    def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def interrupt(self) -> None:
        connection = self._connection
        if connection is not None:
            with self.translated():
                connection.cancel_safe(timeout=1)

    def insert_rows(self, db: Connection, rows: Iterator[Row]) -> None:
        names = ", ".join(map(quoted, self.columns))
        categories = [self.categories[column] for column in self.columns]
        if not self.key:
            copy_rows(db, f"{quoted(self.table)} ({names})", categories, rows)
            return
        # A key may come several times in an epoch; an insert must not meet it twice.
        db.execute(
            f"create temp table if not exists {STAGE} on commit delete rows as "
            f"select {names}, 0::bigint as {ORDER} from {quoted(self.table)} with no data"
        )
        numbered = ([*row, number] for number, row in enumerate(rows))
        copy_rows(db, f"{STAGE} ({names}, {ORDER})", [*categories, "N"], numbered)
        keys = ", ".join(map(quoted, self.key))
        db.execute(
            f"insert into {quoted(self.table)} ({names}) "
            f"select distinct on ({keys}) {names} from {STAGE} order by {keys}, {ORDER} desc"
            + on_conflict(self.columns, self.key)
        )

    def try_rows(self, db: Connection, rows: list[Row]) -> None:
        with refusing(), db.transaction():
            self.insert_rows(db, iter(rows))
            if self.key:
                db.execute(f"delete from {STAGE}")

    def insert_fitting(self, db: Connection, marker: EpochMarker, rows: Iterator[Row]) -> None:
        # What is checked at the end of the transaction would be known too late.
        db.execute("set constraints all immediate")
        super().insert_fitting(db, marker, rows)

    # --- the table ----------------------------------------------------------------------------

    def create(self) -> None:
        try:
            with self.transaction() as db:
                # Two jobs that begin at once would both find nothing and fail to make it.
                db.execute("select pg_advisory_xact_lock(hashtext(%s))", (MARKERS,))
                for statement in self.missing_tables():
                    db.execute(statement)
        except (StoreUnavailable, OutputRefused) as error:
            raise ConfigError(f"{self.table} cannot be written: {error}").hint(
                "this user needs the right to create tables, or flowsnap_epochs, flowsnap_fences "
                "and the table have to be there"
            ) from error

    def find(self) -> Found | None:
        name = quoted(self.table)
        with self.translated():
            db = self.connect()
            columns = db.execute(_COLUMNS, (name,)).fetchall()
            if not columns:
                return None
            unique = [frozenset(found[0]) for found in db.execute(_UNIQUE, (name,)).fetchall()]
            is_empty = db.execute(f"select 1 from {name} limit 1").fetchone() is None
        self.categories = dict(columns)
        return Found(list(self.categories), unique, is_empty)

    def convert_column(self, column: str) -> Convert:
        return _to_array if self.categories.get(column) == "A" else to_plain

    def check_rows(self, rows: Sequence[Row]) -> None:
        for index, row in enumerate(rows):
            if any(isinstance(value, str) and "\0" in value for value in row):
                raise Unfit(index, "has a NUL in a text, which PostgreSQL does not take")

    # --- the connection -----------------------------------------------------------------------

    def connect(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self.dsn.connect()
        return self._connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self.translated():
            db = self.connect()
            with db.transaction():
                yield db

    def translated(self) -> AbstractContextManager[None]:
        return self.dsn.translated(f"table {self.table}")


def _to_array(value: Any) -> Any:
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_to_array(item) for item in value]
    return to_plain(value)
