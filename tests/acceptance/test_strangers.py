"""Sockets that others got to first, or knock at: nobody talks to a stranger, and nothing is run."""

from __future__ import annotations

import os
import pickle
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from flowsnap.core.ids import AttemptId, WorkerId
from flowsnap.core.message import WorkerReady
from flowsnap.errors import ConnectionLost
from flowsnap.runtime.job import JobHandle
from flowsnap.runtime.status import JobResult
from flowsnap.transport.control import SOCKET_NAME, ControlServer
from flowsnap.transport.message import encode_message
from tests.acceptance.digits import TWICE, assert_exactly_once, digits
from tests.acceptance.processes import until
from tests.integration.jobs import QUICK

pytestmark = pytest.mark.slow
Told = Callable[[str, object], None]
LONG = 60  # checkpoints
KNOCKS = 25


class Trap:
    """What would leave a trace if anybody unpickled it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


def scratch() -> Path:
    """Return the directory in which the running job has its sockets."""
    [found] = Path(tempfile.gettempdir()).glob("flowsnap-*")
    return found


def knock(path: Path, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
        stranger.settimeout(5)
        stranger.connect(str(path))
        stranger.sendall(data)


def say(context: zmq.Context[Any], kind: int, path: Path, *messages: bytes) -> None:
    """Speak ZeroMQ to a socket, as somebody who has not been asked."""
    with context.socket(kind) as stranger:
        stranger.set(zmq.LINGER, 1_000)
        stranger.set(zmq.SNDTIMEO, 1_000)
        stranger.connect(f"ipc://{path}")
        for message in messages:
            stranger.send(message)


def assert_unharmed(result: JobResult, marker: Path) -> None:
    """Hold a job to its end, and the trap to never having been sprung."""
    assert result.state == "finished"
    assert not marker.exists()


@pytest.fixture
def running(state: Path) -> Iterator[tuple[JobHandle, Callable[[], None]]]:
    """Yield a running job, and what holds its output to the input once it has ended."""
    pipeline, sink = digits(state, LONG)
    handle = pipeline.start(workers=2, state_dir=state, restart=TWICE, **QUICK)
    until(lambda: handle.status().checkpoints_completed >= 1, "a checkpoint")
    yield handle, lambda: assert_exactly_once(sink)
    handle.cancel()
    handle.wait(60)


@pytest.mark.fault("F29", promise="P1 P2 P8", oracles="O1 O3")
def test_who_does_not_know_the_token_is_not_heard(
    running: tuple[JobHandle, Callable[[], None]],
    context: zmq.Context[Any],
    tmp_path: Path,
    record_property: Told,
) -> None:
    handle, check = running
    place, marker = scratch() / SOCKET_NAME, tmp_path / "was-run"
    forged = WorkerReady(attempt=AttemptId(1), worker=WorkerId(0), token="0" * 64, pid=os.getpid())
    messages = [pickle.dumps(Trap(marker)), encode_message(forged), b"", b"\x00" * 70_000]

    for _ in range(KNOCKS):
        say(context, zmq.DEALER, place, *messages)
        knock(place, os.urandom(64))
    result = handle.wait(60)

    record_property("strangers", 2 * KNOCKS)
    assert result.attempts == 1
    assert_unharmed(result, marker)
    check()


@pytest.mark.fault("F29", promise="P1 P2 P8", oracles="O1 O3")
def test_a_stranger_at_a_channel_costs_at_most_attempts_and_is_never_believed(
    running: tuple[JobHandle, Callable[[], None]],
    context: zmq.Context[Any],
    tmp_path: Path,
    record_property: Told,
) -> None:
    handle, check = running
    [place] = scratch().glob("1-0-1.sock")
    marker = tmp_path / "was-run"

    say(context, zmq.PAIR, place, pickle.dumps(Trap(marker)))
    knock(place, os.urandom(64))
    result = handle.wait(60)

    record_property("strangers", 2)
    assert result.attempts < 3
    assert_unharmed(result, marker)
    check()


@pytest.mark.fault("F29", promise="P5 P8", oracles="O6")
def test_a_socket_file_that_a_dead_process_left_is_taken_over(
    context: zmq.Context[Any],
) -> None:
    directory = Path(tempfile.mkdtemp(prefix="fs-", dir="/tmp"))
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stale.bind(str(directory / SOCKET_NAME))
    stale.close()

    server = ControlServer(context, directory, "token")

    server.close()
    (directory / SOCKET_NAME).unlink(missing_ok=True)
    directory.rmdir()


@pytest.mark.fault("F29", promise="P5 P8", oracles="O6")
def test_a_place_that_something_else_has_taken_is_refused_with_its_name(
    context: zmq.Context[Any],
) -> None:
    directory = Path(tempfile.mkdtemp(prefix="fs-", dir="/tmp"))
    (directory / SOCKET_NAME).mkdir()  # what cannot be bound, and is not ours to remove

    with pytest.raises(ConnectionLost, match=f"cannot bind ipc://{directory}/{SOCKET_NAME}"):
        ControlServer(context, directory, "token")

    (directory / SOCKET_NAME).rmdir()
    directory.rmdir()
