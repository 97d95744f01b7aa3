"""The log of PostgreSQL from a place on: changes of rows, from a replication slot."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from flowsnap.connectors.dead_letters import DeadLetter
from flowsnap.connectors.pgoutput import (
    UNCHANGED,
    Begin,
    Commit,
    Delete,
    Insert,
    Relation,
    Row,
    Truncate,
    Update,
    decode,
)
from flowsnap.connectors.postgres_ranges import Key, Ranges
from flowsnap.connectors.postgres_rows import ChangeRows
from flowsnap.connectors.postgres_session import Dsn
from flowsnap.connectors.postgres_tables import Change, Table, Tables, Values
from flowsnap.connectors.postgres_wire import Alive, Wire, lsn_number, lsn_text
from flowsnap.errors import PeerProtocolError, RestoreError

STATUS_S = 1.0
"""How often the server hears of us; it gives up after ``wal_sender_timeout``, 60 s by default."""

_STATE = """
    select confirmed_flush_lsn::text, wal_status from pg_replication_slots where slot_name = %s
"""

RowChange = Insert | Update | Delete | Truncate


class StreamReader:
    """Reads the log through a slot, from ``place``: an LSN, and how many changes from there on.

    ``named`` are the slot and the publication. What the snapshots in ``read`` hold already is left
    out; a table is taken out of ``read`` when that is all over. ``typed`` makes records of rows.

    Raises:
        RestoreError: the slot does not keep the log from there on.
    """

    def __init__(
        self,
        dsn: Dsn,
        named: tuple[str, str],
        tables: Tables,
        read: dict[str, Ranges],
        place: tuple[int, int],
        typed: ChangeRows | None = None,
    ) -> None:
        slot, publication = named
        self._lsn, self._skip = place
        self._read = read
        self._typed = typed
        self._tables = {table.name: table for table in tables}
        self._values = Values()
        self._relations: dict[int, Relation] = {}
        self._columns: dict[int, frozenset[str]] = {}  # of each relation
        self._begin: Begin | None = None
        self._seen = 0  # changes of the transaction that has begun
        self._received = self._lsn
        self._done = 0
        self._told_at_s = time.monotonic()
        _check_slot(dsn, slot, self._lsn)
        self._wire = Wire(dsn, replication=True)
        try:
            self._wire.start_replication(slot, publication, self._lsn)
        except BaseException:
            self.close()
            raise

    def read(self, limit: int) -> Sequence[Change | DeadLetter]:
        """Return about ``limit`` changes, or as many as have come.

        Raises:
            MalformedInput: a row is not of its type, and dead letters are not wanted.
        """
        found: list[Change | DeadLetter] = []
        wants_reply = False
        while len(found) < limit and (message := self._wire.receive()) is not None:
            if isinstance(message, Alive):
                wants_reply |= message.wants_reply
                self._take_alive(message)
            else:
                found += self._take(message.data)
        now_s = time.monotonic()
        if wants_reply or now_s >= self._told_at_s + STATUS_S:
            self._tell(now_s)
        return found

    def place(self) -> tuple[int, int]:
        """Return where to go on from: an LSN, and how many changes to leave out from there."""
        return self._lsn, self._skip

    def committed(self, lsn: int) -> None:
        """Tell the server that the log before ``lsn`` is not wanted again."""
        if lsn > self._done:
            self._done = lsn
            self._tell(time.monotonic())

    def close(self) -> None:
        """Close the connection; the slot stays."""
        self._wire.close()

    def _tell(self, now_s: float) -> None:
        self._told_at_s = now_s
        self._wire.confirm(self._received, self._done)

    def _take_alive(self, message: Alive) -> None:
        self._received = max(self._received, message.lsn)
        if self._begin is None and message.lsn > self._lsn:
            # Nothing of ours is before it: without this a slot would keep the log of others.
            self._lsn, self._skip = message.lsn, 0

    def _take(self, data: bytes) -> Sequence[Change | DeadLetter]:
        match decode(data):
            case Begin() as begin:
                self._begin, self._seen = begin, 0
                self._forget_snapshots(begin.commit_lsn)
            case Commit(end_lsn=end_lsn):
                self._begin = None
                self._lsn, self._skip = end_lsn, 0
                self._received = max(self._received, end_lsn)
            case Relation() as relation:
                self._relations[relation.oid] = relation
                self._columns[relation.oid] = frozenset(one.name for one in relation.columns)
            case Insert() | Update() | Delete() | Truncate() as change:
                return self._count(change)
            case _:
                pass
        return []

    def _count(self, change: RowChange) -> Sequence[Change | DeadLetter]:
        self._seen += 1
        if self._seen <= self._skip:
            return []  # Given out before the restart, which was within this transaction.
        self._skip = self._seen
        if isinstance(change, Truncate):
            relations = [self._relations[oid] for oid in change.relation_oids]
            names = [f"{relation.schema}.{relation.name}" for relation in relations]
            return [one for name in names for one in self._truncated(name)]
        relation = self._relations.get(change.relation_oid)
        if relation is None:
            raise PeerProtocolError(f"a change of relation {change.relation_oid} came unannounced")
        table = self._tables.get(f"{relation.schema}.{relation.name}")
        made = None if table is None else self._changed(change, relation, table)
        if made is None:
            return []
        if self._typed is None:
            return [made]
        return [self._typed.change(made, self._columns[relation.oid])]

    def _changed(
        self, change: Insert | Update | Delete, relation: Relation, table: Table
    ) -> Change | None:
        after: Row | None = None
        old: Row | None = None
        is_full = False
        match change:
            case Insert(row=row):
                after = row
            case Update(old=old, is_full=is_full, row=row):
                after = _completed(row, old if is_full else None)
            case Delete(old=old, is_full=is_full):
                pass
        is_old_held = self._holds(relation, table, after if old is None else old)
        is_new_held = self._holds(relation, table, after if after is not None else old)
        if is_old_held and is_new_held:
            return None
        before = None if old is None else self._values_of(relation, table, old, is_full)
        now = None if after is None else self._values_of(relation, table, after, True)
        if is_old_held:  # The row has come out of one snapshot's part, into that of another.
            return self._change("insert", table.name, None, now)
        if is_new_held:
            return self._change("delete", table.name, before, None)
        return self._change(type(change).__name__.lower(), table.name, before, now)

    def _truncated(self, table: str) -> list[Change]:
        if table not in self._tables:
            return []
        ranges, begin = self._read.get(table), self._begin
        if ranges is not None and begin is not None and begin.commit_lsn < ranges.lsn_max:
            if begin.commit_lsn < ranges.lsn_min:
                return []
            raise RestoreError(f"{table} was truncated while its snapshot was being read").hint(
                "some of its rows were given out before, some after: start the job afresh"
            )
        return [self._change("truncate", table, None, None)]

    def _change(
        self, op: str, table: str, before: dict[str, Any] | None, after: dict[str, Any] | None
    ) -> Change:
        begin = self._begin
        if begin is None:
            raise PeerProtocolError(f"a change of {table} came outside of a transaction")
        return Change(
            op=op,
            table=table,
            before=before,
            after=after,
            lsn=begin.commit_lsn,
            committed_at_ms=begin.committed_at_ms,
        )

    def _holds(self, relation: Relation, table: Table, row: Row | None) -> bool:
        ranges = self._read.get(table.name)
        if ranges is None or row is None or self._begin is None:
            return False
        return ranges.holds(_key_of(relation, table.key, row), self._begin.commit_lsn)

    def _values_of(
        self, relation: Relation, table: Table, row: Row, is_full: bool
    ) -> dict[str, Any]:
        load = self._values.load
        return {
            column.name: load(value, column.type_oid)
            for column, value in zip(relation.columns, row, strict=True)
            if value is not UNCHANGED and (is_full or column.name in table.key)
        }

    def _forget_snapshots(self, commit_lsn: int) -> None:
        for name in [n for n, ranges in self._read.items() if ranges.lsn_max <= commit_lsn]:
            del self._read[name]


def _completed(row: Row, old: Row | None) -> Row:
    """Take values that an update has not touched from the former row, where that is known."""
    if old is None:
        return row
    return tuple(o if new is UNCHANGED else new for new, o in zip(row, old, strict=True))


def _key_of(relation: Relation, key: Sequence[str], row: Row) -> Key:
    values: Mapping[str, Any] = dict(
        zip((column.name for column in relation.columns), row, strict=True)
    )
    return tuple(values[name].decode() for name in key)


def _check_slot(dsn: Dsn, slot: str, lsn: int) -> None:
    with closing(dsn.connect()) as db, dsn.translated(f"slot {slot}"):
        found = db.execute(_STATE, (slot,)).fetchone()
    if found is None or found[1] == "lost":
        raise RestoreError(f"the slot {slot} is gone, and with it the changes since").hint(
            "it was dropped, or fell behind max_slot_wal_keep_size: start the job afresh"
        )
    if lsn_number(found[0]) > lsn:
        raise RestoreError(
            f"the slot {slot} begins at {found[0]}, and changes from {lsn_text(lsn)} on are wanted"
        ).hint("the job has gone back behind a completed checkpoint: start it afresh")
