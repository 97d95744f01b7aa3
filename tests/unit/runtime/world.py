"""A job manager with everything around it in the test's hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flowsnap.config import JobConfig
from flowsnap.core.graph import build_execution_graph
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId, WorkerId
from flowsnap.core.manifest import TaskSnapshot
from flowsnap.core.message import (
    Acknowledged,
    Cancelled,
    Committed,
    Deploy,
    Deployed,
    FromWorker,
    Heartbeat,
    Start,
    TaskEnded,
    TaskFailed,
    ToWorker,
)
from flowsnap.runtime.definition import PipelineDefinition
from flowsnap.runtime.job_manager import JobManager, Surroundings
from flowsnap.runtime.recovery import Recovery
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.transport.control import MemoryControl, MemoryControlClient
from tests.manifests import COUNT, LINES, OUT, task, words
from tests.unit.runtime.parts import Holding, ListSource, MemorySink

READER, COUNTER = task("lines/0"), task("count/0")
OPERATORS = {READER: (LINES,), COUNTER: (COUNT, OUT)}
FIRST, SECOND = WorkerId(0), WorkerId(1)


class StoppedClock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.ms = 1_000

    def now_ms(self) -> int:
        return self.ms

    def wall_ms(self) -> int:
        return 1_700_000_000_000 + self.ms


class Workers:
    """The launcher's twin: each worker is an end of the control plane in the test's hand."""

    def __init__(self, control: MemoryControl) -> None:
        self.ends: dict[WorkerId, MemoryControlClient] = {}
        self.dead: list[tuple[WorkerId, str]] = []
        self.launched: list[WorkerId] = []
        self.is_mute = False
        self.is_closed = False
        self._control = control

    def launch(self, worker: WorkerId) -> None:
        self.launched.append(worker)
        self.ends[worker] = self._control.client(worker)
        if not self.is_mute:
            self.ends[worker].greet()

    def kill(self, worker: WorkerId) -> None:
        end = self.ends.pop(worker, None)
        if end is not None:
            end.close()

    def die(self, worker: WorkerId, how: str) -> None:
        self.kill(worker)
        self.dead.append((worker, how))

    def deaths(self) -> list[tuple[WorkerId, str]]:
        dead, self.dead = self.dead, []
        return dead

    def pids(self) -> dict[WorkerId, int]:
        return dict.fromkeys(self.ends, os.getpid())

    def close(self) -> None:
        self.is_closed = True


class World:
    """A job manager with everything around it in the test's hand."""

    def __init__(self, root: Path, workers: int = 1, **settings: Any) -> None:
        self.clock = StoppedClock()
        self.control = MemoryControl()
        self.workers = Workers(self.control)
        self.sink = MemorySink()
        (root / "scratch").mkdir()
        source = ListSource({"a": [1, 2]})
        code: dict[OperatorId, Any] = {LINES: source, COUNT: Holding(), OUT: self.sink}
        directory = JobDirectory.open(root / "state", "words")
        self.recovery = Recovery(
            directory, PipelineDefinition(words(), code), root / "scratch", "latest"
        )
        self.recovery.submit()
        config = JobConfig(workers=workers, **settings)
        around = Surroundings(self.clock, self.control.server, self.workers, self.recovery)
        self.manager = JobManager(build_execution_graph(words(), workers), config, around)
        self.attempt = 0

    # --- what the test does

    def say(self, *messages: FromWorker, worker: WorkerId = FIRST) -> None:
        """Have a worker say something, and the job manager hear it."""
        for message in messages:
            self.workers.ends[worker].send(message)
        self.manager.step()

    def pass_time(self, ms: int) -> None:
        self.clock.ms += ms
        for worker, end in self.workers.ends.items():
            end.send(Heartbeat(attempt=AttemptId(0), worker=worker, steps=self.clock.ms))
        self.manager.step()

    def heard(self, worker: WorkerId = FIRST) -> list[ToWorker]:
        """Return what a worker was told since the last call."""
        end = self.workers.ends.get(worker)
        return [] if end is None else end.receive()

    def kinds(self, worker: WorkerId = FIRST) -> list[str]:
        return [type(message).__name__ for message in self.heard(worker)]

    @property
    def state(self) -> str:
        self.pass_time(100)  # the status is made anew every 100 ms
        return self.manager.status.state

    # --- the usual course of things

    def deploy(self) -> Deploy:
        """Let the workers register; return what the first is told."""
        if not self.workers.launched:
            self.manager.start()
        self.manager.step()
        [deploy] = [message for message in self.heard() if isinstance(message, Deploy)]
        self.attempt = deploy.attempt
        return deploy

    def run(self) -> None:
        """Come to where the tasks run."""
        self.deploy()
        for worker in list(self.workers.ends):
            self.heard(worker)
            self.say(Deployed(attempt=AttemptId(self.attempt), worker=worker), worker=worker)
        assert Start(attempt=AttemptId(self.attempt)) in self.heard()

    def acknowledge(self, number: int, *tasks: Any) -> None:
        for name in tasks or (READER, COUNTER):
            snapshot = TaskSnapshot(name, OPERATORS[name], 0)
            self.say(self.tell(Acknowledged, checkpoint_id=CheckpointId(number), snapshot=snapshot))

    def tell(self, kind: type[Any], **facts: Any) -> Any:
        return kind(attempt=AttemptId(self.attempt), **facts)

    def end_input(self) -> None:
        self.say(*(self.tell(TaskEnded, task=name) for name in (READER, COUNTER)))

    def failed(self, message: str, **facts: Any) -> Any:
        known = {"worker": FIRST, "task": COUNTER, "error_type": "OperatorError", **facts}
        return self.tell(TaskFailed, message=message, **known)

    def fail(self, message: str = "no luck", **facts: Any) -> None:
        self.say(self.failed(message, **facts))

    def cancel_done(self) -> None:
        assert "Cancel" in self.kinds()
        self.say(self.tell(Cancelled, worker=FIRST))

    def finish(self, number: int) -> None:
        """Have the final checkpoint acknowledged and committed."""
        self.acknowledge(number)
        self.say(self.tell(Committed, checkpoint_id=CheckpointId(number), task=COUNTER))
