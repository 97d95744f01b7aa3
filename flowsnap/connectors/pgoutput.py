r"""The messages of PostgreSQL's logical replication: what does the server tell of a transaction?

Decodes the plugin ``pgoutput``, protocol version 1: a transaction comes whole, after its commit, as
``B``, its changes, ``C``; what a table looks like comes before the first change in it. Integers are
big-endian, names end with a zero byte. A column's value is its text, as the type's output function
writes it; None is NULL; ``UNCHANGED`` stands for a large value (TOAST) that an update has not
touched, and that the log therefore does not hold.

Pure: bytes in, messages out. Everything that the server may send is decoded or skipped by name;
bytes that end too early, or go on, are an error.

Source: PostgreSQL manual, "Logical Replication Message Formats".

>>> decode(b"B" + (16).to_bytes(8, "big") + bytes(8) + (7).to_bytes(4, "big"))
Begin(commit_lsn=16, committed_at_ms=946684800000, xid=7)
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from flowsnap.errors import PeerProtocolError

EPOCH_MS = 946_684_800_000
"""2000-01-01, from where the server counts, in ms since 1970."""


class Unchanged(Enum):
    """The type of ``UNCHANGED``."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED

Value = bytes | None | Unchanged
Row = tuple[Value, ...]


class Begin(NamedTuple):
    """A transaction begins; ``commit_lsn`` is where its commit record begins in the log."""

    commit_lsn: int
    committed_at_ms: int
    xid: int


class Commit(NamedTuple):
    """It ends; from ``end_lsn`` on, the log holds none of it."""

    commit_lsn: int
    end_lsn: int
    committed_at_ms: int


class Column(NamedTuple):
    """A column of a table: ``is_key`` of the replica identity, ``type_oid`` of its type."""

    name: str
    type_oid: int
    is_key: bool


class Relation(NamedTuple):
    """What a table looks like from here on.

    ``identity`` is "d" for the primary key, "n" for nothing, "f" for all columns, "i" for an index.
    """

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[Column, ...]


class Insert(NamedTuple):
    """A new row."""

    relation_oid: int
    row: Row


class Update(NamedTuple):
    """A row that has changed; ``old`` is there if its key has, or if the identity is full.

    ``is_full`` tells whether ``old`` is the whole row, or its key alone.
    """

    relation_oid: int
    old: Row | None
    is_full: bool
    row: Row


class Delete(NamedTuple):
    """A row that is gone; ``is_full`` tells whether ``old`` is all of it, or its key alone."""

    relation_oid: int
    old: Row
    is_full: bool


class Truncate(NamedTuple):
    """All rows of some tables are gone."""

    relation_oids: tuple[int, ...]


class Skipped(NamedTuple):
    """A message that tells nothing of rows: an origin, a type, a message of a user."""

    kind: str


Message = Begin | Commit | Relation | Insert | Update | Delete | Truncate | Skipped

_U8, _U16, _U32 = struct.Struct(">B"), struct.Struct(">H"), struct.Struct(">I")
_U64, _I64 = struct.Struct(">Q"), struct.Struct(">q")


class _Reader:
    """Takes one thing after the other from a message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 1

    def number(self, kind: struct.Struct) -> int:
        (value,) = kind.unpack_from(self._data, self._at)
        self._at += kind.size
        return int(value)

    def time_ms(self) -> int:
        return EPOCH_MS + self.number(_I64) // 1000

    def letter(self) -> str:
        return chr(self.number(_U8))

    def text(self) -> str:
        end = self._data.index(b"\0", self._at)
        found = self._data[self._at : end].decode()
        self._at = end + 1
        return found

    def bytes(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) < count:
            raise ValueError(f"{count} bytes are wanted and {len(found)} are left")
        self._at += count
        return found

    def row(self) -> Row:
        return tuple(self._value() for _ in range(self.number(_U16)))

    def _value(self) -> Value:
        match self.letter():
            case "n":
                return None
            case "u":
                return UNCHANGED
            case "t":
                return self.bytes(self.number(_U32))
            case kind:
                raise ValueError(f"a value of kind {kind!r} is not known")

    def finish(self) -> None:
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes are left over")


def decode(data: bytes) -> Message:
    """Return the message of ``data``.

    Raises:
        PeerProtocolError: it is of a kind that is not known, cut off, or too long.
    """
    kind = chr(data[0]) if data else ""
    if kind in ("O", "Y", "M"):
        return Skipped(kind)
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise PeerProtocolError(f"a message of kind {kind!r} is not known in logical replication")
    reader = _Reader(data)
    try:
        message = decoder(reader)
        reader.finish()
    except (struct.error, ValueError) as error:
        raise PeerProtocolError(
            f"a message of kind {kind!r}, {len(data)} bytes long, is malformed: {error}"
        ) from error
    return message


def _begin(reader: _Reader) -> Begin:
    return Begin(reader.number(_U64), reader.time_ms(), reader.number(_U32))


def _commit(reader: _Reader) -> Commit:
    reader.number(_U8)  # Flags, of which there are none.
    return Commit(reader.number(_U64), reader.number(_U64), reader.time_ms())


def _relation(reader: _Reader) -> Relation:
    oid, schema, name = reader.number(_U32), reader.text(), reader.text()
    identity = reader.letter()
    columns = tuple(_column(reader) for _ in range(reader.number(_U16)))
    return Relation(oid, schema, name, identity, columns)


def _column(reader: _Reader) -> Column:
    is_key = bool(reader.number(_U8) & 1)
    name, type_oid = reader.text(), reader.number(_U32)
    reader.number(_U32)  # The type's modifier, such as the length of a varchar.
    return Column(name, type_oid, is_key)


def _insert(reader: _Reader) -> Insert:
    oid = reader.number(_U32)
    _expect(reader, "N")
    return Insert(oid, reader.row())


def _update(reader: _Reader) -> Update:
    oid, kind = reader.number(_U32), reader.letter()
    old = None
    if kind in "KO":
        old = reader.row()
        _expect(reader, "N")
    elif kind != "N":
        raise ValueError(f"a row of kind {kind!r} is not known")
    return Update(oid, old, kind == "O", reader.row())


def _delete(reader: _Reader) -> Delete:
    oid, kind = reader.number(_U32), reader.letter()
    if kind not in "KO":
        raise ValueError(f"a row of kind {kind!r} is not known")
    return Delete(oid, reader.row(), kind == "O")


def _truncate(reader: _Reader) -> Truncate:
    count = reader.number(_U32)
    reader.number(_U8)  # Whether it cascades, and restarts sequences: the tables are all named.
    return Truncate(tuple(reader.number(_U32) for _ in range(count)))


def _expect(reader: _Reader, kind: str) -> None:
    found = reader.letter()
    if found != kind:
        raise ValueError(f"a row of kind {found!r} came instead of {kind!r}")


_DECODERS: dict[str, Callable[[_Reader], Message]] = {
    "B": _begin,
    "C": _commit,
    "R": _relation,
    "I": _insert,
    "U": _update,
    "D": _delete,
    "T": _truncate,
}
