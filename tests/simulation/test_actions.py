"""Each kind of fault brings about what it is named for, and every property holds all the same."""

from __future__ import annotations

import pytest

from flowsnap.testing.simulate import command, run_seed
from flowsnap.testing.trouble import ENDINGS, POINTS, SELF, Fault, draw_faults
from flowsnap.testing.world import World

SEEDS = 20
COMPLETE = 1 + POINTS.index(("CompleteCheckpoint", ""))
DRAINING = 1 + POINTS.index(("LookRound", ""))


@pytest.mark.parametrize(
    ("situation", "fault"),
    [
        ("cancelled and resumed", Fault("cancel", 30_000)),
        ("cancelled and resumed", Fault("cancel", 1, 50, COMPLETE)),
        ("an older checkpoint is restored", Fault("older", 3, 300, COMPLETE)),
        ("committed output is taken back", Fault("older", 5, 2_000, COMPLETE)),
        ("committed output is taken back", Fault("older", 5, 2_000, COMPLETE, is_after=True)),
        ("ended behind the cut of a stop", Fault("stop", 1, 0, DRAINING)),
        ("one way between two workers is blocked", Fault("partition", 60_000, SELF, 40_000)),
        ("one way to a worker is blocked", Fault("partition", 20_000, 0, 40_000)),
        ("worker behind a partition is given up", Fault("partition", 20_000, 0, 300_000, True)),
        ("failed sync drops what was written", Fault("sync", 12)),
        ("space comes back", Fault("quota", 30_000, 0, 3_000)),
        ("sink: commit that is applied later", Fault("late", 2, SELF, 500)),
        ("sink: late commit finds its work done", Fault("late", 2, SELF, 40_000)),
        ("sink: prepare that is applied later", Fault("late", 2, SELF, 5_000, is_after=True)),
        ("rotten file is found and put back", Fault("rot", 40_000, 0, 7)),
        ("a second job manager is refused", Fault("second", 20_000)),
    ],
)
def test_a_fault_brings_about_what_it_is_named_for(situation: str, fault: Fault) -> None:
    for seed in range(SEEDS):
        outcome = run_seed(seed, [fault])
        assert not outcome.violation, f"{outcome.violation}\nreplay: {command(outcome)}"
        if outcome.situations[situation]:
            return
    pytest.fail(f"none of {SEEDS} seeds has reached {situation!r}")


@pytest.mark.parametrize(
    "kind", ["partition", "quota", "sync", "late", "cancel", "older", "rot", "second"]
)
def test_every_kind_of_fault_is_drawn(kind: str) -> None:
    drawn = [fault for seed in range(200) for fault in draw_faults(World(seed).faults, 200)]

    assert {kind} <= {fault.kind for fault in drawn}


def test_a_stop_is_wanted_most_often_when_a_part_of_the_job_has_ended() -> None:
    drawn = [fault for seed in range(1_000) for fault in draw_faults(World(seed).faults, 200)]
    placed = [fault.value - 1 for fault in drawn if fault.kind == "stop" and fault.value]

    assert sum(place in ENDINGS for place in placed) > len(placed) / 2
