from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from flowsnap import Pipeline
from flowsnap.config import JobConfig
from flowsnap.connectors import Discard
from flowsnap.core.graph import build_execution_graph
from flowsnap.core.ids import AttemptId, WorkerId
from flowsnap.core.message import Deploy, Start, ToWorker
from flowsnap.core.restore import assign_fresh
from flowsnap.runtime.clock import SystemClock
from flowsnap.runtime.worker import Edges, Worker
from flowsnap.runtime.worker_process import make_plane
from flowsnap.storage.writer import CheckpointWriter
from flowsnap.transport.control import MemoryControl


def deployed(directory: Path, context: zmq.Context[Any]) -> tuple[Worker, MemoryControl, Deploy]:
    """Return worker 1 of 2, deployed and not started; it is the side that connects."""
    pipeline = Pipeline("numbers")
    pipeline.from_iterable([1, 2, 3]).key_by().count().sink(Discard())
    definition = pipeline.definition(2)
    graph = build_execution_graph(definition.graph, 2)
    splits = {
        spec.name: definition.code[spec.name].splits(1)  # type: ignore[union-attr]
        for spec in definition.graph.operators[:1]
    }
    control = MemoryControl()
    worker = Worker(
        WorkerId(1),
        control.client(WorkerId(1)),
        SystemClock(),
        Edges(
            load_code=lambda _: definition.code,
            make_plane=lambda deploy, id_: make_plane(context, deploy, id_),
            make_writer=lambda deploy: CheckpointWriter(directory, deploy.attempt),
        ),
    )
    deploy = Deploy(
        attempt=AttemptId(1),
        job="numbers",
        run_id="r1",
        job_graph=definition.graph,
        graph=graph,
        config=JobConfig(workers=2),
        code_path="",
        code_sha256="",
        job_directory=str(directory),
        socket_directory=str(directory),
        work_directory=str(directory / "work"),
        assignments=assign_fresh(graph, definition.graph, splits),
    )
    return worker, control, deploy


def tell(control: MemoryControl, worker: Worker, message: ToWorker) -> None:
    control.server.send(WorkerId(1), message)
    worker.step()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A private directory whose path is short enough for sockets, wherever tests run."""
    with tempfile.TemporaryDirectory(prefix="flowsnap-") as name:
        yield Path(name)


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    made: zmq.Context[Any] = zmq.Context()
    yield made
    made.destroy(linger=0)


def test_the_sockets_that_a_start_makes_are_told_to_whoever_polls(
    directory: Path, context: zmq.Context[Any]
) -> None:
    worker, control, deploy = deployed(directory, context)
    peer = make_plane(context, deploy, WorkerId(0))
    peer.bind()
    worker._control.greet()  # type: ignore[attr-defined]
    control.server.receive()
    tell(control, worker, deploy)
    polled, plane = worker.connections, worker.plane
    assert plane is not None

    tell(control, worker, Start(attempt=deploy.attempt))

    assert plane.sockets
    assert worker.connections > polled
    worker.drop()
    peer.close()
