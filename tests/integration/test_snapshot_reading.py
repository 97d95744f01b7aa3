"""Snapshots of real jobs: while they run, after they have gone on, changed and begun anew."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flowsnap import KeyedProcess, Pipeline, ProcessContext
from flowsnap.connectors import Collect, FromIterable
from flowsnap.runtime.job import JobHandle
from flowsnap.snapshot import SavepointBuilder, Snapshot, check_cut, diff
from tests.integration.jobs import QUICK, Held, checkpoints, until

COUNT = 4_000


class Total(KeyedProcess[int, tuple[int, int]]):
    """Adds up what comes, under a name that differs between versions of the job."""

    name = "sum"

    def open(self, context: ProcessContext) -> None:
        self.total = context.value_state(self.name, default=0)

    def process(self, value: int, context: ProcessContext) -> Iterator[tuple[int, int]]:
        self.total.update(self.total.value() + value)
        yield context.key, self.total.value()


class RenamedTotal(Total):
    name = "total"


def numbers(state: Path, completed: int) -> Pipeline:
    """Add up numbers by their last digit; half of them wait until checkpoints are complete."""
    pipeline = Pipeline("digits")
    (
        pipeline.source(Held(COUNT, state, completed), name="numbers", parallelism=2)
        .rebalance()
        .map(int, name="same", parallelism=2)
        .key_by(lambda n: n % 10)
        .process(Total, name="total", parallelism=2)
        .sink(Collect(), name="out")
    )
    return pipeline


def totals(
    values: list[int], out: Collect, process: type[Total] = Total, name: str = "total"
) -> Pipeline:
    pipeline = Pipeline("totals")
    read = pipeline.source(FromIterable(values), name="read", parallelism=1)
    read.key_by(lambda n: n % 2).process(process, name=name).sink(out, name="out")
    return pipeline


def conserved(snapshot: Snapshot) -> bool:
    """Return whether each number that was read has been added up, or is on its way."""
    read = sum(
        sum(range(at.payload["first"], at.position, at.payload["strides"]))
        for at in snapshot.positions()
        if at.position is not None
    )
    channels = (c for c in snapshot.channels() if c.target != "out")
    moving = sum(sum(channel.values) for channel in channels)
    return bool(read == sum(snapshot.state("total", "sum").values()) + moving)


def has_completed(state: Path, number: int) -> bool:
    return max(checkpoints(state), default=0) >= number


@pytest.fixture
def live(tmp_path: Path) -> Iterator[JobHandle]:
    """Yield a job that runs until five checkpoints are complete."""
    state = tmp_path / "state"
    handle = numbers(state, completed=5).start(
        state_dir=state, checkpoint_alignment="unaligned", trace=True, **QUICK
    )
    yield handle
    handle.wait()


def test_every_snapshot_of_a_running_job_is_a_consistent_cut(
    live: JobHandle, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    for number in range(1, 5):
        until(partial(has_completed, state, number), f"checkpoint {number}")
        with Snapshot.open(state) as snapshot:
            assert snapshot.checkpoint_id >= number
            assert conserved(snapshot)
            assert check_cut(snapshot) == []


def test_snapshot_stays_when_the_job_has_retired_its_checkpoint(
    live: JobHandle, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    until(partial(has_completed, state, 1), "a checkpoint")
    with Snapshot.open(state) as snapshot:
        number = snapshot.checkpoint_id
        until(lambda: number not in checkpoints(state), "the checkpoint to be retired")

        assert conserved(snapshot)
        with Snapshot.open(state) as later:
            assert later.checkpoint_id > number
            assert not any(state.removed for state in diff(snapshot, later).states)


def test_job_begins_with_state_that_was_made_of_plain_data(tmp_path: Path) -> None:
    out = Collect()
    pipeline = totals([1, 2, 3], out)
    SavepointBuilder.new(pipeline).add_state("total", "sum", {0: 100, 1: 1000}).write(
        tmp_path / "made"
    )

    pipeline.run(state_dir=tmp_path / "state", restore=tmp_path / "made", quiet=True)

    assert sorted(out.values) == [(0, 102), (1, 1001), (1, 1004)]


def test_job_goes_on_with_state_that_was_renamed_and_rewritten(tmp_path: Path) -> None:
    totals([1, 2, 3], Collect()).run(state_dir=tmp_path / "old", quiet=True)
    with Snapshot.open(tmp_path / "old", "totals") as snapshot:
        builder = SavepointBuilder.of(snapshot).rename_state("total", "sum", "total")
        builder.transform_state("total", "sum", lambda key, n: n * 10)
        builder.set_position("read", "0:3", 3, payload={"start": 0, "end": 4})
        builder.rename_operator("total", "added-up").write(tmp_path / "changed")
    out = Collect()
    pipeline = totals([1, 2, 3, 4], out, RenamedTotal, "added-up")

    pipeline.run(state_dir=tmp_path / "new", restore=tmp_path / "changed", quiet=True)

    assert out.values == [(0, 24)]


def test_query_of_a_finished_job_finds_its_state(tmp_path: Path) -> None:
    totals(list(range(10)), Collect()).run(state_dir=tmp_path, quiet=True)

    with Snapshot.open(tmp_path) as snapshot:
        answer: Any = snapshot.sql("select key, value from total.sum order by key").to_pylist()

        assert answer == [{"key": 0, "value": 20}, {"key": 1, "value": 25}]
        assert snapshot.kind == "final"
        assert all(position.is_finished for position in snapshot.positions())
        assert all(task.is_ended for task in snapshot.tasks)
