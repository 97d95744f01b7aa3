"""Real processes die while records are in transit, and while they go round in a loop."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from flowsnap.runtime.job import JobHandle
from tests.acceptance import recorded
from tests.acceptance.processes import until

MODES: dict[str, dict[str, Any]] = {
    "aligned": {},
    "timeout": {"alignment_timeout": "20ms"},
    "unaligned": {"checkpoint_alignment": "unaligned"},
}


def start(tmp_path: Path, looped: str, mode: str, workers: int) -> JobHandle:
    return recorded.pipeline(str(tmp_path / "out"), looped).start(
        workers=workers, state_dir=tmp_path / "state", checkpoint_interval="50ms", **MODES[mode]
    )


def done(handle: JobHandle) -> int:
    return handle.status().checkpoints_completed


def interrupt(handle: JobHandle, chance: random.Random) -> None:
    """After some checkpoints kill a worker, and a little later end this life of the job."""
    wanted = chance.randint(1, 4)
    until(lambda: handle.is_done or done(handle) >= wanted, "checkpoints")
    pids = list(handle.worker_pids().values())
    if pids and not handle.is_done:
        os.kill(chance.choice(pids), signal.SIGKILL)
        after = done(handle) + chance.randint(0, 3)
        until(lambda: handle.is_done or done(handle) >= after, "checkpoints after a death")
    if chance.random() < 0.5:
        handle.stop()
    else:
        handle.cancel()
    handle.wait(60)


@pytest.mark.slow
@pytest.mark.fault("F1", promise="P1 P2 P4", oracles="O1 O2 O3")
@pytest.mark.fault("F26", promise="P1 P2", oracles="O1 O2 O3")
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("looped", ["no", "yes"])
@pytest.mark.parametrize("mode", list(MODES))
def test_kills_and_rescales_with_records_in_transit_lose_and_double_nothing(
    tmp_path: Path, mode: str, looped: str, seed: int
) -> None:
    chance = random.Random(f"{mode}/{looped}/{seed}")
    for _ in range(4):
        handle = start(tmp_path, looped, mode, chance.choice([1, 2, 3]))
        interrupt(handle, chance)
        if handle.status().state == "finished":
            break
    result = start(tmp_path, looped, mode, 2).wait(100)

    assert result.state == "finished"
    recorded.assert_exactly_once(tmp_path / "out")
