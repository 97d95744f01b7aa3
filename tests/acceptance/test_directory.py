"""The job directory: who may have it, what is left over in it, and what of it is not ours."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.processes import Run, flat, is_gone, listening, shared_memory, until
from tests.acceptance.rest import finish, rerun_until_done

pytestmark = pytest.mark.slow
Told = Callable[[str, object], None]
REFUSED_CPU_S = 2.0  # nearly all of it is the interpreter's start and the imports
REFUSED_S = 20.0  # two seconds of our own, and an interpreter's start on a very busy machine


def cpu_s_of_children() -> float:
    """Return what the processes that were waited for have used: others' load has no part in it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.fault("F7", promise="P5 P7", oracles="O3 O6")
@pytest.mark.fault("F31", promise="P2 P7", oracles="O3 O7")
def test_a_second_job_manager_is_refused_at_once_and_told_who_is_there(
    tmp_path: Path, record_property: Told
) -> None:
    scratch = tmp_path / "t"  # what others have left in /tmp is looked through at every start
    scratch.mkdir()
    first = Run(tmp_path, "--workers", "2", "--arg", "rate=3000")
    until(first.checkpoints, "a checkpoint")
    first.kill(signal.SIGSTOP)  # so that it cannot end before the second has begun

    begun, begun_cpu_s = time.monotonic(), cpu_s_of_children()
    code, text = Run(tmp_path, "--workers", "2", scratch=scratch).wait()
    took_s, took_cpu_s = time.monotonic() - begun, cpu_s_of_children() - begun_cpu_s
    first.kill(signal.SIGCONT)

    record_property("ms until refused", round(took_s * 1000))
    record_property("ms of CPU time", round(took_cpu_s * 1000))
    said = flat(text)
    assert code == 2, text
    assert took_s < REFUSED_S
    assert took_cpu_s < REFUSED_CPU_S
    assert f"is in use by process {first.process.pid} on {os.uname().nodename} since" in said
    assert "stop that job first" in said
    finish(first)


@pytest.mark.fault("F7", promise="P7", oracles="O3 O7")
@pytest.mark.fault("F31", promise="P1 P2 P7", oracles="O3 O7")
def test_the_lock_of_a_dead_job_manager_falls_to_the_next(tmp_path: Path) -> None:
    Run(tmp_path, "--workers", "2").kill_at(checkpoints=1)

    assert "restored from checkpoint" in rerun_until_done(tmp_path)


OURS = {
    "checkpoints/.tmp-0123456789abcdef": "half",
    "checkpoints/00000900/counts.0/CURRENT": "of a checkpoint without manifest",
    "shared/00000001-00000900-0123456789abcdef.sst": "of nobody",
    "work/00000077/counts.0/000001.sst": "local state",
}
FOREIGN = {
    "notes.txt": "mine",
    "checkpoints/readme": "mine",
    "checkpoints/00000002/holiday.jpg": "mine",
    "shared/backup.sst": "mine",
    "shared/.hidden": "mine",
}


@pytest.mark.fault("F30", promise="P6 P7", oracles="O3 O4")
def test_leftovers_of_ours_are_removed_and_foreign_files_are_not_touched(
    tmp_path: Path, record_property: Told
) -> None:
    first = Run(tmp_path, "--workers", "2")
    first.kill_at(checkpoints=2)
    root = first.state / "per-user"
    for name, text in {**OURS, **FOREIGN}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "shared" / "link").symlink_to(tmp_path)

    rerun_until_done(tmp_path)

    record_property("files planted", len(OURS) + len(FOREIGN) + 1)
    assert [name for name in OURS if (root / name).exists()] == []
    assert {name: (root / name).read_text() for name in FOREIGN} == FOREIGN
    assert (root / "shared" / "link").is_symlink()


@pytest.mark.fault("F30", promise="P6 P8", oracles="O4 O8")
def test_a_job_has_no_port_and_no_shared_memory_and_leaves_no_file_behind(tmp_path: Path) -> None:
    scratch = tmp_path / "t"
    scratch.mkdir()
    run = Run(tmp_path, "--workers", "2", "--arg", "rate=2000", scratch=scratch)
    until(lambda: run.checkpoints() and len(run.workers()) == 2, "a checkpoint")
    everybody = [run.process.pid, *run.workers()]
    ports, mapped = listening(everybody), shared_memory(everybody)

    finish(run)
    found = {f.name: f.kind for f in run.directory().verify() if f.kind != "ok"}
    rerun_until_done(tmp_path)

    assert (ports, mapped) == ([], [])
    # Of a checkpoint that the end overtook: the next start removes it.
    assert set(found.values()) <= {"unreferenced"}
    left = [name for name in found if (run.state / "per-user" / name).exists()]
    assert left == []
    assert list((run.state / "per-user" / "work").iterdir()) == []
    assert list(scratch.iterdir()) == []


@pytest.mark.fault("F4", promise="P1 P2 P4", oracles="O3 O7")
def test_a_job_manager_that_dies_three_times_during_recovery_gets_on_at_the_fourth(
    tmp_path: Path, record_property: Told
) -> None:
    Run(tmp_path, "--workers", "2").kill_at(checkpoints=2)

    points = ("rs.attempt_persisted", "rs.manifest_read", "rs.attempt_persisted")
    for point in points:
        died = Run(tmp_path, "--workers", "2", failpoints=f"{point}=kill")
        died.wait()
        assert died.process.returncode == -signal.SIGKILL

    record_property("crashes", 1 + len(points))
    assert "attempt 5 runs per-user" in rerun_until_done(tmp_path)


@pytest.mark.fault("F4", promise="P1 P2 P4 P6", oracles="O3 O4")
@pytest.mark.parametrize("point", ["rs.files_verified", "rs.state_opened", "rs.recommitted"])
def test_a_worker_that_dies_while_it_restores_is_replaced_again(
    tmp_path: Path, point: str, record_property: Told
) -> None:
    workers = Run(tmp_path, "--workers", "2").kill_at(checkpoints=2)
    until(lambda: all(map(is_gone, workers)), "the workers to follow")

    again = Run(tmp_path, "--workers", "2", failpoints=f"{point}=kill,worker=0")
    text = finish(again)

    record_property("crashes", 2)
    assert "was killed by SIGKILL" in text
