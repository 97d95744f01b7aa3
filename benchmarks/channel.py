"""What does a channel between two workers cost on top of ZeroMQ alone?

Two processes; the receiver's clock runs from the first message to the last. ``raw`` moves one
ZeroMQ message of the same bytes each; ``engine`` moves batches through the data plane, with
credit, and so includes pickling, the header, the checks and the grants.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, NamedTuple

import zmq

from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, ChannelId, WorkerId
from flowsnap.transport.plane import Arrival, Granted, Route
from flowsnap.transport.zeromq import ZmqDataPlane

CAPACITY_BATCHES = 8
CHANNEL = ChannelId(0)
SIZES = (65_536, 2**20)
TOTAL_BYTES, TOTAL_BYTES_QUICK = 2 * 2**30, 256 * 2**20


class Task(NamedTuple):
    """``messages`` of ``payload_bytes`` each, in ``records`` records, by a socket in a folder."""

    directory: str
    payload_bytes: int
    messages: int
    records: int
    is_copied: bool = True


class Comparison(NamedTuple):
    """Medians of interleaved runs, and the median of their ratios."""

    payload_bytes: int
    records: int
    engine_mb_per_s: float
    raw_mb_per_s: float
    ratio: float


def engine_mb_per_s(payload_bytes: int, messages: int, records: int = 1) -> float:
    """Return MB/s of payload through the data plane, batches of ``records`` equal records."""
    return _measure(_send_engine, _receive_engine, payload_bytes, messages, records)


def raw_pyzmq_mb_per_s(payload_bytes: int, messages: int, *, is_copied: bool = True) -> float:
    """Return MB/s through a PAIR socket; ``is_copied`` is pyzmq's ``copy``, on both sides."""
    return _measure(_send_raw, _receive_raw, payload_bytes, messages, 1, is_copied)


def compare(payload_bytes: int, records: int, total_bytes: int, runs: int) -> Comparison:
    """Measure both in turns, raw in its faster way, and compare within each turn."""
    messages = max(total_bytes // payload_bytes, 1)
    raws, engines = [], []
    for _ in range(runs):
        raws.append(
            max(raw_pyzmq_mb_per_s(payload_bytes, messages, is_copied=way) for way in (True, False))
        )
        engines.append(engine_mb_per_s(payload_bytes, messages, records))
    return Comparison(
        payload_bytes,
        records,
        statistics.median(engines),
        statistics.median(raws),
        statistics.median(engine / raw for engine, raw in zip(engines, raws, strict=True)),
    )


def run(quick: bool) -> list[Comparison]:
    """Compare for each payload size, as one record and as records of 1 KiB."""
    total_bytes, runs = (TOTAL_BYTES_QUICK, 3) if quick else (TOTAL_BYTES, 7)
    return [
        compare(size, records, total_bytes, runs) for size in SIZES for records in (1, size // 1024)
    ]


def _measure(
    send: Callable[[Task], None],
    receive: Callable[[Task, Pipe], None],
    payload_bytes: int,
    messages: int,
    records: int,
    is_copied: bool = True,
) -> float:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="flowsnap-") as directory:
        task = Task(directory, payload_bytes, messages, records, is_copied)
        answer, question = context.Pipe(duplex=False)
        process = context.Process(target=receive, args=(task, question))
        process.start()
        send(task)
        seconds: float = answer.recv()
        process.join()
    return payload_bytes * messages / seconds / 1e6


def _send_raw(task: Task) -> None:
    payload = bytes(task.payload_bytes)
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.set(zmq.SNDHWM, CAPACITY_BATCHES)
        socket.bind(f"ipc://{task.directory}/raw")
        socket.recv()
        for _ in range(task.messages + 1):
            socket.send(payload, 0, task.is_copied)
        socket.recv()


def _receive_raw(task: Task, question: Pipe) -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.set(zmq.RCVHWM, CAPACITY_BATCHES)
        _connect_when_bound(socket, Path(task.directory) / "raw")
        socket.send(b"ready")
        socket.recv()
        start = time.perf_counter()
        for _ in range(task.messages):
            socket.recv(copy=task.is_copied)
        question.send(time.perf_counter() - start)
        socket.send(b"done")


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
        size = task.payload_bytes // task.records
        batch = Batch([bytes(size) for _ in range(task.records)])
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


def main() -> None:
    """Print the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print("payload bytes | records | engine MB/s | raw MB/s | engine / raw")
    for row in run(parser.parse_args().quick):
        print(
            f"{row.payload_bytes:13,} | {row.records:7,} | {row.engine_mb_per_s:11,.0f} | "
            f"{row.raw_mb_per_s:8,.0f} | {row.ratio:12.2f}"
        )


if __name__ == "__main__":
    main()
