"""What a table of PostgreSQL looks like, and its changes as records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import Format
from psycopg.pq.abc import PGresult

from flowsnap.connectors.pgoutput import UNCHANGED, Value
from flowsnap.connectors.postgres_session import Connection
from flowsnap.connectors.table import quoted
from flowsnap.errors import ConfigError

_FIND = """
    select format('%%s.%%s', n.nspname, c.relname), c.relreplident::text,
        array(select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attnum > 0
              and not a.attisdropped and a.attgenerated = '' order by a.attnum),
        array(select a.attname::text from pg_attribute a join pg_index i on i.indrelid = c.oid
              and i.indisprimary and a.attnum = any (i.indkey) where a.attrelid = c.oid
              order by a.attnum)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = to_regclass(%s)
"""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to a row.

    ``op`` is "read" for a row that was there from the beginning, "insert", "update", "delete" or
    "truncate". ``after`` is the row as it is now; a large value that an update has not touched is
    left out of it, unless the table's replica identity is full. ``before`` is what the log holds of
    the former row: its key where that has changed or the row is gone, or all of it. ``lsn`` tells
    the transaction (its place in the log), ``committed_at_ms`` when it was committed.

    A row is a dict by column, or of the type that its table was given.
    """

    op: str
    table: str
    before: Any = None
    after: Any = None
    lsn: int = 0
    committed_at_ms: int | None = None


class Table(msgspec.Struct, frozen=True):
    """A table: its name with its schema, its columns, those of its primary key, its given name."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    given: str = ""


Tables = tuple[Table, ...]


def find_tables(db: Connection, names: Sequence[str]) -> Tables:
    """Return the tables of these names, in this order.

    Raises:
        ConfigError: one does not exist, or has no primary key by which its changes are told.
    """
    return tuple(_find(db, name) for name in names)


def _find(db: Connection, name: str) -> Table:
    found = db.execute(_FIND, (quoted(name),)).fetchone()
    if found is None:
        raise ConfigError(f"the table {name} does not exist")
    full_name, identity, columns, key = found
    if not key or identity not in ("d", "f"):
        raise ConfigError(f"changes of {name} cannot be told apart").hint(
            "it needs a primary key, and the replica identity default or full"
        )
    return Table(full_name, tuple(columns), tuple(key), name)


class Values:
    """Makes Python's values of the server's text, as psycopg does; times with a zone are in UTC."""

    def __init__(self) -> None:
        self._transformer = Transformer()
        self._loads: dict[int, Callable[[bytes], Any]] = {}

    def rows(self, result: PGresult) -> list[tuple[Any, ...]]:
        """Return the rows of an answer."""
        self._transformer.set_pgresult(result, set_loaders=True)
        try:
            return self._transformer.load_rows(0, result.ntuples, tuple)
        except (psycopg.Error, ValueError):
            columns = [(column, result.ftype(column)) for column in range(result.nfields)]
            return [
                tuple(self.load(result.get_value(row, column), oid) for column, oid in columns)
                for row in range(result.ntuples)
            ]

    def load(self, text: Value, type_oid: int) -> Any:
        """Return the value; its text, where Python has no such value (a date "infinity")."""
        if text is None or text is UNCHANGED:
            return None
        assert isinstance(text, bytes)
        load = self._loads.get(type_oid)
        if load is None:
            load = self._transformer.get_loader(type_oid, Format.TEXT).load
            self._loads[type_oid] = load
        try:
            return load(text)
        except (psycopg.Error, ValueError):
            return text.decode()
