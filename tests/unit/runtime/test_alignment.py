"""The job manager between the sources of a group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowsnap.core.event_time import WatermarkReport
from flowsnap.core.message import AlignWatermarks, Progress
from tests.unit.runtime.world import FIRST, READER, SECOND, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.run()
    yield made
    made.manager.close()


def tell(world: World, watermark_ms: int | None, attempt: int | None = None) -> None:
    report = WatermarkReport(READER, "all", watermark_ms)
    message = world.tell(Progress, worker=FIRST, tasks=(), watermarks=(report,))
    world.say(message)


def told(world: World) -> list[dict[str, int]]:
    return [m.minimums for m in world.heard() if isinstance(m, AlignWatermarks)]


def test_workers_are_told_how_far_a_group_has_come_when_it_moves(world: World) -> None:
    for mark in (10, 10, 30):
        tell(world, mark)

    assert told(world) == [{"all": 10}, {"all": 30}]


def test_group_that_nobody_holds_back_is_told_to_be_free(world: World) -> None:
    tell(world, 10)
    tell(world, None)

    assert told(world) == [{"all": 10}, {}]


def test_job_without_groups_is_told_nothing(world: World) -> None:
    world.say(world.tell(Progress, worker=FIRST, tasks=()))

    assert told(world) == []


def test_report_of_a_former_attempt_is_ignored(world: World) -> None:
    world.attempt -= 1

    tell(world, 10)

    assert told(world) == []


def test_nothing_is_told_before_every_worker_with_tasks_has_spoken(tmp_path: Path) -> None:
    (tmp_path / "pair").mkdir()
    pair = World(tmp_path / "pair", workers=2)
    pair.run()
    workers = {task.worker for task in pair.manager._graph.tasks}

    tell(pair, 10)

    assert workers == {FIRST}, "the second worker has no task, and is not waited for"
    assert told(pair) == [{"all": 10}]
    assert [m for m in pair.heard(SECOND) if isinstance(m, AlignWatermarks)] != []
    pair.manager.close()
