"""What a savepoint may be made of is aligned, whatever the other checkpoints of the job are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowsnap.core.message import TriggerCheckpoint
from tests.unit.runtime.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, checkpoint_interval_ms=1_000, checkpoint_alignment="unaligned")
    made.run()
    yield made
    made.manager.close()


def triggered(world: World) -> list[tuple[int, int | None]]:
    return [
        (message.checkpoint_id, message.timeout_ms)
        for message in world.heard()
        if isinstance(message, TriggerCheckpoint)
    ]


def test_savepoint_of_an_unaligned_job_is_aligned(world: World) -> None:
    world.pass_time(1_000)
    world.manager.desk.ask("savepoint", savepoint="x")
    world.manager.step()
    world.acknowledge(1)

    assert triggered(world) == [(1, 0), (2, None)]


def test_final_checkpoint_of_an_unaligned_job_is_aligned(world: World) -> None:
    world.manager.desk.ask("stop", savepoint="x")
    world.manager.step()

    assert triggered(world) == [(1, None)]
