"""Jobs on real worker processes: what they are, how they die, and what is left behind."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowsnap import Pipeline
from flowsnap.connectors import Collect, FromIterable
from flowsnap.core.ids import WorkerId
from flowsnap.errors import ConfigError, JobFailed
from flowsnap.runtime.launcher import END_GRACE_S, ProcessLauncher
from tests.acceptance.digits import NEVER_AGAIN, TWICE, assert_exactly_once, digits
from tests.acceptance.processes import is_gone
from tests.integration.jobs import (
    NEVER,
    QUICK,
    checkpoints,
    once_after_a_checkpoint,
    until,
)

# --- results


def test_two_workers_give_the_result_of_one_process(state: Path) -> None:
    alone, collected = digits(state)
    alone.run(quiet=True)
    together, on_workers = digits(state)

    result = together.run(workers=2, state_dir=state, quiet=True, **QUICK)

    assert (result.state, result.attempts) == ("finished", 1)
    assert Counter(on_workers.values) == Counter(collected.values)
    assert_exactly_once(on_workers)


def test_a_job_moves_from_workers_into_one_process_and_back(state: Path) -> None:
    def run_in_part(workers: int) -> None:
        handle = digits(state, NEVER)[0].start(workers=workers, state_dir=state, **QUICK)
        until(lambda: handle.status().checkpoints_completed > 1, "two checkpoints")
        handle.stop()
        assert handle.wait(60).state == "stopped"

    run_in_part(2)
    run_in_part(0)

    pipeline, sink = digits(state)
    pipeline.run(workers=2, state_dir=state, quiet=True)

    assert_exactly_once(sink)


# --- what the user's code does to a worker


def raise_once() -> None:
    raise ValueError("once")


def leave() -> None:
    sys.exit(3)


def drop_dead() -> None:
    os._exit(4)


def crash() -> None:
    ctypes.string_at(0)


@pytest.mark.parametrize(
    ("act", "cause"),
    [
        (raise_once, "operator 'act', subtask [01]: ValueError: once"),
        (leave, "process [0-9]+ ended with exit code 3"),
        (drop_dead, "process [0-9]+ ended with exit code 4"),
        (crash, "process [0-9]+ was killed by SIGSEGV"),
    ],
)
def test_whatever_ends_a_worker_is_told_and_made_good(
    state: Path, act: Callable[[], object], cause: str
) -> None:
    pipeline, sink = digits(state, 1, once_after_a_checkpoint(state, act))

    result = pipeline.run(workers=2, state_dir=state, quiet=True, restart=TWICE, **QUICK)

    assert (result.state, result.attempts) == ("finished", 2)
    assert result.restored_from is not None
    [line] = result.failures
    assert re.search(cause, line)
    assert_exactly_once(sink)


def divide(n: int) -> int:
    return 100 // (n - 777)


def test_the_users_traceback_comes_from_the_worker(state: Path) -> None:
    pipeline, _ = digits(state, act=divide)

    with pytest.raises(JobFailed, match=r"task numbers/\d: operator 'act'") as caught:
        pipeline.run(workers=2, state_dir=state, quiet=True, restart=TWICE)

    assert len(caught.value.history) == 3
    assert "return 100 // (n - 777)" in "\n".join(caught.value.__notes__)


def make_generator(n: int) -> tuple[int, Iterator[int]]:
    return n, (n for _ in range(1))


def test_a_record_that_cannot_travel_names_the_operator(state: Path) -> None:
    pipeline = Pipeline("travel")
    (
        pipeline.source(FromIterable(range(100)), name="numbers")
        .map(make_generator, name="wrap")
        .key_by(0, name="by-number")
        .count(name="counts")
        .sink(Collect())
    )

    with pytest.raises(JobFailed, match=r"operator 'counts'.*generator"):
        pipeline.run(workers=2, state_dir=state, quiet=True, restart=NEVER_AGAIN)


def test_code_that_cannot_travel_is_refused_before_anything_is_made(state: Path) -> None:
    import threading

    lock = threading.Lock()
    pipeline = Pipeline("locked")
    source = pipeline.source(FromIterable([1]), name="ones")
    source.map(lambda n: (lock, n), name="guarded").sink(Collect())

    with pytest.raises(ConfigError, match="operator 'guarded' cannot be pickled"):
        pipeline.run(workers=2, state_dir=state, quiet=True)

    assert not state.exists()


# --- what is defined in the script itself

SCRIPT = """
import sys
from dataclasses import dataclass

from flowsnap import Pipeline
from flowsnap.connectors import Collect, Generator


@dataclass(frozen=True)
class Visit:
    user: int
    times: int


def visit(n):
    return Visit(n % 5, 1)


def add(one, other):
    assert isinstance(one, Visit) and isinstance(other, Visit), (type(one), type(other))
    return Visit(one.user, one.times + other.times)


if __name__ == "__main__":
    state, seconds = sys.argv[1], float(sys.argv[2])
    sink, pipeline = Collect(), Pipeline("visits")
    (
        pipeline.source(Generator(visit, 2_000, rate=2_000 / seconds), name="visits")
        .key_by("user")
        .reduce(add, emit="final", name="totals")
        .sink(sink)
    )
    handle = pipeline.start(workers=2, state_dir=state, checkpoint_interval="20ms")
    if seconds > 1:
        while not handle.status().checkpoints_completed:
            handle._thread.join(0.01)
        handle.stop()
    result = handle.wait()
    assert all(type(one) is Visit for one in sink.values)
    print(result.state, result.restored_from, sorted((v.user, v.times) for v in sink.values))
"""


def test_a_class_of_the_script_survives_a_restart_as_record_and_as_state(
    state: Path, tmp_path: Path
) -> None:
    script = tmp_path / "visits.py"
    script.write_text(SCRIPT)

    def run(seconds: float) -> str:
        ran = subprocess.run(
            [sys.executable, str(script), str(state), str(seconds)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert run(5.0) == "stopped None []\n"
    last, totals = checkpoints(state)[-1], [(user, 400) for user in range(5)]
    assert run(0.1) == f"finished {last} {totals}\n"


# --- the launcher


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[ProcessLauncher]:
    made = ProcessLauncher(tmp_path, 1_000)
    yield made
    for worker in list(made.pids()):
        made.kill(worker)


FIRST = WorkerId(0)


def death(launcher: ProcessLauncher) -> str:
    """Wait for the only death that there is, and return how the worker died."""
    found: list[str] = []

    def look() -> bool:
        found.extend(how for _, how in launcher.deaths())
        return bool(found)

    until(look, "a death")
    return found[0]


def test_a_worker_dies_with_the_pipe_to_its_parent(launcher: ProcessLauncher) -> None:
    launcher.launch(FIRST)
    [process] = launcher._processes.values()

    assert process.stdin is not None
    process.stdin.close()

    until(launcher.deaths, "the worker to notice")
    assert launcher.pids() == {}
    assert is_gone(process.pid)


def test_a_death_says_how(launcher: ProcessLauncher) -> None:
    launcher.launch(FIRST)
    pid = launcher.pids()[FIRST]

    os.kill(pid, signal.SIGTERM)

    assert death(launcher) == f"process {pid} was killed by SIGTERM"
    assert launcher.deaths() == []


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="no real-time signals here")
def test_a_death_by_a_signal_without_a_name_says_its_number(launcher: ProcessLauncher) -> None:
    launcher.launch(FIRST)

    os.kill(launcher.pids()[FIRST], signal.SIGRTMIN + 3)

    assert f"was killed by signal {signal.SIGRTMIN + 3}" in death(launcher)


def test_a_launch_replaces_the_former_process(launcher: ProcessLauncher) -> None:
    launcher.launch(FIRST)
    former = launcher.pids()[FIRST]

    launcher.launch(FIRST)

    assert is_gone(former)
    assert launcher.pids()[FIRST] != former
    assert launcher.deaths() == [], "who was killed on purpose is not told"


def test_what_a_worker_prints_reaches_the_log_without_control_characters(
    state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flowsnap.worker")
    pipeline = Pipeline("loud")
    source = pipeline.source(FromIterable([1]), name="ones", parallelism=1)
    source.map(lambda n: print("look:\x1b[2J here", flush=True), name="say").sink(Collect())

    pipeline.run(workers=1, state_dir=state, quiet=True)

    until(lambda: "look:" in caplog.text, "the line")
    assert r"worker 0: look:\x1b[2J here" in caplog.messages


def test_a_replacement_is_started_without_failpoints(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWSNAP_FAILPOINTS", "op.frozen=exit:9,worker=1")
    pipeline, sink = digits(state, 2)

    result = pipeline.run(workers=2, state_dir=state, quiet=True, restart=TWICE, **QUICK)

    [line] = result.failures
    assert "ended with exit code 9" in line
    assert_exactly_once(sink)


def test_a_job_is_cancelled_at_once_while_its_workers_start(state: Path) -> None:
    handle = digits(state, NEVER)[0].start(workers=2, state_dir=state)
    until(handle.worker_pids, "the first process")

    handle.cancel()

    assert handle.wait(END_GRACE_S).state == "cancelled", "nobody waits for who was never told"


def test_the_token_of_a_worker_cannot_be_seen(launcher: ProcessLauncher) -> None:
    launcher.launch(FIRST)
    pid = launcher.pids()[FIRST]

    listed = subprocess.run(
        ["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=True
    )

    assert listed.stdout.split()[1:] == ["-m", "flowsnap.runtime.worker_process"]
