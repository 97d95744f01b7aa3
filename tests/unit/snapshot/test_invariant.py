"""Invariants are functions of the snapshot; what they do not hold of is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowsnap.errors import ConfigError
from flowsnap.snapshot import Invariant, Snapshot, Violation, run_invariants
from flowsnap.state.memory import MemoryBackend
from tests.unit.snapshot.made import Maker, balances, batches, channel


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    maker = Maker(tmp_path, backend=MemoryBackend).keyed(balances({"a": 10, "b": 20}))
    return maker.in_transit("count/0", (channel(), batches([5])))


def money(snapshot: Snapshot) -> int:
    moving = sum(sum(channel.values) for channel in snapshot.channels())
    return int(sum(snapshot.state("count", "balance").values()) + moving)


def conserved(snapshot: Snapshot) -> None:
    assert money(snapshot) == 35


def rich(snapshot: Snapshot) -> bool:
    return money(snapshot) > 100


def explained(snapshot: Snapshot) -> str:
    return f"only {money(snapshot)} left"


def broken(snapshot: Snapshot) -> None:
    assert money(snapshot) == 100, "money was lost"


def raising(snapshot: Snapshot) -> None:
    snapshot.state("count", "nosuch")


def test_what_holds_is_not_told(maker: Maker) -> None:
    with maker.opened() as snapshot:
        assert run_invariants([conserved, lambda s: True, lambda s: ""], snapshot) == []


def test_what_does_not_hold_is_told_with_its_reason(maker: Maker) -> None:
    with maker.opened() as snapshot:
        found = run_invariants([rich, explained, conserved, broken], snapshot)

    assert [(v.invariant, v.message) for v in found] == [
        ("rich", "it answered False"),
        ("explained", "only 35 left"),
        ("broken", "money was lost"),
    ]
    assert found[0] == Violation("rich", "words", 1, "it answered False", is_fatal=False)


def test_invariant_that_raises_is_violated_and_the_others_are_checked(maker: Maker) -> None:
    with maker.opened() as snapshot:
        one, other = run_invariants([raising, rich], snapshot)

    assert one.message.startswith("it raised ConfigError: operator 'count' has no state 'nosuch'")
    assert other.invariant == "rich"


def test_assertion_without_a_text_is_told_by_its_line(maker: Maker) -> None:
    def poor(snapshot: Snapshot) -> None:
        assert money(snapshot) == 0

    with maker.opened() as snapshot:
        (found,) = run_invariants([poor], snapshot)

    assert "assert" in found.message


def test_only_an_invariant_that_says_so_is_fatal(maker: Maker) -> None:
    invariants = [
        Invariant(rich, on_violation="fail", name="enough money"),
        Invariant(rich),
    ]
    with maker.opened() as snapshot:
        found = run_invariants(invariants, snapshot)

    assert [(v.invariant, v.is_fatal) for v in found] == [("enough money", True), ("rich", False)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"check": 7}, "invariant 7 is no function"),
        ({"check": rich, "on_violation": "ignore"}, "neither 'alert' nor 'fail'"),
    ],
)
def test_what_is_no_invariant_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Invariant(**arguments)


def test_function_without_a_name_is_told_as_it_is(maker: Maker) -> None:
    class Check:
        def __call__(self, snapshot: Snapshot) -> bool:
            return False

        def __repr__(self) -> str:
            return "<a check>"

    with maker.opened() as snapshot:
        (found,) = run_invariants([Check()], snapshot)

    assert found.invariant == "<a check>"
