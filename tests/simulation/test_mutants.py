"""The checkers are not blind: engines that are broken on purpose are found out."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from flowsnap.testing import mutants
from flowsnap.testing.mutants import (
    SEEDS_MAX,
    Mutant,
    Patch,
    hunt,
    kinds_of,
    load,
    main,
    table,
)

KNOWN = Path(__file__).with_name("mutants.json")
"""Which seed has shown each: ``python -m flowsnap.testing.mutants --record`` of this file."""
DOCUMENT = Path(__file__).parents[2] / "docs" / "simulation.md"
SOON = 60
QUICK = [
    "alignment-that-blocks-nothing",
    "barrier-ahead-of-the-last-records",
    "commit-at-prepare",
    "files-without-sync",
    "keys-that-are-hashed-anew",
    "manifest-that-is-written-in-place",
    "positions-that-are-one-ahead",
    "prepared-output-that-is-not-in-the-snapshot",
]
OTHERS = sorted(load().keys() - set(QUICK))


class Engine:
    """What a patch changes."""

    speed = 1


def known_seeds() -> dict[str, int]:
    return msgspec.json.decode(KNOWN.read_bytes(), type=dict[str, int])


def faster(patch: Patch) -> None:
    patch.set(Engine, "speed", 2)


@pytest.mark.parametrize("name", QUICK)
def test_a_broken_engine_is_found_out_soon(name: str) -> None:
    found = hunt(load()[name], SOON)

    assert found.is_caught, found.violation


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("name", OTHERS)
def test_a_broken_engine_is_found_out(name: str) -> None:
    found = hunt(load()[name], known=known_seeds().get(name))

    print(f"{name}: {found.seeds} seeds")
    assert found.is_caught, found.violation


def test_there_are_enough_mutants() -> None:
    assert len(load()) >= 25


def test_every_mutant_says_what_it_breaks_and_who_must_see_it() -> None:
    for one in load().values():
        assert one.mistake[0].isupper()
        assert one.seen_by
        assert all(code.startswith("C") for code in one.seen_by)


@pytest.mark.parametrize("name", sorted(load()))
def test_the_seed_that_has_shown_a_mutant_is_one_of_the_first(name: str) -> None:
    one, seed = load()[name], known_seeds()[name]

    assert one.may_show(seed)
    assert sum(one.may_show(before) for before in range(seed + 1)) <= SEEDS_MAX


def test_a_known_seed_that_shows_nothing_any_more_is_followed_by_a_hunt() -> None:
    found = hunt(load()["empty-commit-that-is-not-reported"], SOON, known=0)

    assert found.is_caught
    assert found.seed > 0


def test_an_engine_is_whole_again_after_a_hunt() -> None:
    with Mutant("faster", "It is faster", ("C1",), frozenset(), faster).broken():
        broken = Engine.speed

    assert (broken, Engine.speed) == (2, 1)


def test_a_mutant_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(AttributeError):
        Patch().set(Engine, "weight", 2)


def test_an_unbroken_engine_gets_away() -> None:
    found = hunt(Mutant("none", "Nothing", ("C1",), frozenset(), lambda patch: None), 2)

    assert (found.seeds, found.violation, found.is_caught) == (2, "", False)


def test_a_mutant_that_is_seen_by_the_wrong_property_is_not_caught() -> None:
    apply = load()["files-without-sync"].apply

    assert not hunt(Mutant("sync", "No sync", ("C12",), frozenset(), apply), 3).is_caught


def test_seeds_whose_jobs_lack_what_is_broken_are_passed_over() -> None:
    one = Mutant("timers", "None", ("C4",), frozenset({"timer"}), lambda patch: None)

    assert {one.may_show(seed) for seed in range(200)} == {True, False}
    assert all(one.may_show(seed) == ("timer" in kinds_of(seed)) for seed in range(200))


def test_the_command_says_how_many_seeds_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["files-without-sync", "--seeds", "3"]) == 0

    text = capsys.readouterr().out
    assert "1 seeds" in text
    assert "1 of 1 mutants are caught" in text


def test_the_command_refuses_an_unknown_mutant(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        mutants.main(["perfection"])

    assert "there is no mutant 'perfection'" in capsys.readouterr().err


def test_the_document_lists_every_mutant() -> None:
    assert table() in DOCUMENT.read_text()
