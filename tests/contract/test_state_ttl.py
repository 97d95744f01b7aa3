"""State that expires, on both backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowsnap.core.expiry import TTL
from flowsnap.errors import ConfigError, StateIncompatible
from flowsnap.state.backend import StateBackend
from tests.contract.lives import OPERATOR, Lives

SECOND = TTL("1s")


def test_a_value_is_there_until_its_last_millisecond_and_gone_at_its_expiry(lives: Lives) -> None:
    state = lives.states.value_state("v", default=0, ttl=SECOND)
    lives.states.key = "k"
    state.update(7)

    lives.now_ms = 999
    assert state.value() == 7
    lives.now_ms = 1000
    assert state.value() == 0


def test_a_write_begins_the_life_of_a_value_anew_and_a_read_does_not(lives: Lives) -> None:
    state = lives.states.value_state("v", ttl=SECOND)
    state.update(1)
    lives.now_ms = 600
    state.update(2)
    lives.now_ms = 1599
    assert state.value() == 2

    lives.now_ms = 1600
    assert state.value() is None


def test_a_read_begins_the_life_of_a_value_anew_where_that_was_asked_for(lives: Lives) -> None:
    state = lives.states.value_state("v", ttl=TTL("1s", on="read-write"))
    state.update(1)
    for lives.now_ms in (900, 1800, 2700):
        assert state.value() == 1

    lives.now_ms = 3700
    assert state.value() is None


def test_a_list_expires_as_a_whole_after_the_last_addition(lives: Lives) -> None:
    state = lives.states.list_state("l", ttl=SECOND)
    state.add(1)
    lives.now_ms = 900
    state.add_all([2, 3])
    lives.now_ms = 1899
    assert state.get() == [1, 2, 3]

    lives.now_ms = 1900
    assert state.get() == []


def test_entries_of_a_map_expire_each_on_its_own(lives: Lives) -> None:
    state = lives.states.map_state("m", ttl=SECOND)
    state.put("a", 1)
    lives.now_ms = 500
    state.put("b", 2)

    lives.now_ms = 1000
    assert "a" not in state
    assert dict(state.items()) == {"b": 2}
    assert list(state.keys()) == ["b"]
    lives.now_ms = 1500
    assert state.is_empty()


def test_reading_a_map_through_renews_every_entry_where_that_was_asked_for(lives: Lives) -> None:
    state = lives.states.map_state("m", ttl=TTL("1s", on="read-write"))
    state.put("a", 1)
    state.put("b", 2)
    lives.now_ms = 900
    assert dict(state.items()) == {"a": 1, "b": 2}

    lives.now_ms = 1899
    assert state.get("b") == 2


def test_a_folded_value_begins_anew_after_its_expiry(lives: Lives) -> None:
    state = lives.states.reducing_state("r", lambda old, new: old + new, ttl=SECOND)
    state.add(1)
    lives.now_ms = 900
    state.add(10)
    assert state.get() == 11

    lives.now_ms = 1900
    state.add(5)
    assert state.get() == 5


def test_a_value_changed_in_place_is_kept_over_a_restart_with_its_time(lives: Lives) -> None:
    state = lives.states.value_state("v", default=list, ttl=SECOND)
    state.value().append(1)
    lives.restart()
    state = lives.states.value_state("v", default=list, ttl=SECOND)
    state.value().append(2)
    lives.restart()

    state = lives.states.value_state("v", default=list, ttl=SECOND)
    lives.now_ms = 999
    assert state.value() == [1, 2]
    lives.now_ms = 1000
    assert state.value() == []


@pytest.mark.parametrize("restarts", [False, True])
def test_what_nobody_reads_again_goes_from_state(lives: Lives, restarts: bool) -> None:
    state = lives.states.value_state("v", ttl=TTL("10s"))
    for lives.states.key in range(3000):
        state.update((lives.states.key, "payload"))
    if restarts:
        lives.restart()
        lives.states.value_state("v", ttl=TTL("10s"))
    lives.sweep(9_999)
    assert len(list(lives.rows())) == 3000

    lives.sweep(13_500)

    assert list(lives.rows()) == []


def test_the_sweep_leaves_what_lives_and_what_was_renewed_after_a_checkpoint(lives: Lives) -> None:
    state = lives.states.map_state("m", ttl=TTL("10s"))
    for entry in range(2000):
        state.put(entry, [entry])
    lives.restart()
    state = lives.states.map_state("m", ttl=TTL("10s"))
    lives.sweep(8_000)
    for entry in range(0, 2000, 2):
        state.put(entry, [-entry])

    lives.sweep(14_000)

    assert {row[1]: row[2][1] for row in lives.rows()} == {e: [-e] for e in range(0, 2000, 2)}


def test_a_checkpoint_after_the_sweep_holds_none_of_what_expired(lives: Lives) -> None:
    state = lives.states.value_state("v", ttl=SECOND)
    for lives.states.key in range(500):
        state.update("x")
    lives.restart()
    lives.states.value_state("v", ttl=SECOND)
    lives.sweep(5_000)

    lives.restart()

    assert list(lives.backend.rows(lives.backend.value_table(OPERATOR, "v", "value+ttl"))) == []


def test_one_slice_of_a_sweep_is_bounded(lives: Lives) -> None:
    state = lives.states.value_state("v", ttl=SECOND)
    for lives.states.key in range(5000):
        state.update(1)
    lives.now_ms = 2000

    lives.states.sweep(2000)

    assert len(list(lives.rows())) == 5000 - 1024
    assert lives.states.next_sweep_ms() == 2010


def test_a_ttl_added_later_counts_from_the_restart_also_for_what_nobody_reads(lives: Lives) -> None:
    state = lives.states.map_state("m")
    for entry in range(1500):
        state.put(entry, "old")
    lives.now_ms = 500
    lives.restart()
    state = lives.states.map_state("m", ttl=SECOND)
    lives.now_ms = 1499
    assert state.get(3) == "old"
    lives.now_ms = 1500
    assert state.get(3) is None

    lives.sweep(5_000)

    assert list(lives.rows()) == []


@pytest.mark.parametrize("sweeps", [True, False])
def test_a_ttl_taken_away_keeps_what_had_not_expired_and_nothing_else(
    lives: Lives, sweeps: bool
) -> None:
    state = lives.states.value_state("v", ttl=SECOND)
    for lives.now_ms, lives.states.key in ((0, "early"), (600, "late"), (0, "unread")):
        state.update("x")
    lives.now_ms = 1000
    lives.restart()

    state = lives.states.value_state("v", default="gone")
    found = {}
    if sweeps:
        lives.sweep(90_000)
    for lives.states.key in ("early", "late"):
        found[lives.states.key] = state.value()
    lives.sweep(90_000)

    assert found == {"early": "gone", "late": "x"}
    assert [row[0] for row in lives.rows()] == ["late"]


def test_what_a_former_layout_left_is_gone_through_once(lives: Lives) -> None:
    lives.states.value_state("v").update("old")
    lives.restart()
    lives.states.value_state("v", ttl=TTL("1h"))
    read: list[Any] = []
    rows = lives.backend.rows

    def noted(table: Any) -> Any:
        read.append(table)
        return rows(table)

    lives.backend.rows = noted

    lives.sweep(1_800_000)

    assert len(read) == 1 + len([table for table in read if table is read[1]]) >= 3


def test_what_a_sweep_removes_is_spilled_when_it_takes_too_much_room(tmp_path: Path) -> None:
    lives = Lives(StateBackend, tmp_path)
    state = lives.states.value_state("v", ttl=SECOND)
    for lives.states.key in range(100):
        state.update(1)
    lives.restart()
    lives.states.value_state("v", ttl=SECOND)
    lives.backend._young_bytes_max = 0

    lives.sweep(2_500)

    assert lives.backend.value_table(OPERATOR, "v", "value+ttl").young == {}
    assert list(lives.rows()) == []
    lives.backend.close()


def test_the_same_state_with_and_without_a_ttl_in_one_operator_is_refused(lives: Lives) -> None:
    lives.states.value_state("v", ttl=SECOND)

    with pytest.raises(StateIncompatible, match=r"'v' .* no ttl, .* version 1 and a ttl"):
        lives.states.value_state("v")


def test_a_restored_list_is_no_map_with_a_ttl(lives: Lives) -> None:
    lives.states.list_state("s").add(1)
    lives.restart()

    with pytest.raises(StateIncompatible, match=r"declared as map state, but .* as list state"):
        lives.states.map_state("s", ttl=SECOND)


@pytest.mark.parametrize("ttl", ["1h", 5, SECOND.ms])
def test_what_is_no_ttl_is_refused(lives: Lives, ttl: Any) -> None:
    with pytest.raises(ConfigError, match="is not a TTL"):
        lives.states.value_state("v", ttl=ttl)


@pytest.mark.parametrize(("duration", "on"), [("0s", "write"), ("soon", "write"), ("1s", "read")])
def test_a_wrong_ttl_is_refused(duration: str, on: Any) -> None:
    with pytest.raises(ConfigError, match="ttl"):
        TTL(duration, on=on)
