from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowsnap import failpoint
from flowsnap.connectors.parts import (
    PartWriter,
    committed_parts,
    operator_tag,
    remove_uncommitted,
    run_tag,
    run_tag_of,
)
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.core.operator import SinkContext
from flowsnap.errors import StorageError

ONE, TWO = CheckpointId(1), CheckpointId(2)


def writer(directory: Path, *, is_hashed: bool = False, **changes: Any) -> PartWriter:
    facts = {"run_id": "r1", "operator": OperatorId("out"), "subtask": 0, "attempt": AttemptId(1)}
    context = SinkContext(job="job", parallelism=2, **{**facts, **changes})
    return PartWriter(str(directory), context, ".jsonl", is_hashed=is_hashed)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the inode of everything that is synced is added."""
    inodes: list[int] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        inodes.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    return inodes


@pytest.fixture
def armed() -> Iterator[None]:
    """Disarm after the test whatever it has armed."""
    yield
    failpoint.arm("")


def test_part_is_hidden_until_commit_and_then_named_by_its_checkpoint(tmp_path: Path) -> None:
    parts = writer(tmp_path, subtask=3)
    parts.write(b"a")
    parts.write(b"b")
    committable = parts.prepare(TWO)
    hidden = os.listdir(tmp_path)

    assert committable is not None
    parts.commit([committable])

    assert hidden == [".part-r1-out-00003-1-00000001.jsonl.tmp"]
    assert os.listdir(tmp_path) == ["part-r1-out-00003-00000002.jsonl"]
    assert (tmp_path / "part-r1-out-00003-00000002.jsonl").read_bytes() == b"ab"


def test_idle_writer_prepares_nothing_and_makes_no_file(tmp_path: Path) -> None:
    parts = writer(tmp_path)

    assert parts.prepare(ONE) is None
    parts.commit([])
    assert os.listdir(tmp_path) == []


def test_several_parts_may_wait_for_their_commit(tmp_path: Path) -> None:
    parts = writer(tmp_path)
    committables = []
    for checkpoint_id in (ONE, TWO):
        parts.write(b"x")
        committables.append(parts.prepare(checkpoint_id) or {})

    parts.commit(committables)

    assert [
        part.checkpoint_id for part in committed_parts(str(tmp_path), ["r1"], "out", ".jsonl")
    ] == [
        1,
        2,
    ]


def test_commit_twice_changes_nothing(tmp_path: Path) -> None:
    parts = writer(tmp_path)
    parts.write(b"x")
    committable = parts.prepare(ONE) or {}

    parts.commit([committable])
    parts.commit([committable, committable])

    assert os.listdir(tmp_path) == ["part-r1-out-00000-00000001.jsonl"]


def test_commit_of_a_part_that_is_gone_says_whose_output_is_missing(tmp_path: Path) -> None:
    parts = writer(tmp_path, subtask=4)
    parts.write(b"x")
    committable = parts.prepare(CheckpointId(7)) or {}
    (tmp_path / committable["temporary"]).unlink()

    with pytest.raises(StorageError, match="output of checkpoint 7, subtask 4 is missing"):
        parts.commit([committable])


def test_commit_never_overwrites_a_part_of_the_same_name(tmp_path: Path) -> None:
    parts = writer(tmp_path)
    parts.write(b"x")
    committable = parts.prepare(ONE) or {}
    (tmp_path / committable["final"]).write_bytes(b"other")

    with pytest.raises(StorageError, match="is already there"):
        parts.commit([committable])
    assert (tmp_path / committable["final"]).read_bytes() == b"other"


@pytest.mark.parametrize("name", ["../../etc/passwd", "part-r1-out-00000-00000001.jsonl/../x", ""])
def test_commit_of_what_is_no_part_name_is_refused(tmp_path: Path, name: str) -> None:
    good = ".part-r1-out-00000-1-00000001.jsonl.tmp"

    with pytest.raises(StorageError, match="does not name a part"):
        writer(tmp_path).commit([{"temporary": good, "final": name}])


def test_hashed_part_carries_its_sha256_and_is_checked_at_commit(tmp_path: Path) -> None:
    parts = writer(tmp_path, is_hashed=True)
    parts.write(b"x")
    committable = parts.prepare(ONE) or {}
    (tmp_path / committable["temporary"]).write_bytes(b"y")

    assert committable["sha256"] in committable["final"]
    with pytest.raises(StorageError, match="does not have the sha256"):
        parts.commit([committable])
    assert committed_parts(str(tmp_path), ["r1"], "out", ".jsonl") == []


def test_every_part_has_a_hash_of_its_own(tmp_path: Path) -> None:
    parts = writer(tmp_path, is_hashed=True)
    parts.write(b"x")
    first = parts.prepare(ONE) or {}
    parts.write(b"x")
    second = parts.prepare(TWO) or {}

    assert first["sha256"] == second["sha256"]
    parts.commit([first, second])


def test_prepare_syncs_the_file_and_then_its_name(tmp_path: Path, synced: list[int]) -> None:
    parts = writer(tmp_path)
    parts.write(b"x")
    committable = parts.prepare(ONE) or {}

    file = tmp_path / committable["temporary"]
    assert synced == [file.stat().st_ino, tmp_path.stat().st_ino]


def test_commit_syncs_the_directory_also_when_it_repeats(tmp_path: Path, synced: list[int]) -> None:
    parts = writer(tmp_path)
    parts.write(b"x")
    committable = parts.prepare(ONE) or {}
    synced.clear()

    parts.commit([committable])
    parts.commit([committable])

    assert synced == [tmp_path.stat().st_ino] * 2


def test_close_drops_what_was_not_prepared_and_keeps_what_was(tmp_path: Path) -> None:
    parts = writer(tmp_path)
    parts.write(b"prepared")
    committable = parts.prepare(ONE) or {}
    parts.write(b"not")

    parts.close()
    parts.close()

    assert os.listdir(tmp_path) == [committable["temporary"]]


def test_recover_commits_what_it_is_given_and_removes_the_rest_of_older_attempts(
    tmp_path: Path,
) -> None:
    old = writer(tmp_path, subtask=1)
    old.write(b"complete")
    complete = old.prepare(ONE) or {}
    old.write(b"incomplete")
    old.prepare(TWO)

    writer(tmp_path, attempt=AttemptId(2)).recover([complete])

    assert os.listdir(tmp_path) == ["part-r1-out-00001-00000001.jsonl"]


@pytest.mark.parametrize(
    "other", [{"run_id": "r2"}, {"operator": "other"}, {"attempt": 2}, {"attempt": 10}]
)
def test_recover_leaves_what_belongs_to_others_or_to_its_own_attempt(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    parts = writer(tmp_path, **other)
    parts.write(b"x")
    committable = parts.prepare(ONE) or {}

    writer(tmp_path, attempt=AttemptId(2)).recover([])

    assert os.listdir(tmp_path) == [committable["temporary"]]


def test_uncommitted_files_of_former_runs_are_removed(tmp_path: Path) -> None:
    for run_id in ("r1", "r2", "r3"):
        parts = writer(tmp_path, run_id=run_id)
        parts.write(b"x")
        parts.prepare(ONE)

    remove_uncommitted(str(tmp_path), ["r1", "r3"])

    assert [name[:8] for name in os.listdir(tmp_path)] == [".part-r2"]


def test_parts_are_ordered_by_checkpoint_then_subtask(tmp_path: Path) -> None:
    for checkpoint_id, subtask in [(2, 0), (1, 1), (10, 0), (1, 0)]:
        parts = writer(tmp_path, subtask=subtask)
        parts.write(b"x")
        parts.commit([parts.prepare(CheckpointId(checkpoint_id)) or {}])

    found = committed_parts(str(tmp_path), ["r1"], "out", ".jsonl")

    assert [(p.checkpoint_id, p.subtask) for p in found] == [(1, 0), (1, 1), (2, 0), (10, 0)]


def test_missing_directory_holds_no_parts(tmp_path: Path) -> None:
    assert committed_parts(str(tmp_path / "gone"), ["r1"], "out", ".jsonl") == []


def test_write_into_a_directory_that_is_gone_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="writing below"):
        writer(tmp_path / "gone").write(b"x")


@pytest.mark.usefixtures("armed")
@pytest.mark.parametrize("point", ["sink.prepared", "sink.commit_called", "sink.committed"])
def test_failure_at_any_point_is_a_storage_error_and_a_repeated_commit_heals_it(
    tmp_path: Path, point: str
) -> None:
    failpoint.arm(f"{point}=raise:OSError(28)")
    parts = writer(tmp_path)
    parts.write(b"x")

    with pytest.raises(StorageError, match="failpoint"):
        parts.commit([parts.prepare(ONE) or {}])

    hidden = ".part-r1-out-00000-1-00000001.jsonl.tmp"
    parts.commit([{"temporary": hidden, "final": "part-r1-out-00000-00000001.jsonl"}])
    assert os.listdir(tmp_path) == ["part-r1-out-00000-00000001.jsonl"]


def test_plain_names_stay_readable_and_others_get_a_hash() -> None:
    assert operator_tag("jsonlines-2") == "jsonlines-2"
    assert re.fullmatch(r"read_text_1_\.[0-9a-f]{12}", operator_tag("Read.text (1)"))


@pytest.mark.parametrize("make", [run_tag, operator_tag])
def test_different_names_have_different_tags_even_where_case_is_ignored(
    make: Callable[[str], str],
) -> None:
    names = ["out", "Out", "OUT", "o/ut", "o-ut", "o_ut", "o.ut", "", "ö", "x" * 64, "x" * 65]

    assert len({make(name).lower() for name in names}) == len(names)


@pytest.mark.parametrize("run_id", ["8B1F-uuid", "r1"])
@pytest.mark.parametrize("operator", ["a/b", "sink-1", "out-00000-00000001", "00000", "x" * 200])
def test_parts_of_any_run_and_operator_are_found_again(
    tmp_path: Path, run_id: str, operator: str
) -> None:
    parts = writer(tmp_path, is_hashed=True, run_id=run_id, operator=operator)
    for checkpoint_id in (ONE, TWO):
        parts.write(b"x")
        committable = parts.prepare(checkpoint_id) or {}
        parts.commit([committable])

    assert run_tag_of(committable["final"]) == run_tag(run_id)
    assert len(committed_parts(str(tmp_path), [run_id], operator, ".jsonl")) == 2


def test_name_of_another_kind_belongs_to_no_run() -> None:
    assert run_tag_of("part-00000.jsonl") is None
