"""A task that rests is woken by all that reaches it: here the clock stands still meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from flowsnap import Pipeline
from flowsnap.api.stream import Stream
from flowsnap.config import JobConfig
from flowsnap.connectors import Discard
from flowsnap.core.graph import build_execution_graph
from flowsnap.core.ids import AttemptId, CheckpointId, TaskId, WorkerId
from flowsnap.core.message import (
    Acknowledged,
    Deploy,
    FromWorker,
    Start,
    TaskEnded,
    ToWorker,
    TriggerCheckpoint,
)
from flowsnap.core.restore import assign_fresh
from flowsnap.runtime.local import refuse_plane
from flowsnap.runtime.worker import IDLE_MS, Edges, Worker
from flowsnap.storage.writer import CheckpointWriter
from flowsnap.transport.control import MemoryControl
from tests.unit.runtime.world import StoppedClock

ROUNDS_MAX = 10_000
NUMBERS = range(10_000)  # More than the channels can hold at once.
Steps = Callable[[Stream[int]], Stream[Any]]


class AtOnce(Executor):
    """Does what it is given before it returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **named))
        return future


class Alone:
    """One worker with a whole job, and what it has said."""

    def __init__(self, directory: Path, steps: Steps) -> None:
        pipeline = Pipeline("numbers")
        steps(pipeline.from_iterable(NUMBERS)).sink(Discard())
        definition = pipeline.definition(2)
        source = definition.graph.operators[0].name
        splits: Any = {source: definition.code[source].splits(1)}  # type: ignore[union-attr]
        graph = build_execution_graph(definition.graph, 0)
        self.tasks = frozenset(task.id for task in graph.tasks)
        self.said: list[FromWorker] = []
        self._control = MemoryControl()
        client = self._control.client(WorkerId(0))
        self.worker = Worker(
            WorkerId(0),
            client,
            StoppedClock(),
            Edges(
                load_code=lambda _: definition.code,
                make_plane=refuse_plane,
                make_writer=lambda deploy: CheckpointWriter(directory, deploy.attempt),
                make_executor=AtOnce,
            ),
        )
        client.greet()
        self._control.server.receive()
        self.tell(
            Deploy(
                attempt=AttemptId(1),
                job="numbers",
                run_id="r1",
                job_graph=definition.graph,
                graph=graph,
                config=JobConfig(channel_capacity_batches=2),
                code_path="",
                code_sha256="",
                job_directory=str(directory),
                socket_directory=str(directory),
                work_directory=str(directory / "work"),
                assignments=assign_fresh(graph, definition.graph, splits),
            )
        )
        self.tell(Start(attempt=AttemptId(1)))

    def tell(self, message: ToWorker) -> None:
        """Tell the worker something, and let it go on until it has nothing to do."""
        self._control.server.send(WorkerId(0), message)
        for _ in range(ROUNDS_MAX):
            if self.worker.step() == IDLE_MS:
                break
        self.said += [one for _, one in self._control.server.receive()]

    @property
    def ended(self) -> set[TaskId]:
        return {one.task for one in self.said if isinstance(one, TaskEnded)}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Callable[[Steps], Alone]]:
    made: list[Alone] = []

    def run(steps: Steps) -> Alone:
        made.append(Alone(tmp_path, steps))
        return made[-1]

    yield run
    for one in made:
        one.worker.drop()


def counted(numbers: Stream[int]) -> Stream[Any]:
    return numbers.key_by(lambda number: number % 7).count()


def multiplied(numbers: Stream[int]) -> Stream[Any]:
    return numbers.flat_map(lambda number: range(10)).key_by().count()


@pytest.mark.parametrize("steps", [counted, multiplied])
def test_what_reaches_a_task_ends_its_rest(alone: Callable[[Steps], Alone], steps: Steps) -> None:
    job = alone(steps)

    assert job.ended == job.tasks


def test_message_to_a_task_that_rests_is_carried_out_at_once(
    alone: Callable[[Steps], Alone],
) -> None:
    job = alone(counted)

    job.tell(
        TriggerCheckpoint(
            attempt=AttemptId(1),
            checkpoint_id=CheckpointId(1),
            tasks=job.tasks,
            is_final=True,
            timeout_ms=None,
        )
    )

    acknowledged = [one.snapshot.task for one in job.said if isinstance(one, Acknowledged)]
    assert set(acknowledged) == job.tasks
