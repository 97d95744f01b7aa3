"""The keyed tables and states on RocksDB and on the memory twin: one contract, two backends."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from flowsnap.core.ids import OperatorId
from flowsnap.core.key import encode_key, key_group
from flowsnap.core.operator import MISSING
from flowsnap.errors import ConfigError, StateError, StateIncompatible
from flowsnap.state.backend import RestoredState, StateBackend
from flowsnap.state.memory import MemoryBackend

A, B, C = OperatorId("a"), OperatorId("b"), OperatorId("c")
GROUPS = 128
Backend = Any


class World:
    """Makes backends of one class and closes them all."""

    def __init__(self, class_: Callable[..., Backend], root: Path) -> None:
        self.class_ = class_
        self.root = root
        self.opened: list[Backend] = []

    def open(
        self,
        restored: Sequence[RestoredState] = (),
        key_groups: tuple[int, int] = (0, GROUPS),
        operators: Sequence[OperatorId] | None = None,
        max_parallelism: int = GROUPS,
    ) -> Backend:
        backend = self.class_(
            self.root / f"task-{len(self.opened)}",
            key_groups=key_groups,
            max_parallelism=max_parallelism,
            memory_bytes=64 << 20,
            restored=restored,
            operators=operators,
        )
        self.opened.append(backend)
        return backend

    def checkpoint(self, backend: Backend, key_groups: tuple[int, int] = (0, GROUPS)) -> Any:
        """Take a checkpoint and return what a restore would be given, in a directory of its own."""
        return self.stored(drained(backend.freeze()), key_groups)

    def stored(self, persist: Any, key_groups: tuple[int, int] = (0, GROUPS)) -> RestoredState:
        target = self.root / f"stored-{len(list(self.root.glob('stored-*')))}"
        target.mkdir()
        for file in persist.files:
            assert file.path.stat().st_size == file.size_bytes
            shutil.copy(file.path, target / file.name)
        persist.release()
        return RestoredState(target, persist.tables, key_groups)


def drained(persist: Any) -> Any:
    while not persist.step():
        pass
    return persist


@pytest.fixture(params=[StateBackend, MemoryBackend])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = World(request.param, tmp_path)
    yield made
    for backend in made.opened:
        backend.close()


def test_a_key_that_was_never_put_is_missing(world: World) -> None:
    table = world.open().context(A).table("t")
    assert table.get("x") is MISSING
    assert table.load("x") is MISSING


def test_equal_keys_are_one_key_across_a_restore(world: World) -> None:
    backend = world.open()
    backend.context(A).table("t").put(1, "one")
    table = world.open([world.checkpoint(backend)]).context(A).table("t")
    assert table.get(True) == table.get(1.0) == "one"
    assert list(table.items()) == [(1, "one")]


@pytest.mark.parametrize(
    "value",
    [0, -1, 2**70, 1.5, "x", "\ud800", b"\0", True, None, (1, "a"), ((1,), [2]), [1, (2,)], {1: 2}],
)
def test_a_value_comes_back_as_it_was(world: World, value: Any) -> None:
    backend = world.open()
    backend.context(A).table("t").put("k", value)
    restored = world.open([world.checkpoint(backend)]).context(A).table("t").get("k")
    assert restored == value
    assert type(restored) is type(value)


def test_writes_after_the_freeze_are_not_in_the_checkpoint(world: World) -> None:
    backend = world.open()
    table = backend.context(A).table("t")
    table.put("kept", 1)
    table.put("deleted", 2)
    persist = backend.freeze()
    table.put("kept", 10)
    table.put("new", 3)
    table.delete("deleted")
    restored = world.open([world.stored(drained(persist))]).context(A).table("t")
    assert dict(restored.items()) == {"kept": 1, "deleted": 2}
    assert dict(table.items()) == {"kept": 10, "new": 3}


def test_a_list_changed_in_place_after_the_freeze_is_frozen_as_it_was(world: World) -> None:
    backend = world.open()
    state = backend.context(A).list_state("l")
    state.add(1)
    persist = backend.freeze()
    state.add(2)
    restored = world.open([world.stored(drained(persist))]).context(A).list_state("l")
    assert restored.get() == [1]
    assert state.get() == [1, 2]


def test_a_value_changed_in_place_long_after_it_was_persisted_is_kept(world: World) -> None:
    backend = world.open()
    table = backend.context(A).table("t")
    table.put("k", {"n": 0})
    world.checkpoint(backend)
    table.get("k")["n"] = 1
    restored = world.open([world.checkpoint(backend)]).context(A).table("t")
    restored.get("k")["n"] += 1
    again = world.open([world.checkpoint(world.opened[-1])]).context(A).table("t")
    assert again.get("k") == {"n": 2}


def test_a_deleted_key_stays_deleted_in_the_next_checkpoint(world: World) -> None:
    backend = world.open()
    table = backend.context(A).table("t")
    table.put("k", [1])
    world.checkpoint(backend)
    table.delete("k")
    assert table.get("k") is MISSING
    restored = world.open([world.checkpoint(backend)]).context(A).table("t")
    assert restored.get("k") is MISSING
    assert list(restored.items()) == []


def test_a_key_promoted_during_a_persist_and_then_deleted_does_not_rise_again(
    world: World,
) -> None:
    backend = world.open()
    table = backend.context(A).table("t")
    table.put("k", [1])
    persist = backend.freeze()
    table.get("k").append(2)
    drained(persist).release()
    table.delete("k")
    restored = world.open([world.checkpoint(backend)]).context(A).table("t")
    assert restored.get("k") is MISSING


def test_checkpoints_frozen_before_earlier_ones_are_done_hold_each_their_own(world: World) -> None:
    backend = world.open()
    table = backend.context(A).table("t")
    persists = []
    for n in range(3):
        table.put("k", n)
        table.put(n, n)
        persists.append(backend.freeze())
    stored = [world.stored(drained(persist)) for persist in reversed(persists)]
    found = [dict(world.open([s]).context(A).table("t").items()) for s in reversed(stored)]
    assert found == [{"k": 0, 0: 0}, {"k": 1, 0: 0, 1: 1}, {"k": 2, 0: 0, 1: 1, 2: 2}]


def test_an_aborted_checkpoint_leaves_its_rows_in_the_next(world: World) -> None:
    backend = world.open()
    table = backend.context(A).table("t")
    table.put("aborted", 1)
    backend.freeze().release()
    table.put("next", 2)
    restored = world.open([world.checkpoint(backend)]).context(A).table("t")
    assert dict(restored.items()) == {"aborted": 1, "next": 2}


def test_states_declared_in_another_order_keep_their_contents(world: World) -> None:
    backend = world.open()
    states = backend.context(A)
    for name in ("x", "y", "z"):
        states.table(name).put("k", name)
    restored = world.open([world.checkpoint(backend)]).context(A)
    assert [restored.table(name).get("k") for name in ("z", "w", "x", "y")] == [
        "z", MISSING, "x", "y",
    ]  # fmt: skip


def test_operators_of_one_task_do_not_see_each_others_state(world: World) -> None:
    backend = world.open()
    for operator in (A, B, C):
        backend.context(operator).table("t").put("k", operator)
    world.checkpoint(backend)
    backend.context(B).table("t").put("k", "changed")
    restored = world.open([world.checkpoint(backend)])
    assert [restored.context(o).table("t").get("k") for o in (A, B, C)] == ["a", "changed", "c"]


def test_a_name_declared_again_with_another_kind_is_refused_with_both_named(world: World) -> None:
    states = world.open().context(A)
    states.table("t")
    with pytest.raises(StateIncompatible, match=r"'t' of operator 'a' .* map state.* value state"):
        states.map_state("t")


def test_a_restored_state_of_another_kind_is_refused(world: World) -> None:
    backend = world.open()
    backend.context(A).list_state("t").add(1)
    restored = world.open([world.checkpoint(backend)]).context(A)
    with pytest.raises(StateIncompatible, match="but the checkpoint has it as list state"):
        restored.value_state("t")


def test_a_renamed_state_is_refused_with_both_names(world: World) -> None:
    backend = world.open()
    backend.context(A).table("old").put(1, 1)
    restored = world.open([world.checkpoint(backend)])
    restored.context(A).table("new")
    with pytest.raises(StateIncompatible, match=r"state 'old' of operator 'a'.*'new'"):
        restored.check_declared()
    restored.context(A).table("old")
    restored.check_declared()


def test_rescaling_to_three_and_back_loses_and_doubles_nothing(world: World) -> None:
    backend = world.open()
    fill(backend, range(500))
    whole = contents(backend)
    ranges = [(0, 40), (40, 41), (41, GROUPS)]
    stored = world.checkpoint(backend)
    parts = [world.open([copied(stored, world, i)], r) for i, r in enumerate(ranges)]
    assert sum(len(contents(part)[0]) for part in parts) == 500
    again = [world.checkpoint(p, r) for p, r in zip(parts, ranges, strict=True)]
    assert contents(world.open(again)) == whole


def test_one_key_in_one_of_128_key_groups_survives_rescaling(world: World) -> None:
    backend = world.open()
    backend.context(A).map_state("m").put("entry", [1])
    group = key_group(encode_key(None), GROUPS)
    stored = world.checkpoint(backend)
    owner = world.open([copied(stored, world, 0)], (group, group + 1))
    other = world.open([copied(stored, world, 1)], (group + 1, GROUPS))
    assert owner.context(A).map_state("m").get("entry") == [1]
    assert other.context(A).map_state("m").get("entry") is None


def test_operators_chained_anew_take_only_their_own_state(world: World) -> None:
    one, two = world.open(), world.open()
    one.context(A).table("t").put("k", "a's")
    one.context(B).table("t").put("k", "b's")
    two.context(C).table("t").put("k", "c's")
    stored = [world.checkpoint(one), world.checkpoint(two)]
    mixed = world.open(stored, operators=[B, C])
    assert mixed.context(C).table("t").get("k") == "c's"
    assert mixed.context(B).table("t").get("k") == "b's"
    assert mixed.context(A).table("t").get("k") is MISSING


def test_parts_that_disagree_on_a_kind_are_refused(world: World) -> None:
    one, two = world.open(), world.open()
    one.context(A).table("t").put("k", 1)
    two.context(A).list_state("t").add(1)
    stored = [world.checkpoint(one), world.checkpoint(two)]
    with pytest.raises(StateIncompatible, match="list state, but another part"):
        world.open(stored)


def test_twenty_restores_do_not_make_the_state_grow(world: World) -> None:
    backend = world.open()
    backend.context(A).list_state("l").add_all(range(10))
    for _ in range(20):
        backend = world.open([world.checkpoint(backend)])
        state = backend.context(A).list_state("l")
        assert state.get() == list(range(10))


def test_map_entries_of_keys_that_begin_with_one_another_stay_apart(world: World) -> None:
    backend = world.open()
    states = backend.context(A)
    maps = states.map_state("m")
    keys = ["", "a", "a\0", "a\0b", "ab", "a\1", b"a", ("a",), ("a", "b"), 1, 1.5]
    for key in keys:
        states.key = key
        maps.put("b", key)
        maps.put(key, "own")
    states = world.open([world.checkpoint(backend)]).context(A)
    maps = states.map_state("m")
    for key in keys:
        states.key = key
        assert dict(maps.items()) == {"b": key, key: "own"}


def test_a_map_can_be_changed_while_it_is_iterated(world: World) -> None:
    backend = world.open()
    maps = backend.context(A).map_state("m")
    for n in range(10):
        maps.put(n, [n])
    backend = world.open([world.checkpoint(backend)])
    maps = backend.context(A).map_state("m")
    seen = []
    for n, value in maps.items():
        seen.append((n, value))
        maps.put(n + 100, 0)
        maps.remove((n + 1) % 10)
    assert 0 < len(seen) < 10
    assert all(value == [n] for n, value in seen)


def test_a_map_value_changed_while_iterating_is_kept(world: World) -> None:
    backend = world.open()
    maps = backend.context(A).map_state("m")
    maps.put("x", [1])
    persist = backend.freeze()
    for _, value in maps.items():
        value.append(2)
    first = world.open([world.stored(drained(persist))]).context(A).map_state("m")
    second = world.open([world.checkpoint(backend)]).context(A).map_state("m")
    assert (first.get("x"), second.get("x")) == ([1], [1, 2])


def test_a_cleared_map_is_empty_and_stays_so(world: World) -> None:
    backend = world.open()
    maps = backend.context(A).map_state("m")
    for n in range(5):
        maps.put(n, n)
    world.checkpoint(backend)
    maps.put(5, 5)
    maps.clear()
    assert maps.is_empty()
    restored = world.open([world.checkpoint(backend)]).context(A).map_state("m")
    assert restored.is_empty()
    assert list(restored.keys()) == list(restored.values()) == []


def test_a_value_state_answers_its_default_and_keeps_one_that_was_changed(world: World) -> None:
    backend = world.open()
    states = backend.context(A)
    counts, lists = states.value_state("n", 0), states.value_state("l", list)
    states.key = "k"
    assert counts.value() == 0
    lists.value().append(1)
    counts.update(counts.value() + 1)
    assert (counts.value(), lists.value()) == (1, [1])
    counts.clear()
    assert counts.value() == 0


def test_a_mutable_default_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="mutable default"):
        world.open().context(A).value_state("l", [])


def test_a_reducing_state_folds_per_key(world: World) -> None:
    backend = world.open()
    states = backend.context(A)
    total = states.reducing_state("sum", lambda a, b: a + b)
    for key, value in [("x", 1), ("y", 10), ("x", 2)]:
        states.key = key
        total.add(value)
    assert total.get() == 3
    total.clear()
    assert total.get() is None
    states.key = "y"
    assert total.get() == 10


def test_an_emptied_list_is_no_state(world: World) -> None:
    backend = world.open()
    state = backend.context(A).list_state("l")
    state.add(1)
    world.checkpoint(backend)
    state.get().clear()
    restored = world.open([world.checkpoint(backend)])
    assert list(restored.value_table(A, "l", "list").items()) == []


def test_a_key_that_is_not_stable_is_refused_by_name(world: World) -> None:
    backend = world.open()
    backend.context(A).table("t").put(frozenset([1]), 1)
    with pytest.raises(StateError, match=r"builtins\.frozenset is not a type of key"):
        drained(backend.freeze())


def test_a_value_that_cannot_be_pickled_is_refused(world: World) -> None:
    backend = world.open()
    backend.context(A).table("t").put("k", (n for n in range(3)))
    with pytest.raises(StateError, match="generator cannot be pickled"):
        drained(backend.freeze())


def test_release_removes_the_local_checkpoint(world: World) -> None:
    backend = world.open()
    backend.context(A).table("t").put("k", 1)
    persist = drained(backend.freeze())
    directory = persist.files[0].path.parent
    persist.release()
    assert not directory.exists()
    assert persist.step()


def fill(backend: Backend, keys: Sequence[int]) -> None:
    states = backend.context(A)
    table, maps, other = states.table("t"), states.map_state("m"), backend.context(B).table("t")
    for key in keys:
        states.key = key
        table.put(key, [key])
        other.put(str(key), key)
        for entry in range(key % 4):
            maps.put(entry, key)


def contents(backend: Backend) -> tuple[dict[Any, Any], dict[Any, Any], list[Any]]:
    maps = backend.map_table(A, "m")
    return (
        dict(backend.context(A).table("t").items()),
        dict(backend.context(B).table("t").items()),
        sorted(maps.all_items()),
    )


def copied(state: RestoredState, world: World, number: int) -> RestoredState:
    target = world.root / f"copy-{number}"
    shutil.copytree(state.directory, target)
    return RestoredState(target, state.tables, state.key_groups)
