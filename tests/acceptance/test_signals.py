"""How a job ends from outside: signals, a parent that dies, a terminal that goes, all at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import permutations
from pathlib import Path

import pytest

from flowsnap.errors import CheckpointError
from flowsnap.runtime.job import JobHandle
from tests.acceptance.digits import assert_exactly_once, digits
from tests.acceptance.processes import WAIT_S, Run, descendants, flat, is_gone, until
from tests.acceptance.rest import finish, rerun_until_done
from tests.integration.jobs import NEVER, QUICK, checkpoints

pytestmark = pytest.mark.slow
Told = Callable[[str, object], None]
STOP_S = 20.0  # ten of our own, and as many on a busy machine
SLOW = ("--workers", "2", "--arg", "rate=2000")


def started(directory: Path, *arguments: str) -> Run:
    run = Run(directory, *SLOW, *arguments)
    until(lambda: run.checkpoints() and len(run.workers()) == 2, "a checkpoint")
    return run


@pytest.mark.fault("F35", promise="P2 P4 P6", oracles="O3 O4 O5")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_stops_a_job_in_order_and_the_next_run_goes_on(
    tmp_path: Path, number: signal.Signals, record_property: Told
) -> None:
    run = started(tmp_path)
    workers = run.workers()

    begun = time.monotonic()
    run.kill(number)
    code, text = run.wait()
    took_s = time.monotonic() - begun

    record_property("signals", 1)
    assert code == 130
    assert "stopping with a last checkpoint" in text
    assert took_s < STOP_S
    assert all(map(is_gone, workers))
    assert "restored from checkpoint" in rerun_until_done(tmp_path)


@pytest.mark.fault("F35", promise="P2 P4 P6", oracles="O3 O4 O5")
@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,) * 2])
def test_a_second_signal_ends_a_job_that_cannot_stop_and_nothing_is_lost(
    tmp_path: Path, numbers: tuple[signal.Signals, ...], record_property: Told
) -> None:
    run = started(tmp_path, "--set", "cancel_timeout=1s")
    stuck = run.workers()[1]
    os.kill(stuck, signal.SIGSTOP)  # no last checkpoint can be had of it

    run.kill(numbers[0])
    threading.Event().wait(0.3)  # not one signal for both
    run.kill(numbers[1])
    code, text = run.wait()

    record_property("signals", len(numbers))
    assert code in (1, 130), text
    assert is_gone(stuck)
    rerun_until_done(tmp_path)


@pytest.mark.fault("F35", promise="P6", oracles="O3 O4")
def test_workers_die_with_a_job_manager_that_is_killed_while_they_are_stopped(
    tmp_path: Path,
) -> None:
    run = started(tmp_path)
    workers = run.workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)

    run.kill()
    run.wait()
    for pid in workers:
        if not is_gone(pid):
            os.kill(pid, signal.SIGCONT)  # where a stopped process is not told of its parent

    until(lambda: all(map(is_gone, workers)), "the workers to follow their parent")
    rerun_until_done(tmp_path)


@pytest.mark.fault("F35", promise="P2 P6", oracles="O3 O4")
def test_a_job_outlives_the_reader_of_its_output_and_its_terminal(tmp_path: Path) -> None:
    run = started(tmp_path)
    assert run.process.stdout is not None

    run.process.stdout.close()

    assert run.process.wait(WAIT_S) == 0
    rerun_until_done(tmp_path)


@pytest.mark.fault("F35", promise="P6", oracles="O4")
@pytest.mark.fault("F31", promise="P6", oracles="O4")
def test_a_job_whose_starter_is_killed_ends_by_itself_and_leaves_nobody(tmp_path: Path) -> None:
    run = Run(tmp_path, "--workers", "2", via=(sys.executable, "-c", STARTER))
    until(run.checkpoints, "a checkpoint")
    family = descendants(run.process.pid)

    run.kill()
    run.wait()

    until(lambda: all(map(is_gone, family)), "the job to end")
    rerun_until_done(tmp_path)


STARTER = """
import subprocess, sys
subprocess.run(sys.argv[1:], check=True)
"""


@pytest.mark.fault("F28", promise="P4 P5 P6", oracles="O3 O4 O6")
@pytest.mark.parametrize("files", [24, 40])
def test_a_job_without_file_descriptors_ends_with_a_reason_or_gets_on(
    tmp_path: Path, files: int, record_property: Told
) -> None:
    limit = ("sh", "-c", f'ulimit -n {files}; exec "$@"', "sh")
    run = Run(tmp_path, "--workers", "2", "--set", "restart=none", via=limit)

    code, text = run.wait()

    record_property("file descriptors", files)
    assert code in (0, 1, 2), text
    assert code == 0 or "Too many open files" in flat(text)
    rerun_until_done(tmp_path)


# --- everything at once

ORDERS = [*permutations(("stop", "cancel", "kill")), ("stop", "stop"), ("cancel", "cancel")]


def act(handle: JobHandle, name: str) -> None:
    if name == "kill":
        for pid in handle.worker_pids().values():
            os.kill(pid, signal.SIGKILL)
    else:
        getattr(handle, name)()


@pytest.mark.fault("F25", promise="P2 P4", oracles="O5 O7 O8")
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_stop_cancel_and_a_death_in_any_order_end_a_job_once(
    state: Path, order: tuple[str, ...], record_property: Told
) -> None:
    handle = digits(state, NEVER)[0].start(workers=2, state_dir=state, **QUICK)
    until(lambda: handle.status().checkpoints_completed >= 1, "a checkpoint")

    for name in order:
        act(handle, name)
    with suppress(CheckpointError):  # which tells of a stop that something else overtook
        handle.wait(WAIT_S)
    end = handle.status().state
    before = checkpoints(state)
    again, sink = digits(state)
    result = again.run(workers=2, state_dir=state, quiet=True, **QUICK)

    record_property("orders", 1)
    assert handle.is_done
    assert end in {"stopped", "cancelled"}
    assert result.restored_from == before[-1]
    assert_exactly_once(sink)


@pytest.mark.fault("F26", promise="P1 P2 P7", oracles="O1 O3 O7")
def test_a_job_is_rescaled_up_and_down_while_it_fails(
    tmp_path: Path, record_property: Told
) -> None:
    slow = ("--arg", "rate=6000")
    one = Run(tmp_path, "--workers", "1", *slow, failpoints="jm.manifest_renamed=kill@2")
    one.wait()
    three = Run(tmp_path, "--workers", "3", *slow, failpoints="op.frozen=kill@2,worker=1")
    newest = one.checkpoints()[-1]
    until(lambda: max(three.checkpoints()) > newest, "a checkpoint of three workers")
    three.kill()
    three.wait()

    text = finish(Run(tmp_path, "--workers", "2", *slow))

    record_property("crashes", 3)
    assert "runs per-user on 2 worker(s), restored from checkpoint" in text


@pytest.mark.fault("F26", promise="P1 P2", oracles="O1 O3")
@pytest.mark.parametrize("point", ["rs.files_verified", "rs.state_opened"])
def test_a_worker_that_dies_while_state_is_redistributed_costs_an_attempt(
    tmp_path: Path, point: str, record_property: Told
) -> None:
    first = Run(tmp_path, "--workers", "1")
    until(lambda: len(first.checkpoints()) >= 2, "two checkpoints")
    first.kill()
    first.wait()

    again = Run(tmp_path, "--workers", "3", failpoints=f"{point}=kill,worker=2")
    text = finish(again)

    record_property("crashes", 2)
    assert "worker 2" in text
    assert "was killed by SIGKILL" in text
