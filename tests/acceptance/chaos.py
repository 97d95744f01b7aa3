"""A proxy for the sockets of a job, which cuts, resets, stalls and drops as it is told.

Every worker is told by the environment to connect to a directory in which the proxy listens under
the names of the real sockets (``transport/endpoint.py``). The proxy finds the real ones in the
directories of jobs below ``TMPDIR``. It reads ZMTP 3 as far as to know where a message ends, so
that a dropped message leaves a sound connection: what ZeroMQ does when it loses one.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Self

from flowsnap.errors import PeerProtocolError
from flowsnap.transport.control import SOCKET_NAME
from flowsnap.transport.frame import FrameKind, decode_header

ZMTP_GREETING_BYTES = 64
MORE, LONG, COMMAND = 0x1, 0x2, 0x4
ATTEMPTS_MAX = 8
ACCEPT_S = 0.05


class Act(Enum):
    """What becomes of a message, or of its connection."""

    PASS = auto()
    DROP = auto()
    CUT = auto()  # both ends see an orderly end of the stream (FIN)
    RESET = auto()  # both ends see the connection break with data unread (RST)
    FREEZE = auto()  # nothing passes any more in either direction, and nobody is told


@dataclass(frozen=True)
class Message:
    """A message on its way; ``number`` counts those of one direction of one connection from 1.

    ``role`` is "data", "worker" or "heartbeat"; ``kind`` is None on the control plane.
    """

    attempt: int
    role: str
    is_from_connecting_side: bool
    kind: FrameKind | None
    number: int


Rule = Callable[[Message], Act]


@dataclass
class _Link:
    """One connection through the proxy: ``near`` is who connected, ``far`` the real socket."""

    name: str
    near: socket.socket
    far: socket.socket
    role: str
    is_frozen: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        for end in (self.near, self.far):
            _shut(end)

    def reset(self) -> None:
        """Close with data unread: that is what makes the peer of a unix socket see a reset."""
        select.select([self.near, self.far], [], [], 1.0)
        self.near.close()
        self.far.close()


class ChaosProxy:
    """Listens in ``directory`` (mode 0700) for every socket of two workers; a context manager.

    ``scratch`` is where jobs make their socket directories. ``rule`` is asked for each message, by
    two threads for each connection.
    """

    def __init__(self, directory: Path, scratch: Path, rule: Rule) -> None:
        self.acts: dict[Act, int] = dict.fromkeys(Act, 0)
        self._directory = directory
        self._scratch = scratch
        self._rule = rule
        self._is_closed = threading.Event()
        self._links: list[_Link] = []
        self._threads: list[threading.Thread] = []
        self._counting = threading.Lock()

    def __enter__(self) -> Self:
        self._directory.mkdir(mode=0o700)
        names = [SOCKET_NAME, *(f"{attempt}-0-1.sock" for attempt in range(1, ATTEMPTS_MAX + 1))]
        for name in names:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(str(self._directory / name))
            listener.listen()
            listener.settimeout(ACCEPT_S)
            self._start(self._accept, name, listener)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed.set()
        for link in list(self._links):
            link.is_frozen.set()
            link.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a thread of the proxy does not end"
        for link in self._links:
            link.near.close()
            link.far.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="chaos", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, name: str, listener: socket.socket) -> None:
        with listener:
            while not self._is_closed.is_set():
                try:
                    near, _ = listener.accept()
                except TimeoutError:
                    continue
                self._join(name, near)

    def _join(self, name: str, near: socket.socket) -> None:
        far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            (real,) = self._scratch.glob(f"flowsnap-*/{name}")
            far.connect(str(real))
        except (ValueError, OSError):  # nobody listens: so it looks from the other side, too
            far.close()
            near.close()
            return
        near.settimeout(None)
        link = _Link(name, near, far, "data" if name != SOCKET_NAME else "worker")
        self._links.append(link)
        self._start(self._forward, link, True)
        self._start(self._forward, link, False)

    def _forward(self, link: _Link, is_from_connecting_side: bool) -> None:
        source, target = (link.near, link.far) if is_from_connecting_side else (link.far, link.near)
        attempt = int(link.name.partition("-")[0]) if link.role == "data" else 0
        try:
            for piece in _pieces(source, ZMTP_GREETING_BYTES):
                target.sendall(piece)  # at once: each side waits for the other's first bytes
            for number, (raw, body) in enumerate(_messages(source, target, link), 1):
                message = Message(
                    attempt, link.role, is_from_connecting_side, _kind(link, body), number
                )
                act = self._decide(message)
                if link.is_frozen.is_set():
                    self._is_closed.wait()
                if act is Act.PASS:
                    target.sendall(raw)
                elif act is not Act.DROP:
                    return self._strike(link, act)
        except (OSError, ValueError):  # one side has closed, or is closed by the other thread
            pass
        return link.close()

    def _decide(self, message: Message) -> Act:
        act = self._rule(message)
        with self._counting:
            self.acts[act] += 1
        return act

    def _strike(self, link: _Link, act: Act) -> None:
        match act:
            case Act.CUT:
                link.close()
            case Act.RESET:
                link.reset()
            case _:
                link.is_frozen.set()
                self._is_closed.wait()


def _messages(
    source: socket.socket, target: socket.socket, link: _Link
) -> Iterator[tuple[bytes, bytes]]:
    """Yield each message as it is on the wire, with its first part; commands pass unasked."""
    raw, first = bytearray(), None
    while True:
        head, flags, body = _frame(source)
        if flags & COMMAND:
            if b"heartbeat/" in body:
                link.role = "heartbeat"
            target.sendall(head + body)
            continue
        raw += head + body
        first = body if first is None else first
        if not flags & MORE:
            yield bytes(raw), first
            raw, first = bytearray(), None


def _frame(source: socket.socket) -> tuple[bytes, int, bytes]:
    flags = _exactly(source, 1)
    size = _exactly(source, 8 if flags[0] & LONG else 1)
    return flags + size, flags[0], _exactly(source, int.from_bytes(size, "big"))


def _exactly(source: socket.socket, size: int) -> bytes:
    return b"".join(_pieces(source, size))


def _pieces(source: socket.socket, size: int) -> Iterator[bytes]:
    while size:
        piece = source.recv(size)
        if not piece:
            raise ValueError("the stream has ended")
        size -= len(piece)
        yield piece


def _kind(link: _Link, body: bytes) -> FrameKind | None:
    if link.role != "data":
        return None
    try:
        return decode_header(memoryview(body)).kind
    except PeerProtocolError:
        return None


def _shut(end: socket.socket) -> None:
    with suppress(OSError):  # it is not connected any more
        end.shutdown(socket.SHUT_RDWR)
