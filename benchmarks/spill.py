"""Does a job whose state is far larger than its memory budget finish, and stay small?"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from benchmarks.engine import measured_run
from benchmarks.harness import Row
from flowsnap import Pipeline
from flowsnap.connectors import Collect, Generator
from flowsnap.runtime.job import JobHandle

BUDGET = "64MB"


def run(quick: bool) -> list[Row]:
    """Count 4 M keys twice each (quick: 400,000) with a state budget of 64 MB, on one worker."""
    keys = 400_000 if quick else 4_000_000
    pipeline, counts = Pipeline("spill"), Collect()
    (
        pipeline.source(Generator(lambda number: f"user-{number % keys:08d}", count=2 * keys))
        .key_by(lambda user: user)
        .count(name="per-user", emit="final")
        .key_by(lambda pair: pair[1])
        .count(name="users-by-count", emit="final")
        .sink(counts)
    )
    memory = _Memory()
    result = measured_run(
        pipeline,
        workers=1,
        state_memory=BUDGET,
        checkpoint_interval="5s",
        meanwhile=memory.watch,
    )
    if dict(counts.values) != {2: keys}:
        raise RuntimeError(f"wrong counts: {dict(counts.values)}, expected {{2: {keys}}}")
    return [
        Row(case=f"{keys:,} keys, {BUDGET} of state memory", value=2 * keys / result.running_s),
        Row(
            case="largest resident memory of the worker",
            value=memory.peak_bytes / 2**20,
            unit="MiB",
            is_lower_better=True,
            note="every count checked",
        ),
    ]


class _Memory:
    """Watches the resident memory of the worker until the job has ended."""

    def __init__(self) -> None:
        self.peak_bytes = 0

    def watch(self, handle: JobHandle) -> None:
        threading.Thread(target=self._watch, args=(handle,), daemon=True).start()

    def _watch(self, handle: JobHandle) -> None:
        while not handle.is_done:
            for pid in handle.worker_pids().values():
                self.peak_bytes = max(self.peak_bytes, _peak_bytes(pid))
            time.sleep(0.1)


def _peak_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0")
    return int(line.split()[1]) * 1024
