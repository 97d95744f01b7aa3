"""A crash before and after each effect of one small job: every run ends exactly-once."""

from __future__ import annotations

import pytest

from flowsnap.testing.simulate import command, run_seed
from flowsnap.testing.sweep import crashes, sweep

SEED = 1305  # two workers, keyed chains of two subtasks, checkpoints that share files
STRIDE = 23


def failures(seed: int, *, stride: int, first: int = 0) -> list[str]:
    found = sweep(seed, stride=stride, first=first)
    return [f"{one.violation}\nreplay: {command(one)}" for one in found if one.violation]


def test_the_job_of_the_sweep_is_worth_it() -> None:
    outcome = run_seed(SEED, [])

    assert 100 < outcome.effects < 500
    assert outcome.situations["checkpoint with reused files"] > 0


def test_a_sweep_strikes_each_process_before_and_after_each_effect() -> None:
    effects = run_seed(SEED, []).effects

    assert len(set(crashes(SEED))) == effects * 4 * 2


def test_a_crash_at_a_sample_of_the_effects_loses_and_doubles_nothing() -> None:
    assert failures(SEED, stride=STRIDE) == []


@pytest.mark.slow(seconds=40)
@pytest.mark.timeout(600)
@pytest.mark.fault("F34", promise="P1 P2 P7", oracles="O3 O7 O8")
@pytest.mark.parametrize("first", range(4))
def test_a_crash_at_any_effect_loses_and_doubles_nothing(first: int) -> None:
    assert failures(SEED, stride=4, first=first) == []


@pytest.mark.slow(seconds=10)
@pytest.mark.timeout(600)
# Timers and requests; a join and unaligned barriers; a loop by keys.
@pytest.mark.parametrize("seed", [194, 33, 198])
def test_a_crash_at_a_sample_of_the_effects_of_other_jobs_loses_and_doubles_nothing(
    seed: int,
) -> None:
    assert failures(seed, stride=13, first=1) == []
