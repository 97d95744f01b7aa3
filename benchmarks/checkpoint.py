"""What does a checkpoint cost while 1 % of a million keys change between two of them?"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks.engine import Measured, measured_run
from benchmarks.harness import Row, announce, rounds
from flowsnap import Pipeline
from flowsnap.connectors import Discard, Generator
from flowsnap.core.manifest import CheckpointManifest, new_bytes, size_bytes

TOUCHED_SHARE = 0.01
RECORDS_PER_PHASE = 1_200_000
"""About as many as are processed between two checkpoints: the touched keys change that often."""


class Touches:
    """Record i touches key i while the keys are loaded, then one of 1 % that changes by phase."""

    def __init__(self, keys: int) -> None:
        self.keys = keys
        self.hot = int(keys * TOUCHED_SHARE)

    def __call__(self, number: int) -> tuple[int, int]:
        if number < self.keys:
            return (number, 1)
        phase, step = divmod(number - self.keys, RECORDS_PER_PHASE)
        return ((phase * 7919 + step % self.hot * 100) % self.keys, 1)


def run(quick: bool) -> list[Row]:
    """Measure a running job with a checkpoint each second, and the same without."""
    keys = 100_000 if quick else 1_000_000
    records = keys + (3_000_000 if quick else 16_000_000)
    announce("one long run, for the pause and the bytes")
    long_run = engine(keys, records, checkpoint_interval="1s")
    small = _after_loading(long_run.manifests, keys)
    pauses = sorted(task.times.synchronous_ms for one in long_run.manifests for task in one.tasks)
    full = max(size_bytes(manifest) for manifest in long_run.manifests)
    shorter = keys + (1_000_000 if quick else 6_000_000)
    cases: dict[str, Callable[[], float]] = {
        "without checkpoints": lambda: rate(keys, shorter, checkpoint_interval="1h"),
        "a checkpoint each second": lambda: rate(keys, shorter, checkpoint_interval="1s"),
    }
    throughput = rounds(1 if quick else 5, cases).rows(baseline="without checkpoints")
    return [
        Row(
            case="synchronous pause, p99",
            value=pauses[min(len(pauses) - 1, int(len(pauses) * 0.99))],
            unit="ms",
            is_lower_better=True,
            note=f"{len(pauses)} snapshots, {keys:,} keys",
        ),
        Row(
            case="new bytes of a checkpoint / of a full one",
            value=statistics.mean(new_bytes(manifest) for manifest in small) / full,
            unit="ratio",
            is_lower_better=True,
            note=f"mean of {len(small)} checkpoints, compactions included; full: {full:,} bytes",
        ),
        *throughput,
    ]


def engine(keys: int, records: int, *, checkpoint_interval: str) -> Measured:
    """Run the job and return what it took."""
    pipeline = Pipeline("checkpoint")
    (
        pipeline.source(Generator(Touches(keys), count=records), name="touches")
        .key_by(lambda record: record[0])
        .sum(lambda record: record[1], name="sums")
        .sink(Discard(), name="out")
    )
    return measured_run(
        pipeline, workers=0, checkpoints_retained=1_000, checkpoint_interval=checkpoint_interval
    )


def rate(keys: int, records: int, *, checkpoint_interval: str) -> float:
    """Return the records per second of a run."""
    return records / engine(keys, records, checkpoint_interval=checkpoint_interval).running_s


def _after_loading(manifests: list[CheckpointManifest], keys: int) -> list[CheckpointManifest]:
    """Return the checkpoints of touched keys only: loading is over for a whole interval."""
    loaded = [
        index
        for index, manifest in enumerate(manifests)
        if any(split.position >= keys for task in manifest.tasks for split in task.splits)
    ]
    return [manifests[index] for index in loaded[1:]]
