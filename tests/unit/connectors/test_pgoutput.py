from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.connectors.pgoutput import (
    EPOCH_MS,
    UNCHANGED,
    Begin,
    Column,
    Commit,
    Delete,
    Insert,
    Message,
    Relation,
    Row,
    Skipped,
    Truncate,
    Update,
    decode,
)
from flowsnap.errors import PeerProtocolError

LSNS, OIDS = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)
TIMES_MS = st.integers(EPOCH_MS, EPOCH_MS + 10**13)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
ROWS = st.lists(st.one_of(st.none(), st.just(UNCHANGED), st.binary(max_size=8)), max_size=4).map(
    tuple
)
COLUMNS = st.builds(Column, NAMES, OIDS, st.booleans())
MESSAGES = st.one_of(
    st.builds(Begin, LSNS, TIMES_MS, OIDS),
    st.builds(Commit, LSNS, LSNS, TIMES_MS),
    st.builds(Relation, OIDS, NAMES, NAMES, st.sampled_from("dnfi"), st.lists(COLUMNS).map(tuple)),
    st.builds(Insert, OIDS, ROWS),
    st.builds(Update, OIDS, st.none(), st.just(False), ROWS),
    st.builds(Update, OIDS, ROWS, st.booleans(), ROWS),
    st.builds(Delete, OIDS, ROWS, st.booleans()),
    st.builds(Truncate, st.lists(OIDS, max_size=3).map(tuple)),
)


def encode(message: Message) -> bytes:  # noqa: PLR0911 - one for each kind
    """Return what the server sends, written after the manual and not after the decoder."""
    match message:
        case Begin(lsn, at_ms, xid):
            return b"B" + struct.pack(">QqI", lsn, (at_ms - EPOCH_MS) * 1000, xid)
        case Commit(lsn, end, at_ms):
            return b"C" + struct.pack(">BQQq", 0, lsn, end, (at_ms - EPOCH_MS) * 1000)
        case Relation(oid, schema, name, identity, columns):
            head = struct.pack(">I", oid) + text(schema) + text(name) + identity.encode()
            return b"R" + head + struct.pack(">H", len(columns)) + b"".join(map(column, columns))
        case Insert(oid, row):
            return b"I" + struct.pack(">I", oid) + b"N" + tuple_data(row)
        case Update(oid, old, is_full, row):
            former = b"" if old is None else (b"O" if is_full else b"K") + tuple_data(old)
            return b"U" + struct.pack(">I", oid) + former + b"N" + tuple_data(row)
        case Delete(oid, old_row, is_full):
            return b"D" + struct.pack(">I", oid) + (b"O" if is_full else b"K") + tuple_data(old_row)
        case Truncate(oids):
            return b"T" + struct.pack(f">IB{len(oids)}I", len(oids), 3, *oids)
        case Skipped(kind):
            return kind.encode()


def text(name: str) -> bytes:
    return name.encode() + b"\0"


def column(one: Column) -> bytes:
    return struct.pack(">B", one.is_key) + text(one.name) + struct.pack(">Ii", one.type_oid, -1)


def tuple_data(row: Row) -> bytes:
    return struct.pack(">H", len(row)) + b"".join(map(value_data, row))


def value_data(value: Any) -> bytes:
    if value is None:
        return b"n"
    return b"u" if value is UNCHANGED else b"t" + struct.pack(">I", len(value)) + value


@given(MESSAGES)
@settings(max_examples=300)
def test_message_is_what_the_server_wrote(message: Message) -> None:
    assert decode(encode(message)) == message


@given(MESSAGES, st.data())
def test_message_that_is_cut_off_anywhere_is_an_error(
    message: Message, data: st.DataObject
) -> None:
    whole = encode(message)
    end = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(PeerProtocolError):
        decode(whole[:end])


@given(MESSAGES, st.binary(min_size=1, max_size=3))
def test_message_with_bytes_left_over_is_an_error(message: Message, more: bytes) -> None:
    with pytest.raises(PeerProtocolError, match="malformed"):
        decode(encode(message) + more)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_message_or_an_error_of_the_peer(data: bytes) -> None:
    with suppress(PeerProtocolError):
        assert decode(data) is not None


@pytest.mark.parametrize("kind", ["O", "Y", "M"])
def test_what_tells_nothing_of_rows_is_skipped(kind: str) -> None:
    assert decode(kind.encode() + b"anything") == Skipped(kind)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a message of kind '' is not known"),
        (b"Z", "a message of kind 'Z' is not known"),
        (b"I\0\0\0\1X\0\0", "a row of kind 'X' came instead of 'N'"),
        (b"U\0\0\0\1X\0\0", "a row of kind 'X' is not known"),
        (b"D\0\0\0\1N\0\0", "a row of kind 'N' is not known"),
        (b"I\0\0\0\1N\0\1b", "a value of kind 'b' is not known"),
        (b"I\0\0\0\1N\0\1t\0\0\0\5abc", "5 bytes are wanted and 3 are left"),
    ],
)
def test_malformed_message_says_what_is_wrong_with_it(data: bytes, message: str) -> None:
    with pytest.raises(PeerProtocolError, match=message):
        decode(data)
