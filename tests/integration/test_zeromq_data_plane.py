"""The data plane on real sockets: a peer that speaks raw frames, and what ZeroMQ has to face."""

from __future__ import annotations

import pickle
import socket as sockets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from flowsnap.core.element import Barrier, Batch, Idle
from flowsnap.core.ids import AttemptId, ChannelId, CheckpointId, WorkerId
from flowsnap.errors import ConfigError, ConnectionLost, FlowsnapError, PeerProtocolError
from flowsnap.transport.frame import (
    FRAGMENT,
    HEADER_BYTES,
    INLINE,
    FrameKind,
    Greeting,
    Header,
    encode_greeting,
    encode_header,
)
from flowsnap.transport.plane import GREETING_MS_MAX, Arrival, Granted, Received, Route
from flowsnap.transport.zeromq import ZmqDataPlane

A, B = WorkerId(0), WorkerId(1)
IN, OUT = ChannelId(3), ChannelId(4)
ROUTES = [Route(IN, B, A), Route(OUT, A, B)]
FRAME_BYTES_MAX = 200_000
GREETING = Greeting(job="job", attempt=1, source=1, target=0)
Context = zmq.Context[zmq.Socket[bytes]]


def make_plane(context: Context, directory: Path, worker: WorkerId) -> ZmqDataPlane:
    return ZmqDataPlane(
        context,
        directory,
        job="job",
        attempt=AttemptId(1),
        worker=worker,
        routes=ROUTES,
        frame_bytes_max=FRAME_BYTES_MAX,
    )


@pytest.fixture
def plane(context: Context, directory: Path) -> Iterator[ZmqDataPlane]:
    plane = make_plane(context, directory, A)
    plane.bind()
    plane.connect()
    yield plane
    plane.close()


@pytest.fixture
def stranger(context: Context, directory: Path, plane: ZmqDataPlane) -> Iterator[zmq.Socket[bytes]]:
    """A socket connected to worker 0, which may say anything."""
    with context.socket(zmq.PAIR) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(f"ipc://{directory}/1-0-1.sock")
        yield socket


@pytest.fixture
def peer(stranger: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """The same, after a correct greeting."""
    stranger.send(encode_greeting(GREETING))
    return stranger


@pytest.fixture
def pair(context: Context, directory: Path, plane: ZmqDataPlane) -> Iterator[ZmqDataPlane]:
    """The plane of worker 1, connected to ``plane``."""
    other = make_plane(context, directory, B)
    other.bind()
    other.connect()
    yield other
    other.close()


def receive(plane: ZmqDataPlane, count: int, *others: ZmqDataPlane) -> list[Received]:
    received: list[Received] = []
    for _ in range(500):
        received += plane.receive()
        for other in others:
            other.receive()
        if len(received) >= count:
            break
        poller = zmq.Poller()
        for socket in [socket for each in (plane, *others) for socket in each.sockets]:
            poller.register(socket, zmq.POLLIN)
        poller.poll(20)
    return received


def error(plane: ZmqDataPlane) -> FlowsnapError:
    with pytest.raises(FlowsnapError) as caught:
        receive(plane, 10**9)
    return caught.value


def frame(kind: FrameKind, sequence: int = 1, *, value: int = 0, attempt: int = 1) -> bytes:
    channel = OUT if kind is FrameKind.CREDIT else IN
    return encode_header(Header(kind, attempt, channel, sequence, value))


def batch_frame(values: list[object], sequence: int, *, flags: int = INLINE) -> bytes:
    stream = pickle.dumps((values, None, None), 5)
    header = Header(
        FrameKind.BATCH,
        1,
        IN,
        sequence,
        records=len(values),
        flags=flags,
        payload_bytes=len(stream),
    )
    return encode_header(header) + stream


class Poison:
    """A record that must not be loaded: it would raise if it were."""

    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a pickle was loaded",))


class Array:
    """A record with a large buffer beside the pickle stream, as a NumPy array is."""

    def __init__(self, buffer: bytearray | memoryview) -> None:
        self.buffer = buffer

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        return (Array, (pickle.PickleBuffer(self.buffer),))


# --- a peer that breaks the protocol ------------------------------------------------------------


def test_raw_frames_in_order_are_accepted(plane: ZmqDataPlane, peer: zmq.Socket[bytes]) -> None:
    peer.send(batch_frame(["x"], 1))
    peer.send(frame(FrameKind.BARRIER, 2, value=7))
    peer.send(frame(FrameKind.CREDIT, 1, value=8))
    peer.send(frame(FrameKind.POSITION, 2))
    peer.send(frame(FrameKind.IDLE, 3))

    assert receive(plane, 4) == [
        Arrival(IN, Batch(["x"])),
        Arrival(IN, Barrier(CheckpointId(7))),
        Granted(OUT, 8),
        Arrival(IN, Idle()),
    ]


def test_a_batch_before_the_greeting_is_refused_unread(
    plane: ZmqDataPlane, stranger: zmq.Socket[bytes]
) -> None:
    stranger.send(batch_frame([Poison()], 1))

    assert str(error(plane)) == "worker 1 sent a batch frame before its greeting"


def test_nothing_is_sent_to_a_peer_that_has_not_greeted(
    plane: ZmqDataPlane, stranger: zmq.Socket[bytes]
) -> None:
    plane.send(OUT, Batch(["secret"]))
    plane.receive()
    assert stranger.poll(50) == 0

    stranger.send(encode_greeting(GREETING))
    while not stranger.poll(10):
        plane.receive()

    assert stranger.recv() == encode_greeting(Greeting("job", 1, 0, 1))
    assert b"secret" in stranger.recv()


@pytest.mark.parametrize(
    ("greeting", "found"),
    [
        (Greeting("job", 2, 1, 0), "attempt 2, from worker 1 to worker 0"),
        (Greeting("job", 1, 2, 0), "attempt 1, from worker 2 to worker 0"),
        (Greeting("job", 1, 1, 5), "attempt 1, from worker 1 to worker 5"),
        (Greeting("other", 1, 1, 0), "job 'other', attempt 1"),
    ],
)
def test_a_greeting_that_does_not_fit_is_refused_with_what_was_expected(
    plane: ZmqDataPlane, stranger: zmq.Socket[bytes], greeting: Greeting, found: str
) -> None:
    stranger.send(encode_greeting(greeting))

    message = str(error(plane))
    assert message.startswith("expected a greeting of job 'job', attempt 1, from worker 1 to")
    assert found in message.split(", found ")[1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (frame(FrameKind.IDLE, 2), "a gap"),
        (frame(FrameKind.IDLE, 0), "a duplicate"),
        (frame(FrameKind.CREDIT, 2, value=1), "channel 4: a gap"),
        (frame(FrameKind.CREDIT, 1, value=0), "a grant of 0 credits"),
        (frame(FrameKind.CREDIT, 1, value=-3), "a grant of -3 credits"),
        (frame(FrameKind.IDLE, 1, attempt=2), "expected attempt 1, found 2"),
        (frame(FrameKind.POSITION, 1), "sent up to sequence number 1, received up to 0"),
        (frame(FrameKind.BARRIER, 1, value=0), "a barrier frame with the value 0"),
        (frame(FrameKind.IDLE, 1, value=1), "idle frame with the value 1"),
        (encode_header(Header(FrameKind.IDLE, 1, 99, 1)), "channel 99, where it has no say"),
        (encode_header(Header(FrameKind.IDLE, 1, OUT, 1)), "channel 4, where it has no say"),
        (encode_header(Header(FrameKind.POSITION, 1, 99, 0)), "channel 99, where it has no say"),
        (encode_greeting(GREETING), "worker 1 greeted twice"),
        (b"", "worker 1 sent a frame of 0 bytes"),
        (frame(FrameKind.IDLE)[:-1], "worker 1 sent a frame of 39 bytes"),
        (frame(FrameKind.IDLE) + b"!", "worker 1 sent a idle frame of 1 bytes"),
        (batch_frame(["x"], 1)[:-1], "worker 1 sent a batch frame of "),
        (b"\0\0" + frame(FrameKind.IDLE)[2:], "worker 1 sent bytes that begin with 0x0000"),
        (b"fs\2" + frame(FrameKind.IDLE)[3:], "worker 1 sent protocol version 2, expected 1"),
        (b"fs\1\xff" + frame(FrameKind.IDLE)[4:], "worker 1 sent a frame of unknown kind 255"),
        (batch_frame(["x"], 1, flags=0x80), "unknown kind 2 or flags 0x80"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_frame_that_breaks_the_protocol_fails_the_attempt(
    plane: ZmqDataPlane, peer: zmq.Socket[bytes], bad: bytes, message: str
) -> None:
    peer.send(bad)

    caught = error(plane)
    assert isinstance(caught, PeerProtocolError)
    assert message in str(caught)
    assert "worker 1" in str(caught) or "channel" in str(caught)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((["a"], None), "a batch that cannot be loaded"),
        ((("a", "b"), None, None), "does not hold the 2 records"),
        ((["a"], None, None), "does not hold the 2 records"),
        ((["a", "b"], [1], None), "does not hold the 2 records"),
        ((["a", "b"], None, ["k"]), "does not hold the 2 records"),
    ],
)
def test_a_payload_that_is_no_batch_is_refused(
    plane: ZmqDataPlane, peer: zmq.Socket[bytes], values: object, message: str
) -> None:
    stream = pickle.dumps(values, 5)
    header = Header(FrameKind.BATCH, 1, IN, 1, records=2, flags=INLINE, payload_bytes=len(stream))
    peer.send(encode_header(header) + stream)

    assert message in str(error(plane))


def test_a_frame_of_too_many_parts_is_refused(plane: ZmqDataPlane, peer: zmq.Socket[bytes]) -> None:
    peer.send_multipart([frame(FrameKind.IDLE), *([b""] * 1000)])

    assert "more than 64 parts" in str(error(plane))


def test_a_control_element_inside_of_a_batch_is_refused(
    plane: ZmqDataPlane, peer: zmq.Socket[bytes]
) -> None:
    peer.send(batch_frame(["x"], 1, flags=INLINE | FRAGMENT))
    peer.send(frame(FrameKind.BARRIER, 2, value=1))

    assert str(error(plane)) == "channel 3: worker 1 sent a barrier frame inside of a batch"


def test_a_frame_beyond_the_limit_loses_the_connection(
    plane: ZmqDataPlane, peer: zmq.Socket[bytes]
) -> None:
    peer.send(frame(FrameKind.IDLE, 1))
    receive(plane, 1)
    peer.send(bytes(FRAME_BYTES_MAX + 1))

    caught = error(plane)
    assert isinstance(caught, ConnectionLost)
    assert str(caught) == "the connection to worker 1 is lost (disconnected)"


def test_a_second_connection_cannot_take_the_place_of_the_first(
    plane: ZmqDataPlane, peer: zmq.Socket[bytes], context: Context, directory: Path
) -> None:
    peer.send(frame(FrameKind.IDLE, 1))
    receive(plane, 1)
    peer.close()
    with context.socket(zmq.PAIR) as second:
        second.set(zmq.LINGER, 0)
        second.connect(f"ipc://{directory}/1-0-1.sock")
        second.send(encode_greeting(GREETING))
        second.send(frame(FrameKind.IDLE, 1))

        assert isinstance(error(plane), (ConnectionLost, PeerProtocolError))


# --- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [100, 20_000, 100_000])
@pytest.mark.parametrize("count", [1, 7])
def test_batches_of_any_size_arrive_whole(
    plane: ZmqDataPlane, pair: ZmqDataPlane, size: int, count: int
) -> None:
    texts = Batch([f"{number}" * size for number in range(count)], list(range(count)))
    blobs = Batch(
        [bytes([number]) * size for number in range(count)], None, list("abcdefg"[:count])
    )

    plane.send(OUT, texts)
    plane.send(OUT, blobs)

    assert receive(pair, 2, plane) == [Arrival(OUT, texts), Arrival(OUT, blobs)]


def test_a_batch_beyond_the_limit_is_one_batch_again_after_its_journey(
    plane: ZmqDataPlane, pair: ZmqDataPlane
) -> None:
    large = Batch([bytes(50_000)] * 17, list(range(17)), [f"k{number}" for number in range(17)])

    size_bytes = plane.send(OUT, large)
    plane.send(OUT, Idle())
    plane.tell_positions(0)

    assert size_bytes > 17 * 50_000 > FRAME_BYTES_MAX
    assert receive(pair, 2, plane) == [Arrival(OUT, large), Arrival(OUT, Idle())]


def test_send_tells_the_bytes_on_the_wire(plane: ZmqDataPlane, peer: zmq.Socket[bytes]) -> None:
    stream = pickle.dumps((["x"], None, None), 5)

    assert plane.send(OUT, Batch(["x"])) == HEADER_BYTES + len(stream)
    assert plane.send(OUT, Idle()) == HEADER_BYTES


def test_more_buffers_than_a_frame_has_parts_travel_in_the_stream(
    plane: ZmqDataPlane, pair: ZmqDataPlane
) -> None:
    many = Batch([Array(memoryview(bytes([number]) * 17_000)) for number in range(70)])

    plane.send(OUT, many)

    [arrival] = receive(pair, 1, plane)
    assert isinstance(arrival, Arrival)
    assert isinstance(arrival.element, Batch)
    assert [bytes(value.buffer) for value in arrival.element.values] == [
        bytes([number]) * 17_000 for number in range(70)
    ]


def test_a_buffer_that_changes_after_the_send_arrives_as_it_was(
    plane: ZmqDataPlane, pair: ZmqDataPlane
) -> None:
    memory = bytearray(b"a" * 100_000)
    plane.send(OUT, Batch([Array(memory)]))
    memory[:] = b"b" * 100_000

    [arrival] = receive(pair, 1, plane)
    assert isinstance(arrival, Arrival)
    assert isinstance(arrival.element, Batch)
    buffer = memoryview(arrival.element.values[0].buffer)
    assert bytes(buffer) == b"a" * 100_000
    assert not buffer.readonly


def test_a_class_that_cannot_be_found_by_name_travels_by_value(
    plane: ZmqDataPlane, pair: ZmqDataPlane
) -> None:
    plane.send(OUT, Batch([lambda: "made elsewhere"]))

    [arrival] = receive(pair, 1, plane)
    assert isinstance(arrival, Arrival)
    assert isinstance(arrival.element, Batch)
    assert arrival.element.values[0]() == "made elsewhere"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, threading.Lock()], "a record of type _thread.lock cannot travel to another worker"),
        (
            ["small", "x" * 300_000, "small"],
            r"a record of type str takes 3\d{5} bytes, more than the 199960 that can travel",
        ),
    ],
)
def test_a_record_that_cannot_travel_is_named_and_leaves_nothing_behind(
    plane: ZmqDataPlane, pair: ZmqDataPlane, values: list[object], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        plane.send(OUT, Batch(values))
    plane.send(OUT, Idle())

    assert receive(pair, 1, plane) == [Arrival(OUT, Idle())]


# --- sockets ------------------------------------------------------------------------------------


def test_a_worker_that_never_bound_is_lost(context: Context, directory: Path) -> None:
    plane = make_plane(context, directory, B)
    plane.connect()

    assert str(error(plane)) == "the connection to worker 0 is lost (nobody listens there)"
    plane.close()


def test_a_peer_that_never_greets_is_given_up(
    plane: ZmqDataPlane, stranger: zmq.Socket[bytes]
) -> None:
    plane.tell_positions(5_000)
    plane.tell_positions(5_000 + GREETING_MS_MAX - 1)

    with pytest.raises(ConnectionLost, match="worker 1 has not greeted worker 0 in 30000 ms"):
        plane.tell_positions(5_000 + GREETING_MS_MAX)


def test_a_peer_that_is_not_zeromq_is_refused(plane: ZmqDataPlane, directory: Path) -> None:
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as raw:
        raw.connect(str(directory / "1-0-1.sock"))
        raw.sendall(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n" * 4)

        assert isinstance(error(plane), (ConnectionLost, PeerProtocolError))


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o777])
def test_a_directory_open_to_others_is_refused(
    context: Context, directory: Path, mode: int
) -> None:
    directory.chmod(mode)

    with pytest.raises(ConfigError, match="open to others"):
        make_plane(context, directory, A)


def test_a_path_too_long_for_a_socket_is_refused(context: Context, directory: Path) -> None:
    deep = directory / ("d" * 100)
    deep.mkdir(0o700)

    with pytest.raises(ConfigError, match=r"has 1\d\d bytes, at most 10[37] work"):
        make_plane(context, deep, A)


def test_a_directory_that_is_not_there_is_refused(context: Context, directory: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        make_plane(context, directory / "missing", A)
