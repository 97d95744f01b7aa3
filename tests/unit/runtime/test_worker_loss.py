"""A worker that loses a peer waits a moment: the peer has more to tell, and so has its death."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from flowsnap.core.ids import AttemptId, WorkerId
from flowsnap.core.message import Cancel, Cancelled, Deploy, Start, TaskFailed
from flowsnap.runtime.worker import LOSS_GRACE_MS, Edges, Worker
from flowsnap.storage.writer import CheckpointWriter
from flowsnap.testing.clock import ProcessClock, VirtualTime
from flowsnap.transport.control import MemoryControl
from flowsnap.transport.memory import MemoryNetwork
from flowsnap.transport.plane import Route
from tests.unit.runtime.test_worker import deployed

PEER, WORKER, ATTEMPT = WorkerId(0), WorkerId(1), AttemptId(1)


class Scene:
    """Worker 1 of 2, which runs, and whose peer is then lost."""

    def __init__(self, directory: Path) -> None:
        with zmq.Context() as context:
            template, _, deploy = deployed(directory, context)
        workers = {task.id: task.worker for task in deploy.graph.tasks}
        self.network = MemoryNetwork(
            [Route(c.id, workers[c.source], workers[c.target]) for c in deploy.graph.channels],
            deploy.job,
        )
        self.time, self.control = VirtualTime(), MemoryControl()
        edges = Edges(
            load_code=template._edges.load_code,
            make_plane=lambda *_: self.network.plane(WORKER),
            make_writer=lambda deploy: CheckpointWriter(directory, deploy.attempt),
        )
        client = self.control.client(WORKER)
        self.worker = Worker(WORKER, client, ProcessClock(self.time, 0), edges)
        client.greet()
        self.network.plane(PEER).bind()
        self.tell(deploy)
        self.tell(Start(attempt=ATTEMPT))
        self.network.cut(PEER)
        self.worker.step()

    def tell(self, message: Deploy | Start | Cancel) -> None:
        self.told()
        self.control.server.send(WORKER, message)
        self.worker.step()

    def told(self) -> list[object]:
        """Return what the worker has said since the last call, but for its progress."""
        kinds = (TaskFailed, Cancelled)
        return [one for _, one in self.control.server.receive() if isinstance(one, kinds)]

    def pass_ms(self, duration_ms: int) -> int:
        self.time.now_us += duration_ms * 1000
        return self.worker.step()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_lost_connection_is_told_once_when_nobody_has_told_why(scene: Scene) -> None:
    assert scene.told() == []
    assert scene.pass_ms(LOSS_GRACE_MS - 1) == 1
    assert scene.told() == []

    scene.pass_ms(1)

    [failed] = scene.told()
    assert isinstance(failed, TaskFailed)
    assert failed.error_type == "ConnectionLost"
    scene.pass_ms(LOSS_GRACE_MS)
    assert scene.told() == []


def test_a_lost_connection_is_not_told_when_the_attempt_was_ended_meanwhile(scene: Scene) -> None:
    scene.tell(Cancel(attempt=ATTEMPT))
    assert [type(one) for one in scene.told()] == [Cancelled]

    scene.pass_ms(LOSS_GRACE_MS)

    assert scene.told() == []
