"""The data plane on ZeroMQ: one PAIR socket for each pair of workers, in both directions.

The worker of the lower id binds; the other connects and greets, and the first answers. ZeroMQ
reconnects by itself and may lose messages when it does, so reconnecting is off and a monitor
reports the end of a connection. Credits bound what can be under way; the high-water mark is above
them, so that a send which would block is an error. Nothing but the greeting is sent to a peer whose
own greeting has not been checked.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import zmq

from flowsnap.core.element import Batch, Element
from flowsnap.core.ids import AttemptId, ChannelId, WorkerId
from flowsnap.errors import ConnectionLost, LocalProtocolError
from flowsnap.transport.connection import Connection, Part
from flowsnap.transport.endpoint import FRAME_BYTES_MAX, ipc_endpoint, peer_endpoint
from flowsnap.transport.frame import (
    FRAGMENT,
    HEADER_BYTES,
    INLINE,
    OPAQUE,
    FrameKind,
    Header,
    control_fields,
    encode_header,
)
from flowsnap.transport.payload import Payload, encode_batch
from flowsnap.transport.plane import GREETING_MS_MAX, Member, Received, Route
from flowsnap.transport.session import by_channel, make_sessions
from flowsnap.transport.turns import Turns

INLINE_BYTES_MAX = 16_384
"""Up to here the header is copied in front of the pickle stream; above, it is a part of its own."""


class ZmqDataPlane:
    """The channels of one worker on ZeroMQ; see ``DataPlane`` for the contract.

    ``directory`` is the same for all workers, with mode 0700. ``frame_bytes_max`` bounds a frame,
    here and, at the least, at every peer; a larger batch is split.

    Raises:
        ConfigError: the directory is open to others, or its path too long for a socket.
    """

    def __init__(  # noqa: PLR0913 - what identifies the plane, and where it is
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        directory: Path,
        *,
        job: str,
        attempt: AttemptId,
        worker: WorkerId,
        routes: Iterable[Route],
        frame_bytes_max: int = FRAME_BYTES_MAX,
    ) -> None:
        self._context = context
        self._worker = worker
        self._attempt = attempt
        self._frame_bytes_max = frame_bytes_max
        routes = tuple(routes)
        sessions = make_sessions(Member(job, attempt, worker), routes)
        self._connections = {
            peer: Connection(session, _endpoint(directory, attempt, worker, peer))
            for peer, session in sessions.items()
        }
        self._turns = Turns(self._connections.values())
        self._of_channel = by_channel(worker, routes, self._connections)
        self._poller = zmq.Poller()
        self._of_socket: dict[zmq.Socket[bytes], Connection] = {}
        self._greeting_deadline_ms: int | None = None

    def bind(self) -> None:
        for peer, connection in self._connections.items():
            if peer > self._worker:
                connection.bind(self._context, self._frame_bytes_max)
                self._watch(connection)

    def connect(self) -> None:
        for peer, connection in self._connections.items():
            if peer < self._worker:
                connection.connect(self._context, self._frame_bytes_max)
                self._watch(connection)

    def send(self, channel: ChannelId, element: Element) -> int:
        connection = self._connection(channel)
        if isinstance(element, Batch):
            return self._send_batch(connection, channel, element)
        kind, value = control_fields(element)
        connection.send([encode_header(connection.session.element(channel, kind, value))])
        return HEADER_BYTES

    def grant(self, channel: ChannelId, credits: int) -> None:
        connection = self._connection(channel)
        connection.send([encode_header(connection.session.credit(channel, credits))])

    def receive(self, limit: int = 100) -> list[Received]:
        ready = {self._of_socket[socket] for socket, _ in self._poller.poll(0)}

        def take(connection: Connection, received: list[Received]) -> None:
            if connection in ready or connection.is_lost:
                connection.receive(received, limit)

        return self._turns.receive(limit, take)

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        return [socket for connection in self._turns.peers for socket in connection.sockets]

    def tell_positions(self, now_ms: int) -> None:
        if self._greeting_deadline_ms is None:
            self._greeting_deadline_ms = now_ms + GREETING_MS_MAX
        for peer, connection in self._connections.items():
            if connection.session.is_greeted:
                for header in connection.session.positions():
                    connection.send([encode_header(header)])
            elif now_ms >= self._greeting_deadline_ms:
                raise ConnectionLost(
                    f"worker {peer} has not greeted worker {self._worker} in {GREETING_MS_MAX} ms"
                )

    def close(self) -> None:
        for socket in self._of_socket:
            self._poller.unregister(socket)
        self._of_socket.clear()
        for connection in self._connections.values():
            connection.close()

    def _watch(self, connection: Connection) -> None:
        for socket in connection.sockets:
            self._poller.register(socket, zmq.POLLIN)
            self._of_socket[socket] = connection

    def _connection(self, channel: ChannelId) -> Connection:
        connection = self._of_channel.get(channel)
        if connection is None:
            raise LocalProtocolError(
                f"channel {channel} does not join worker {self._worker} to another"
            )
        return connection

    def _send_batch(self, connection: Connection, channel: ChannelId, batch: Batch) -> int:
        # All pieces before the first is sent: a record that cannot travel leaves no half batch.
        payloads = list(encode_batch(batch, self._frame_bytes_max - HEADER_BYTES))
        size_bytes = 0
        for index, payload in enumerate(payloads):
            header = connection.session.element(channel, FrameKind.BATCH)
            is_last = index == len(payloads) - 1
            connection.send(_batch_parts(header, payload, 0 if is_last else FRAGMENT))
            size_bytes += HEADER_BYTES + payload.size_bytes
        return size_bytes


def _endpoint(directory: Path, attempt: AttemptId, worker: WorkerId, peer: WorkerId) -> str:
    name = _socket_name(attempt, worker, peer)
    return ipc_endpoint(directory, name) if peer > worker else peer_endpoint(directory, name)


def _socket_name(attempt: AttemptId, worker: WorkerId, peer: WorkerId) -> str:
    return f"{attempt}-{min(worker, peer)}-{max(worker, peer)}.sock"


def _batch_parts(header: Header, payload: Payload, flags: int) -> list[Part]:
    stream, buffers = payload.stream, payload.buffers
    is_inline = len(stream) <= INLINE_BYTES_MAX
    if is_inline:
        flags |= INLINE
    if payload.is_opaque:
        flags |= OPAQUE
    head = encode_header(
        Header(
            FrameKind.BATCH,
            header.attempt,
            header.channel,
            header.sequence,
            records=payload.records,
            flags=flags,
            parts=len(buffers) + (not is_inline),
            payload_bytes=payload.size_bytes,
        )
    )
    parts: list[Part] = [head + stream] if is_inline else [head, stream]
    # Memory that its owner may write to while the frame is queued is copied.
    parts += [buffer if buffer.readonly else buffer.tobytes() for buffer in buffers]
    return parts
