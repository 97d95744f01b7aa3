"""A keyed state of a snapshot is read by key, prefix and key group, whatever its kind."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowsnap import TTL
from flowsnap.core.key import encode_key, key_group
from flowsnap.errors import ConfigError, StateError
from flowsnap.snapshot import KeyedState, Opaque, Row
from tests.unit.snapshot.made import GROUPS, Maker, balances, both, carts

NAMES = {name: number for number, name in enumerate(["ada", "adam", "bob", "", "é", "a\0b"])}


@dataclass(frozen=True)
class User:
    name: str


class Colour(enum.Enum):
    RED = "red"


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def test_value_is_found_by_its_key(maker: Maker) -> None:
    with maker.keyed(balances(NAMES)).opened() as snapshot:
        state = snapshot.state("count", "balance")

        assert {name: state[name] for name in NAMES} == NAMES
        assert ("bob" in state, "eve" in state) == (True, False)
        assert state.get("eve", 7) == 7
        with pytest.raises(KeyError, match="eve"):
            state["eve"]


def test_all_keys_and_values_are_yielded_once(maker: Maker) -> None:
    with maker.keyed(balances(NAMES)).opened() as snapshot:
        state = snapshot.state("count", "balance")

        assert sorted(state.items()) == sorted(NAMES.items())
        assert set(state) == set(state.keys()) == set(NAMES)
        assert sorted(state.values()) == sorted(NAMES.values())
        assert len(state) == len(NAMES)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("ad", {"ada", "adam"}), ("", set(NAMES)), ("a\0", {"a\0b"}), ("x", set())],
)
def test_prefix_of_text_selects_the_keys_that_begin_with_it(
    maker: Maker, prefix: str, expected: set[str]
) -> None:
    with maker.keyed(balances(NAMES)).opened() as snapshot:
        assert set(snapshot.state("count", "balance").keys(prefix)) == expected


def test_prefix_of_a_tuple_selects_by_its_first_elements(maker: Maker) -> None:
    keys = {("eu", 1): 1, ("eu", 2): 2, ("us", 1): 3, "eu": 4}
    with maker.keyed(balances(keys)).opened() as snapshot:
        state = snapshot.state("count", "balance")

        assert sorted(state.values(prefix=("eu",))) == [1, 2]
        assert sorted(state.values(prefix=())) == [1, 2, 3]


def test_keys_that_have_no_prefix_are_refused(maker: Maker) -> None:
    with (
        maker.keyed(balances(NAMES)).opened() as snapshot,
        pytest.raises(ConfigError, match="7 is no prefix of keys"),
    ):
        list(snapshot.state("count", "balance").items(prefix=7))


def test_one_key_group_is_read_alone(maker: Maker) -> None:
    with maker.keyed(balances(NAMES)).opened() as snapshot:
        state = snapshot.state("count", "balance")
        groups = {name: key_group(encode_key(name), GROUPS) for name in NAMES}

        for group in range(GROUPS):
            expected = {name for name in NAMES if groups[name] == group}
            assert set(state.keys(key_group=group)) == expected
        assert {row.key: row.key_group for row in state.rows()} == groups


@pytest.mark.parametrize("group", [-1, GROUPS])
def test_key_group_that_there_is_not_is_refused(maker: Maker, group: int) -> None:
    with (
        maker.keyed(balances(NAMES)).opened() as snapshot,
        pytest.raises(ConfigError, match=f"no key group {group}"),
    ):
        list(snapshot.state("count", "balance").items(key_group=group))


def test_map_state_is_a_dict_for_each_key(maker: Maker) -> None:
    content: dict[Any, Any] = {"ada": {"x": 1, "y": 2}, "bob": {(0, 60): [1]}, "c": {"x": None}}
    with maker.keyed(carts(content)).opened() as snapshot:
        state = snapshot.state("count", "cart")

        assert dict(state.items()) == content
        assert state["bob"] == {(0, 60): [1]}
        assert len(state) == 3
        assert [row[:3] for row in state.rows("ada")] == [("ada", "x", 1), ("ada", "y", 2)]


def test_states_of_other_kinds_are_read_alike(maker: Maker) -> None:
    def fill(states: Any) -> None:
        states.key = "ada"
        states.list_state("visits").add_all([1, {"page": "/"}])
        reducing = states.reducing_state("largest", max)
        reducing.add(3)
        reducing.add(2)

    with maker.keyed(fill).opened() as snapshot:
        assert snapshot.state("count", "visits")["ada"] == [1, {"page": "/"}]
        assert dict(snapshot.state("count", "largest").items()) == {"ada": 3}
        assert [info.kind for info in snapshot.states] == ["reducing", "list"]


def test_subtasks_are_put_together(tmp_path: Path) -> None:
    maker = Maker(tmp_path, counters=2)
    halves = [
        {name: n for name, n in NAMES.items() if key_group(encode_key(name), GROUPS) // 4 == half}
        for half in (0, 1)
    ]
    for subtask in (1, 0):
        maker.keyed(balances(halves[subtask]), subtask=subtask)

    with maker.opened() as snapshot:
        state = snapshot.state("count", "balance")

        assert dict(state.items()) == NAMES
        assert {name: state[name] for name in NAMES} == NAMES
        assert [row.key_group for row in state.rows()] == sorted(r.key_group for r in state.rows())


def test_key_whose_group_no_task_has_is_not_there(tmp_path: Path) -> None:
    maker = Maker(tmp_path, counters=2).keyed(balances({}), subtask=1)
    key = next(name for name in NAMES if key_group(encode_key(name), GROUPS) < 4)

    with maker.opened() as snapshot:
        assert key not in snapshot.state("count", "balance")


def test_what_had_expired_when_the_checkpoint_was_triggered_is_gone(maker: Maker) -> None:
    def fill(states: Any) -> None:
        for states.key, now_ms in (("old", 1_000), ("young", 5_000)):
            states.processing_time_ms = lambda now_ms=now_ms: now_ms
            states.value_state("balance", ttl=TTL("2s")).update(7)

    with maker.keyed(fill).made(triggered_at_ms=4_000).opened() as snapshot:
        state = snapshot.state("count", "balance")

        assert dict(state.items()) == {"young": 7}
        assert "old" not in state
        assert len(state) == 1
        assert [row.expires_ms for row in state.rows()] == [7_000]
        assert snapshot.states[0].expires


def test_values_of_two_schemas_are_read_with_the_newest_first(maker: Maker) -> None:
    older = balances({"ada": 1, "bob": 2})
    newer = balances({"ada": {"n": 1}}, version=2, migrate=lambda value, _: {"n": value})

    with maker.keyed(older, newer).opened() as snapshot:
        state = snapshot.state("count", "balance")

        assert state.info.versions == (2, 1)
        assert dict(state.items()) == {"ada": {"n": 1}, "bob": 2}
        assert (state["ada"], state["bob"]) == ({"n": 1}, 2)
        assert {row.key: row.version for row in state.rows()} == {"ada": 2, "bob": 1}


def test_objects_are_placeholders_unless_they_are_trusted(maker: Maker) -> None:
    made = maker.keyed(balances({User("ada"): User("x"), Colour.RED: 1, (User("b"), 1): 2})).made()

    with made.opened() as plain, made.opened(trust=True) as trusted:
        keys = list(plain.state("count", "balance").keys())
        assert sum(isinstance(key, Opaque) for key in keys) == 2
        assert sorted(map(repr, keys)) == ["(User('b'), 1)", "Colour('RED')", "User('ada')"]
        assert repr(plain.state("count", "balance")[User("ada")]) == "User(name='x')"
        assert trusted.state("count", "balance")[User("ada")] == User("x")
        assert set(trusted.state("count", "balance")) == {User("ada"), Colour.RED, (User("b"), 1)}


def test_what_cannot_be_a_key_is_refused(maker: Maker) -> None:
    with (
        maker.keyed(balances(NAMES)).opened() as snapshot,
        pytest.raises(StateError, match="is not a type of key"),
    ):
        snapshot.state("count", "balance").get([1])


def test_two_states_of_an_operator_do_not_mix(maker: Maker) -> None:
    fill = both(
        balances({"ada": 1}), balances({"ada": 2, "bob": 3}, "limit"), carts({"ada": {1: 1}})
    )
    with maker.keyed(fill).opened() as snapshot:
        found = {name: snapshot.state("count", name) for name in ("balance", "limit", "cart")}

        assert {name: dict(state.items()) for name, state in found.items()} == {
            "balance": {"ada": 1},
            "limit": {"ada": 2, "bob": 3},
            "cart": {"ada": {1: 1}},
        }


def test_row_says_where_it_lies(maker: Maker) -> None:
    with maker.keyed(balances({"ada": 1})).opened() as snapshot:
        state: KeyedState = snapshot.state("count", "balance")

        assert list(state.rows()) == [Row("ada", None, 1, key_group(encode_key("ada"), GROUPS))]
        assert repr(state) == "<value state count.balance>"
        assert (state.operator, state.name, state.kind, state.max_parallelism) == (
            *("count", "balance", "value"),
            GROUPS,
        )
