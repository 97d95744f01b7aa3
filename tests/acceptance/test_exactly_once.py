"""Real processes, real kills: whatever dies and whenever, every record is counted once."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from flowsnap.failpoint import POINTS
from tests.acceptance.processes import Run, is_gone, until
from tests.acceptance.rest import finish, rerun_until_done

Told = Callable[[str, object], None]
IN_JOB_MANAGER = sorted(name for name in POINTS if name.startswith(("jm.", "gc.")))
IN_WORKER = sorted(POINTS - set(IN_JOB_MANAGER))
ON_RESTORE_ONLY = {"rs.files_verified", "rs.state_opened", "rs.manifest_read", "rs.recommitted"}
DURING_SUBMISSION = {"rs.attempt_persisted", "rs.manifest_read"}  # these pass in the job manager
FAST_WORKER = ["sink.prepared"]
STEPS = sorted(set(IN_WORKER) - set(FAST_WORKER) - DURING_SUBMISSION - ON_RESTORE_ONLY)
AGAIN = [point for point in STEPS if point.startswith(("ch.", "op.", "sink."))]
"""Steps of a checkpoint: at a later one there is something to go back to."""
UNALIGNED = ("--set", "checkpoint_alignment=unaligned")
FAST_JOB_MANAGER = ["jm.manifest_renamed"]


def can_be_killed(run: Run, checkpoints: int) -> bool:
    if run.process.poll() is not None:
        return True  # It has ended before it could be.
    return len(run.workers()) == 2 and len(run.checkpoints()) >= checkpoints


@pytest.mark.fault("F1", promise="P1 P2 P4", oracles="O1 O3 O4")
def test_a_killed_worker_is_replaced_and_every_record_counts_once(tmp_path: Path) -> None:
    run = Run(tmp_path, "--workers", "2")
    until(lambda: len(run.checkpoints()) >= 2, "two checkpoints")

    os.kill(run.workers()[1], signal.SIGKILL)

    text = finish(run)
    assert "was killed by SIGKILL" in text
    assert "restored from checkpoint" in text


@pytest.mark.fault("F2", promise="P1 P2 P6 P7", oracles="O1 O3 O4")
def test_a_killed_job_manager_is_resumed_by_the_same_command(tmp_path: Path) -> None:
    run = Run(tmp_path, "--workers", "2")

    workers = run.kill_at(checkpoints=2)

    until(lambda: all(map(is_gone, workers)), "the workers to follow their parent")
    assert "restored from checkpoint" in rerun_until_done(tmp_path)


@pytest.mark.fault("F3", promise="P1 P2 P7", oracles="O1 O3 O4")
def test_when_all_are_killed_the_same_command_resumes(tmp_path: Path) -> None:
    run = Run(tmp_path, "--workers", "2")
    until(lambda: len(run.checkpoints()) >= 1, "a checkpoint")

    for pid in [*run.workers(), run.process.pid]:
        os.kill(pid, signal.SIGKILL)
    run.wait()

    rerun_until_done(tmp_path)


@pytest.mark.fault("F2", promise="P1 P2 P7", oracles="O1 O3")
def test_one_process_without_workers_is_resumed_too(tmp_path: Path) -> None:
    run = Run(tmp_path, "--workers", "0")
    run.kill_at(checkpoints=2)

    text = finish(Run(tmp_path, "--workers", "0"))
    assert "restored from checkpoint" in text


@pytest.mark.slow
@pytest.mark.fault("F26", promise="P1 P2 P7", oracles="O1 O3")
def test_a_job_is_resumed_with_another_number_of_workers(tmp_path: Path) -> None:
    run = Run(tmp_path, "--workers", "1")
    run.kill_at(checkpoints=2)

    again = Run(tmp_path, "--workers", "3")
    again.kill_at(checkpoints=3)

    rerun_until_done(tmp_path)


@pytest.mark.fault("F1", promise="P1 P2 P4 P5", oracles="O1 O3 O4 O6")
@pytest.mark.parametrize("point", FAST_WORKER)
def test_a_worker_that_dies_at_a_protocol_step_loses_nothing(tmp_path: Path, point: str) -> None:
    text = finish(Run(tmp_path, "--workers", "2", failpoints=f"{point}=kill@2,worker=1"))

    assert "was killed by SIGKILL" in text


@pytest.mark.fault("F2", promise="P1 P2 P7", oracles="O1 O3 O4")
@pytest.mark.parametrize("point", FAST_JOB_MANAGER)
def test_a_job_manager_that_dies_at_a_protocol_step_loses_nothing(
    tmp_path: Path, point: str
) -> None:
    first = Run(tmp_path, "--workers", "2", failpoints=f"{point}=kill@2")
    first.wait()
    assert first.process.returncode == -signal.SIGKILL, f"{point} was never passed"

    rerun_until_done(tmp_path)


@pytest.mark.slow
@pytest.mark.fault("F1", promise="P1 P2 P4 P5 P6", oracles="O1 O3 O4 O6")
@pytest.mark.parametrize(
    ("point", "hit"), [*((point, 1) for point in STEPS), *((point, 3) for point in AGAIN)]
)
def test_a_worker_may_die_at_any_protocol_step(
    tmp_path: Path, point: str, hit: int, record_property: Told
) -> None:
    mode = UNALIGNED if point.startswith("uc.") else ()
    run = Run(tmp_path, "--workers", "2", *mode, failpoints=f"{point}=kill@{hit},worker=0")

    text = finish(run)

    record_property("crashes", text.count("was killed by SIGKILL"))
    if hit == 1:
        assert "was killed by SIGKILL" in text, f"{point} was never passed"


@pytest.mark.slow
@pytest.mark.fault("F2", promise="P1 P2 P6 P7", oracles="O1 O3 O4")
@pytest.mark.parametrize("point", [*IN_JOB_MANAGER, *sorted(DURING_SUBMISSION)])
def test_a_job_manager_may_die_at_any_protocol_step(
    tmp_path: Path, point: str, record_property: Told
) -> None:
    first = Run(tmp_path, "--workers", "2", failpoints=f"{point}=kill")
    first.wait()
    assert first.process.returncode == -signal.SIGKILL, f"{point} was never passed"
    record_property("crashes", 1)

    rerun_until_done(tmp_path)


@pytest.mark.slow
@pytest.mark.fault("F3", promise="P1 P2 P6 P7", oracles="O1 O3 O4")
@pytest.mark.parametrize("seed", range(12))
def test_kills_at_random_moments_lose_and_double_nothing(
    tmp_path: Path, seed: int, record_property: Told
) -> None:
    crashes = 0
    chance = random.Random(f"kills/{seed}")
    run = Run(tmp_path, "--workers", "2")
    for _ in range(3):
        wanted = len(run.checkpoints()) + chance.choice([0, 1, 1])
        until(partial(can_be_killed, run, min(wanted, 3)), "the next victim")
        victims = [*run.workers(), run.process.pid]
        target = chance.choice([victims[:1], victims[1:2], victims[-1:], victims])
        for pid in filter(lambda pid: not is_gone(pid), target):
            os.kill(pid, signal.SIGKILL)
            crashes += 1
        if run.process.pid in target:
            run.wait()
            run = Run(tmp_path, "--workers", "2")

    finish(run)
    record_property("crashes", crashes)
    record_property("seeds", 1)
