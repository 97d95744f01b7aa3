"""Processes that stop and come back: what is left of an old attempt can harm nobody."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.processes import Run, flat, is_gone, is_stopped, until
from tests.acceptance.rest import finish, rerun_until_done

pytestmark = pytest.mark.slow
Told = Callable[[str, object], None]
REFUSED = r"is refused: attempt 2 has begun|checkpoint \d+ has been begun before"
UNFINISHED = (  # long enough for the zombie to have more to do when it wakes
    *("--workers", "2", "--arg", "rate=4000"),
    *("--set", "restart=none", "--set", "checkpoints_retained=1"),
)
QUICK_TO_NOTICE = (
    *("--set", "heartbeat_interval=100ms", "--set", "heartbeat_timeout=2s"),
    *("--set", "restart=fixed"),
)


@pytest.mark.fault("F5", promise="P1 P2 P4 P6", oracles="O1 O3 O4")
@pytest.mark.parametrize("point", ["op.file_written", "sink.prepared", "sink.commit_called"])
def test_a_worker_that_stops_is_given_up_and_cannot_come_back(
    tmp_path: Path, point: str, record_property: Told
) -> None:
    run = Run(tmp_path, "--workers", "2", *QUICK_TO_NOTICE, failpoints=f"{point}=stop@2,worker=1")
    until(lambda: list(filter(is_stopped, run.workers())), "the worker to stop")
    [stopped] = filter(is_stopped, run.workers())

    until(lambda: is_gone(stopped), "the job manager to give it up")

    record_property("zombies", 1)
    assert "silent for 2000 ms" in finish(run)


def stop_all(run: Run, is_worker: bool) -> list[int]:
    """Wait for one process to stop itself, and stop the others of the job."""
    until(
        lambda: any(map(is_stopped, run.workers() if is_worker else [run.process.pid])),
        "the failpoint",
    )
    everybody = [run.process.pid, *run.workers()]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    return everybody


@pytest.mark.fault("F5", promise="P1 P2 P7", oracles="O1 O3 O4 O7 O8")
@pytest.mark.fault("F6", promise="P1 P2 P7", oracles="O1 O3 O4 O7 O8")
@pytest.mark.parametrize(
    "point",
    [
        *("op.file_written", "sink.prepared", "sink.commit_called"),
        *("jm.manifest_tmp", "jm.manifest_fsynced", "jm.subsumed_deleted"),
    ],
)
def test_a_job_that_was_stopped_and_replaced_is_fenced_off_when_it_comes_back(
    tmp_path: Path, point: str, record_property: Told
) -> None:
    is_worker = not point.startswith("jm.")
    hit = 1 if point == "jm.subsumed_deleted" else 2
    where = f"{point}=stop@{hit}" + (",worker=1" if is_worker else "")
    old = Run(tmp_path, *UNFINISHED, failpoints=where)
    zombies = stop_all(old, is_worker)
    # The lock of a process that lives cannot be had; so take it away, as a careless hand might.
    (old.state / "per-user" / "lock").unlink()
    rerun_until_done(tmp_path)

    for pid in reversed(zombies):
        os.kill(pid, signal.SIGCONT)
    code, text = old.wait()
    rerun_until_done(tmp_path)  # removes what the zombies have left

    record_property("zombies", len(zombies))
    refused = re.findall(REFUSED, flat(text))
    record_property("refused by the fence", len(refused))
    assert (code, bool(refused)) == (1, True), text
    kinds = {f.kind for f in old.directory().verify()}
    assert not {"corrupt", "missing"} & kinds


@pytest.mark.fault("F5", promise="P1 P2 P4", oracles="O1 O3 O5")
def test_a_pause_shorter_than_the_timeout_costs_no_attempt(tmp_path: Path) -> None:
    run = Run(tmp_path, "--workers", "2")
    until(lambda: len(run.checkpoints()) >= 2, "two checkpoints")
    stopped = [run.process.pid, *run.workers()]

    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: all(map(is_stopped, stopped)), "all to stop")
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)

    assert "attempt 2" not in finish(run)
