"""The rows of tables as they are at one place in the log, in the order of their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flowsnap.connectors.dead_letters import DeadLetter
from flowsnap.connectors.postgres_ranges import Key, Ranges
from flowsnap.connectors.postgres_rows import ChangeRows
from flowsnap.connectors.postgres_session import Dsn
from flowsnap.connectors.postgres_tables import Change, Table, Values
from flowsnap.connectors.postgres_wire import Answer, Wire, lsn_number
from flowsnap.connectors.table import quoted


class _Exported(NamedTuple):
    name: str
    lsn: int


class SnapshotReader:
    """Makes a slot, and reads ``unread`` from the snapshot that it exports.

    With ``lsn`` None the slot is the job's own, and its beginning the place of the source. Else the
    job has a slot, and a former snapshot was broken off: the slot made now is there for its
    snapshot alone, and gone with its connection. ``typed`` makes records of the rows.
    """

    def __init__(
        self,
        dsn: Dsn,
        slot: str,
        unread: Sequence[Table],
        read: Mapping[str, Ranges],
        lsn: int | None,
        typed: ChangeRows | None = None,
    ) -> None:
        self.is_finished = False
        self._dsn = dsn
        self._slot = slot
        self._unread = list(unread)
        self._read = read
        self._lsn = lsn
        self._typed = typed
        self._values = Values()
        self._snapshot: _Exported | None = None
        self._wire: Wire | None = None
        self._is_fetching = False
        self._exporter: Wire | None = Wire(dsn, replication=True)
        try:
            self._exporter.ask(self._create_slot())
        except BaseException:
            self.close()
            raise

    def read(self, limit: int) -> Sequence[Change | DeadLetter]:
        """Return the next rows, if they have come."""
        if self._snapshot is None and not self._begin():
            return []
        assert self._wire is not None
        if not self._unread:
            self.is_finished = True
            return []
        if not self._is_fetching:
            self._fetch(self._wire, limit)
        answer = self._wire.answer()
        if answer is None:
            return []
        self._is_fetching = False
        found = self._take(answer)
        if found:
            self._fetch(self._wire, limit)  # The server does it while these are processed.
        return found if self._typed is None else self._typed.snapshot(found)

    def place(self) -> tuple[int | None, int]:
        """Return where the log is to be read from, once the slot has been made."""
        return self._lsn, 0

    def close(self) -> None:
        """Close both connections."""
        for wire in (self._exporter, self._wire):
            if wire is not None:
                wire.close()

    def _fetch(self, wire: Wire, limit: int) -> None:
        wire.ask(b"fetch %d from flowsnap_rows" % limit)
        self._is_fetching = True

    def _create_slot(self) -> bytes:
        if self._lsn is None:
            return (
                f'CREATE_REPLICATION_SLOT "{self._slot}" LOGICAL pgoutput EXPORT_SNAPSHOT'.encode()
            )
        return (
            f'CREATE_REPLICATION_SLOT "{self._slot[:55]}_reread" TEMPORARY LOGICAL pgoutput '
            "EXPORT_SNAPSHOT"
        ).encode()

    def _begin(self) -> bool:
        assert self._exporter is not None
        answer = self._exporter.answer()
        if answer is None:
            return False
        ((_, lsn, name, _),) = self._values.rows(answer)
        self._snapshot = _Exported(name, lsn_number(lsn))
        self._wire = Wire(self._dsn, replication=False)
        self._wire.run(b"begin isolation level repeatable read read only")
        self._wire.run(b"set transaction snapshot " + self._wire.literal(name))
        # The snapshot is held by who has taken it over; who made it is needed no longer.
        self._exporter.close()
        self._exporter = None
        if self._lsn is None:
            self._lsn = self._snapshot.lsn
        self._declare()
        return True

    def _declare(self) -> None:
        if self._unread and self._wire is not None:
            statement = self._select(self._wire, self._unread[0])
            self._wire.run(b"declare flowsnap_rows no scroll cursor for " + statement)

    def _select(self, wire: Wire, table: Table) -> bytes:
        # By the type's own output function, as in the log: a cast writes some types otherwise.
        keys = [f"format('%s', {quoted_name(name)}) collate \"C\"" for name in table.key]
        columns = [quoted_name(name) for name in table.columns]
        statement = f"select {', '.join([*keys, *columns])} from {quoted(table.name)}".encode()
        upper = self._read[table.name].upper
        if upper is not None:
            bound = b", ".join(map(wire.literal, upper))
            statement += f" where ({', '.join(keys)}) > (".encode() + bound + b")"
        return statement + f" order by {', '.join(map(str, range(1, len(keys) + 1)))}".encode()

    def _take(self, answer: Answer) -> list[Change]:
        assert self._snapshot is not None
        assert self._wire is not None
        table, lsn = self._unread[0], self._snapshot.lsn
        rows = self._values.rows(answer)
        if not rows:
            self._read[table.name].extend(None, lsn)
            self._unread.pop(0)
            self._wire.run(b"close flowsnap_rows")
            self._declare()
            return []
        width = len(table.key)
        last: Key = rows[-1][:width]
        self._read[table.name].extend(last, lsn)
        return [
            Change(
                op="read",
                table=table.name,
                after=dict(zip(table.columns, row[width:], strict=True)),
                lsn=lsn,
            )
            for row in rows
        ]


def quoted_name(name: str) -> str:
    """Return the name of a column as SQL writes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'
