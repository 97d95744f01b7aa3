"""SocketText: lines that a TCP server sends, for trying things out: ``nc -lk 9999``.

A socket cannot be read again, so this is at-most-once: lines that were read after the last
checkpoint are lost with a crash. What matters belongs into a log that can be read again.

Source: Flink, ``SocketTextStreamFunction``; as there, a connection that is lost is made again.
"""

from __future__ import annotations

import codecs
import logging
import socket
import threading
from collections.abc import Callable, Iterator

from flowsnap.config import Duration, duration_ms
from flowsnap.connectors.python_sources import Pump, PumpReader
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.errors import ConfigError, StoreUnavailable

LOG = logging.getLogger("flowsnap.socket")

CONNECT_S = 5.0
AGAIN_S = 0.5
BUFFER_LINES = 10_000
LINE_BYTES_MAX = 16 << 20
"""The longest line: a peer that sends none must not fill the memory."""


class SocketText(Source):
    r"""The lines that a server sends, as ``str``, without ``\n`` or ``\r\n``: at most once.

    ``bounded``: whether the source ends when the server closes the connection; else it connects
    again, for as long as ``retry_timeout`` without success.

    Raises:
        ConfigError: a setting is wrong.
    """

    discovers = False

    def __init__(
        self,
        host: str,
        port: int,
        *,
        bounded: bool = False,
        encoding: str = "utf-8",
        retry_timeout: Duration = "60s",
    ) -> None:
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 1 << 16:
            raise ConfigError(f"port: {port!r} is no port").hint("a number from 1 to 65535")
        try:
            codecs.lookup(encoding)
        except LookupError as error:
            raise ConfigError(f"encoding: {encoding!r} is not a text encoding") from error
        self.host, self.port = host, port
        self.bounded = bounded
        self.encoding = encoding
        self.retry_ms = duration_ms(retry_timeout, "retry_timeout")

    def splits(self, parallelism: int) -> list[Split]:
        return [Split("all")]

    def open_split(self, split: Split, position: int | None) -> SplitReader:
        """Return a reader; its position is the number of lines that were read."""
        if position:
            LOG.warning(
                "%s:%d cannot be read again: lines after the first %d are lost",
                self.host,
                self.port,
                position,
            )
        return SocketReader(self, position or 0)


class SocketReader(PumpReader):
    """Reads lines that a thread receives."""

    def __init__(self, source: SocketText, position: int) -> None:
        super().__init__(Pump(_Connections(source).run, BUFFER_LINES), position)


class _Connections:
    """Connections to one server, one after the other; ``run`` is the thread's."""

    def __init__(self, source: SocketText) -> None:
        self._source = source
        self._name = f"{source.host}:{source.port}"
        self._closed = threading.Event()
        self._socket: socket.socket | None = None
        self._failures = 0

    def run(self, pump: Pump) -> None:
        """Put lines, from one connection after the other.

        Raises:
            StoreUnavailable: nobody has answered for too long.
        """
        pump.interrupt = self.close
        while not (self._closed.is_set() or pump.is_closed):
            try:
                connection = socket.create_connection(
                    (self._source.host, self._source.port), timeout=CONNECT_S
                )
            except OSError as error:
                self._fail(error)
                continue
            with connection:
                self._socket = connection
                if self._closed.is_set():
                    return
                self._failures = 0
                connection.settimeout(None)
                is_wanted = self._receive(connection, pump)
            if self._source.bounded or not is_wanted:
                return
            LOG.warning("%s has closed the connection; connecting again", self._name)
            self._closed.wait(AGAIN_S)

    def close(self) -> None:
        """Have ``run`` return, also where it waits for the peer; called by the reader."""
        self._closed.set()
        connection = self._socket
        if connection is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                LOG.debug("%s was closed already", self._name)

    def _receive(self, connection: socket.socket, pump: Pump) -> bool:
        decode = self._source.encoding
        try:
            for line in _lines(lambda: connection.recv(1 << 16), self._name):
                if not pump.put(line.decode(decode, "replace")):
                    return False
        except OSError as error:
            LOG.warning("the connection to %s was lost: %s", self._name, error)
        return True

    def _fail(self, error: OSError) -> None:
        self._failures += 1
        if self._failures * AGAIN_S * 1000 > self._source.retry_ms:
            raise StoreUnavailable(f"nobody answers at {self._name}: {error}").hint(
                "is the server running? nc -lk PORT is one"
            ) from error
        self._closed.wait(AGAIN_S)


def _lines(receive: Callable[[], bytes], name: str) -> Iterator[bytes]:
    """Yield the lines of what is received; the last one need not have an end."""
    rest = b""
    while data := receive():
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.removesuffix(b"\r") for line in lines)
        if len(rest) > LINE_BYTES_MAX:
            raise StoreUnavailable(f"{name} has sent {len(rest)} bytes without a line break").hint(
                "is it a server of text?"
            )
    if rest:
        yield rest
