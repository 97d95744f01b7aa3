"""Two sources, a join, a sink that commits: every schedule of the real machines, with one crash."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from flowsnap.core.aligner import Action, Aligner
from flowsnap.core.commit import SinkCommits
from flowsnap.core.coordinator import TaskAcknowledged
from flowsnap.core.ids import ChannelId, CheckpointId, TaskId
from flowsnap.core.manifest import PreparedOutput, TaskSnapshot
from tests.property.exploration import visit_all
from tests.property.job_world import JOIN, SINK, SOURCES, Job, job


def test_every_schedule_of_two_checkpoints_commits_every_record_once() -> None:
    visited = visit_all(job(wishes=1))

    assert visited.reached.keys() > {"manifest written", "complete at sink/0"}


def test_every_schedule_with_a_crash_at_any_moment_commits_every_record_once() -> None:
    visited = visit_all(job(crashes=1))

    assert visited.reached.keys() > {"crash", "crash, manifest there", "complete at sink/0"}


def test_every_schedule_with_a_manifest_that_fails_commits_every_record_once() -> None:
    visited = visit_all(job(wishes=0, failures=1, crashes=1))

    assert visited.reached.keys() > {"manifest failed", "crash", "complete at sink/0"}


@pytest.mark.slow
def test_every_schedule_with_an_abort_that_reaches_the_join_commits_every_record_once() -> None:
    visited = visit_all(job(wishes=1, declines=1))

    assert visited.reached.keys() > {"decline", "skip", "abort at join/0", "complete at sink/0"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_schedule_of_two_checkpoints_survives_a_crash_at_any_moment() -> None:
    visited = visit_all(job(wishes=1, crashes=1))

    assert visited.states > 10_000


@dataclass
class LateJob(Job):
    """A job in which a part may be durable long before the job manager hears of it."""

    late: tuple[TaskId, ...] = (*SOURCES, JOIN, SINK)
    under_way: dict[str, list[TaskAcknowledged]] = field(default_factory=dict)

    def restart(self) -> None:
        super().restart()
        self.under_way = {task: [] for task in self.late}

    def moves(self) -> list[tuple[Any, ...]]:
        waiting = [] if self.is_done else [task for task, sent in self.under_way.items() if sent]
        return super().moves() + [("arrive", task) for task in waiting]

    def acknowledge(
        self, task: TaskId, id_: int, prepared: tuple[PreparedOutput, ...] = ()
    ) -> None:
        if task in self.late:
            part = TaskSnapshot(task, (), 0, prepared=prepared)
            self.under_way[task].append(TaskAcknowledged(CheckpointId(id_), part))
        else:
            super().acknowledge(task, id_, prepared)

    def on_arrive(self, task: str) -> str:
        event = self.under_way[task].pop(0)
        is_late = event.checkpoint_id not in self.cuts
        self.tell(event)
        return "late" if is_late else "in time"


def test_every_schedule_of_slow_acknowledgements_commits_every_record_once() -> None:
    visited = visit_all(job(LateJob, crashes=1))

    assert visited.reached.keys() > {"in time", "crash, manifest there", "complete at sink/0"}


def test_every_schedule_of_acknowledgements_that_come_after_their_abort_ends_well() -> None:
    first = LateJob(0, 0, 0, wishes=1, declines=1, late=(SOURCES[0], JOIN, SINK))
    first.restart()

    visited = visit_all(first)

    assert visited.reached.keys() > {"late", "abort at join/0", "complete at sink/0"}


class Leaky(Aligner):
    """Forgets to block, as a mistake would have it."""

    def check(self) -> None:
        self.blocked.clear()


class LeakyJob(Job):
    def restart(self) -> None:
        super().restart()
        self.aligner = Leaky([ChannelId(0), ChannelId(1)], mode="exactly-once")


class Rash(SinkCommits):
    """Commits what is prepared, whatever is complete."""

    def due(self, checkpoint_id: CheckpointId) -> tuple[PreparedOutput, ...]:
        return self.pending()


class RashJob(Job):
    def restart(self) -> None:
        super().restart()
        self.commits = Rash()


@pytest.mark.parametrize(
    ("kind", "message"),
    [(LeakyJob, "no consistent cut"), (RashJob, "committed before it was complete")],
)
def test_a_mistake_in_a_machine_is_found(kind: type[Job], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        visit_all(job(kind, wishes=1))


class Deaf(Aligner):
    """Goes on with a checkpoint that was given up, as a mistake would have it."""

    def abort(self, checkpoint_id: CheckpointId) -> list[Action]:
        return []


class DeafJob(Job):
    def restart(self) -> None:
        super().restart()
        self.aligner = Deaf([ChannelId(0), ChannelId(1)], mode="exactly-once")


def test_a_join_that_is_deaf_to_aborts_is_found() -> None:
    with pytest.raises(AssertionError, match="what was given up"):
        visit_all(job(DeafJob, wishes=1, declines=1))
