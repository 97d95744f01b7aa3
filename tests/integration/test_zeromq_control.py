"""The control plane: the same promises on sockets and in memory, then what sockets alone face."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowsnap.core.ids import AttemptId, CheckpointId, TaskId, WorkerId
from flowsnap.core.manifest import PreparedOutput, TaskSnapshot
from flowsnap.core.message import (
    MESSAGE_BYTES_MAX,
    Acknowledged,
    Cancel,
    Deployed,
    FromWorker,
    Heartbeat,
    Shutdown,
    TaskEnded,
    ToWorker,
    WorkerReady,
)
from flowsnap.errors import (
    ConfigError,
    ConnectionLost,
    FlowsnapError,
    PeerProtocolError,
)
from flowsnap.transport.control import ControlClient, ControlServer, HeartbeatSender, MemoryControl
from flowsnap.transport.message import decode_to_worker, encode_message

TOKEN = "right"
ONE = AttemptId(1)
W = WorkerId(4)
Context = zmq.Context[zmq.Socket[bytes]]
T = TypeVar("T")


class Server(Protocol):
    @property
    def sockets(self) -> list[zmq.Socket[bytes]]: ...
    @property
    def refused(self) -> int: ...
    def receive(self) -> list[tuple[WorkerId, FromWorker]]: ...
    def send(self, worker: WorkerId, message: ToWorker) -> None: ...
    def close(self) -> None: ...


class Client(Protocol):
    @property
    def sockets(self) -> list[zmq.Socket[bytes]]: ...
    def greet(self) -> None: ...
    def send(self, message: FromWorker) -> None: ...
    def receive(self) -> list[ToWorker]: ...
    def close(self) -> None: ...


@pytest.fixture(params=["memory", "zeromq"])
def ends(
    request: pytest.FixtureRequest, context: Context, directory: Path
) -> Iterator[tuple[Server, Callable[..., Client]]]:
    clients: list[Client] = []
    memory = MemoryControl(TOKEN)
    sockets = ControlServer(context, directory, TOKEN) if request.param == "zeromq" else None

    def connect(worker: int, token: str = TOKEN) -> Client:
        id_ = WorkerId(worker)
        client: Client = (
            memory.client(id_, token)
            if sockets is None
            else ControlClient(context, directory, id_, token)
        )
        clients.append(client)
        return client

    yield sockets or memory.server, connect
    for end in (*clients, sockets or memory.server):
        end.close()


Ends = tuple[Server, Callable[..., Client]]


@pytest.fixture
def server(context: Context, directory: Path) -> Iterator[ControlServer]:
    server = ControlServer(context, directory, TOKEN)
    yield server
    server.close()


def wait(end: Server | Client) -> None:
    """Wait until something comes, for a moment at most."""
    if end.sockets:
        zmq.select(end.sockets, [], [], 0.01)


def receive(server: Server, count: int) -> list[tuple[WorkerId, FromWorker]]:
    return _until(server, server.receive, lambda received: len(received) >= count)


def take(client: Client, count: int) -> list[ToWorker]:
    return _until(client, client.receive, lambda received: len(received) >= count)


def until_refused(server: Server, count: int) -> list[tuple[WorkerId, FromWorker]]:
    return _until(server, server.receive, lambda _: server.refused >= count)


def _until(
    end: Server | Client, receive: Callable[[], list[T]], is_enough: Callable[[list[T]], bool]
) -> list[T]:
    received: list[T] = []
    for _ in range(2000):
        received += receive()
        if is_enough(received):
            return received
        wait(end)
    raise AssertionError(f"only {received} came")


def error(end: Server | Client) -> FlowsnapError:
    for _ in range(2000):
        try:
            end.receive()
        except FlowsnapError as error:
            return error
        wait(end)
    raise AssertionError("nothing was raised")


def ready(worker: int, token: str = TOKEN, pid: int = 1) -> WorkerReady:
    return WorkerReady(attempt=AttemptId(0), worker=WorkerId(worker), token=token, pid=pid)


def ended(task: str) -> TaskEnded:
    return TaskEnded(attempt=ONE, task=TaskId(task))


# --- on both ------------------------------------------------------------------------------------


def test_a_worker_that_greeted_is_heard_and_answered(ends: Ends) -> None:
    server, connect = ends
    client = connect(W)
    client.greet()
    client.send(ended("map/0"))

    received = receive(server, 2)
    server.send(W, Cancel(attempt=ONE))
    server.send(W, Shutdown(attempt=ONE))

    assert [worker for worker, _ in received] == [W, W]
    assert isinstance(received[0][1], WorkerReady)
    assert received[1][1] == ended("map/0")
    assert take(client, 2) == [Cancel(attempt=ONE), Shutdown(attempt=ONE)]


def test_messages_keep_their_order_and_their_content(ends: Ends) -> None:
    server, connect = ends
    client = connect(W)
    snapshot = TaskSnapshot(
        TaskId("sink/0"), (), 0, prepared=(PreparedOutput(CheckpointId(3), {"rows": [b"x", 1.5]}),)
    )
    sent = [
        Acknowledged(attempt=ONE, checkpoint_id=CheckpointId(n), snapshot=snapshot)
        for n in range(50)
    ]

    client.greet()
    for message in sent:
        client.send(message)

    assert [message for _, message in receive(server, 51)[1:]] == sent


def test_a_worker_with_the_wrong_token_is_not_heard(ends: Ends) -> None:
    server, connect = ends
    liar = connect(W, "wrong")
    liar.greet()
    liar.send(ended("map/0"))

    assert until_refused(server, 2) == []
    with pytest.raises(ConnectionLost, match="worker 4 has not greeted"):
        server.send(W, Cancel(attempt=ONE))


def test_a_worker_that_did_not_greet_is_not_heard(ends: Ends) -> None:
    server, connect = ends
    connect(W).send(ended("map/0"))

    assert until_refused(server, 1) == []


def test_a_wrong_token_does_not_replace_the_right_worker(ends: Ends) -> None:
    server, connect = ends
    client, liar = connect(W), connect(W, "wrong")
    client.greet()
    receive(server, 1)
    liar.greet()
    until_refused(server, 1)
    server.send(W, Cancel(attempt=ONE))

    assert take(client, 1) == [Cancel(attempt=ONE)]
    assert liar.receive() == []


def test_the_replacement_of_a_worker_is_heard_and_the_old_one_no_more(ends: Ends) -> None:
    server, connect = ends
    old, new = connect(W), connect(W)
    old.greet()
    receive(server, 1)
    new.greet()
    receive(server, 1)
    old.send(ended("zombie/0"))

    assert until_refused(server, 1) == []
    server.send(W, Cancel(attempt=ONE))
    assert take(new, 1) == [Cancel(attempt=ONE)]
    assert old.receive() == []


def test_a_worker_cannot_speak_in_the_name_of_another(ends: Ends) -> None:
    server, connect = ends
    client = connect(W)
    client.greet()
    receive(server, 1)
    client.send(Deployed(attempt=ONE, worker=WorkerId(5)))

    caught = error(server)
    assert isinstance(caught, PeerProtocolError)
    assert str(caught) == "worker 4 sent Deployed in the name of worker 5"


def test_what_surrounds_a_bad_message_is_not_lost(ends: Ends) -> None:
    server, connect = ends
    client = connect(W)
    client.greet()
    client.send(Deployed(attempt=ONE, worker=WorkerId(5)))
    client.send(ended("map/0"))

    assert len(receive(server, 1)) == 1
    assert isinstance(error(server), PeerProtocolError)
    assert receive(server, 1) == [(W, ended("map/0"))]


def test_a_worker_without_a_job_manager_is_told_so(ends: Ends) -> None:
    server, connect = ends
    client = connect(W)
    client.greet()
    receive(server, 1)
    server.send(W, Shutdown(attempt=ONE))
    server.close()

    assert take(client, 1) == [Shutdown(attempt=ONE)]
    assert str(error(client)) == "worker 4 has lost the job manager"
    with pytest.raises(ConnectionLost, match="worker 4 has lost the job manager"):
        client.send(ended("map/0"))


def test_a_worker_that_is_gone_cannot_be_sent_to(ends: Ends) -> None:
    server, connect = ends
    client = connect(W)
    client.greet()
    receive(server, 1)
    client.close()
    client.close()

    with pytest.raises(ConnectionLost, match="worker 4"):  # noqa: PT012 - once it is noticed
        for _ in range(2000):
            server.send(W, Cancel(attempt=ONE))
            wait(server)


# --- hostile bytes ------------------------------------------------------------------------------


@pytest.fixture
def raw(context: Context, directory: Path, server: ControlServer) -> Iterator[zmq.Socket[bytes]]:
    """A DEALER that may say anything to ``server``."""
    with context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.ROUTING_ID, b"worker/4/raw")
        socket.connect(f"ipc://{directory}/control.sock")
        yield socket


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.binary(max_size=100), min_size=1, max_size=8))
def test_garbage_on_the_socket_does_not_harm_the_server(
    server: ControlServer, raw: zmq.Socket[bytes], parts: list[bytes]
) -> None:
    before = server.refused
    raw.send_multipart(parts)

    assert until_refused(server, before + 1) == []


def test_garbage_does_not_deafen_the_server(server: ControlServer, raw: zmq.Socket[bytes]) -> None:
    raw.send_multipart([b"x"] * 1000)
    raw.send(encode_message(ready(W)))
    raw.send_multipart([b"x", b"y"])
    raw.send(encode_message(ended("map/0")))

    assert receive(server, 1) == [(W, ready(W))]
    assert str(error(server)) == "worker 4 sent a message of 2 parts, expected 1"
    assert receive(server, 1) == [(W, ended("map/0"))]


def test_a_greeting_of_unreasonable_size_is_not_even_read(
    server: ControlServer, raw: zmq.Socket[bytes]
) -> None:
    raw.send(encode_message(ready(W, TOKEN + "x" * 5000)))

    assert until_refused(server, 1) == []


def test_a_message_beyond_the_limit_ends_only_its_own_connection(
    server: ControlServer, raw: zmq.Socket[bytes], context: Context, directory: Path
) -> None:
    monitor = raw.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    raw.send(bytes(MESSAGE_BYTES_MAX + 1), copy=False)
    client = ControlClient(context, directory, WorkerId(5), TOKEN)
    client.greet()

    assert [worker for worker, _ in receive(server, 1)] == [WorkerId(5)]
    assert monitor.poll(5000)
    raw.disable_monitor()
    monitor.close()
    client.close()


def test_a_directory_open_to_others_is_refused(context: Context, directory: Path) -> None:
    directory.chmod(0o755)

    with pytest.raises(ConfigError, match="open to others"):
        ControlServer(context, directory, TOKEN)


def test_a_worker_started_without_a_job_manager_is_told_so(
    context: Context, directory: Path
) -> None:
    client = ControlClient(context, directory, W, TOKEN)

    assert isinstance(error(client), ConnectionLost)
    client.close()


# --- heartbeats ---------------------------------------------------------------------------------


def heartbeats(
    context: Context, directory: Path, worker: WorkerId = W, token: str = TOKEN
) -> HeartbeatSender:
    steps = iter(range(10**6))
    return HeartbeatSender(
        context, directory, worker, token, interval_ms=5, steps=lambda: next(steps)
    )


def test_heartbeats_are_attributed_to_their_worker_and_count_its_steps(
    server: ControlServer, context: Context, directory: Path
) -> None:
    sender = heartbeats(context, directory)
    sender.attempt = ONE
    sender.start()
    received = receive(server, 3)
    sender.stop()
    sender.stop()

    assert {worker for worker, _ in received} == {W}
    beats = [message for _, message in received if isinstance(message, Heartbeat)]
    assert [beat.steps for beat in beats] == list(range(len(beats)))
    assert all(beat.attempt == ONE and beat.worker == W for beat in beats)
    assert beats[0].resident_bytes > 10**6 or not os.path.exists("/proc/self/statm")


def test_heartbeats_with_the_wrong_token_are_not_heard(
    server: ControlServer, context: Context, directory: Path
) -> None:
    sender = heartbeats(context, directory, token="wrong")
    sender.start()

    assert until_refused(server, 3) == []
    sender.stop()


@pytest.fixture
def beating(
    server: ControlServer, context: Context, directory: Path
) -> Iterator[tuple[ControlClient, HeartbeatSender]]:
    """Yield the two connections of one worker; neither has said anything."""
    client, sender = ControlClient(context, directory, W, TOKEN), heartbeats(context, directory)
    yield client, sender
    sender.stop()
    client.close()


def test_heartbeats_do_not_take_the_place_of_their_worker(
    server: ControlServer, beating: tuple[ControlClient, HeartbeatSender]
) -> None:
    client, sender = beating
    client.greet()
    receive(server, 1)
    sender.start()
    receive(server, 2)
    server.send(W, Cancel(attempt=ONE))

    assert take(client, 1) == [Cancel(attempt=ONE)]


def test_a_worker_that_greets_after_its_heartbeats_keeps_them(
    server: ControlServer, beating: tuple[ControlClient, HeartbeatSender]
) -> None:
    client, sender = beating
    sender.start()
    receive(server, 1)
    client.greet()
    received = receive(server, 5) + receive(server, 5)

    assert server.refused == 0
    assert isinstance(received[-1][1], Heartbeat)


def test_heartbeats_of_a_replaced_process_are_not_heard(
    server: ControlServer, raw: zmq.Socket[bytes], context: Context, directory: Path
) -> None:
    old = heartbeats(context, directory)
    old.start()
    receive(server, 2)
    raw.send(encode_message(ready(W, pid=os.getpid() + 1)))  # a new process of the same worker

    until_refused(server, 3)
    old.stop()
    server.send(W, Cancel(attempt=ONE))
    assert decode_to_worker(raw.recv()) == Cancel(attempt=ONE)


def test_heartbeats_without_a_job_manager_end_quietly(context: Context, directory: Path) -> None:
    sender = heartbeats(context, directory)
    sender.start()
    sender.stop()

    assert not any(thread.name == "flowsnap-heartbeat" for thread in threading.enumerate())
