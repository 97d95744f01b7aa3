"""The data plane's contract, on the twin in memory and on ZeroMQ.

Worlds hide how planes meet. In a lossy world the two workers' connection leads through a place
where a frame can be lost or repeated: the memory network itself, or a relay between two sockets.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from flowsnap.core.element import (
    TIMEOUT_MS_MAX,
    Active,
    Barrier,
    Batch,
    Element,
    EndOfInput,
    Idle,
    Marker,
    Watermark,
)
from flowsnap.core.ids import AttemptId, ChannelId, CheckpointId, WorkerId
from flowsnap.errors import ConnectionLost, FlowsnapError, LocalProtocolError, PeerProtocolError
from flowsnap.transport.frame import FrameKind, decode_header
from flowsnap.transport.memory import MemoryNetwork
from flowsnap.transport.plane import Arrival, DataPlane, Granted, Received, Route
from flowsnap.transport.zeromq import ZmqDataPlane

ROUNDS_MAX = 200
A, B, C = WorkerId(0), WorkerId(1), WorkerId(2)
A_TO_B, B_TO_A, A_TO_B_TOO, C_TO_B, LOCAL = (ChannelId(number) for number in range(5))
ROUTES = [
    Route(A_TO_B, A, B),
    Route(B_TO_A, B, A),
    Route(A_TO_B_TOO, A, B),
    Route(C_TO_B, C, B),
    Route(LOCAL, A, A),
]


class World:
    """Planes by worker, and the patience to wait until something has come."""

    def __init__(
        self,
        planes: dict[WorkerId, DataPlane],
        wait: Callable[[], None],
        drop_next: Callable[[ChannelId], None],
        duplicate_next: Callable[[ChannelId], None],
    ) -> None:
        self.planes = planes
        self.wait = wait
        self.drop_next = drop_next
        self.duplicate_next = duplicate_next
        self._inbox: dict[WorkerId, list[Received]] = {worker: [] for worker in planes}

    def open(self) -> None:
        for plane in self.planes.values():
            plane.bind()
        for plane in self.planes.values():
            plane.connect()

    def close(self) -> None:
        for plane in self.planes.values():
            plane.close()

    def receive(self, worker: WorkerId, count: int) -> list[Received]:
        for _ in range(ROUNDS_MAX):
            self._receive_all(worker)
            if len(self._inbox[worker]) >= count:
                break
            self.wait()
        received = self._inbox[worker]
        self._inbox[worker] = []
        return received

    def error(self, worker: WorkerId) -> FlowsnapError:
        """Receive until it raises."""
        for _ in range(ROUNDS_MAX):
            try:
                self._receive_all(worker)
            except FlowsnapError as error:
                return error
            self.wait()
        raise AssertionError("nothing was raised")

    def _receive_all(self, worker: WorkerId) -> None:
        for each, plane in self.planes.items():
            with contextlib.ExitStack() as stack:
                if each != worker:
                    stack.enter_context(contextlib.suppress(FlowsnapError))
                self._inbox[each] += plane.receive()


class Relay:
    """Forwards the frames of two workers, and loses or repeats the next element on demand."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], low: Path, high: Path) -> None:
        self.low = context.socket(zmq.PAIR)
        self.high = context.socket(zmq.PAIR)
        self.high.bind(f"ipc://{high}")
        self._low_path = low
        self.drops: list[ChannelId] = []
        self.duplicates: list[ChannelId] = []

    def connect(self) -> None:
        self.low.connect(f"ipc://{self._low_path}")

    def forward(self) -> None:
        """Forward what is there, or what comes in a moment."""
        zmq.select([self.low, self.high], [], [], 0.005)
        for source, target in ((self.low, self.high), (self.high, self.low)):
            while source.poll(0):
                parts = source.recv_multipart()
                for _ in range(self._copies(parts[0])):
                    target.send_multipart(parts)

    def _copies(self, first: bytes) -> int:
        header = decode_header(memoryview(first))
        channel = ChannelId(header.channel)
        if header.kind in (FrameKind.GREETING, FrameKind.CREDIT, FrameKind.POSITION):
            return 1
        for wanted, copies in ((self.drops, 0), (self.duplicates, 2)):
            if channel in wanted:
                wanted.remove(channel)
                return copies
        return 1


def memory_world(*workers: WorkerId, jobs: dict[WorkerId, str] | None = None) -> World:
    network = MemoryNetwork([route for route in ROUTES if set(route[1:]) <= set(workers)])
    planes: dict[WorkerId, DataPlane] = {
        worker: network.plane(worker, job=(jobs or {}).get(worker)) for worker in workers
    }
    return World(planes, lambda: None, network.drop_next, network.duplicate_next)


def zmq_plane(
    context: zmq.Context[zmq.Socket[bytes]], directory: Path, worker: WorkerId, job: str = "job"
) -> ZmqDataPlane:
    return ZmqDataPlane(
        context, directory, job=job, attempt=AttemptId(1), worker=worker, routes=ROUTES
    )


def poll(planes: dict[WorkerId, ZmqDataPlane], timeout_ms: int = 20) -> None:
    poller = zmq.Poller()
    for plane in planes.values():
        for socket in plane.sockets:
            poller.register(socket, zmq.POLLIN)
    poller.poll(timeout_ms)  # returns at once when something is there


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context


@pytest.fixture
def socket_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fs-") as directory:  # short, and 0700
        yield Path(directory)


@pytest.fixture(params=["memory", "zeromq"])
def medium(request: pytest.FixtureRequest) -> str:
    return str(request.param)


MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(
    medium: str, context: zmq.Context[zmq.Socket[bytes]], socket_directory: Path
) -> Iterator[MakeWorld]:
    with contextlib.ExitStack() as stack:

        def make(jobs: dict[WorkerId, str] | None = None) -> World:
            if medium == "memory":
                world = memory_world(A, B, C, jobs=jobs)
            else:
                planes = {
                    worker: zmq_plane(
                        context, socket_directory, worker, (jobs or {}).get(worker, "job")
                    )
                    for worker in (A, B, C)
                }
                world = World({**planes}, lambda: poll(planes), _cannot, _cannot)
            stack.callback(world.close)
            return world

        yield make


def _cannot(channel: ChannelId) -> None:
    raise AssertionError(f"channel {channel} is not lossy")


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    world = make_world()
    world.open()
    return world


@pytest.fixture
def lossy(
    medium: str, context: zmq.Context[zmq.Socket[bytes]], socket_directory: Path
) -> Iterator[World]:
    if medium == "memory":
        world = memory_world(A, B)
        world.open()
        yield world
        return
    low, high = socket_directory / "low", socket_directory / "high"
    low.mkdir(0o700)
    high.mkdir(0o700)
    routes = [route for route in ROUTES if set(route[1:]) <= {A, B}]
    planes = {
        worker: ZmqDataPlane(
            context, place, job="job", attempt=AttemptId(1), worker=worker, routes=routes
        )
        for worker, place in ((A, low), (B, high))
    }
    relay = Relay(context, low / "1-0-1.sock", high / "1-0-1.sock")

    def wait() -> None:
        relay.forward()
        poll(planes, 5)

    with relay.low, relay.high, contextlib.ExitStack() as stack:
        world = World({**planes}, wait, relay.drops.append, relay.duplicates.append)
        stack.callback(world.close)
        planes[A].bind()
        relay.connect()
        planes[B].connect()
        yield world


def batch(*values: object) -> Batch:
    return Batch(list(values))


# --- what arrives -------------------------------------------------------------------------------


def test_elements_arrive_as_they_were_sent_and_in_order(world: World) -> None:
    elements: list[Element] = [
        Batch(["a", {"b": 1}], [5, 7], ["k", 2]),
        Watermark(-(2**63)),
        Idle(),
        Active(),
        Barrier(CheckpointId(2**40 - 1)),
        Barrier(CheckpointId(7), timeout_ms=0),
        Barrier(CheckpointId(8), timeout_ms=TIMEOUT_MS_MAX),
        Marker(3),
        batch(),
        EndOfInput(),
    ]

    for element in elements:
        world.planes[A].send(A_TO_B, element)

    assert world.receive(B, 10) == [Arrival(A_TO_B, element) for element in elements]


def test_channels_of_one_connection_are_numbered_apart(world: World) -> None:
    for channel in (A_TO_B, A_TO_B_TOO, A_TO_B_TOO, A_TO_B):
        world.planes[A].send(channel, Idle())
    world.planes[B].send(B_TO_A, Active())

    received = world.receive(B, 4)

    assert [item.channel for item in received] == [A_TO_B, A_TO_B_TOO, A_TO_B_TOO, A_TO_B]
    assert world.receive(A, 1) == [Arrival(B_TO_A, Active())]


def test_two_peers_reach_the_same_worker(world: World) -> None:
    world.planes[A].send(A_TO_B, batch(1))
    world.planes[C].send(C_TO_B, batch(2))

    assert sorted(world.receive(B, 2), key=lambda item: item.channel) == [
        Arrival(A_TO_B, batch(1)),
        Arrival(C_TO_B, batch(2)),
    ]


def test_credit_reaches_the_sender_of_the_channel(world: World) -> None:
    world.planes[B].grant(C_TO_B, 8)
    world.planes[B].grant(C_TO_B, 3)

    assert world.receive(C, 2) == [Granted(C_TO_B, 8), Granted(C_TO_B, 3)]


def test_receive_returns_no_more_than_its_limit_and_loses_nothing(world: World) -> None:
    world.planes[B].grant(A_TO_B, 8)
    world.receive(A, 1)
    for number in range(5):
        world.planes[A].send(A_TO_B, Watermark(number))

    pieces: list[list[Received]] = []
    for _ in range(ROUNDS_MAX):
        pieces.append(world.planes[B].receive(2))
        if sum(map(len, pieces)) == 5:
            break
        world.wait()

    assert max(map(len, pieces)) == 2
    assert [item for piece in pieces for item in piece] == [
        Arrival(A_TO_B, Watermark(number)) for number in range(5)
    ]


def test_positions_that_are_as_told_raise_nothing(world: World) -> None:
    world.planes[A].send(A_TO_B, batch(1))
    world.planes[B].grant(A_TO_B, 4)
    world.receive(B, 1)
    for plane in world.planes.values():
        plane.tell_positions(1000)
    world.planes[A].send(A_TO_B, Idle())

    assert world.receive(B, 1) == [Arrival(A_TO_B, Idle())]


# --- what breaks the protocol -------------------------------------------------------------------


def test_a_lost_frame_is_a_gap(lossy: World) -> None:
    lossy.drop_next(A_TO_B)
    for number in (1, 2):
        lossy.planes[A].send(A_TO_B, Watermark(number))

    error = lossy.error(B)

    assert isinstance(error, PeerProtocolError)
    assert str(error) == (
        "channel 0: a gap in what worker 0 sent: expected sequence number 1, found 2"
    )


def test_a_repeated_frame_is_a_duplicate(lossy: World) -> None:
    lossy.planes[A].send(A_TO_B, Idle())
    lossy.receive(B, 1)
    lossy.duplicate_next(A_TO_B)
    lossy.planes[A].send(A_TO_B, batch("x"))

    error = lossy.error(B)

    assert isinstance(error, PeerProtocolError)
    assert str(error) == (
        "channel 0: a duplicate in what worker 0 sent: expected sequence number 3, found 2"
    )


def test_a_lost_tail_is_noticed_when_the_sender_tells_its_position(lossy: World) -> None:
    lossy.planes[A].send(A_TO_B, batch("kept"))
    lossy.receive(B, 1)
    lossy.drop_next(A_TO_B)
    lossy.planes[A].send(A_TO_B, batch("lost"))
    lossy.planes[A].tell_positions(1000)

    error = lossy.error(B)

    assert isinstance(error, PeerProtocolError)
    assert str(error) == ("channel 0: worker 0 has sent up to sequence number 2, received up to 1")


def test_a_loss_in_one_channel_is_not_hidden_by_another(lossy: World) -> None:
    lossy.drop_next(A_TO_B_TOO)
    lossy.planes[A].send(A_TO_B_TOO, Idle())
    lossy.planes[A].send(A_TO_B, Idle())

    assert lossy.receive(B, 1) == [Arrival(A_TO_B, Idle())]
    lossy.planes[A].tell_positions(1000)
    assert isinstance(lossy.error(B), PeerProtocolError)


def test_what_came_before_a_broken_frame_is_still_returned(lossy: World) -> None:
    lossy.duplicate_next(A_TO_B)
    lossy.planes[A].send(A_TO_B, batch("good"))

    assert lossy.receive(B, 1) == [Arrival(A_TO_B, batch("good"))]
    assert isinstance(lossy.error(B), PeerProtocolError)


def test_a_worker_of_another_job_is_refused_by_name(make_world: MakeWorld) -> None:
    world = make_world(jobs={A: "mine", B: "theirs", C: "theirs"})
    world.open()

    error = world.error(A)

    assert isinstance(error, PeerProtocolError)
    assert str(error) == (
        "expected a greeting of job 'mine', attempt 1, from worker 1 to worker 0, "
        "found a greeting of job 'theirs', attempt 1, from worker 1 to worker 0"
    )


# --- wrong use ----------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", [B_TO_A, C_TO_B, LOCAL, ChannelId(99)])
def test_sending_in_a_channel_that_does_not_leave_here_is_our_fault(
    world: World, channel: ChannelId
) -> None:
    with pytest.raises(LocalProtocolError, match=f"channel {channel} "):
        world.planes[A].send(channel, Idle())
    world.planes[A].send(A_TO_B, Active())

    assert world.receive(B, 1) == [Arrival(A_TO_B, Active())]


@pytest.mark.parametrize(("channel", "credits"), [(A_TO_B, 1), (B_TO_A, 0), (B_TO_A, -1)])
def test_a_grant_that_is_not_ours_to_make_is_our_fault(
    world: World, channel: ChannelId, credits: int
) -> None:
    with pytest.raises(LocalProtocolError, match=f"channel {channel}"):
        world.planes[A].grant(channel, credits)


def test_two_routes_of_one_channel_are_our_fault(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with pytest.raises(LocalProtocolError, match="same channel"):
        MemoryNetwork([Route(A_TO_B, A, B), Route(A_TO_B, A, C)]).plane(A)


# --- the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "target", "channel"), [(A, B, A_TO_B), (B, A, B_TO_A)])
def test_a_peer_that_closed_is_lost_after_all_that_it_sent(
    world: World, source: WorkerId, target: WorkerId, channel: ChannelId
) -> None:
    world.planes[target].grant(channel, 8)
    world.receive(source, 1)
    for number in range(20):
        world.planes[source].send(channel, batch(number))
    world.planes[source].close()

    assert world.receive(target, 20) == [Arrival(channel, batch(number)) for number in range(20)]
    error = world.error(target)
    assert isinstance(error, ConnectionLost)
    assert f"worker {source}" in str(error)


def test_sending_to_a_lost_peer_says_who_is_gone(world: World) -> None:
    world.planes[B].grant(A_TO_B, 8)
    world.receive(A, 1)
    world.planes[B].close()
    world.error(A)

    with pytest.raises(ConnectionLost, match="worker 1"):
        world.planes[A].send(A_TO_B, Idle())


def test_a_closed_plane_carries_nothing_and_closes_again(world: World) -> None:
    world.planes[A].close()
    world.planes[A].close()

    assert world.planes[A].receive() == []
    with pytest.raises(LocalProtocolError, match="no connection to worker 1 is open"):
        world.planes[A].send(A_TO_B, Idle())
