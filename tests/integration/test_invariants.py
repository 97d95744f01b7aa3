"""Functions that look at every snapshot of a job before it is committed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flowsnap import Pipeline
from flowsnap.connectors import Discard, Generator
from flowsnap.errors import ConfigError, JobFailed
from flowsnap.snapshot.snapshot import Snapshot
from flowsnap.storage.job_directory import JobDirectory

KEYS, RECORDS = 5, 20_000


def counting() -> Pipeline:
    drawn = Pipeline("counting")
    numbers = drawn.source(Generator(lambda i: (i % KEYS, 1), RECORDS), name="numbers")
    numbers.key_by(0).sum(1, name="totals").sink(Discard())
    return drawn


def totals(snapshot: Snapshot) -> dict[int, int]:
    [info] = [info for info in snapshot.states if info.operator == "totals"]
    return dict(snapshot.state(info.operator, info.name).items())


@pytest.mark.parametrize("workers", [0, 2])
def test_invariant_sees_every_snapshot_before_it_is_committed(workers: int) -> None:
    drawn, seen = counting(), list[int]()

    @drawn.invariant
    def all_is_counted(snapshot: Snapshot) -> bool:
        seen.append(sum(totals(snapshot).values()))
        return True

    result = drawn.run(workers=workers, quiet=True, checkpoint_interval="20ms")

    assert len(seen) == result.last_checkpoint
    assert seen == sorted(seen)
    assert seen[-1] == RECORDS


def test_violation_is_told_and_the_job_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    drawn = counting()
    drawn.invariant(lambda snapshot: "too many", name="few")

    with caplog.at_level(logging.ERROR, logger="flowsnap"):
        result = drawn.run(quiet=True)

    assert result.state == "finished"
    assert "invariant 'few' does not hold: too many" in caplog.text


def test_fatal_violation_fails_the_job_and_the_checkpoint_is_not_there(tmp_path: Path) -> None:
    drawn = counting()

    @drawn.invariant(on_violation="fail")
    def nothing_is_counted(snapshot: Snapshot) -> bool:
        return not totals(snapshot)

    with pytest.raises(JobFailed, match="'nothing_is_counted' does not hold"):
        drawn.run(quiet=True, state_dir=tmp_path)
    with JobDirectory.read(tmp_path, "counting") as directory:
        assert directory.checkpoints() == []


def test_invariant_that_raises_is_violated_and_says_where(
    caplog: pytest.LogCaptureFixture,
) -> None:
    drawn = counting()

    @drawn.invariant
    def wrong(snapshot: Snapshot) -> None:
        raise KeyError("nothing of the kind")

    with caplog.at_level(logging.ERROR, logger="flowsnap"):
        assert drawn.run(quiet=True).state == "finished"

    assert "it raised KeyError" in caplog.text
    assert "test_invariants.py" in caplog.text


def test_invariant_that_is_no_function_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no function"):
        counting().invariant(3)  # type: ignore[call-overload]
