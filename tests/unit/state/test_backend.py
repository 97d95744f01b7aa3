"""What the RocksDB backend alone must do: spill, survive a full disk, share files, clean up."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from random import Random

import pytest

from flowsnap import failpoint
from flowsnap.core.ids import OperatorId
from flowsnap.core.key import encode_key, key_group
from flowsnap.core.operator import MISSING
from flowsnap.errors import LocalProtocolError, StateError, StateIncompatible
from flowsnap.state.backend import Persist, RestoredState, StateBackend

A = OperatorId("a")


class Word(StrEnum):
    LAST = "user-2999"


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[StateBackend]:
    made = opened(tmp_path / "task")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoint.arm("")


def opened(
    directory: Path,
    *restored: RestoredState,
    memory_bytes: int = 64 << 20,
    max_parallelism: int = 128,
    key_groups: tuple[int, int] = (0, 128),
) -> StateBackend:
    return StateBackend(
        directory,
        key_groups=key_groups,
        max_parallelism=max_parallelism,
        memory_bytes=memory_bytes,
        restored=restored,
    )


def drained(persist: Persist) -> Persist:
    while not persist.step():
        pass
    return persist


def restored(persist: Persist, key_groups: tuple[int, int] = (0, 128)) -> RestoredState:
    return RestoredState(persist.files[0].path.parent, persist.tables, key_groups)


def shared(persist: Persist) -> dict[str, int]:
    return {file.name: file.size_bytes for file in persist.files if file.is_shared}


@pytest.mark.parametrize("where", ["op.file_written", "op.checkpointed"])
def test_after_a_full_disk_the_table_still_holds_everything(
    backend: StateBackend, tmp_path: Path, where: str
) -> None:
    table = backend.context(A).table("t")
    table.put("k", [1])
    persist = backend.freeze()
    failpoint.arm(f"{where}=raise:OSError(28)")
    with pytest.raises(StateError, match="persisting state failed"):
        drained(persist)
    assert table.get("k") == [1]
    table.get("k").append(2)
    again = opened(tmp_path / "again", restored(drained(persist)))
    assert again.context(A).table("t").get("k") == [1]
    again.close()


def test_a_file_that_cannot_be_written_is_an_error_and_tried_again(backend: StateBackend) -> None:
    backend.context(A).table("t").put("k", 1)
    persist = backend.freeze()
    obstacle = backend.directory / "ingest-0.sst"
    obstacle.mkdir()
    with pytest.raises(StateError):
        drained(persist)
    obstacle.rmdir()
    assert len(shared(drained(persist))) == 1
    assert list(backend.directory.glob("ingest-*")) == []


def test_rows_of_a_failed_persist_are_in_the_next_checkpoint(
    backend: StateBackend, tmp_path: Path
) -> None:
    table = backend.context(A).table("t")
    table.put("first", 1)
    failed = backend.freeze()
    failpoint.arm("op.file_written=raise:OSError(28)")
    with pytest.raises(StateError):
        drained(failed)
    table.put("second", 2)
    again = opened(tmp_path / "again", restored(drained(backend.freeze())))
    assert dict(again.context(A).table("t").items()) == {"first": 1, "second": 2}
    again.close()


def test_a_budget_of_some_megabytes_holds_state_of_any_size(tmp_path: Path) -> None:
    backend = opened(tmp_path / "task", memory_bytes=4 << 20)
    table = backend.value_table(A, "t", "value")
    for n in range(60_000):
        table.young[f"user-{n}"] = n
        if n % 1000 == 0:
            table.relieve()
            resident = len(table.young) + len(table.recent) + len(table.older)
            assert resident < 25_000
    assert all(table.get(f"user-{n}") == n for n in range(0, 60_000, 97))
    assert sum(1 for _ in table.items()) == 60_000
    backend.close()


def test_few_values_that_grow_in_place_are_spilled_too(tmp_path: Path) -> None:
    backend = opened(tmp_path / "task", memory_bytes=4 << 20)
    state = backend.context(A).list_state("l")
    for _ in range(200):
        state.add_all(["x" * 1000 for _ in range(20)])
        backend.relieve()
    table = backend.value_table(A, "l", "list")
    assert not table.is_complete
    assert len(state.get()) == 4000
    backend.close()


def test_a_spill_is_in_no_checkpoint_that_was_frozen_before(
    backend: StateBackend, tmp_path: Path
) -> None:
    table = backend.context(A).table("t")
    table.put("before", 1)
    persist = backend.freeze()
    table.put("after", 2)
    backend._young_bytes_max = 0
    backend.relieve()
    again = opened(tmp_path / "again", restored(drained(persist)))
    assert dict(again.context(A).table("t").items()) == {"before": 1}
    again.close()


def test_a_key_made_and_forgotten_between_two_barriers_leaves_no_row(backend: StateBackend) -> None:
    table, maps = backend.context(A).table("t"), backend.context(A).map_state("m")
    table.put("k", 1)
    table.delete("k")
    maps.put("e", 1)
    maps.remove("e")
    assert shared(drained(backend.freeze())) == {}


def test_a_removed_entry_does_not_come_back_from_an_older_generation(
    backend: StateBackend,
) -> None:
    maps = backend.map_table(A, "m")
    maps.put("k", "e", 1)
    drained(backend.freeze())
    maps.rotate()
    maps.remove("k", "e")
    drained(backend.freeze())
    assert maps.get("k", "e") is MISSING
    assert maps.is_empty("k")


def test_nothing_new_makes_no_new_shared_file(backend: StateBackend) -> None:
    backend.context(A).table("t").put("k", 1)
    first, second = drained(backend.freeze()), drained(backend.freeze())
    assert shared(first) == shared(second) != {}


def test_a_checkpoint_stores_about_what_changed(backend: StateBackend) -> None:
    table, random = backend.context(A).table("t"), Random(1)
    for n in range(20_000):
        table.put(f"user-{n}", n)
    before, shares = shared(drained(backend.freeze())), []
    for n in range(40):
        for key in random.sample(range(20_000), 200):
            table.put(f"user-{key}", n)
        persist = drained(backend.freeze())
        now = shared(persist)
        persist.release()
        shares.append(sum(now[name] for name in now.keys() - before) / sum(now.values()))
        before = now
    assert sum(shares) / len(shares) <= 0.05


def test_a_shared_file_never_changes(backend: StateBackend) -> None:
    table, seen = backend.context(A).table("t"), dict[str, bytes]()
    for n in range(12):
        table.put("k", n)
        for file in drained(backend.freeze()).files:
            if file.is_shared:
                assert seen.setdefault(file.name, file.path.read_bytes()) == file.path.read_bytes()
    assert len(seen) >= 12


def test_a_state_that_is_exactly_ours_is_opened_in_place(
    backend: StateBackend, tmp_path: Path
) -> None:
    backend.context(A).table("t").put("k", 1)
    state = restored(drained(backend.freeze()))
    names = {path.name for path in state.directory.glob("*.sst")}
    again = opened(tmp_path / "again", state)
    assert again.is_opened_directly
    assert {path.name for path in (tmp_path / "again" / "db").glob("*.sst")} == names
    again.close()


def test_what_an_earlier_attempt_left_in_the_directory_does_not_count(tmp_path: Path) -> None:
    first = opened(tmp_path / "task")
    first.context(A).table("t").put("stale", 1)
    drained(first.freeze())
    first.close()
    second = opened(tmp_path / "task")
    assert second.context(A).table("t").get("stale") is MISSING
    second.close()


def test_a_key_of_a_group_that_the_task_does_not_own_is_a_bug(tmp_path: Path) -> None:
    group = key_group(encode_key("k"), 128)
    backend = opened(tmp_path / "task", key_groups=(0, group))
    backend.context(A).table("t").put("k", 1)
    persist = backend.freeze()
    for _ in range(2):  # Nothing is left out by trying again.
        with pytest.raises(
            LocalProtocolError, match=f"'k' of key group {group}, but the task owns"
        ):
            drained(persist)
    backend.close()


def test_more_rows_than_one_file_takes_are_all_there(tmp_path: Path) -> None:
    backend = opened(tmp_path / "task", max_parallelism=1, key_groups=(0, 1))
    table = backend.context(A).table("t")
    for n in range(70_000):
        table.put(f"user-{n}", n)
    persist = drained(backend.freeze())
    assert len(shared(persist)) > 1
    state = restored(persist, (0, 1))
    again = opened(tmp_path / "again", state, max_parallelism=1, key_groups=(0, 1))
    assert dict(again.context(A).table("t").items()) == {f"user-{n}": n for n in range(70_000)}
    again.close()
    backend.close()


def test_rows_of_every_kind_of_key_and_value_lie_in_their_order(
    backend: StateBackend, tmp_path: Path
) -> None:
    table, maps = backend.context(A).table("t"), backend.context(A).map_state("m")
    keys = [*range(-700, 700), *(f"k{n}" for n in range(700)), "\0", "a\1", 1.5, None, ("a", 2)]
    Random(1).shuffle(keys)
    values = [1, "x", (1, 2.5), [1], (1, [2]), None, {1: 2}, 2**70]
    for n, key in enumerate(keys):
        table.put(key, values[n % len(values)])
        maps.put(key, n)
    again = opened(tmp_path / "again", restored(drained(backend.freeze())))
    assert dict(again.context(A).table("t").items()) == dict(table.items())
    assert dict(again.context(A).map_state("m").items()) == dict(maps.items())
    again.close()


def test_a_value_thawed_while_its_generation_is_sorted_loses_no_other(
    backend: StateBackend, tmp_path: Path
) -> None:
    table = backend.context(A).table("t")
    for n in range(3000):
        table.put(f"user-{n}", [n])
    for n in range(100):
        table.delete(f"user-{n}")
    persist = backend.freeze()
    persist.advance(0)
    table.get(Word.LAST).append("later")  # Equal to a key, and of another type.
    again = opened(tmp_path / "again", restored(drained(persist)))
    assert dict(again.context(A).table("t").items()) == {f"user-{n}": [n] for n in range(100, 3000)}
    again.close()


def test_a_list_that_is_empty_when_frozen_is_no_state_though_it_grows(
    backend: StateBackend, tmp_path: Path
) -> None:
    state = backend.context(A).list_state("l")
    assert state.get() == []
    persist = backend.freeze()
    state.add(1)
    again = opened(tmp_path / "again", restored(drained(persist)))
    assert list(again.value_table(A, "l", "list").items()) == []
    assert state.get() == [1]
    again.close()


@pytest.mark.parametrize("first", [1, [0]])
def test_a_mutable_value_among_clean_ones_counts_as_touched(
    backend: StateBackend, first: object
) -> None:
    table = backend.value_table(A, "t", "value")
    for value in (first, [1]):
        table.put(("k", str(value)), value)
        drained(backend.freeze())
    table.rotate()
    table.get(("k", "[1]")).append(2)
    assert list(table.young) == [("k", "[1]")]
    drained(backend.freeze())
    table.get(("k", "[1]")).append(3)
    assert list(table.young.values()) == [[1, 2, 3]]


def test_a_large_generation_and_its_tombstones_are_retired(backend: StateBackend) -> None:
    table = backend.value_table(A, "t", "value")
    for n in range(130_000):
        table.young[n] = n
    drained(backend.freeze())
    for n in range(130_000):
        table.young[n] = -n
    table.delete(7)
    drained(backend.freeze())
    assert table.recent == {n: -n for n in range(130_000) if n != 7}
    assert table.get(7) is MISSING
    assert table.frozen == []


@pytest.mark.parametrize("key_groups", [(0, 128), (0, 64)])
def test_another_max_parallelism_is_refused(
    backend: StateBackend, tmp_path: Path, key_groups: tuple[int, int]
) -> None:
    backend.context(A).table("t").put("k", 1)
    state = restored(drained(backend.freeze()))
    with pytest.raises(StateIncompatible, match="not written with max_parallelism 96"):
        opened(tmp_path / "again", state, max_parallelism=96, key_groups=key_groups)


def test_a_damaged_file_is_a_state_error(backend: StateBackend, tmp_path: Path) -> None:
    backend.context(A).table("t").put("k", "x" * 1000)
    state = restored(drained(backend.freeze()))
    copy = tmp_path / "copy"
    shutil.copytree(state.directory, copy)
    file = next(copy.glob("*.sst"))
    file.write_bytes(b"\xff" * 500 + file.read_bytes()[500:])
    with pytest.raises(StateError, match=r"failed: Corruption"):
        opened(tmp_path / "again", RestoredState(copy, state.tables, (0, 128)))


def test_a_missing_file_is_a_state_error(backend: StateBackend, tmp_path: Path) -> None:
    backend.context(A).table("t").put("k", 1)
    state = restored(drained(backend.freeze()))
    next(state.directory.glob("*.sst")).unlink()
    with pytest.raises(StateError, match="failed"):
        opened(tmp_path / "again", state)


def test_close_can_be_repeated_and_leaves_no_threads(tmp_path: Path) -> None:
    counts = []
    for n in range(5):
        backend = opened(tmp_path / f"task-{n}")
        backend.context(A).table("t").put("k", 1)
        drained(backend.freeze())
        backend.close()
        backend.close()
        counts.append((threading.active_count(), threads_of_the_process()))
    assert len(set(counts)) == 1


def test_reading_after_close_is_a_state_error(backend: StateBackend, tmp_path: Path) -> None:
    backend.context(A).table("t").put("k", 1)
    again = opened(tmp_path / "again", restored(drained(backend.freeze())))
    table = again.context(A).table("t")
    again.close()
    with pytest.raises(StateError, match="closed"):
        table.get("k")


def threads_of_the_process() -> int:
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else 0
