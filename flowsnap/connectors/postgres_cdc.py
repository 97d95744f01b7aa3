"""Change data capture: a PostgreSQL table, and from then on every change of it, each once.

A replication slot has the server keep its log (WAL) from a place on that is the position of this
source. When it is made it exports a snapshot: the tables as they are exactly there. So the rows are
read first, as changes "read", then the log, and nothing is between them or twice. The slot moves on
when a checkpoint is complete (``SplitReader.committed``), and not before: whatever a restored job
asks for again is there. In the meantime, and while the job is down, the server keeps its log; see
``max_slot_wal_keep_size``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import Any, TypedDict, Unpack

import msgspec

from flowsnap.config import Duration, duration_ms
from flowsnap.connectors.dead_letters import DEAD_LETTER, DeadLetter, OnError, check_on_error
from flowsnap.connectors.options import check_options
from flowsnap.connectors.patience import Patience
from flowsnap.connectors.postgres_ranges import Ranges
from flowsnap.connectors.postgres_rows import ChangeRows, check_columns, types_by_table
from flowsnap.connectors.postgres_session import Connection, Dsn
from flowsnap.connectors.postgres_shape import shape_of
from flowsnap.connectors.postgres_snapshot import SnapshotReader
from flowsnap.connectors.postgres_stream import StreamReader
from flowsnap.connectors.postgres_tables import Change, Table, Tables, find_tables
from flowsnap.connectors.postgres_wire import Wire
from flowsnap.connectors.table import quoted
from flowsnap.core.element import Batch
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.errors import ConfigError, StoreUnavailable

__all__ = ["Change", "PostgresChanges"]

STREAM_WAIT_MS, SNAPSHOT_WAIT_MS = 20, 1
_SLOT = re.compile(r"[a-z0-9_]{1,63}")

_ACTIVE = "select active_pid from pg_replication_slots where slot_name = %s"
_PUBLISHED = (
    "select format('%%s.%%s', schemaname, tablename) from pg_publication_tables where pubname = %s"
)


class ChangesOptions(TypedDict, total=False):
    """What else a PostgresChanges can be told; see there."""

    publication: str | None
    snapshot: bool
    on_error: OnError
    retry_timeout: Duration


class PostgresChanges(Source):
    """The rows of some tables, and every change of them from then on, as ``Change``: each once.

    ``slot`` is the name of the replication slot, one for each job, which is made at a fresh start
    (one of that name is replaced) and kept until ``drop``. ``publication`` is that of the server,
    by default called like the slot; it is made if it is missing. With ``snapshot=False`` only
    changes come. The tables need a primary key; what an update or delete tells of the former row is
    its key, or all of it with ``alter table ... replica identity full``.

    With ``type`` the rows in a Change are records: Structs, dataclasses, TypedDicts or pydantic
    models. Of several tables, it may be a mapping of their names to types; those that it leaves out
    give dicts. ``before`` is a record where the log holds all of the former row, else a dict of its
    key. Where the log leaves out a value that an update has not touched, and the type has a field
    for it, the change does not parse, unless the field's default is ``msgspec.UNSET``.
    ``on_error="dead-letter"``: what does not parse leaves by the side output of that name.

    One split, since the log is one. While the server is away it is asked again with back-off, for
    ``retry_timeout``; then the attempt fails. The server needs ``wal_level = logical``, the user
    the attribute ``replication``.

    Raises:
        ConfigError: a setting is wrong, or psycopg is not installed.
    """

    bounded = False
    discovers = False
    is_told_of_checkpoints = True

    def __init__(
        self,
        dsn: str,
        tables: str | Sequence[str],
        *,
        slot: str,
        type: Any = Any,
        **options: Unpack[ChangesOptions],
    ) -> None:
        check_options("PostgresChanges", options, ChangesOptions)
        if not isinstance(slot, str) or _SLOT.fullmatch(slot) is None:
            raise ConfigError(f"slot: {slot!r} is not the name of a slot").hint(
                "up to 63 lower-case letters, digits and underscores"
            )
        self.dsn = Dsn(dsn)
        self.tables = (tables,) if isinstance(tables, str) else tuple(tables)
        if not self.tables:
            raise ConfigError("tables: there is none")
        self.slot = slot
        self.type = type
        for one in type.values() if isinstance(type, Mapping) else [type]:
            shape_of(one)
        self.has_dead_letters = check_on_error(options.get("on_error", "fail")) == DEAD_LETTER
        self.publication = options.get("publication") or slot
        self.snapshot = options.get("snapshot", True)
        self.retry_timeout_ms = duration_ms(options.get("retry_timeout", "60s"), "retry_timeout")

    def splits(self, parallelism: int) -> list[Split]:
        """Return the one split, and make the publication.

        Raises:
            ConfigError: a table is missing, has no key, or not what its type requires; or the
                server does not replicate.
        """
        with self.dsn.asked("the source") as db:
            _check_server(db)
            tables = find_tables(db, self.tables)
            self._check_types(tables)
            self._publish(db, tables)
        return [_split_of(self.slot, tables)]

    def splits_after(self, parallelism: int, known: Sequence[tuple[Split, Any]]) -> Sequence[Split]:
        """Return the split of a job that goes on, of the same tables; typed, with today's columns.

        A snapshot that is gone on with would lack a column that a type has got a field for.

        Raises:
            ConfigError: a table has not what its type requires, or ``type`` names another one.
        """
        if not known or self.type is Any:
            return super().splits_after(parallelism, known)
        ((split, _),) = known
        with self.dsn.asked("the source") as db:
            tables = tuple(
                _as_today(db, table) for table in msgspec.convert(split.payload["tables"], Tables)
            )
        self._check_types(tables)
        return [_split_of(split.id, tables)]

    def open_split(self, split: Split, position: Any) -> ChangeReader:
        return ChangeReader(self, msgspec.convert(split.payload["tables"], Tables), position)

    def drop(self) -> None:
        """Remove the slot and the publication, for good: no checkpoint can be restored then.

        Whoever reads from the slot is cut off.

        Raises:
            StoreUnavailable: the server does not answer.
        """
        if _release_slot(self, is_fresh=False):
            with closing(Wire(self.dsn, replication=True)) as wire:
                # It takes a moment until the one that was cut off has let go of the slot.
                wire.run(f'DROP_REPLICATION_SLOT "{self.slot}" WAIT'.encode())
        with closing(self.dsn.connect()) as db, self.dsn.translated():
            db.execute(f"drop publication if exists {_name(self.publication)}")

    def _check_types(self, tables: Tables) -> None:
        types = types_by_table(self.type, tables)
        for table in tables:
            check_columns(table.name, types[table.name], table.columns)

    def _publish(self, db: Connection, tables: Tables) -> None:
        found = {row[0] for row in db.execute(_PUBLISHED, (self.publication,)).fetchall()}
        missing = [table.name for table in tables if table.name not in found]
        exists = db.execute(
            "select 1 from pg_publication where pubname = %s", (self.publication,)
        ).fetchone()
        if exists is None:
            names = ", ".join(quoted(table.name) for table in tables)
            db.execute(f"create publication {_name(self.publication)} for table {names}")
        elif missing:
            raise ConfigError(
                f"the publication {self.publication} leaves out {', '.join(missing)}"
            ).hint("alter publication ... add table ..., or name another publication")


class ChangeReader(SplitReader):
    """Reads the snapshot, then the log; whichever breaks off is begun again from its position."""

    def __init__(self, source: PostgresChanges, tables: Tables, position: Any) -> None:
        self._source = source
        self._tables = tables
        self._typed: ChangeRows | None = None
        if source.type is not Any:
            types = types_by_table(source.type, tables)
            self._typed = ChangeRows(types, is_kept=source.has_dead_letters)
        self._lsn: int | None = None if position is None else position["lsn"]
        self._skip: int = 0 if position is None else position["skip"]
        plain = {} if position is None else position["read"]
        if position is None and source.snapshot:
            plain = {table.name: [] for table in tables}
        self._read = {name: Ranges.from_plain(ranges) for name, ranges in plain.items()}
        self._reader: SnapshotReader | StreamReader | None = None
        self._is_first = True
        self._patience = Patience(source.retry_timeout_ms)

    def read(self, limit: int) -> Batch:
        """Return what has come, if anything has.

        Raises:
            StoreUnavailable: the server has been away for ``retry_timeout``.
            RestoreError: the slot no longer keeps what comes next.
            MalformedInput: a row is not of its type, and dead letters are not wanted.
        """
        if self._patience.wait_ms:
            return Batch([])
        try:
            values = self._read_on(limit)
        except StoreUnavailable:
            self.close()
            if not self._patience.may_go_on():
                raise
            return Batch([])
        if values or isinstance(self._reader, StreamReader):
            self._patience.succeeded()
        return Batch(list(values))

    def position(self) -> dict[str, Any] | None:
        self._take_over()
        if self._lsn is None:
            return None  # The slot has not been made, or nobody knows where it begins.
        read = {name: ranges.to_plain() for name, ranges in self._read.items()}
        return {"lsn": self._lsn, "skip": self._skip, "read": read}

    def wait_ms(self) -> int:
        is_streaming = isinstance(self._reader, StreamReader)
        return max(STREAM_WAIT_MS if is_streaming else SNAPSHOT_WAIT_MS, self._patience.wait_ms)

    def committed(self, position: Any) -> None:
        """Let the server forget its log up to ``position``; it is told with the next message."""
        if position is not None and isinstance(self._reader, StreamReader):
            self._reader.committed(position["lsn"])

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _read_on(self, limit: int) -> Sequence[Change | DeadLetter]:
        if self._reader is None:
            self._reader = self._open()
        values = self._reader.read(limit)
        self._take_over()
        if isinstance(self._reader, SnapshotReader) and self._reader.is_finished:
            self.close()
        return values

    def _open(self) -> SnapshotReader | StreamReader:
        source, is_first = self._source, self._is_first
        if is_first:
            # Who has it now is an attempt before this one, or a life of the job that is over.
            _release_slot(source, is_fresh=self._lsn is None)
            self._is_first = False
        elif self._lsn is None:
            _release_slot(source, is_fresh=True)
        unread = [table for table in self._tables if not self._is_read(table.name)]
        if self._lsn is None or unread:
            return SnapshotReader(
                source.dsn, source.slot, unread, self._read, self._lsn, self._typed
            )
        return StreamReader(
            source.dsn, (source.slot, source.publication), self._tables, self._read,
            (self._lsn, self._skip), self._typed,
        )  # fmt: skip

    def _is_read(self, table: str) -> bool:
        return table not in self._read or self._read[table].is_whole

    def _take_over(self) -> None:
        if self._reader is not None:
            self._lsn, self._skip = self._reader.place()


def _split_of(id_: str, tables: Tables) -> Split:
    return Split(id_, {"tables": msgspec.to_builtins(tables)})


def _as_today(db: Connection, table: Table) -> Table:
    """Return a table with the columns that it has now; as it was, where it is there no more."""
    with suppress(ConfigError):
        (found,) = find_tables(db, [table.name])
        return msgspec.structs.replace(table, columns=found.columns)
    return table


def _check_server(db: Connection) -> None:
    found = db.execute("show wal_level").fetchone()
    if found is None or found[0] != "logical":
        raise ConfigError(f"the server's wal_level is {found and found[0]}").hint(
            "alter system set wal_level = logical, and restart the server"
        )


def _release_slot(source: PostgresChanges, *, is_fresh: bool) -> bool:
    """Cut off whoever reads from the slot; at a fresh start, remove it. Return whether it was.

    Raises:
        StoreUnavailable: it is still in use, for a moment: try again.
    """
    with closing(source.dsn.connect()) as db, source.dsn.translated(f"slot {source.slot}"):
        found = db.execute(_ACTIVE, (source.slot,)).fetchone()
        if found is None:
            return False
        if found[0] is not None:
            db.execute("select pg_terminate_backend(%s)", (found[0],))
        if is_fresh:
            db.execute("select pg_drop_replication_slot(%s)", (source.slot,))
    return True


def _name(publication: str) -> str:
    return '"' + publication.replace('"', '""') + '"'
