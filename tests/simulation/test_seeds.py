"""Random worlds: whatever fails and whenever, every property of ``docs/simulation.md`` holds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from flowsnap.testing.simulate import Batch, Outcome, command, minimise, run_batch, run_seed
from flowsnap.testing.trouble import Fault

simulate = sys.modules["flowsnap.testing.simulate"]
CHUNK = 25
SEEDS = 200
MANY = 2_000


def explain(batch: Batch) -> str:
    return "\n".join(f"{one.violation}\nreplay: {command(one)}" for one in batch.failures)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_random_worlds_keep_every_property(first: int) -> None:
    batch = run_batch(first, CHUNK)

    assert not batch.failures, explain(batch)


@pytest.mark.slow(seconds=150)
@pytest.mark.timeout(600)
@pytest.mark.fault("F10", promise="P1 P2 P7", oracles="O3 O7 O8")
@pytest.mark.fault("F14", promise="P1 P2 P4", oracles="O3 O5 O7")
@pytest.mark.fault("F15", promise="P1 P2", oracles="O3 O7")
@pytest.mark.fault("F23", promise="P2", oracles="O3 O4")
@pytest.mark.fault("F24", promise="P1 P4", oracles="O3 O5 O7")
@pytest.mark.fault("F25", promise="P2 P4", oracles="O3 O5 O7 O8")
@pytest.mark.fault("F34", promise="P7", oracles="O8")
def test_many_worlds_keep_every_property_and_reach_every_situation(
    record_property: Callable[[str, object], None],
) -> None:
    batch = run_batch(SEEDS, MANY)

    record_property("seeds", MANY)
    assert not batch.failures, explain(batch)
    assert batch.missing == []


def test_a_seed_gives_the_same_trace_twice() -> None:
    first, second = run_seed(7), run_seed(7)

    assert first.effects > 100
    assert first.digest == second.digest


def test_seeds_differ() -> None:
    assert run_seed(7).digest != run_seed(8).digest


def traces(seed: int, hash_seed: str) -> str:
    arguments = [sys.executable, "-m", "flowsnap.testing.simulate", "--seed", str(seed)]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("seed", [3, 11])
def test_the_order_of_sets_and_dicts_has_no_part_in_a_trace(seed: int) -> None:
    assert traces(seed, "1") == traces(seed, "4242")


def test_a_failure_is_reported_with_its_seed_and_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = run_seed(1)
    broken = Outcome(1, failed.faults, "C0: not so", "", 1, 1, failed.situations)
    monkeypatch.setattr(simulate, "run_seed", lambda *_, **__: broken)

    code = simulate.main(["--seeds", "1", "--first", "1"])

    assert code == 1
    text = capsys.readouterr().out
    assert "seed 1: C0: not so" in text
    assert "replay: python -m flowsnap.testing.simulate --seed 1" in text


def test_faults_that_a_failure_does_not_need_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    needed, other = Fault("kill", 10, 1), Fault("wall", 20, 0, 1)
    outcome = run_seed(1, [other, needed, other])

    def fails_with_needed(
        seed: int, faults: Sequence[Fault], records_max: int | None = None
    ) -> Outcome:
        violation = "C0" if needed in faults and records_max is None else ""
        return Outcome(seed, tuple(faults), violation, "", 1, 1, outcome.situations)

    monkeypatch.setattr(simulate, "run_seed", fails_with_needed)

    assert minimise(fails_with_needed(1, outcome.faults)).faults == (needed,)


def test_a_failure_is_shown_with_as_few_records_as_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcome = run_seed(1, [])

    def fails_with_four(
        seed: int, faults: Sequence[Fault], records_max: int | None = None
    ) -> Outcome:
        violation = "" if records_max in {1, 2} else "C0"
        situations, cut = outcome.situations, records_max
        return Outcome(seed, tuple(faults), violation, "", 1, 1, situations, (), cut)

    monkeypatch.setattr(simulate, "run_seed", fails_with_four)

    assert "--records 4" in command(minimise(fails_with_four(1, [])))


def test_a_job_of_fewer_records_has_no_others() -> None:
    whole, cut = run_seed(4, []), run_seed(4, [], records_max=2)

    assert not cut.violation
    assert cut.effects < whole.effects


def test_the_command_line_replays_a_seed_with_its_trace(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert simulate.main(["--seed", "2", "--trace", "--faults", "[]"]) == 0

    text = capsys.readouterr().out
    assert "starts the job, layout 0" in text
    assert "seed 2: every property held" in text
