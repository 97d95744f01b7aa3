"""The control plane: the job manager's ROUTER, each worker's DEALER, and their twins in memory.

One ``ipc://`` socket in a directory that nobody else may enter. A worker is heard once it has
shown the token it was started with (``admission.py``). Nobody waits in a send, and a connection
that is lost stays lost: a worker without a job manager has nothing left to do.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import zmq

from flowsnap.core.ids import AttemptId, WorkerId
from flowsnap.core.message import (
    MESSAGE_BYTES_MAX,
    FromWorker,
    Heartbeat,
    ToWorker,
    WorkerReady,
)
from flowsnap.errors import ConnectionLost, PeerProtocolError
from flowsnap.transport.admission import Admission, make_identity
from flowsnap.transport.endpoint import (
    SEND_TIMEOUT_MS,
    has_input,
    ipc_endpoint,
    limit,
    peer_endpoint,
)
from flowsnap.transport.message import decode_to_worker, encode_message

SOCKET_NAME = "control.sock"
MESSAGES_WAITING_MAX = 10_000
RECEIVED_MAX = 1_000
"""How many messages one call of ``receive`` returns at most."""


class ControlServer:
    """The job manager's end; binds at once. ``directory`` has mode 0700.

    Raises:
        ConfigError: the directory is open to others, or its path too long for a socket.
        ConnectionLost: the endpoint cannot be bound.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], directory: Path, token: str
    ) -> None:
        endpoint = ipc_endpoint(directory, SOCKET_NAME)
        self.socket = context.socket(zmq.ROUTER)
        self._admission = Admission(token)
        self._error: PeerProtocolError | None = None
        limit(self.socket, MESSAGE_BYTES_MAX)
        self.socket.set(zmq.ROUTER_MANDATORY, 1)
        self.socket.set(zmq.SNDTIMEO, SEND_TIMEOUT_MS)
        self.socket.set(zmq.SNDHWM, MESSAGES_WAITING_MAX)
        self.socket.set(zmq.RCVHWM, MESSAGES_WAITING_MAX)
        try:
            self.socket.bind(endpoint)
        except zmq.ZMQError as error:
            self.socket.close()
            raise ConnectionLost(f"cannot bind {endpoint}: {error}") from error

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What to poll for reading before ``receive``."""
        return [self.socket]

    @property
    def refused(self) -> int:
        """How many messages came from sockets that had not shown the token."""
        return self._admission.refused

    def receive(self) -> list[tuple[WorkerId, FromWorker]]:
        """Return what has come, in order for each worker; never blocks.

        Raises:
            PeerProtocolError: a worker broke the protocol; what came before it has been returned,
                what comes after it has not been lost.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        received: list[tuple[WorkerId, FromWorker]] = []
        for _ in range(RECEIVED_MAX):
            if not has_input(self.socket):
                break
            try:
                one = self._admission.take(*self._read())
            except PeerProtocolError as error:
                if not received:
                    raise
                self._error = error
                break
            if one is not None:
                received.append(one)
        return received

    def send(self, worker: WorkerId, message: ToWorker) -> None:
        """Send to a worker; waits for ``SEND_TIMEOUT_MS`` at most.

        Raises:
            ConnectionLost: the worker has not greeted, is gone, or has stopped reading.
        """
        identity = self._admission.route(worker)
        if identity is None:
            raise ConnectionLost(f"worker {worker} has not greeted")
        data = encode_message(message)
        try:
            self.socket.send_multipart([identity, data])
        except zmq.ZMQError as error:
            raise ConnectionLost(
                f"{type(message).__name__} cannot be sent to worker {worker}: {error}"
            ) from error

    def close(self) -> None:
        """Close the socket; what was sent is delivered for a bounded time. Idempotent."""
        self.socket.close()

    def _read(self) -> tuple[bytes, list[bytes]]:
        identity = self.socket.recv(zmq.NOBLOCK)
        parts: list[bytes] = []
        while self.socket.get(zmq.RCVMORE):
            part = self.socket.recv(zmq.NOBLOCK)
            if len(parts) < 2:  # two are wrong already; no more need be kept
                parts.append(part)
        return identity, parts


class ControlClient:
    """A worker's end; connects at once, and ``greet`` makes it heard."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        directory: Path,
        worker: WorkerId,
        token: str,
    ) -> None:
        self._worker = worker
        self._token = token
        self.socket = _dealer(context, make_identity(worker))
        self._monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED)
        self.socket.connect(peer_endpoint(directory, SOCKET_NAME))

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What to poll for reading before ``receive``."""
        return [self.socket, self._monitor]

    def greet(self) -> None:
        """Show the token; the server hears this worker from now on, and no older one of its id."""
        self.send(_ready(self._worker, self._token))

    def send(self, message: FromWorker) -> None:
        """Send to the job manager; never blocks.

        Raises:
            ConnectionLost: the job manager is gone or has stopped reading.
        """
        data = encode_message(message)
        if has_input(self._monitor):
            raise ConnectionLost(f"worker {self._worker} has lost the job manager")
        try:
            self.socket.send(data, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise ConnectionLost(
                f"{type(message).__name__} of worker {self._worker} cannot be sent: {error}"
            ) from error

    def receive(self) -> list[ToWorker]:
        """Return what has come, in order; never blocks.

        Raises:
            PeerProtocolError: the job manager sent something malformed.
            ConnectionLost: the job manager is gone, and all that it had sent has been returned.
        """
        is_lost = has_input(self._monitor)  # asked before reading, so that nothing is missed
        received: list[ToWorker] = []
        while len(received) < RECEIVED_MAX and has_input(self.socket):
            received.append(decode_to_worker(self._read()))
        if is_lost and not received:
            raise ConnectionLost(f"worker {self._worker} has lost the job manager")
        return received

    def _read(self) -> bytes:
        parts = self.socket.recv_multipart(zmq.NOBLOCK)
        if len(parts) != 1:
            raise PeerProtocolError(f"a message of {len(parts)} parts from the job manager")
        return parts[0]

    def close(self) -> None:
        """Close the socket; what was sent is delivered for a bounded time. Idempotent."""
        if not self.socket.closed:
            self.socket.disable_monitor()
            self.socket.close()
            self._monitor.close(linger=0)


class HeartbeatSender:
    """Tells the job manager, from a thread of its own, that this process lives.

    A heartbeat proves life; ``steps``, which the thread calls before each, proves progress. Set
    ``attempt`` when a new one begins. A heartbeat that cannot be sent is dropped: the next one
    says more.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        directory: Path,
        worker: WorkerId,
        token: str,
        *,
        interval_ms: int,
        steps: Callable[[], int],
    ) -> None:
        self.attempt = AttemptId(0)
        self._context = context
        self._endpoint = peer_endpoint(directory, SOCKET_NAME)
        self._worker = worker
        self._token = token
        self._interval_s = interval_ms / 1000
        self._steps = steps
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flowsnap-heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread; the first heartbeat leaves at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it. Idempotent."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        socket = _dealer(self._context, make_identity(self._worker, is_heartbeat=True))
        try:
            socket.connect(self._endpoint)
            socket.send(encode_message(_ready(self._worker, self._token)), zmq.NOBLOCK)
            while True:
                self._beat(socket)
                if self._stop.wait(self._interval_s):
                    return
        except zmq.ContextTerminated:
            return  # The process is ending.
        finally:
            socket.close(linger=0)

    def _beat(self, socket: zmq.Socket[bytes]) -> None:
        heartbeat = Heartbeat(
            attempt=self.attempt,
            worker=self._worker,
            steps=self._steps(),
            resident_bytes=_resident_bytes(),
        )
        try:
            socket.send(encode_message(heartbeat), zmq.NOBLOCK)
        except zmq.Again:
            return


class MemoryControl:
    """Both ends in one process and thread; messages pass through their bytes all the same.

    ``server`` has the methods of a ``ControlServer``, a ``client`` those of a ``ControlClient``.
    """

    def __init__(self, token: str = "") -> None:
        self.server = MemoryControlServer(token)

    def client(self, worker: WorkerId, token: str = "") -> MemoryControlClient:
        """Return a new worker's end."""
        return MemoryControlClient(self.server, worker, token)


class MemoryControlServer:
    """The job manager's end in memory; see ``ControlServer``."""

    def __init__(self, token: str) -> None:
        self.inbox: deque[tuple[bytes, bytes]] = deque()
        self.outboxes: dict[bytes, deque[bytes]] = {}
        self._admission = Admission(token)

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Nothing to poll."""
        return []

    @property
    def refused(self) -> int:
        """How many messages came from clients that had not shown the token."""
        return self._admission.refused

    def receive(self) -> list[tuple[WorkerId, FromWorker]]:
        """Return what has come, as ``ControlServer.receive`` does."""
        received: list[tuple[WorkerId, FromWorker]] = []
        while self.inbox:
            identity, data = self.inbox[0]
            try:
                one = self._admission.take(identity, [data])
            except PeerProtocolError:
                if received:
                    break  # the next call finds it first
                self.inbox.popleft()
                raise
            self.inbox.popleft()
            if one is not None:
                received.append(one)
        return received

    def send(self, worker: WorkerId, message: ToWorker) -> None:
        """Send to a worker, as ``ControlServer.send`` does."""
        identity = self._admission.route(worker)
        outbox = None if identity is None else self.outboxes.get(identity)
        if outbox is None:
            raise ConnectionLost(f"worker {worker} has not greeted, or is gone")
        outbox.append(encode_message(message))

    def close(self) -> None:
        """Let go of every worker. Idempotent."""
        self.outboxes.clear()


class MemoryControlClient:
    """A worker's end in memory; see ``ControlClient``."""

    def __init__(self, server: MemoryControlServer, worker: WorkerId, token: str) -> None:
        self._server = server
        self._worker = worker
        self._token = token
        self._identity = make_identity(worker)
        self._inbox: deque[bytes] = deque()
        server.outboxes[self._identity] = self._inbox

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Nothing to poll."""
        return []

    def greet(self) -> None:
        """Show the token, as ``ControlClient.greet`` does."""
        self.send(_ready(self._worker, self._token))

    def send(self, message: FromWorker) -> None:
        """Send to the job manager, as ``ControlClient.send`` does."""
        self._check()
        self._server.inbox.append((self._identity, encode_message(message)))

    def receive(self) -> list[ToWorker]:
        """Return what has come, as ``ControlClient.receive`` does."""
        if not self._inbox:
            self._check()
        received = [decode_to_worker(data) for data in self._inbox]
        self._inbox.clear()
        return received

    def close(self) -> None:
        """Leave the job manager. Idempotent."""
        self._server.outboxes.pop(self._identity, None)

    def _check(self) -> None:
        if self._identity not in self._server.outboxes:
            raise ConnectionLost(f"worker {self._worker} has lost the job manager")


def _dealer(context: zmq.Context[zmq.Socket[bytes]], identity: bytes) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    limit(socket, MESSAGE_BYTES_MAX)
    socket.set(zmq.ROUTING_ID, identity)
    socket.set(zmq.SNDHWM, MESSAGES_WAITING_MAX)
    socket.set(zmq.RCVHWM, MESSAGES_WAITING_MAX)
    return socket


def _ready(worker: WorkerId, token: str) -> WorkerReady:
    return WorkerReady(attempt=AttemptId(0), worker=worker, token=token, pid=os.getpid())


def _resident_bytes() -> int:
    """Return the memory this process holds, or 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
