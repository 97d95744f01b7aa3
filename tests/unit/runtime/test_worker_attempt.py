"""A worker hears nothing of what was said in an attempt before its own.

FLINK-24096: there the notification of an old checkpoint reached a task that had just begun again.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import zmq

from flowsnap.core.ids import AttemptId, CheckpointId, WorkerId
from flowsnap.core.message import (
    AbortCheckpoint,
    Committed,
    CompleteCheckpoint,
    Start,
    ToWorker,
)
from flowsnap.runtime.worker import Edges, Worker
from flowsnap.storage.writer import CheckpointWriter
from flowsnap.testing.clock import ProcessClock, VirtualTime
from flowsnap.transport.control import MemoryControl
from flowsnap.transport.memory import MemoryNetwork
from flowsnap.transport.plane import Route
from tests.unit.runtime.test_worker import deployed

WORKER, FORMER, NOW, NEXT = WorkerId(1), AttemptId(1), AttemptId(2), AttemptId(3)
TEN = CheckpointId(10)


class Scene:
    """Worker 1 of 2 in its second attempt."""

    def __init__(self, directory: Path) -> None:
        with zmq.Context() as context:
            template, _, deploy = deployed(directory, context)
        workers = {task.id: task.worker for task in deploy.graph.tasks}
        network = MemoryNetwork(
            [Route(c.id, workers[c.source], workers[c.target]) for c in deploy.graph.channels],
            deploy.job,
        )
        self.control = MemoryControl()
        client = self.control.client(WORKER)
        edges = Edges(
            load_code=template._edges.load_code,
            make_plane=lambda *_: network.plane(WORKER),
            make_writer=lambda deploy: CheckpointWriter(directory, deploy.attempt),
        )
        self.worker = Worker(WORKER, client, ProcessClock(VirtualTime(), 0), edges)
        client.greet()
        network.plane(WorkerId(0)).bind()
        self.deploy = msgspec.structs.replace(deploy, attempt=NOW)

    def answers(self, message: ToWorker) -> list[Committed]:
        """Tell the worker something, and return what it has committed thereupon."""
        self.control.server.receive()
        self.control.server.send(WORKER, message)
        self.worker.step()
        said = [one for _, one in self.control.server.receive()]
        return [one for one in said if isinstance(one, Committed)]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path)
    made.answers(made.deploy)
    made.answers(Start(attempt=NOW))
    return made


def test_notification_of_its_own_attempt_is_answered(scene: Scene) -> None:
    [committed] = scene.answers(CompleteCheckpoint(attempt=NOW, checkpoint_id=TEN))

    assert (committed.attempt, committed.checkpoint_id) == (NOW, TEN)


@pytest.mark.parametrize("attempt", [FORMER, NEXT])
def test_notification_of_another_attempt_is_not_heard(scene: Scene, attempt: AttemptId) -> None:
    assert scene.answers(CompleteCheckpoint(attempt=attempt, checkpoint_id=TEN)) == []
    assert scene.answers(AbortCheckpoint(attempt=attempt, checkpoint_id=TEN)) == []

    assert len(scene.answers(CompleteCheckpoint(attempt=NOW, checkpoint_id=TEN))) == 1


def test_notification_before_the_attempt_has_begun_is_not_heard(tmp_path: Path) -> None:
    scene = Scene(tmp_path)

    assert scene.answers(CompleteCheckpoint(attempt=NOW, checkpoint_id=TEN)) == []
