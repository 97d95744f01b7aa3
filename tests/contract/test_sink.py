"""What every sink that commits keeps: whatever crashes, it shows what is committed, and once."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowsnap import failpoint
from flowsnap.connectors import Collect, JsonLinesFiles
from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.core.operator import Sink, SinkContext, Submission
from flowsnap.errors import StorageError
from flowsnap.serialize import dump, load

BATCHES = [[10, 11], [], [20], [30, 31, 32], [40]]
SUBTASKS = 2
POINTS = [
    "opened", "written", "sink.prepared", "complete",
    "sink.commit_called", "sink.committed", "finished",
]  # fmt: skip

Visible = Callable[[], list[Any]]


class Crash(Exception):
    """The process is gone."""


@dataclass
class Job:
    """A job of one sink, driven as the engine does it: what is complete is never lost."""

    template: Sink
    directory: Path
    zombies: ExitStack
    attempt: int = 0
    checkpoint: int = 0
    batches_done: int = 0
    pending: list[Any] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    _crash_at: tuple[str, int] = ("", 0)

    def submit(self) -> None:
        is_fresh = self.batches_done == 0
        if is_fresh:
            self.runs.append(f"run-{len(self.runs)}")
        self.template.on_submit(
            Submission(
                job="job",
                operator=OperatorId("out"),
                job_directory=str(self.directory),
                run_id=self.runs[-1],
                is_fresh=is_fresh,
                former_run_ids=tuple(self.runs[:-1]),
            )
        )

    def arm(self, point: str, hit: int) -> None:
        if point.startswith("sink."):
            failpoint.arm(f"{point}=raise@{hit}")
        else:
            self._crash_at = (point, hit)

    def disarm(self) -> None:
        failpoint.arm("")
        self._crash_at = ("", 0)

    def run_and_crash(self, point: str, hit: int) -> None:
        """Run until a place is passed for the ``hit``-th time, or to the end if it never is."""
        pending = list(self.pending)
        self.arm(point, hit)
        with suppress(Crash, StorageError):
            self.run()
        self.disarm()
        # The manifest still holds what recovery was given, whether or not it got far.
        self.pending += [old for old in pending if old not in self.pending]

    def run(self) -> None:
        self.attempt += 1
        sinks = [self._open(subtask) for subtask in range(SUBTASKS)]
        self._pass("opened")
        sinks[0].recover(through_manifest(self.pending))
        self.pending = []
        for values in BATCHES[self.batches_done :]:
            self._checkpoint(sinks, values)
        self._pass("finished")

    def _checkpoint(self, sinks: list[Sink], values: list[int]) -> None:
        self.checkpoint += 1  # Of a checkpoint that fails the id is not used again.
        for subtask, sink in enumerate(sinks):
            sink.write(Batch([value * SUBTASKS + subtask for value in values]))
        self._pass("written")
        prepared = [sink.prepare(CheckpointId(self.checkpoint)) for sink in sinks]
        self.pending += [committable for committable in prepared if committable is not None]
        self.batches_done += 1
        self._pass("complete")
        for sink, committable in zip(sinks, prepared, strict=True):
            if committable is not None:
                sink.commit([committable])
                self.pending.remove(committable)

    def _open(self, subtask: int) -> Sink:
        sink: Sink = copy.copy(load(dump(self.template)))
        sink.open(
            SinkContext(
                job="job",
                run_id=self.runs[-1],
                operator=OperatorId("out"),
                subtask=subtask,
                parallelism=SUBTASKS,
                attempt=AttemptId(self.attempt),
            )
        )
        # A crashed sink is not closed in time; what it holds is closed long afterwards, as by a
        # process that was paused, and must do no harm then.
        self.zombies.callback(sink.close)
        return sink

    def _pass(self, point: str) -> None:
        name, hits = self._crash_at
        if name == point:
            self._crash_at = (name, hits - 1)
            if hits == 1:
                raise Crash

    def expected(self) -> list[int]:
        values = [value for batch in BATCHES[: self.batches_done] for value in batch]
        return [value * SUBTASKS + subtask for value in values for subtask in range(SUBTASKS)]


def through_manifest(committables: list[Any]) -> list[Any]:
    found: list[Any] = msgspec.json.decode(msgspec.json.encode(committables))
    return found


def json_lines(directory: Path) -> tuple[Sink, Visible]:
    def visible() -> list[Any]:
        parts = sorted((directory / "out").glob("part-*.jsonl"))
        return [json.loads(line) for part in parts for line in part.read_text().splitlines()]

    return JsonLinesFiles(directory / "out"), visible


def collect(_: Path) -> tuple[Sink, Visible]:
    sink = Collect()
    return sink, lambda: sink.values


@pytest.fixture(params=[json_lines, collect])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Job, Visible]]:
    """Yield a job and what its sink shows."""
    template, visible = request.param(tmp_path)
    with ExitStack() as zombies:
        yield Job(template, tmp_path / "job", zombies), visible
    failpoint.arm("")


@pytest.mark.parametrize("hit", [1, 2, 3, 5])
@pytest.mark.parametrize("point", POINTS)
def test_crash_at_any_point_shows_no_uncommitted_record_and_in_the_end_each_once(
    case: tuple[Job, Visible], point: str, hit: int
) -> None:
    job, visible = case
    job.submit()
    job.run_and_crash(point, hit)
    assert set(visible()) <= set(job.expected())

    job.run()

    assert sorted(visible()) == sorted(job.expected())
    assert job.batches_done == len(BATCHES)


@pytest.mark.parametrize("point", POINTS)
def test_crash_of_a_recovery_is_recovered_from(case: tuple[Job, Visible], point: str) -> None:
    job, visible = case
    job.submit()
    job.run_and_crash("complete", 3)
    job.run_and_crash(point, 1)

    job.run()

    assert sorted(visible()) == sorted(job.expected())


@pytest.mark.parametrize("hit", [1, 2])
@pytest.mark.parametrize("point", POINTS)
def test_whole_process_may_be_started_again(
    case: tuple[Job, Visible], point: str, hit: int
) -> None:
    job, visible = case
    job.submit()
    job.run_and_crash(point, hit)

    job.submit()
    job.run()

    assert sorted(visible()) == sorted(job.expected())


def test_finished_job_shows_everything_and_leaves_nothing_hidden(
    case: tuple[Job, Visible], tmp_path: Path
) -> None:
    job, visible = case
    job.submit()
    job.run_and_crash("written", 4)
    job.run()

    job.template.on_finish()

    assert sorted(visible()) == sorted(job.expected())
    assert list(tmp_path.rglob("*.tmp")) == []


def test_repeated_recovery_changes_nothing(case: tuple[Job, Visible]) -> None:
    job, visible = case
    job.submit()
    job.run()
    shown = visible()

    job.run()
    job.run()

    assert visible() == shown
