"""One connection to one peer: frames in and out of a PAIR socket, and the word when it is lost."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence

import zmq

from flowsnap.core.element import Batch, Element
from flowsnap.core.ids import ChannelId
from flowsnap.errors import ConnectionLost, LocalProtocolError, PeerProtocolError
from flowsnap.transport.endpoint import has_input, limit
from flowsnap.transport.frame import (
    FRAGMENT,
    HEADER_BYTES,
    INLINE,
    OPAQUE,
    PARTS_MAX,
    FrameKind,
    Header,
    check_payload,
    control_element,
    decode_greeting,
    decode_header,
    encode_greeting,
)
from flowsnap.transport.payload import decode_batch, join
from flowsnap.transport.plane import Arrival, Granted, Received
from flowsnap.transport.session import PeerSession

Part = bytes | memoryview

# Credits bound the batches under way; this bounds what needs no credit, should a peer be stuck.
FRAMES_PER_CHANNEL_MAX = 4096

COPY_BYTES_MAX = 2**18
"""Up to here a copy costs less than a word from another thread that the memory is free again."""

_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)

_EVENT = struct.Struct("=H")
"""What a monitor's message begins with; a value follows, and an endpoint."""

_LOSSES: dict[int, str] = {
    zmq.EVENT_DISCONNECTED: "disconnected",
    zmq.EVENT_CLOSED: "nobody listens there",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the handshake failed",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "the handshake failed: not ZeroMQ",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the handshake failed: not allowed",
}


class Connection:
    """The socket to one peer, which it makes in ``bind`` or ``connect`` and owns."""

    def __init__(self, session: PeerSession, endpoint: str) -> None:
        self.session = session
        self.endpoint = endpoint
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._waiting: deque[Sequence[Part]] = deque()  # until the peer has greeted
        self._pieces: dict[int, list[Batch]] = {}  # of batches that are not complete, by channel
        self._is_binder = False
        self._lost = ""

    def bind(self, context: zmq.Context[zmq.Socket[bytes]], frame_bytes_max: int) -> None:
        """Make the socket that the peer connects to; this side answers the peer's greeting.

        Raises:
            ConnectionLost: the endpoint cannot be bound.
        """
        self._is_binder = True
        try:
            self._open(context, frame_bytes_max, _FAILED | zmq.EVENT_DISCONNECTED).bind(
                self.endpoint
            )
        except zmq.ZMQError as error:
            raise ConnectionLost(f"cannot bind {self.endpoint}: {error}") from error

    def connect(self, context: zmq.Context[zmq.Socket[bytes]], frame_bytes_max: int) -> None:
        """Connect to the peer, and greet it; a failure shows in ``receive``."""
        events = _FAILED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
        self._open(context, frame_bytes_max, events).connect(self.endpoint)
        self._transmit([encode_greeting(self.session.greeting())])

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """The socket and its monitor, once made."""
        return [socket for socket in (self._socket, self._monitor) if socket is not None]

    def send(self, parts: Sequence[Part]) -> None:
        """Send a frame; it waits here until the peer has greeted.

        Raises:
            LocalProtocolError: the connection was never made, or is closed.
            ConnectionLost: the peer is gone, or has long stopped reading.
        """
        if self._socket is None:
            raise LocalProtocolError(f"no connection to worker {self.session.peer} is open")
        if self.session.is_greeted:
            self._transmit(parts)
        else:
            self._waiting.append(parts)

    def receive(self, received: list[Received], limit: int) -> None:
        """Append what has come to ``received``, until it has ``limit`` items.

        Raises:
            PeerProtocolError: the peer broke the protocol.
            ConnectionLost: the peer is gone, and all that it had sent has been appended.
        """
        self._receive_frames(received, limit)
        if self._is_loss_reported():
            self._receive_frames(received, limit)  # what came before the loss
        if self.is_lost and len(received) < limit:
            raise ConnectionLost(
                f"the connection to worker {self.session.peer} is lost ({self._lost})"
            )

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended, though frames may still be there."""
        return bool(self._lost)

    def close(self) -> None:
        """Close the socket; what was sent is delivered for a bounded time. Idempotent."""
        socket, self._socket = self._socket, None
        monitor, self._monitor = self._monitor, None
        self._waiting.clear()
        self._pieces.clear()
        if socket is not None:
            socket.disable_monitor()
            socket.close(linger=None if self.session.is_greeted else 0)
        if monitor is not None:
            monitor.close(linger=0)

    def _open(
        self, context: zmq.Context[zmq.Socket[bytes]], frame_bytes_max: int, events: int
    ) -> zmq.Socket[bytes]:
        socket = self._socket = context.socket(zmq.PAIR)
        limit(socket, frame_bytes_max)
        frames_max = FRAMES_PER_CHANNEL_MAX * (1 + self.session.channels)
        socket.set(zmq.SNDHWM, frames_max)
        socket.set(zmq.RCVHWM, frames_max)
        self._monitor = socket.get_monitor_socket(events)
        return socket

    def _transmit(self, parts: Sequence[Part]) -> None:
        socket = self._socket
        assert socket is not None
        if self._lost:
            raise ConnectionLost(f"worker {self.session.peer} is gone ({self._lost})")
        try:
            for part in parts[:-1]:
                socket.send(part, zmq.SNDMORE | zmq.NOBLOCK, len(part) <= COPY_BYTES_MAX)
            socket.send(parts[-1], zmq.NOBLOCK, len(parts[-1]) <= COPY_BYTES_MAX)
        except zmq.ZMQError as error:
            raise ConnectionLost(
                f"worker {self.session.peer} has stopped reading, or is gone: {error}"
            ) from error

    def _receive_frames(self, received: list[Received], limit: int) -> None:
        socket = self._socket
        if socket is None:
            return
        while len(received) < limit and has_input(socket):
            frame = socket.recv(zmq.NOBLOCK, copy=False)
            parts = [frame.buffer]
            while frame.more:
                if len(parts) > PARTS_MAX:
                    raise PeerProtocolError(
                        f"worker {self.session.peer} sent a frame of more than {PARTS_MAX} parts"
                    )
                frame = socket.recv(zmq.NOBLOCK, copy=False)
                parts.append(frame.buffer)
            one = self._take(parts)
            if one is not None:
                received.append(one)

    def _take(self, parts: list[memoryview]) -> Received | None:
        session = self.session
        try:
            header = decode_header(parts[0])
            parts[0] = parts[0][HEADER_BYTES:]
            check_payload(header, [part.nbytes for part in parts])
            greeting = decode_greeting(parts[0]) if header.kind is FrameKind.GREETING else None
        except PeerProtocolError as error:
            raise self._name(error) from error.__cause__
        if greeting is not None:
            session.greet(greeting)
            self._answer()
            return None
        session.accept(header)
        if header.kind is FrameKind.POSITION:
            return None
        channel = ChannelId(header.channel)
        if header.kind is FrameKind.CREDIT:
            return Granted(channel, header.value)
        try:
            element = self._element(header, parts)
        except PeerProtocolError as error:
            raise self._name(error, f"channel {channel}: ") from error.__cause__
        return None if element is None else Arrival(channel, element)

    def _element(self, header: Header, parts: list[memoryview]) -> Element | None:
        pieces = self._pieces.pop(header.channel, None)
        if header.kind is not FrameKind.BATCH:
            if pieces is not None:
                raise PeerProtocolError(f"a {header.kind.name.lower()} frame inside of a batch")
            return control_element(header.kind, header.value)
        first = 0 if header.flags & INLINE else 1
        buffers: Sequence[Part] = parts[first + 1 :]
        if header.flags & OPAQUE:
            buffers = [bytes(buffer) for buffer in buffers]
        batch = decode_batch(header.records, parts[first], buffers)
        if header.flags & FRAGMENT:
            self._pieces[header.channel] = [*(pieces or ()), batch]
            return None
        return batch if pieces is None else join([*pieces, batch])

    def _answer(self) -> None:
        if self._is_binder:
            self._transmit([encode_greeting(self.session.greeting())])
        while self._waiting:
            self._transmit(self._waiting.popleft())

    def _is_loss_reported(self) -> bool:
        monitor = self._monitor
        if monitor is None or not has_input(monitor):
            return False
        # As zmq.utils.monitor does, which imports asyncio: a fifth of the start of a worker.
        (event,) = _EVENT.unpack_from(monitor.recv_multipart(zmq.NOBLOCK)[0])
        self._lost = _LOSSES.get(event, f"event {event}")
        return True

    def _name(self, error: PeerProtocolError, where: str = "") -> PeerProtocolError:
        error.args = (f"{where}worker {self.session.peer} sent {error}",)
        return error
