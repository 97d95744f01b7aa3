"""A snapshot says what is in it, verifies what it reads, and names what it does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import OperatorStateValues, PreparedOutput, SnapshotTimes
from flowsnap.errors import ConfigError, ManifestCorrupt, StateError
from flowsnap.serialize import dump
from flowsnap.snapshot import (
    OperatorValues,
    PendingCommit,
    Position,
    StateInfo,
    TaskPart,
    Timer,
)
from flowsnap.state.timers import TimerQueue
from tests.manifests import COUNT, LINES, OUT, at
from tests.unit.snapshot.made import GROUPS, Maker, balances, batches, channel


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


def test_operators_stand_in_the_order_of_the_graph_with_their_states(maker: Maker) -> None:
    with maker.keyed(balances({"a": 1})).opened() as snapshot:
        assert list(snapshot.operators) == [LINES, COUNT, OUT]
        part = snapshot.operators[COUNT]
        assert (part.kind, part.type, part.parallelism) == ("operator", "Count", 1)
        assert part.states == (StateInfo(COUNT, "balance", "value"),)
        assert snapshot.operators[OUT].states == ()


def test_snapshot_says_what_it_is(maker: Maker) -> None:
    with maker.made(42, kind="savepoint").opened() as snapshot:
        assert (snapshot.job, snapshot.checkpoint_id, snapshot.kind) == ("words", 42, "savepoint")
        assert repr(snapshot) == "<Snapshot savepoint 42 of words>"
        assert snapshot.source == "checkpoint 42 of words"
        assert snapshot.triggered_at_ms == 1_700_000_000_000


def test_positions_are_those_of_all_splits(tmp_path: Path) -> None:
    maker = Maker(tmp_path, readers=2)
    maker.part("lines/1", splits=(at("c", 3), at("b", 5, is_finished=True)))
    maker.part("lines/0", splits=(at("a", None),))

    with maker.opened() as snapshot:
        found = snapshot.positions("lines")

        assert [(p.subtask, p.split, p.position) for p in found] == [
            *[(0, "a", None), (1, "b", 5), (1, "c", 3)]
        ]
        assert found[1] == Position(LINES, 1, "b", 5, True, 10, {"path": "b"})
        assert snapshot.positions("count") == []


def test_pending_commits_are_those_of_the_sink(maker: Maker) -> None:
    maker.part("count/0", prepared=(PreparedOutput(CheckpointId(3), {"file": "x"}),))

    with maker.opened() as snapshot:
        commit = PendingCommit(OUT, 0, CheckpointId(3), {"file": "x"})
        assert snapshot.commits() == snapshot.commits("out") == [commit]
        assert snapshot.commits("lines") == []


def test_event_time_of_an_operator_is_the_least_of_its_subtasks(tmp_path: Path) -> None:
    maker = Maker(tmp_path, counters=2, readers=2)
    maker.part("count/0", watermarks={COUNT: 20, OUT: 10})
    maker.part("count/1", watermarks={COUNT: 5})

    with maker.opened() as snapshot:
        assert snapshot.watermarks() == {COUNT: {0: 20, 1: 5}, OUT: {0: 10}}
        assert snapshot.watermarks("out") == {OUT: {0: 10}}
        assert snapshot.operators[COUNT].watermark_ms == 5
        assert snapshot.operators[OUT].watermark_ms is None


def test_tasks_say_how_long_their_phases_took(maker: Maker) -> None:
    times = SnapshotTimes(1.0, 2.0, 3.0, 4.0)
    maker.keyed(balances({"a": 1})).part("count/0", times=times, is_ended=True)

    with maker.opened() as snapshot:
        lines, count = snapshot.tasks
        assert isinstance(count, TaskPart)
        assert (count.operators, count.is_ended, count.times) == ((COUNT, OUT), True, times)
        assert (count.key_groups, lines.key_groups) == ((0, GROUPS), None)
        assert count.state_bytes > 0
        assert lines.state_bytes == count.channel_bytes == 0


def test_timers_are_no_states(maker: Maker) -> None:
    def fill(states: Any) -> None:
        tables = states._tables
        TimerQueue(tables.map_table(COUNT, "event-timers.windows")).register(60, "ada", ("w", 1))
        TimerQueue(tables.map_table(COUNT, "processing-timers.p")).register(5, 7)

    with maker.keyed(fill).opened() as snapshot:
        assert list(snapshot.timers("count")) == [
            Timer(COUNT, "event", "windows", "ada", 60, ("w", 1)),
            Timer(COUNT, "processing", "p", 7, 5, None),
        ]
        assert list(snapshot.timers("out")) == []
        assert snapshot.states == []


def test_operator_state_is_read_by_subtask(tmp_path: Path) -> None:
    maker = Maker(tmp_path, counters=2)
    for subtask in (0, 1):
        state = OperatorStateValues(COUNT, "buffer", "list", (dump(subtask), dump(["x"])))
        maker.part(f"count/{subtask}", operator_states=(state,))

    with maker.opened() as snapshot:
        assert snapshot.operator_state("count", "buffer") == [
            OperatorValues(0, (0, ["x"])),
            OperatorValues(1, (1, ["x"])),
        ]
        assert snapshot.states == [StateInfo(COUNT, "buffer", "operator-list")]
        assert not snapshot.states[0].is_keyed
        with pytest.raises(ConfigError, match="no keyed state 'buffer'"):
            snapshot.state("count", "buffer")


@pytest.mark.parametrize("method", ["positions", "commits", "timers", "watermarks", "channels"])
def test_unknown_operator_is_named_with_what_was_meant(maker: Maker, method: str) -> None:
    with maker.opened() as snapshot, pytest.raises(ConfigError) as caught:
        getattr(snapshot, method)("cuont")

    assert str(caught.value) == "the snapshot of checkpoint 1 has no operator 'cuont'"
    assert caught.value.__notes__ == ["did you mean 'count'? operators: count, lines, out"]


def test_unknown_state_is_named_with_what_there_is(maker: Maker) -> None:
    with maker.keyed(balances({})).opened() as snapshot:
        with pytest.raises(ConfigError, match="operator 'count' has no state 'x'") as caught:
            snapshot.state("count", "x")
        assert caught.value.__notes__ == ["states: balance"]
        with pytest.raises(ConfigError, match="has no operator state 'balance'"):
            snapshot.operator_state("count", "balance")


def test_damaged_file_is_found_before_it_is_opened(maker: Maker) -> None:
    made = maker.keyed(balances({"a": 1})).made()
    state = made.manifest.tasks[1].state
    assert state is not None
    name = next(handle.path for handle in state.files if handle.path.endswith(".sst"))
    made.store.put(name, made.store.get(name)[:-1] + b"x")

    with made.opened() as snapshot:
        with pytest.raises(ManifestCorrupt, match=f"{name} of count/0 is damaged"):
            list(snapshot.state("count", "balance").items())
        assert list(snapshot.operators) == [LINES, COUNT, OUT]


def test_files_that_are_known_to_be_whole_are_not_hashed_again(maker: Maker) -> None:
    made = maker.keyed(balances({"a": 1})).made()
    lines, count = made.manifest.tasks
    assert count.state is not None
    files = tuple(msgspec.structs.replace(file, sha256="0" * 64) for file in count.state.files)
    count = msgspec.structs.replace(count, state=msgspec.structs.replace(count.state, files=files))
    made.manifest = msgspec.structs.replace(made.manifest, tasks=(lines, count))

    with made.opened(is_verified=True) as snapshot:
        assert dict(snapshot.state("count", "balance").items()) == {"a": 1}


def test_missing_file_is_found_at_once(maker: Maker) -> None:
    made = maker.keyed(balances({"a": 1})).made()
    state = made.manifest.tasks[1].state
    assert state is not None
    made.store.delete(state.files[0].path)

    with pytest.raises(ManifestCorrupt, match=r"of count/0 is missing: expected \d+ bytes"):
        made.opened()


def test_file_of_a_foreign_name_is_refused(maker: Maker) -> None:
    made = maker.keyed(balances({"a": 1})).made()
    lines, count = made.manifest.tasks
    assert count.state is not None
    odd = msgspec.structs.replace(count.state.files[0], path=".hidden/x")
    state = msgspec.structs.replace(count.state, files=(odd,))
    count = msgspec.structs.replace(count, state=state)
    made.manifest = msgspec.structs.replace(made.manifest, tasks=(lines, count))

    with pytest.raises(ManifestCorrupt, match="is no stored file's name"):
        made.opened()


def test_nothing_stays_when_a_snapshot_is_closed(maker: Maker, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    snapshot = maker.keyed(balances({"a": 1})).opened(scratch=scratch)
    assert dict(snapshot.state("count", "balance").items()) == {"a": 1}
    assert len(list(scratch.iterdir())) == 1

    snapshot.close()
    snapshot.close()

    assert list(scratch.iterdir()) == []


def test_snapshot_stays_whole_when_its_checkpoint_is_retired(maker: Maker) -> None:
    made = maker.keyed(balances({"a": 1})).in_transit("count/0", (channel(), batches([1]))).made()

    with made.opened() as snapshot:
        for file in made.store.list():
            made.store.delete(file.name)

        assert dict(snapshot.state("count", "balance").items()) == {"a": 1}
        assert snapshot.channels()[0].values == [1]


def test_what_a_killed_reader_left_is_removed_after_a_day(maker: Maker, tmp_path: Path) -> None:
    import os

    old, young, alive = (
        tmp_path / f"reading-{name}" for name in ("999999999-a", "999999998-b", f"{os.getpid()}-c")
    )
    for path in (old, young, alive):
        path.mkdir()
    for path in (old, alive):
        os.utime(path, (0, 0))

    maker.opened(scratch=tmp_path).close()

    assert [path.exists() for path in (old, young, alive)] == [False, True, True]


def test_state_whose_files_are_no_database_is_named(maker: Maker) -> None:
    made = maker.keyed(balances({"a": 1})).made()
    lines, count = made.manifest.tasks
    assert count.state is not None
    kept = tuple(handle for handle in count.state.files if handle.name != "CURRENT")
    count = msgspec.structs.replace(count, state=msgspec.structs.replace(count.state, files=kept))
    made.manifest = msgspec.structs.replace(made.manifest, tasks=(lines, count))

    with made.opened() as snapshot, pytest.raises(StateError, match="opening RocksDB"):
        list(snapshot.state("count", "balance").items())
