"""SQL over a snapshot, by DuckDB; needs an extra.

A state is the table ``<operator>.<state>``, the operator being a schema: ``select * from
accounts.balance``. Only the tables that a query names are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowsnap.errors import ConfigError
from flowsnap.snapshot.arrow import arrow_table
from flowsnap.snapshot.tables import table_names

if TYPE_CHECKING:
    from flowsnap.snapshot.snapshot import Snapshot

try:
    import duckdb
    import pyarrow
except ImportError as error:
    raise ConfigError("queries of a snapshot need duckdb").hint(
        "install flowsnap with the extra sql: pip install 'flowsnap[sql]'"
    ) from error


Named = tuple[str, str, str]
"""A table's whole name, the schema that it is in, and its name in there."""


def run_query(snapshot: Snapshot, query: str) -> pyarrow.Table:
    """Return the answer to a query.

    Raises:
        ConfigError: the query is wrong, or names a table that there is not.
    """
    config: dict[str, Any] = {"autoinstall_known_extensions": "false"}  # nothing is downloaded
    with duckdb.connect(":memory:", config=config) as connection:
        for named in _used(connection, query, _named(snapshot)):
            _add(connection, named, arrow_table(snapshot, named[0]))
        try:
            answer = connection.sql(query)
            return pyarrow.table({}) if answer is None else answer.to_arrow_table()
        except duckdb.Error as error:
            first, *_ = str(error).splitlines()
            raise ConfigError(f"the query cannot be answered: {first}").hint(
                f"tables: {', '.join(table_names(snapshot))}"
            ) from error


def _named(snapshot: Snapshot) -> list[Named]:
    states = [(f"{s.operator}.{s.name}", str(s.operator), s.name) for s in snapshot.states]
    others = [(name, "main", name) for name in table_names(snapshot)[len(states) :]]
    return states + others


def _used(connection: duckdb.DuckDBPyConnection, query: str, tables: list[Named]) -> list[Named]:
    """Return the tables that a query may mean; all of them where it cannot be told."""
    try:
        used = {name.casefold() for name in connection.get_table_names(query)}
    except duckdb.Error:
        return tables
    return [named for named in tables if {named[0].casefold(), named[2].casefold()} & used]


def _add(connection: duckdb.DuckDBPyConnection, named: Named, content: pyarrow.Table) -> None:
    """Make a table known by its whole name, and as that of a schema."""
    whole, schema, name = named
    hidden = _quoted(f"snapshot {whole}")
    connection.register(f"snapshot {whole}", content)
    try:
        connection.execute(f"create schema if not exists {_quoted(schema)}")
        for known in {(schema, name), ("main", whole)}:
            view = ".".join(map(_quoted, known))
            connection.execute(f"create view {view} as select * from {hidden}")
    except duckdb.CatalogException as error:
        raise ConfigError(f"table {whole!r} cannot be told from another one: {error}") from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
