"""How long does a checkpoint take under backpressure: aligned, with a timeout, and unaligned?"""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

from benchmarks.harness import Row, announce
from flowsnap import Pipeline
from flowsnap.connectors import Discard, Generator
from flowsnap.connectors.generator import GeneratorReader
from flowsnap.core.element import Batch
from flowsnap.core.operator import Split
from flowsnap.runtime.job import JobHandle

SLOW_S = 0.004
"""What each of two consumers takes for one record."""

TIMES_TOO_SLOW = 100
BATCH_RECORDS = 64
"""How many records a batch has: with 8 of them in each of 4 channels, about 1,000 wait for each."""

LIMIT_S = 30.0
CASES: dict[str, dict[str, Any]] = {
    "aligned": {},
    "aligned, timeout 200 ms": {"alignment_timeout": "200ms"},
    "unaligned": {"checkpoint_alignment": "unaligned"},
}


def run(quick: bool) -> list[Row]:
    """Take 7 checkpoints each (quick: 2) while 2 tasks wait for 2 that are 100 times too slow."""
    count, slow_s = (2, SLOW_S / 4) if quick else (7, SLOW_S)
    rows: list[Row] = []
    baseline_s = 0.0
    for case, settings in CASES.items():
        announce(case)
        taken_s, late = seconds(count, slow_s, settings)
        median_s = statistics.median(taken_s)
        baseline_s = baseline_s or median_s
        note = f"{count} checkpoints"
        if late:
            note = f"{late} of {count} checkpoints were not complete after {LIMIT_S:.0f} s"
        rows += [
            _row(f"{case}: median", median_s, median_s / baseline_s, note),
            _row(f"{case}: longest", max(taken_s), None, ""),
        ]
    return rows


def seconds(count: int, slow_s: float, settings: dict[str, Any]) -> tuple[list[float], int]:
    """Return how long checkpoints took, and how many were given up after the limit."""
    taken_s: list[float] = []
    late = 0
    with tempfile.TemporaryDirectory(prefix="flowsnap-bench-") as name:
        handle = _pipeline(slow_s).start(
            workers=2,
            state_dir=name,
            checkpoint_interval="1h",
            **settings,
        )
        _await_backpressure(handle)
        while len(taken_s) < count:
            started_s = time.perf_counter()
            try:
                handle.checkpoint(timeout_s=LIMIT_S)
            except TimeoutError:
                late += 1
            taken_s.append(time.perf_counter() - started_s)
        handle.cancel()
        handle.wait()
    return taken_s, late


class _SmallBatches(Generator):
    """A generator that makes few records at a time, so that the queues are short enough to wait."""

    def open_split(self, split: Split, position: int | None) -> GeneratorReader:
        return _SmallReader(super().open_split(split, position))


class _SmallReader(GeneratorReader):
    def __init__(self, reader: GeneratorReader) -> None:
        vars(self).update(vars(reader))

    def read(self, limit: int) -> Batch | None:
        return super().read(min(limit, BATCH_RECORDS))


def _pipeline(slow_s: float) -> Pipeline:
    def slow(number: int) -> int:
        time.sleep(slow_s)
        return number

    rate = TIMES_TOO_SLOW * 2 / slow_s
    pipeline = Pipeline("alignment")
    (
        pipeline.source(_SmallBatches(lambda n: n, rate=rate), name="numbers", parallelism=2)
        .rebalance()
        .map(slow, name="slow", parallelism=2)
        .sink(Discard(), name="out")
    )
    return pipeline


def _await_backpressure(handle: JobHandle) -> None:
    """Wait until the source has been held back for a while: its channels are full."""
    read, since_s = 0, time.monotonic()
    while time.monotonic() - since_s < 1.0 or not read:
        if handle.is_done:
            handle.wait()
            raise RuntimeError("the job ended before its channels were full")
        time.sleep(0.05)
        now = sum(one.records_out for one in handle.status().operators if one.name == "numbers")
        if now > read * 1.2:
            read, since_s = now, time.monotonic()


def _row(case: str, value_s: float, ratio: float | None, note: str) -> Row:
    return Row(case=case, value=value_s, unit="s", ratio=ratio, is_lower_better=True, note=note)
