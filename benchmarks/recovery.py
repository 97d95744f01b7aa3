"""How long after the kill -9 of a worker is the first record processed again?"""

from __future__ import annotations

import os
import signal
import time

from benchmarks.engine import measured_run
from benchmarks.harness import Row, rounds
from flowsnap import Pipeline
from flowsnap.connectors import Discard, Generator
from flowsnap.runtime.job import JobHandle

POLL_S = 0.005


def run(quick: bool) -> list[Row]:
    """Kill one of 2 workers whose state holds 1 M keys (quick: 100,000)."""
    keys = 100_000 if quick else 1_000_000
    return rounds(1 if quick else 5, {"kill -9 of one of 2 workers": lambda: seconds(keys)}).rows(
        "s", is_lower_better=True, notes={"kill -9 of one of 2 workers": f"{keys:,} keys of state"}
    )


def seconds(keys: int) -> float:
    """Return the seconds from the kill to the first record processed after the restore."""
    pipeline = Pipeline("recovery")
    (
        pipeline.source(Generator(lambda number: (number % keys, 1)), name="numbers")
        .key_by(lambda record: record[0])
        .sum(lambda record: record[1], name="sums")
        .sink(Discard(), name="out")
    )
    taken: list[float] = []
    measured_run(
        pipeline,
        workers=2,
        checkpoint_interval="500ms",
        meanwhile=lambda handle: taken.append(_kill(handle, keys)),
    )
    return taken[0]


def _kill(handle: JobHandle, keys: int) -> float:
    """Wait until a checkpoint has all keys, kill a worker, wait for records; then end the job."""
    _until(handle, lambda: _read(handle) >= keys)
    completed = handle.status().checkpoints_completed
    _until(handle, lambda: handle.status().checkpoints_completed >= completed + 2)
    attempt = handle.status().attempt
    os.kill(handle.worker_pids()[1], signal.SIGKILL)
    killed_s = time.monotonic()
    _until(handle, lambda: handle.status().attempt > attempt and _processed(handle) > 0)
    taken_s = time.monotonic() - killed_s
    handle.cancel()
    return taken_s


def _until(handle: JobHandle, is_reached: object) -> None:
    assert callable(is_reached)
    while not is_reached():
        if handle.is_done:
            handle.wait()
            raise RuntimeError("the job ended before it was killed")
        time.sleep(POLL_S)


def _read(handle: JobHandle) -> int:
    return sum(one.records_out for one in handle.status().operators if one.name == "numbers")


def _processed(handle: JobHandle) -> int:
    return sum(one.records_out for one in handle.status().operators if one.name == "sums")
