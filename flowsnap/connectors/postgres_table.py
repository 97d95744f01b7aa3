"""A table of PostgreSQL that is only added to, read by a column that only grows.

Rows become visible when their transaction commits, which is not the order of their numbers: a row
with a lower number may appear after one with a higher. Who reads on from the highest number seen
loses it. So this source reads up to a number only when nobody can come below it any more: it notes
the highest number, and *after that* who is writing into the table (they hold a lock on it, which
anybody may see); once all of these have ended, every row up to the number is there, or never will
be. Nothing is locked for that, and no writer waits.

That holds for numbers that are given when a row is inserted, in ascending order: identity columns,
``serial``, sequences without a cache. It does not for a column that is filled in before, such as a
time of the client, nor for rows that are updated: for those take ``PostgresChanges``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import Any, TypedDict, Unpack

from flowsnap.config import Duration, duration_ms
from flowsnap.connectors.dead_letters import DEAD_LETTER, OnError, check_on_error
from flowsnap.connectors.options import check_options
from flowsnap.connectors.patience import Patience
from flowsnap.connectors.postgres_rows import TableRows, check_columns
from flowsnap.connectors.postgres_session import Connection, Dsn
from flowsnap.connectors.postgres_shape import shape_of
from flowsnap.connectors.postgres_tables import Values
from flowsnap.connectors.postgres_wire import Answer, Wire
from flowsnap.connectors.table import quoted
from flowsnap.core.element import Batch
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.errors import ConfigError, StoreUnavailable

ASK_AGAIN_MS = 1

BY_INDEX = b"set enable_sort = off; set enable_seqscan = off; set enable_bitmapscan = off"
"""Without statistics, as of a table that is new, the server would sort all of it for each batch."""

Place = tuple[str, ...]
"""The values of the columns that only grow, as text."""

_COLUMNS = """
    select array(select a.attname::text from pg_attribute a where a.attrelid = to_regclass(%s)
        and a.attnum > 0 and not a.attisdropped order by a.attnum),
    array(select array_to_string(array(select a.attname::text from pg_attribute a
            where a.attrelid = i.indrelid and a.attnum = any (i.indkey) and a.attnotnull), chr(1))
        from pg_index i where i.indrelid = to_regclass(%s) and i.indisunique
        and i.indpred is null and i.indexprs is null)
"""

_WRITERS = """
    array(select virtualtransaction from pg_locks where locktype = 'relation' and granted
        and database = (select oid from pg_database where datname = current_database())
        and relation = to_regclass({table}) and pid is distinct from pg_backend_pid() and mode in
        ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))
"""


class TableOptions(TypedDict, total=False):
    """What else a PostgresTable can be told; see there."""

    columns: Sequence[str]
    bounded: bool
    on_error: OnError
    poll_interval: Duration
    retry_timeout: Duration


class PostgresTable(Source):
    """The rows of a table that is added to, in the order of ``by``: each once.

    ``by`` is a column, or several, that grow with every row and that a unique index is on. A record
    is a dict by column, or a ``type``: a Struct, a dataclass, a TypedDict or a pydantic model.
    ``on_error="dead-letter"``: what is not of the type leaves by the side output of that name.
    ``columns`` are what is read, by default the fields of ``type``, or all. ``bounded``: up to what
    is there when the job is submitted; else the table is asked for more every ``poll_interval``.
    While the server is away it is asked again with back-off, for ``retry_timeout``; then the
    attempt fails.

    Raises:
        ConfigError: a setting is wrong, or psycopg is not installed.
    """

    discovers = False

    def __init__(
        self,
        dsn: str,
        table: str,
        *,
        by: str | Sequence[str],
        type: Any = Any,
        **options: Unpack[TableOptions],
    ) -> None:
        check_options("PostgresTable", options, TableOptions)
        self.dsn = Dsn(dsn)
        self.table = table
        self.by = (by,) if isinstance(by, str) else tuple(by)
        self.type = type
        self.shape = shape_of(type)
        self.has_dead_letters = check_on_error(options.get("on_error", "fail")) == DEAD_LETTER
        self.columns = tuple(options.get("columns", ()))
        self.bounded = options.get("bounded", False)
        self.poll_interval_ms = duration_ms(options.get("poll_interval", "1s"), "poll_interval")
        self.retry_timeout_ms = duration_ms(options.get("retry_timeout", "60s"), "retry_timeout")
        if not self.by:
            raise ConfigError("by: no column is named")

    def splits(self, parallelism: int) -> list[Split]:
        """Return one split, the table; with its end, where it is bounded.

        Raises:
            ConfigError: the table is missing, or has not what the type requires, or ``by`` is not
                unique in it.
        """
        with self.dsn.asked(self.table) as db:
            columns = self._checked(db)
            end = self._end(db) if self.bounded else None
        return [Split(self.table, {"columns": columns, "end": end})]

    def splits_after(self, parallelism: int, known: Sequence[tuple[Split, Any]]) -> Sequence[Split]:
        """Return the split of a job that goes on, up to its end; with the columns of its type now.

        Raises:
            ConfigError: as for ``splits``.
        """
        if not known or self.type is Any:
            return super().splits_after(parallelism, known)
        with self.dsn.asked(self.table) as db:
            columns = self._checked(db)
        return [
            Split(split.id, {**split.payload, "columns": columns}, split.size) for split, _ in known
        ]

    def open_split(self, split: Split, position: Any) -> TableReader:
        return TableReader(self, split, position)

    def places(self) -> str:
        """Return the columns that grow as the server's text."""
        return ", ".join(f"format('%s', {quoted(name)})" for name in self.by)

    def order(self, direction: str) -> str:
        """Return how rows are ordered."""
        return ", ".join(f"{quoted(name)} {direction}" for name in self.by)

    def _checked(self, db: Connection) -> list[str]:
        name = quoted(self.table)
        found = db.execute(_COLUMNS, (name, name)).fetchone()
        columns, indexes = found if found is not None else ([], [])
        if not columns:
            raise ConfigError(f"the table {self.table} does not exist")
        strange = [one for one in (*self.by, *self.columns) if one not in columns]
        if strange:
            raise ConfigError(f"the table {self.table} has no column {strange[0]!r}").hint(
                f"it has {', '.join(columns)}"
            )
        if not any(index and set(index.split("\1")) <= set(self.by) for index in indexes):
            raise ConfigError(f"by: {', '.join(self.by)} is not unique in {self.table}").hint(
                "rows of the same number could be lost: make it the primary key, or add the "
                "primary key to by"
            )
        fields = self.shape.columns
        read = self.columns or [name for name in columns if fields is None or name in fields]
        check_columns(self.table, self.type, read)
        return list(read)

    def _end(self, db: Connection) -> list[str]:
        query = f"select {self.places()} from {quoted(self.table)} order by {self.order('desc')}"
        found = db.execute(f"{query} limit 1".replace("%", "%%"), ()).fetchone()
        return [] if found is None else list(found)


class TableReader(SplitReader):
    """Asks who writes, waits until they have ended, and reads what is settled; then again."""

    def __init__(self, source: PostgresTable, split: Split, position: Any) -> None:
        self._source = source
        self._columns: list[str] = split.payload["columns"]
        hidden = [name for name in source.by if name not in self._columns]
        self._selected = [*self._columns, *hidden]
        self._place = [self._selected.index(name) for name in source.by]
        self._end = None if split.payload["end"] is None else Place(split.payload["end"])
        self._last: Place | None = None if position is None else Place(position)
        self._settled: Place | None = None  # up to where rows may be read
        self._noted: Place | None = None  # up to where, once those who write have ended
        self._writers: frozenset[str] | None = None
        self._values = Values()
        self._typed: TableRows | None = None
        if source.type is not Any:
            self._typed = TableRows(source.table, source.type, is_kept=source.has_dead_letters)
        self._wire: Wire | None = None
        self._question = ""
        self._limit = 0  # of the question for rows
        self._wait_ms = 0
        self._patience = Patience(source.retry_timeout_ms)

    def read(self, limit: int) -> Batch | None:
        """Return the next rows; None at the end, if there is one.

        Raises:
            StoreUnavailable: the server has been away for ``retry_timeout``.
            MalformedInput: a row is not of the type, and dead letters are not wanted.
        """
        if self._end is not None and (self._last or ()) == self._end:
            return None
        if self._patience.wait_ms:
            return Batch([])
        try:
            return Batch(self._read_on(limit))
        except StoreUnavailable:
            self.close()
            if not self._patience.may_go_on():
                raise
            return Batch([])

    def position(self) -> list[str] | None:
        return None if self._last is None else list(self._last)

    def wait_ms(self) -> int:
        return max(self._wait_ms, self._patience.wait_ms)

    def close(self) -> None:
        """Close the connection, and forget what it was asked."""
        wire, self._wire = self._wire, None
        self._question, self._writers, self._settled = "", None, None
        if wire is not None:
            wire.close()

    def _read_on(self, limit: int) -> list[Any]:
        if self._wire is None:
            self._wire = Wire(self._source.dsn, replication=False)
            self._wire.run(BY_INDEX)
        if not self._question:
            self._ask(self._wire, limit)
        answer = self._wire.answer()
        self._wait_ms = ASK_AGAIN_MS
        if answer is None:
            return []
        self._patience.succeeded()
        question, self._question = self._question, ""
        rows: list[Any] = []
        if question == "rows":
            rows = self._take_rows(answer)
        else:
            self._take_writers(answer)
        if self._settled is not None:
            self._ask(self._wire, limit)  # The server looks for them while these are processed.
        return rows

    def _ask(self, wire: Wire, limit: int) -> None:
        name = wire.literal(quoted(self._source.table)).decode()
        writers = _WRITERS.format(table=name)
        table, places = quoted(self._source.table), self._source.places()
        if self._settled is not None:
            self._question, self._limit = "rows", limit
            wire.ask(self._select(wire, limit))
        else:
            self._question = "writers"
            newest = f"select {places} from {table} order by {self._source.order('desc')} limit 1"
            wire.ask(f"select {writers}, newest.* from (select 1) one left join ({newest}) newest "
                     "on true".encode())  # fmt: skip

    def _select(self, wire: Wire, limit: int) -> bytes:
        assert self._settled is not None
        names = ", ".join(map(quoted, self._source.by))
        bound = f"({names}) <= ({self._literals(wire, self._settled)})"
        if self._last is not None:
            bound += f" and ({names}) > ({self._literals(wire, self._last)})"
        columns = ", ".join(map(quoted, self._selected))
        return (
            f"select {columns} from {quoted(self._source.table)} "
            f"where {bound} order by {self._source.order('asc')} limit {limit}"
        ).encode()

    @staticmethod
    def _literals(wire: Wire, place: Place) -> str:
        return ", ".join(wire.literal(part).decode() for part in place)

    def _take_rows(self, answer: Answer) -> list[Any]:
        rows = self._values.rows(answer)
        found: list[Any] = list(map(dict, map(zip, repeat(self._columns), rows)))
        if self._typed is not None:
            found = self._typed.records(found, partial(self._place_of, answer))
        if rows:
            self._last = self._place_of(answer, len(rows) - 1)
        if len(rows) < self._limit:
            # All that is settled has been read; that the last row was there is known.
            self._last, self._settled = self._settled, None
            self._wait_ms = 0 if rows else self._source.poll_interval_ms
        return found

    def _place_of(self, answer: Answer, row: int) -> Place:
        values = (answer.get_value(row, column) for column in self._place)
        return Place((text or b"").decode() for text in values)

    def _take_writers(self, answer: Answer) -> None:
        ((writers, *newest),) = self._values.rows(answer)
        holding = frozenset(writers)
        if self._writers is None:
            self._writers = holding
            self._noted = self._end or (None if newest[0] is None else Place(newest))
        # A prepared transaction has another name than while it was running.
        left = {one for one in holding if one in self._writers or one.startswith("-1/")}
        if left:
            return
        self._writers = None
        if self._noted is None or self._noted == self._last:
            self._wait_ms = self._source.poll_interval_ms
        else:
            self._settled = self._noted
