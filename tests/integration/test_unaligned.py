"""Unaligned checkpoints end to end: what is in transit is restored, wherever it goes then."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowsnap import Pipeline
from flowsnap.connectors import Generator, JsonLinesFiles
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.errors import ConfigError
from flowsnap.runtime.job import JobHandle
from flowsnap.storage.job_directory import JobDirectory
from tests.integration.jobs import rows

RECORDS, KEYS = 3_000, 13


class Gate:
    """Holds the slow step back until it is opened; in this process only."""

    is_open = threading.Event()

    def __call__(self, record: Any) -> Any:
        self.is_open.wait(0.001)
        return record


@pytest.fixture
def gate() -> Iterator[Gate]:
    Gate.is_open.clear()
    yield Gate()
    Gate.is_open.set()


def pipeline(out: Path, *, slow: Any, parallelism: int = 2) -> Pipeline:
    drawn = Pipeline("slow")
    (
        drawn.source(Generator(lambda i: (i % KEYS, 1), RECORDS), name="in", parallelism=2)
        .key_by(0, name="key", parallelism=2)
        .sum(1, name="totals", parallelism=parallelism)
        .rebalance()
        .map(slow, name="slow", parallelism=parallelism)
        .sink(JsonLinesFiles(out), name="out", parallelism=1)
    )
    return drawn


def newest(state_dir: Path) -> CheckpointManifest:
    with JobDirectory.read(state_dir, "slow") as directory:
        return directory.read_manifest(directory.checkpoints()[-1])


def in_transit(manifest: CheckpointManifest) -> Counter[str]:
    found: Counter[str] = Counter()
    for task in manifest.tasks:
        for channel in task.channels:
            found[channel.target] += channel.records
    return found


def interrupted(tmp_path: Path, gate: Gate, **settings: Any) -> CheckpointManifest:
    """Run the job until a checkpoint has caught something in transit; then drop it."""
    drawn = pipeline(tmp_path / "out", slow=gate)
    handle = drawn.start(
        state_dir=tmp_path / "state", batch="1KB", channel_capacity_batches=2, **settings
    )
    manifest = caught(handle, tmp_path)
    handle.cancel()
    handle.wait(60)
    return manifest


def caught(handle: JobHandle, tmp_path: Path, **how: Any) -> CheckpointManifest:
    """Take checkpoints until one has caught something in transit."""
    while True:
        handle.checkpoint(timeout_s=60, **how)
        manifest = newest(tmp_path / "state")
        if in_transit(manifest):
            return manifest


def totals(out: Path) -> dict[int, int]:
    found: dict[int, int] = {}
    for key, total in rows(out):
        found[key] = max(total, found.get(key, 0))
    return found


EXPECTED = {key: len(range(key, RECORDS, KEYS)) for key in range(KEYS)}


@pytest.mark.parametrize(
    "parallelism", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))]
)
@pytest.mark.parametrize(
    "settings", [{"checkpoint_alignment": "unaligned"}, {"alignment_timeout": "1ms"}], ids=str
)
def test_what_was_in_transit_is_processed_once_at_any_parallelism(
    settings: dict[str, Any], parallelism: int, tmp_path: Path, gate: Gate
) -> None:
    transit = in_transit(interrupted(tmp_path, gate, **settings))
    assert transit
    Gate.is_open.set()

    again = pipeline(tmp_path / "out", slow=gate, parallelism=parallelism)
    result = again.run(state_dir=tmp_path / "state", quiet=True)

    assert result.state == "finished"
    assert len(rows(tmp_path / "out")) == RECORDS
    assert totals(tmp_path / "out") == EXPECTED


def test_aligned_checkpoint_has_nothing_in_transit(tmp_path: Path) -> None:
    drawn = pipeline(tmp_path / "out", slow=lambda record: record)
    handle = drawn.start(state_dir=tmp_path / "state")
    handle.stop()
    handle.wait(60)

    assert not in_transit(newest(tmp_path / "state"))


def test_one_checkpoint_of_an_aligned_job_may_be_unaligned(tmp_path: Path, gate: Gate) -> None:
    handle = pipeline(tmp_path / "out", slow=gate).start(
        state_dir=tmp_path / "state", batch="1KB", channel_capacity_batches=2
    )
    assert in_transit(caught(handle, tmp_path, alignment="unaligned"))
    handle.cancel()
    handle.wait(60)


@pytest.mark.parametrize(
    "initiators",
    [
        ["totals", "slow", "in"],
        *(pytest.param([n], marks=pytest.mark.slow) for n in ("totals", "slow")),
    ],
    ids=str,
)
def test_checkpoint_may_begin_anywhere(initiators: list[str], tmp_path: Path, gate: Gate) -> None:
    handle = pipeline(tmp_path / "out", slow=gate).start(
        state_dir=tmp_path / "state", batch="1KB", channel_capacity_batches=2, trace=True
    )
    manifest = caught(handle, tmp_path, alignment="unaligned", initiators=initiators)
    handle.cancel()
    handle.wait(60)

    check_cut(manifest)


def check_cut(manifest: CheckpointManifest) -> None:
    """Check that the cut is consistent, and that the channel state is what was under way."""
    traces = [task.trace for task in manifest.tasks if task.trace is not None]
    clocks = {trace.place: trace.clock for trace in traces}
    assert all(clocks[i][j] <= clocks[j][j] for i in clocks for j in clocks)
    sent = sum(one.count for trace in traces for one in trace.sent)
    received = sum(one.count for trace in traces for one in trace.received)
    assert sum(in_transit(manifest).values()) == sent - received > 0


def test_an_operator_that_is_not_there_cannot_begin_a_checkpoint(tmp_path: Path) -> None:
    handle = pipeline(tmp_path / "out", slow=lambda record: record).start()

    with pytest.raises(ConfigError, match="cannot begin at 'nobody'"):
        handle.checkpoint(initiators=["nobody"])
    handle.cancel()
    handle.wait(60)


@pytest.mark.parametrize(
    "settings",
    [
        {"checkpoint_alignment": "unaligned", "alignment_timeout": "1s"},
        {"checkpoint_alignment": "unaligned", "checkpoint_mode": "at-least-once"},
        {"alignment_timeout": "1s", "checkpoint_mode": "at-least-once"},
        {"checkpoint_alignment": "unaligned", "checkpoints_concurrent": 2},
        {"alignment_timeout": "2h"},
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        pipeline(Path("unused"), slow=abs).run(**settings)


def test_aligned_checkpoints_may_be_under_way_together(tmp_path: Path, gate: Gate) -> None:
    handle = pipeline(tmp_path / "out", slow=gate).start(
        state_dir=tmp_path / "state",
        checkpoints_concurrent=3,
        checkpoint_interval="5ms",
        batch="1KB",
    )
    for _ in range(2):
        handle.checkpoint(timeout_s=60)
    Gate.is_open.set()

    assert handle.wait(60).state == "finished"
    assert totals(tmp_path / "out") == EXPECTED
