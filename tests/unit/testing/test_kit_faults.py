"""Only those faults strike that were asked for, and each can be put into words."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from flowsnap import ConfigError
from flowsnap.testing.kit_faults import Faults, describe, faults_of
from flowsnap.testing.trouble import EVERYBODY, MANAGER, SELF, Fault

SEEDS = 600


def drawn(faults: Faults) -> list[Fault]:
    return [fault for seed in range(SEEDS) for fault in faults.draw(Random(seed))]


def only(*names: str) -> Faults:
    return faults_of(names)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("network", {"reset", "drop", "control", "partition"}),
        ("disk", {"disk", "fail", "sync", "quota", "rot"}),
        ("sinks", {"sink", "late"}),
        ("sources", {"user"}),
        ("clock", {"wall"}),
    ],
)
def test_one_kind_alone(name: str, kinds: set[str]) -> None:
    assert {fault.kind for fault in drawn(only(name))} == kinds


def test_only_workers_die() -> None:
    assert {fault.who for fault in drawn(only("workers"))} == {0, 1, 2}


def test_only_the_job_manager_dies() -> None:
    found = drawn(only("manager"))

    wishes = {"stop", "cancel"}
    assert {fault.who for fault in found if fault.kind not in wishes} == {MANAGER}
    assert {fault.kind for fault in found} >= wishes


def test_only_the_power_fails() -> None:
    assert {fault.who for fault in drawn(only("power"))} == {EVERYBODY}


def test_everything_may_happen_by_default() -> None:
    found = drawn(faults_of(None))

    assert {fault.kind for fault in found} >= {"kill", "crash", "disk", "sink", "reset", "user"}
    assert {fault.who for fault in found if fault.kind == "kill"} >= {EVERYBODY, MANAGER, 0}


def test_nothing_happens_if_nothing_may() -> None:
    assert drawn(Faults(**dict.fromkeys(Faults.__struct_fields__, False))) == []


def test_every_kind_can_be_put_into_words() -> None:
    assert all(describe(fault) for fault in drawn(Faults()))


def test_same_seed_has_the_same_faults() -> None:
    assert Faults().draw(Random(7)) == Faults().draw(Random(7))


def test_kinds_are_given_by_name_or_as_a_whole() -> None:
    chosen = Faults(disk=False)

    assert faults_of(chosen) is chosen
    assert faults_of("disk") == faults_of(["disk"])
    assert [name for name, on in msgspec.structs.asdict(faults_of("disk")).items() if on] == [
        "disk"
    ]


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no kind 'disc'") as caught:
        faults_of("disc")

    assert caught.value.__notes__ == ["did you mean 'disk'?"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("kill", 20_300, 1), "kill worker 1 at 20.3 ms"),
        (Fault("pause", 1_000, MANAGER), "pause the job manager at 1.0 ms"),
        (Fault("crash", 9, EVERYBODY, is_after=True), "kill everybody after effect 9"),
        (Fault("point", 2, SELF, 0), "kill whoever does it before number 2 of 'link manifest."),
        (Fault("fail", 1, 0), "number 1 of 'link manifest.json' fails, before it takes effect"),
        (Fault("sink", 3, 0, 0, True), "call 3 of a sink fails, after it takes effect"),
        (Fault("user", 4), "read 4 of a source raises"),
        (Fault("sync", 2), "sync 2 of a file fails, and what was written is lost"),
        (Fault("late", 3, SELF, 5_000), "commit 3 of a sink takes effect 5 ms late"),
        (Fault("quota", 1_000, 0, 30), "there are 30 bytes of space left at 1.0 ms"),
        (Fault("partition", 1_000, SELF, 9), "one direction between two workers is blocked at"),
        (Fault("partition", 1_000, 2, 9, True), "one direction from worker 2 is blocked at 1.0 ms"),
        (Fault("stop", 1_000), "the job is stopped in order at 1.0 ms, and resumed"),
        (Fault("cancel", 2, 300, 1), "the job is cancelled 0.3 ms after number 2 of 'link manif"),
        (Fault("reset", 5_000), "two workers lose each other at 5.0 ms"),
        (Fault("wall", 5_000, 0, -1_000), "the wall clock jumps by -1 s at 5.0 ms"),
    ],
)
def test_fault_is_put_into_words(fault: Fault, words: str) -> None:
    assert describe(fault).startswith(words)
