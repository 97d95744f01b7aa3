"""How much of raw ZeroMQ's speed is left in a channel between two workers?

Two processes; the receiver's clock runs from the first message to the last. ``raw`` moves one
ZeroMQ message of the same bytes each, ``pickled`` the same records through ``pickle`` on both
sides and one message each; ``engine`` moves batches through the data plane, with credit, and so
includes pickling, the header, the checks and the grants.
"""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from benchmarks.harness import Row, rounds
from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, ChannelId, WorkerId
from flowsnap.transport.plane import Arrival, Granted, Route
from flowsnap.transport.zeromq import ZmqDataPlane

CAPACITY_BATCHES = 8
CHANNEL = ChannelId(0)
TOTAL_BYTES, TOTAL_BYTES_QUICK = 2**30, 2**27


class Task(NamedTuple):
    """``messages`` of ``payload_bytes`` each, in ``records`` records, by a socket in a folder."""

    directory: str
    payload_bytes: int
    messages: int
    records: int
    is_pickled: bool = False


def run(quick: bool) -> list[Row]:
    """Compare batches of 1 MiB, as one record and as 1,024, and of 64 KiB."""
    total = TOTAL_BYTES_QUICK if quick else TOTAL_BYTES
    rows: list[Row] = []
    for title, payload_bytes, records, baseline in (
        ("1 MiB of bytes", 2**20, 1, "raw"),
        ("64 KiB of bytes", 2**16, 1, "raw"),
        ("1,024 records of 1 KiB", 2**20, 1024, "pickled"),
    ):
        count = total // payload_bytes
        measure = partial(_measure, payload_bytes=payload_bytes, messages=count, records=records)
        is_pickled = baseline == "pickled"
        hand = f"{title}: {'pickle and ' if is_pickled else ''}raw pyzmq"
        cases: dict[str, Callable[[], float]] = {
            hand: partial(measure, _send_raw, _receive_raw, is_pickled=is_pickled),
            f"{title}: channel": partial(measure, _send_engine, _receive_engine),
        }
        rows += rounds(1 if quick else 5, cases).rows("MB/s", baseline=hand)
    return rows


def _measure(
    send: Callable[[Task], None],
    receive: Callable[[Task, Pipe], None],
    *,
    payload_bytes: int,
    messages: int,
    records: int,
    is_pickled: bool = False,
) -> float:
    """Return MB/s."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="flowsnap-") as directory:
        task = Task(directory, payload_bytes, messages, records, is_pickled)
        answer, question = context.Pipe(duplex=False)
        process = context.Process(target=receive, args=(task, question))
        process.start()
        send(task)
        seconds: float = answer.recv()
        process.join()
    return payload_bytes * messages / seconds / 1e6


def _send_raw(task: Task) -> None:
    payload, batch = bytes(task.payload_bytes), _records(task)
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.set(zmq.SNDHWM, CAPACITY_BATCHES)
        socket.bind(f"ipc://{task.directory}/raw")
        socket.recv()
        for _ in range(task.messages + 1):
            socket.send(pickle.dumps(batch, 5) if task.is_pickled else payload)
        socket.recv()


def _receive_raw(task: Task, question: Pipe) -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.set(zmq.RCVHWM, CAPACITY_BATCHES)
        _connect_when_bound(socket, Path(task.directory) / "raw")
        socket.send(b"ready")
        socket.recv()
        start = time.perf_counter()
        for _ in range(task.messages):
            message = socket.recv()
            if task.is_pickled:
                pickle.loads(message)
        question.send(time.perf_counter() - start)
        socket.send(b"done")


def _records(task: Task) -> list[bytes]:
    return [bytes(task.payload_bytes // task.records) for _ in range(task.records)]


def _connect_when_bound(socket: zmq.Socket[bytes], path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)
    socket.connect(f"ipc://{path}")


def _plane(context: zmq.Context[Any], task: Task, worker: int) -> ZmqDataPlane:
    return ZmqDataPlane(
        context,
        Path(task.directory),
        job="benchmark",
        attempt=AttemptId(1),
        worker=WorkerId(worker),
        routes=[Route(CHANNEL, WorkerId(0), WorkerId(1))],
    )


def _poller(plane: ZmqDataPlane) -> zmq.Poller:
    poller = zmq.Poller()
    for socket in plane.sockets:
        poller.register(socket, zmq.POLLIN)
    return poller


def _send_engine(task: Task) -> None:
    with zmq.Context() as context:
        plane = _plane(context, task, 0)
        plane.bind()
        plane.connect()
        poller = _poller(plane)
        batch = Batch(_records(task))
        credits, left = 0, task.messages + 1
        while left or credits < CAPACITY_BATCHES:  # all credit is back: all has been consumed
            poller.poll()
            credits += sum(item.credits for item in plane.receive() if isinstance(item, Granted))
            while credits and left:
                plane.send(CHANNEL, batch)
                credits, left = credits - 1, left - 1
        plane.close()


def _receive_engine(task: Task, question: Pipe) -> None:
    with zmq.Context() as context:
        plane = _plane(context, task, 1)
        while not (Path(task.directory) / "1-0-1.sock").exists():
            time.sleep(0.01)
        plane.connect()
        poller = _poller(plane)
        plane.grant(CHANNEL, CAPACITY_BATCHES)
        left, consumed, start = task.messages + 1, 0, 0.0
        while left:
            poller.poll()
            for item in plane.receive():
                if isinstance(item, Arrival):
                    start = start or time.perf_counter()
                    left, consumed = left - 1, consumed + 1
            if consumed >= CAPACITY_BATCHES // 2 or not left:
                plane.grant(CHANNEL, consumed)
                consumed = 0
        question.send(time.perf_counter() - start)
        plane.close()
