"""State with a ttl, a version or an aggregate in whole jobs, over restores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowsnap import TTL, KeyedProcess, Pipeline
from flowsnap.connectors import Collect, Discard, Generator
from flowsnap.errors import JobFailed
from tests.integration.jobs import QUICK, checkpoints, until


class Visits(KeyedProcess[int, tuple[int, Any]]):
    """Counts the records of each key, in a state with the given settings."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def open(self, context: Any) -> None:
        self.visits = context.value_state("visits", **self.settings)

    def process(self, value: int, context: Any) -> Iterator[tuple[int, Any]]:
        seen = (self.visits.value() or 0) + 1
        self.visits.update(seen)
        yield context.key, seen


def number(n: int) -> int:
    return n


def drawn(step: KeyedProcess[int, Any], sink: Any, count: int | None = 2_000) -> Pipeline:
    pipeline = Pipeline("visits")
    (
        pipeline.source(Generator(number, count, rate=8_000.0), name="numbers")
        .key_by(lambda n: n % 10, name="by-digit")
        .process(step, name="count")
        .sink(sink, name="out")
    )
    return pipeline


def stopped(step: KeyedProcess[int, Any], state: Path) -> None:
    """Run an endless job until another checkpoint is complete."""
    before = len(checkpoints(state))
    handle = drawn(step, Discard(), None).start(
        state_dir=state, checkpoints_retained=1_000, **QUICK
    )
    until(lambda: len(checkpoints(state)) > before + 1, "checkpoints")
    handle.stop()
    handle.wait(60)


def test_a_job_with_a_ttl_counts_what_lives() -> None:
    out = Collect()

    drawn(Visits(ttl=TTL("1h")), out).run(workers=0, quiet=True)

    assert sorted(out.values) == [(d, n) for d in range(10) for n in range(1, 201)]


def test_two_workers_sweep_what_expired_while_the_job_goes_on() -> None:
    out = Collect()

    drawn(Visits(ttl=TTL("1ms")), out, 8_000).start(workers=2).wait()

    assert len(out.values) == 8_000
    assert max(seen for _, seen in out.values) < 800


def test_a_ttl_may_be_added_and_taken_away_between_two_runs(tmp_path: Path) -> None:
    stopped(Visits(), tmp_path)
    stopped(Visits(ttl=TTL("1h")), tmp_path)
    stopped(Visits(), tmp_path)


def test_a_version_may_be_added_and_is_not_taken_back(tmp_path: Path) -> None:
    stopped(Visits(), tmp_path)
    stopped(Visits(version=2, migrate=lambda old, version: old), tmp_path)

    with pytest.raises(JobFailed, match="version 1, but the checkpoint has version 2"):
        drawn(Visits(), Collect()).run(workers=0, quiet=True, state_dir=tmp_path)
