"""State whose schema has a version, and aggregating state, on both backends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowsnap.core.expiry import TTL
from flowsnap.errors import ConfigError, StateIncompatible
from tests.contract.lives import Lives


def to_two(old: Any, version: int) -> Any:
    assert version == 1
    return {"was": old}


def to_three(old: Any, version: int) -> Any:
    return ("three", version, old)


def written(lives: Lives, **settings: Any) -> None:
    """Declare the state in version 1, write three keys, and restart."""
    state = lives.states.value_state("v", **settings)
    for lives.states.key in ("a", "b", "c"):
        state.update(lives.states.key * 2)
    lives.restart()


def read(lives: Lives, state: Any, keys: str = "abc") -> list[Any]:
    found = []
    for lives.states.key in keys:
        found.append(state.value())
    return found


def test_restored_values_of_an_older_version_pass_through_migrate(lives: Lives) -> None:
    written(lives)

    state = lives.states.value_state("v", version=2, migrate=to_two)

    assert read(lives, state) == [{"was": "aa"}, {"was": "bb"}, {"was": "cc"}]


def test_a_value_is_migrated_once(lives: Lives) -> None:
    written(lives)
    calls: list[Any] = []

    def counted(old: Any, version: int) -> int:
        calls.append(old)
        return version

    state = lives.states.value_state("v", version=2, migrate=counted)

    assert read(lives, state, "aab") == [1, 1, 1]

    assert calls == ["aa", "bb"]


def test_a_half_migrated_checkpoint_tells_old_values_from_new(lives: Lives) -> None:
    written(lives)
    state = lives.states.value_state("v", version=2, migrate=to_two)
    lives.states.key = "a"
    state.value()["more"] = 1
    lives.states.key = "b"
    state.update("written anew")
    lives.restart()
    assert [table.version for table in lives.persist.tables] == [1, 2]

    state = lives.states.value_state("v", version=2, migrate=to_two)

    assert read(lives, state) == [{"was": "aa", "more": 1}, "written anew", {"was": "cc"}]


def test_values_of_two_older_versions_come_each_with_its_own(lives: Lives) -> None:
    written(lives)
    state = lives.states.value_state("v", version=2, migrate=to_two)
    assert read(lives, state, "a") == [{"was": "aa"}]
    lives.restart()

    state = lives.states.value_state("v", version=3, migrate=to_three)

    assert read(lives, state, "ab") == [("three", 2, {"was": "aa"}), ("three", 1, "bb")]


def test_a_cleared_value_does_not_rise_again_from_an_older_version(lives: Lives) -> None:
    written(lives)
    state = lives.states.value_state("v", version=2, migrate=to_two)
    for lives.states.key in ("a", "b"):
        if lives.states.key == "b":
            state.update("new")
        state.clear()
    lives.restart()

    state = lives.states.value_state("v", version=2, migrate=to_two)

    assert read(lives, state) == [None, None, {"was": "cc"}]


def test_once_all_values_have_moved_the_older_version_is_forgotten(lives: Lives) -> None:
    written(lives)
    read(lives, lives.states.value_state("v", version=2, migrate=to_two))
    lives.restart()

    state = lives.states.value_state("v", version=2)  # The function is needed no more.
    lives.checkpoint()

    assert [table.version for table in lives.persist.tables] == [2]
    assert read(lives, state, "a") == [{"was": "aa"}]


def test_a_newer_version_than_the_code_knows_is_refused_with_both(lives: Lives) -> None:
    lives.states.value_state("v", version=3, migrate=to_three).update(1)
    lives.restart()

    with pytest.raises(StateIncompatible, match="version 2, but the checkpoint has version 3"):
        lives.states.value_state("v", version=2, migrate=to_two)


def test_an_older_version_without_a_function_is_refused_with_both(lives: Lives) -> None:
    written(lives)

    with pytest.raises(StateIncompatible, match=r"version 2, .* values of version 1") as refusal:
        lives.states.value_state("v", version=2)
    assert "migrate=" in refusal.value.__notes__[0]


def test_lists_maps_and_folded_values_are_migrated_too(lives: Lives) -> None:
    lives.states.list_state("l").add_all([1, 2])
    for entry in "xy":
        lives.states.map_state("m").put(entry, 1)
    lives.states.reducing_state("r", max).add(5)
    lives.restart()

    lists = lives.states.list_state("l", version=2, migrate=lambda old, _: [-n for n in old])
    lists.add(9)
    maps = lives.states.map_state("m", version=2, migrate=lambda old, _: old + 10)
    maps.put("z", 0)
    maps.remove("x")
    folded = lives.states.reducing_state("r", max, version=2, migrate=lambda old, _: old / 2)
    folded.add(2)

    assert lists.get() == [-1, -2, 9]
    assert dict(maps.items()) == {"y": 11, "z": 0}
    assert folded.get() == 2.5


def test_entries_that_were_cleared_do_not_rise_again(lives: Lives) -> None:
    maps = lives.states.map_state("m")
    maps.put("x", 1)
    lives.restart()
    lives.states.map_state("m", version=2, migrate=to_two).clear()
    lives.restart()

    assert lives.states.map_state("m", version=2).is_empty()


def test_a_ttl_and_a_version_may_come_at_once(lives: Lives) -> None:
    written(lives)
    state = lives.states.value_state("v", version=2, migrate=to_two, ttl=TTL("1s"))
    lives.now_ms = 999
    assert read(lives, state, "a") == [{"was": "aa"}]

    lives.sweep(5_000)

    assert read(lives, state) == [None, None, None]
    assert list(lives.rows()) == []


def test_a_value_written_over_an_older_one_expires_for_good(lives: Lives) -> None:
    written(lives)
    state = lives.states.value_state("v", version=2, migrate=to_two, ttl=TTL("1s"))
    lives.states.key = "a"
    state.update("new")

    lives.sweep(5_000)

    assert state.value() is None
    assert list(lives.rows()) == []


def test_parts_of_different_versions_are_merged(
    backend_class: Callable[..., Any], tmp_path: Path
) -> None:
    one, other = Lives(backend_class, tmp_path / "one"), Lives(backend_class, tmp_path / "other")
    one.states.value_state("v")
    one.states.key = "a"
    one.states.value_state("v").update("aa")
    written(other)
    state = other.states.value_state("v", version=2, migrate=to_two)
    assert read(other, state, "b") == [{"was": "bb"}]
    other.states.key = "a"
    state.clear()

    one.merge(other)

    state = one.states.value_state("v", version=2, migrate=to_two)
    assert read(one, state) == [{"was": "aa"}, {"was": "bb"}, {"was": "cc"}]
    one.backend.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": 0}, "version: 0"),
        ({"version": "2"}, "version: '2'"),
        ({"version": True}, "version: True"),
        ({"version": 2, "migrate": "fn"}, "migrate: 'fn'"),
        ({"migrate": to_two}, "version 1 has no older version"),
    ],
)
def test_wrong_settings_are_refused(lives: Lives, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lives.states.value_state("v", **settings)


class Mean:
    def create(self) -> list[float]:
        return [0, 0.0]

    def add(self, accumulator: list[float], value: float) -> list[float]:
        accumulator[0] += 1
        accumulator[1] += value
        return accumulator

    def result(self, accumulator: list[float]) -> float:
        return accumulator[1] / accumulator[0]


def test_an_aggregating_state_answers_the_result_of_its_accumulator(lives: Lives) -> None:
    state = lives.states.aggregating_state("mean", Mean())
    assert state.get() is None
    for value in (1, 2, 6):
        state.add(value)
    lives.restart()

    state = lives.states.aggregating_state("mean", Mean())
    state.add(11)
    assert state.get() == 5
    state.clear()
    assert state.get() is None


@pytest.mark.parametrize("aggregate", [Mean, 5, max])
def test_what_is_no_aggregate_is_refused(lives: Lives, aggregate: Any) -> None:
    with pytest.raises(ConfigError, match="aggregating state 'mean'"):
        lives.states.aggregating_state("mean", aggregate)
