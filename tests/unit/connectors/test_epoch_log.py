from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flowsnap.connectors.committer import Committer
from flowsnap.connectors.epoch_log import EpochLogSink, EpochMarker
from flowsnap.connectors.epoch_stage import EpochStage
from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.core.operator import SinkContext, Submission
from flowsnap.errors import ConfigError, LocalProtocolError, OperatorError, StorageError
from tests.connectors.sinks import opened, submitted

ONE, TWO = CheckpointId(1), CheckpointId(2)


class Shelf(EpochLogSink):
    """A store in memory: the smallest sink of an epoch log."""

    markers: set[EpochMarker]
    rows: list[Any]

    def open(self, context: SinkContext) -> None:
        super().open(context)
        self.markers, self.rows = set(), []

    def apply(self, marker: EpochMarker, rows: Iterator[Any]) -> None:
        taken = list(rows)
        if marker not in self.markers:
            self.markers.add(marker)
            self.rows += taken

    def applied(self, marker: EpochMarker) -> bool:
        return marker in self.markers


class Gated(Shelf):
    """One that applies nothing before its gate is open."""

    def open(self, context: SinkContext) -> None:
        super().open(context)
        self.gate = threading.Event()

    def apply(self, marker: EpochMarker, rows: Iterator[Any]) -> None:
        self.gate.wait()
        super().apply(marker, rows)


def stage(directory: Path, inline_bytes: int = 0, **changes: Any) -> EpochStage:
    facts = {"run_id": "r1", "operator": OperatorId("out"), "subtask": 0, "attempt": AttemptId(1)}
    context = SinkContext(job="job", parallelism=2, **{**facts, **changes})
    return EpochStage(str(directory), context, inline_bytes)


def sealed(made: EpochStage) -> dict[str, Any]:
    made.append(b"\x92\x01\x02", 2)
    found = made.seal()
    assert found is not None
    return found


def finish(sink: Shelf, committables: list[Any]) -> None:
    while sink.commit(committables) is False:
        pass


def submission(directory: Path, **changes: Any) -> Submission:
    facts = {"run_id": "run", "is_fresh": True, "job_directory": str(directory)}
    return Submission(job="job", operator=OperatorId("out"), **{**facts, **changes})


def context(**changes: Any) -> SinkContext:
    facts = {"run_id": "run", "subtask": 0, "parallelism": 1, "attempt": AttemptId(1)}
    return SinkContext(job="job", operator=OperatorId("out"), **{**facts, **changes})


# --- the stage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inline_bytes", "place"), [(7, "data"), (6, "file")])
def test_epoch_lies_in_the_manifest_up_to_a_size_and_beyond_it_in_a_file(
    tmp_path: Path, inline_bytes: int, place: str
) -> None:
    made = stage(tmp_path, inline_bytes)

    found = sealed(made)

    assert place in found
    assert (list(made.read(found)), found["rows"]) == ([1, 2], 2)
    assert len(list(tmp_path.iterdir())) == (place == "file")


def test_epoch_that_outgrows_the_manifest_moves_to_a_file_whole(tmp_path: Path) -> None:
    made = stage(tmp_path, 10)
    for number in range(5):
        made.append(bytes([0x91, number]), 1)

    found = made.seal()

    assert found is not None
    assert list(made.read(found)) == [0, 1, 2, 3, 4]


def test_epoch_without_rows_is_none_and_leaves_no_file(tmp_path: Path) -> None:
    made = stage(tmp_path)

    assert (made.seal(), list(tmp_path.iterdir())) == (None, [])


def test_epochs_are_apart(tmp_path: Path) -> None:
    made = stage(tmp_path)

    first, second = sealed(made), sealed(made)

    assert first["file"] != second["file"]
    made.discard(first)
    assert list(made.read(second)) == [1, 2]


def test_epoch_is_read_by_another_subtask_in_another_directory(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    found = sealed(stage(tmp_path, subtask=5))
    reader = stage(tmp_path / "other", run_id="r2")

    assert list(reader.read(found)) == [1, 2]
    reader.discard(found)
    assert len(list(tmp_path.glob("*.log"))) == 1  # What another job has is not ours to remove.


@pytest.mark.parametrize("damage", ["flip", "cut", "more", "empty"])
def test_epoch_whose_file_was_changed_is_not_read(tmp_path: Path, damage: str) -> None:
    made = stage(tmp_path)
    found = sealed(made)
    path = tmp_path / found["file"]
    data = path.read_bytes()
    changed = {"flip": data[:-1] + b"\x03", "cut": data[:-1], "more": data + b"\0", "empty": b""}
    path.write_bytes(changed[damage])

    with pytest.raises(StorageError, match="does not have the sha256"):
        list(made.read(found))


def test_epoch_whose_file_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    made = stage(tmp_path)
    found = sealed(made)
    made.discard(found)

    with pytest.raises(StorageError, match=r"the output of epoch-r1-out-00000-1-00000001\.log is"):
        list(made.read(found))


@pytest.mark.parametrize("name", ["../secret", "epoch-r1-out-00000-1-00000001.log/../../x", "x"])
def test_file_that_is_no_epoch_is_neither_read_nor_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(b"")
    made = stage(tmp_path)
    foreign = {"file": name, "directory": str(tmp_path), "sha256": "", "rows": 1}

    made.discard(foreign)

    with pytest.raises(StorageError, match="does not name the file of an epoch"):
        list(made.read(foreign))
    assert (tmp_path / "x").exists()


def test_recovery_removes_what_older_attempts_of_the_same_sink_left_and_nothing_else(
    tmp_path: Path,
) -> None:
    for changes in ({}, {"attempt": 2}, {"run_id": "r2"}, {"operator": "other"}, {"subtask": 1}):
        sealed(stage(tmp_path, **changes))

    stage(tmp_path, attempt=2).remove_older()

    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [
        "epoch-r1-other-00000-1-00000001.log",
        "epoch-r1-out-00000-2-00000001.log",
        "epoch-r2-out-00000-1-00000001.log",
    ]


def test_epoch_that_was_not_sealed_is_dropped(tmp_path: Path) -> None:
    made = stage(tmp_path)
    made.append(b"\x91\x01", 1)

    made.close()

    assert list(tmp_path.iterdir()) == []


# --- the sink -------------------------------------------------------------------------------------


def test_subclass_needs_to_say_only_how_rows_are_applied(tmp_path: Path) -> None:
    with closing(opened(submitted(Shelf(), tmp_path))) as sink:
        sink.recover([])
        sink.write(Batch([1, "two"]))
        sink.write(Batch([]))
        committable = sink.prepare(ONE)

        finish(sink, [committable])
        finish(sink, [committable])

        assert sink.rows == [1, "two"]
        assert sink.markers == {EpochMarker("run", "out", 0, 1)}
        assert sink.prepare(TWO) is None


def test_commit_does_not_hold_up_its_caller(tmp_path: Path) -> None:
    with closing(opened(submitted(Gated(), tmp_path))) as sink:
        sink.write(Batch([1]))
        committable = sink.prepare(ONE)

        assert [sink.commit([committable]) for _ in range(3)] == [False] * 3
        sink.write(Batch([2]))
        sink.gate.set()
        finish(sink, [committable])

        assert sink.rows == [1]


def test_error_of_a_subclass_comes_out_of_commit(tmp_path: Path) -> None:
    with closing(opened(submitted(EpochLogSink(), tmp_path))) as sink:
        sink.write(Batch([1]))
        committable = sink.prepare(ONE)

        with pytest.raises(NotImplementedError, match=r"EpochLogSink\.applied"):
            finish(sink, [committable])  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [object(), 2**70, "\ud800", {1: object()}])
def test_record_that_cannot_be_kept_fails_at_once_and_not_at_the_commit(
    tmp_path: Path, value: Any
) -> None:
    sink = opened(submitted(Shelf(), tmp_path))
    with closing(sink), pytest.raises(OperatorError, match="sink 'out', subtask 0: a batch of 1 c"):
        sink.write(Batch([value]))


def test_epoch_of_an_unknown_version_is_refused(tmp_path: Path) -> None:
    sink = opened(submitted(Shelf(), tmp_path))
    with closing(sink), pytest.raises(StorageError, match="an epoch of version 2 is not known"):
        finish(sink, [{"version": 2, "marker": ["run", "out", 0, 1], "data": b""}])


def test_sink_that_was_not_submitted_cannot_be_opened() -> None:
    with pytest.raises(LocalProtocolError, match="was copied to a task before it was submitted"):
        opened(Shelf())


def test_directory_that_cannot_be_made_is_found_at_submission(tmp_path: Path) -> None:
    (tmp_path / "epochs").write_text("in the way")

    with pytest.raises(ConfigError, match="cannot be written"):
        submitted(Shelf(), tmp_path)


def test_fresh_start_removes_what_earlier_lives_left(tmp_path: Path) -> None:
    with closing(opened(submitted(Shelf(inline_bytes=0), tmp_path))) as sink:
        sink.write(Batch([1]))
        sink.prepare(ONE)
    assert len(list(tmp_path.rglob("*.log"))) == 1

    Shelf().on_submit(submission(tmp_path, run_id="run2", former_run_ids=("run",)))

    assert list(tmp_path.rglob("*.log")) == []


def test_sink_of_the_documentation_writes_each_record_once(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "connectors.md").read_text(encoding="utf-8")
    (text,) = re.findall(
        r"```python\n(from flowsnap.connectors import EpochLogSink.*?)```", page, re.S
    )
    names: dict[str, Any] = {"sqlite3": sqlite3, "closing": closing}
    exec(text, names)
    path = tmp_path / "totals.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("create table totals (key, value)")
        db.execute(
            "create table applied (run, operator, subtask, checkpoint, "
            "unique (run, operator, subtask, checkpoint))"
        )
        sink = names["Tables"](path)
        sink.on_submit(submission(tmp_path))
        sink.open(context())
        with closing(sink):
            sink.write(Batch([("a", 1), ("b", 2)]))
            committable = sink.prepare(ONE)
            finish(sink, [committable])
            sink.recover([committable])

        assert db.execute("select * from totals").fetchall() == [("a", 1), ("b", 2)]


# --- the thread -----------------------------------------------------------------------------------


def test_commits_are_made_one_after_the_other_and_a_failure_ends_them() -> None:
    done: list[int] = []

    def commit_one(number: int) -> None:
        done.append(number)
        if number == 2:
            raise ValueError("two")

    committer = Committer(
        "x", commit_one, release=lambda: None, interrupt=lambda: None, retry_timeout_ms=0
    )
    with closing(committer), pytest.raises(ValueError, match="two"):
        committer.recover([1, 2, 3], lambda: done.append(99))

    assert done == [1, 2]


def test_what_is_under_way_is_interrupted_by_the_end() -> None:
    begun, gate, released = threading.Event(), threading.Event(), threading.Event()

    def commit_one(_: int) -> None:
        begun.set()
        gate.wait()

    committer = Committer(
        "x", commit_one, release=released.set, interrupt=gate.set, retry_timeout_ms=0
    )
    committer.begin([1])
    begun.wait()

    committer.close()

    assert released.is_set()
