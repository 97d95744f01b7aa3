"""One connection to PostgreSQL that is asked without waiting, and the protocol of replication.

psycopg waits for what it asks. Sources must not: a slot is made once all running transactions have
ended, a sorted cursor gives its first row once it has sorted. So a ``Wire`` speaks to libpq below
psycopg: ``ask``, then ``answer`` until there is one. ``start_replication`` turns it into a stream
of the log, both ways: messages come, and how far they are done with goes back.

Source: PostgreSQL manual, "Streaming Replication Protocol".
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psycopg
from psycopg import pq

from flowsnap.connectors.pgoutput import EPOCH_MS
from flowsnap.connectors.postgres_session import Dsn
from flowsnap.errors import PeerProtocolError, StoreUnavailable

REST_MS = 1
"""How long the next part of an answer that has begun to come is waited for."""

TEXT_FORMS = b"""
    set datestyle = iso; set intervalstyle = postgres; set timezone = 'UTC';
    set extra_float_digits = 1; set bytea_output = hex;
    set idle_in_transaction_session_timeout = 0; set statement_timeout = 0
"""
"""So that a value's text is the same in a snapshot and in the log, and can be read; and so that a
snapshot may take its time."""

_DATA = struct.Struct(">cQQq")
_ALIVE = struct.Struct(">cQqB")
_STATUS = struct.Struct(">cQQQqB")
_GOOD = {
    pq.ExecStatus.COMMAND_OK,
    pq.ExecStatus.TUPLES_OK,
    pq.ExecStatus.COPY_BOTH,
    pq.ExecStatus.EMPTY_QUERY,
}


class Logged(NamedTuple):
    """A message of the plugin."""

    data: bytes


class Alive(NamedTuple):
    """The server is there; all of the log before ``lsn`` has been sent."""

    lsn: int
    wants_reply: bool


Answer = pq.abc.PGresult
"""What the server has answered: rows of text; see ``postgres_tables.Values``."""


class Wire:
    """A connection of its own; made by ``connect``, which does wait.

    Raises:
        StoreUnavailable: from every method, if the server does not answer or has gone.
        OutputRefused: from every method, if it refuses what it was asked.
    """

    def __init__(self, dsn: Dsn, *, replication: bool) -> None:
        self._dsn = dsn
        connection = dsn.connect(replication=replication)
        self._connection = connection
        self._pg = connection.pgconn
        self._arrivals = select.poll()
        self._arrivals.register(self._pg.socket, select.POLLIN)
        try:
            self.run(TEXT_FORMS)
        except BaseException:
            self.close()
            raise

    def run(self, statement: bytes) -> Answer:
        """Ask, and wait for the answer; for what the server answers at once."""
        with self._translated():
            return self._answer_of(self._pg.exec_(statement))

    def ask(self, statement: bytes) -> None:
        """Ask without waiting; one question at a time."""
        with self._translated():
            self._pg.send_query(statement)

    def answer(self) -> Answer | None:
        """Return the answer, if it has come by now."""
        with self._translated():
            wait_ms = REST_MS if self._arrivals.poll(0) else 0
            self._pg.consume_input()
            while self._pg.is_busy():
                # libpq takes some KB at a time; more of the answer may be there already, or is sent
                # as soon as the socket has room for it.
                if not self._arrivals.poll(wait_ms):
                    return None
                self._pg.consume_input()
            found: Answer | None = None
            while (result := self._pg.get_result()) is not None:
                found = self._answer_of(result)
        if found is None:
            raise PeerProtocolError(f"{self._dsn} was asked nothing and cannot answer")
        return found

    def literal(self, text: str) -> bytes:
        """Return a string as a literal of SQL."""
        return bytes(pq.Escaping(self._pg).escape_literal(text.encode()))

    def start_replication(self, slot: str, publication: str, lsn: int) -> None:
        """Have the server send the log from ``lsn`` on, by ``receive``."""
        quoted = '"' + publication.replace('"', '""') + '"'
        named = self.literal(quoted).decode()
        self.run(
            f'START_REPLICATION SLOT "{slot}" LOGICAL {lsn_text(lsn)} '
            f"(proto_version '1', publication_names {named})".encode()
        )

    def receive(self) -> Logged | Alive | None:
        """Return what has come next, if anything has."""
        with self._translated():
            size, data = self._pg.get_copy_data(1)
            if size == 0:
                self._pg.consume_input()
                size, data = self._pg.get_copy_data(1)
        if size == 0:
            return None
        if size < 0:
            raise StoreUnavailable(f"{self._dsn} has ended the replication")
        return self._message_of(bytes(data))

    def confirm(self, received: int, done: int) -> None:
        """Tell how far the log has come, and up to where it is not wanted again."""
        now = int(time.time() * 1_000_000) - EPOCH_MS * 1000
        with self._translated():
            self._pg.put_copy_data(_STATUS.pack(b"r", received, done, done, now, 0))
            self._pg.flush()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _message_of(self, data: bytes) -> Logged | Alive:
        if data[:1] == b"w" and len(data) >= _DATA.size:
            return Logged(data[_DATA.size :])
        if data[:1] == b"k" and len(data) == _ALIVE.size:
            _, lsn, _, wants_reply = _ALIVE.unpack(data)
            return Alive(lsn, bool(wants_reply))
        raise PeerProtocolError(f"{self._dsn} sent {data[:1]!r}, which is not of replication")

    def _answer_of(self, result: pq.abc.PGresult) -> Answer:
        if result.status not in _GOOD:
            raise self._error_of(result)
        return result

    def _error_of(self, result: pq.abc.PGresult) -> psycopg.Error:
        error = psycopg.errors.error_from_result(result, encoding="utf-8")
        return error if isinstance(error, psycopg.Error) else psycopg.OperationalError(str(error))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        with self._dsn.translated():
            yield


def lsn_text(lsn: int) -> str:
    """Return a place in the log as the server writes it."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    """Return a place in the log as a number; the inverse of ``lsn_text``."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)
