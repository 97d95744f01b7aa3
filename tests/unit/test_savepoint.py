"""Savepoints as files: what goes out, what comes in, and what is refused."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec
import pytest

from flowsnap.core import manifest as manifests
from flowsnap.core.ids import AttemptId, CheckpointId, TaskId
from flowsnap.core.manifest import CheckpointManifest, PreparedOutput, StateHandle
from flowsnap.errors import ConfigError, ManifestCorrupt, RestoreError, StorageError
from flowsnap.storage import export
from flowsnap.storage.export import copy
from flowsnap.storage.filesystem import FileSystem
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.savepoint import Savepoint, bring_in, find, is_own, savepoint_paths
from flowsnap.testing.faults import FaultyFileSystem, PowerLossFileSystem, SimulatedCrash
from flowsnap.testing.faults import UnsyncedFileSystem as Unsynced
from tests.manifests import checkpoint, words

ONE = CheckpointId(1)
COUNT = TaskId("count/0")


@dataclass(frozen=True)
class Local:
    name: str
    path: Path
    is_shared: bool


@pytest.fixture
def job(tmp_path: Path) -> Iterator[JobDirectory]:
    with opened(tmp_path / "state") as directory:
        yield directory


def opened(state: Path, job: str = "words") -> JobDirectory:
    return JobDirectory.open(state, job, filesystem=Unsynced())


def begun(job: JobDirectory, *, fresh: bool = False) -> AttemptId:
    if fresh or not job.run_id:
        job.begin_run()
    return job.begin_attempt()


def complete(job: JobDirectory, scratch: Path, *, text: bytes = b"rows") -> CheckpointManifest:
    """Complete a checkpoint with one shared and one private file, and something prepared."""
    attempt = job.newest_attempt() or begun(job)
    number = job.next_checkpoint_id()
    job.reserve_checkpoint(number)
    writer = job.writer(attempt)
    handles = []
    for name, is_shared in (("000001.sst", True), ("CURRENT", False)):
        path = scratch / f"{number}-{name}"
        path.write_bytes(name.encode() + text)
        handles.append(writer.store(number, COUNT, Local(name, path, is_shared)))
    state = StateHandle((0, 128), (), tuple(handles))
    prepared = (PreparedOutput(number, "part-1"),)
    made = checkpoint(words(), {"count/0": {"state": state, "prepared": prepared}}, number=number)
    made = msgspec.structs.replace(made, run_id=job.run_id, attempt=attempt)
    job.write_manifest(made)
    return made


def contents(root: Path, manifest: CheckpointManifest) -> dict[str, bytes]:
    return {file.name: (root / file.path).read_bytes() for file in manifests.files(manifest)}


WHOLE = {"000001.sst": b"000001.sstrows", "CURRENT": b"CURRENTrows"}


# --- out -------------------------------------------------------------------------------------


def test_a_savepoint_is_whole_by_itself(job: JobDirectory, tmp_path: Path) -> None:
    complete(job, tmp_path)

    path = export.export(job, ONE, "monday")
    shutil.rmtree(job.root / "checkpoints")
    shutil.rmtree(job.root / "shared")

    found = find(path)
    assert contents(found.base, found.manifest) == WHOLE
    assert (found.base, found.manifest.kind) == (path, "savepoint")
    assert savepoint_paths(job) == {"monday": path}


def test_a_savepoint_may_be_named_by_its_manifest(job: JobDirectory, tmp_path: Path) -> None:
    complete(job, tmp_path)

    path = export.export(job, ONE, "monday")

    assert find(path / "manifest.json") == find(path)


def test_files_are_linked_and_take_no_space(job: JobDirectory, tmp_path: Path) -> None:
    manifest = complete(job, tmp_path)

    path = export.export(job, ONE, "monday")

    for handle in manifests.files(manifest):
        assert os.path.samefile(job.root / handle.path, path / handle.path)


def test_files_are_copied_where_the_file_system_has_no_links(
    job: JobDirectory, tmp_path: Path
) -> None:
    class Linkless(FileSystem):
        def link(self, source: Path, target: Path) -> None:
            raise OSError(errno.EPERM, "no links here")

    complete(job, tmp_path)

    found = find(export.export(job, ONE, "monday", Linkless()))

    assert contents(found.base, found.manifest) == WHOLE


def test_a_savepoint_is_not_collected(job: JobDirectory, tmp_path: Path) -> None:
    complete(job, tmp_path)
    found = find(export.export(job, ONE, "monday"))
    complete(job, tmp_path)

    job.retire(1)
    job.clean_leftovers()

    assert job.checkpoints() == [2]
    assert contents(found.base, found.manifest) == WHOLE


def test_a_savepoint_without_a_name_is_called_after_its_checkpoint_and_made_once(
    job: JobDirectory, tmp_path: Path
) -> None:
    complete(job, tmp_path)

    path = export.export(job, ONE)

    assert path.name == "00000001"
    assert export.export(job, ONE) == path


def test_a_name_that_is_taken_is_refused_and_nothing_changes(
    job: JobDirectory, tmp_path: Path
) -> None:
    complete(job, tmp_path)
    path = export.export(job, ONE, "monday")
    complete(job, tmp_path)

    with pytest.raises(ConfigError, match="job words has a savepoint 'monday' already"):
        export.export(job, CheckpointId(2), "monday")
    assert find(path).manifest.checkpoint_id == 1


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "-x", "x" * 200, "a\nb"])
def test_a_name_that_leads_elsewhere_is_refused(job: JobDirectory, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a savepoint"):
        export.check_new(job, name)


def test_a_checkpoint_that_is_not_there_makes_no_savepoint(job: JobDirectory) -> None:
    with pytest.raises(RestoreError, match="has no checkpoint 1"):
        export.export(job, ONE, "monday")
    assert savepoint_paths(job) == {}


def failing(error: int | None = errno.EIO) -> Iterator[FaultyFileSystem]:
    """Yield file systems whose first call fails, whose second, ..., until none does.

    Without an ``error`` the process dies at that call.
    """
    for fail_at in count(1):
        files = FaultyFileSystem(fail_at, error, below=Unsynced())
        yield files
        if not files.has_failed:
            break
    assert fail_at > 8


def test_whatever_fails_there_is_a_whole_savepoint_or_none(
    job: JobDirectory, tmp_path: Path
) -> None:
    complete(job, tmp_path)
    for files in failing():
        with suppress(StorageError):
            export.export(job, ONE, "monday", files)
        if "monday" in savepoint_paths(job):
            found = find(savepoint_paths(job)["monday"])
            assert contents(found.base, found.manifest) == WHOLE
            export.remove(found.path)
        assert list((job.root / "savepoints").glob("*")) == []


def test_whenever_the_process_dies_the_next_start_removes_what_is_half_done(
    job: JobDirectory, tmp_path: Path
) -> None:
    complete(job, tmp_path)
    for files in failing(None):
        with suppress(SimulatedCrash):
            export.export(job, ONE, "monday", files)
        job.clean_leftovers()
        left = [path.name for path in (job.root / "savepoints").glob("*")]
        assert left in ([], ["monday"])
        if left:
            found = find(savepoint_paths(job)["monday"])
            assert contents(found.base, found.manifest) == WHOLE
            export.remove(found.path)


def test_a_savepoint_that_is_interrupted_leaves_nothing(job: JobDirectory, tmp_path: Path) -> None:
    class Interrupted(Unsynced):
        def replace(self, source: Path, target: Path) -> None:
            raise KeyboardInterrupt

    complete(job, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        export.export(job, ONE, "monday", Interrupted())
    assert list((job.root / "savepoints").iterdir()) == []


def test_a_savepoint_that_was_announced_survives_a_loss_of_power(
    job: JobDirectory, tmp_path: Path
) -> None:
    manifest = complete(job, tmp_path)
    (tmp_path / "attic").mkdir()
    files = PowerLossFileSystem(tmp_path / "attic")
    for handle in manifests.files(manifest):  # which were durable when they were stored
        with (job.root / handle.path).open("rb") as stored:
            files.fsync(stored.fileno())

    path = export.export(job, ONE, "monday", files)
    files.lose_power(job.root / "savepoints")

    found = find(path)
    assert contents(found.base, found.manifest) == WHOLE


# --- elsewhere -------------------------------------------------------------------------------


def test_a_copy_is_whole_and_private_and_shares_nothing(job: JobDirectory, tmp_path: Path) -> None:
    complete(job, tmp_path)
    path = export.export(job, ONE, "monday")

    copy(find(path), tmp_path / "copy")
    export.remove(path)

    found = find(tmp_path / "copy")
    assert contents(found.base, found.manifest) == WHOLE
    assert not path.exists()
    assert {p.stat().st_nlink for p in (tmp_path / "copy").rglob("*") if p.is_file()} == {1}


def test_a_damaged_savepoint_is_not_copied(job: JobDirectory, tmp_path: Path) -> None:
    complete(job, tmp_path)
    found = find(export.export(job, ONE, "monday"))
    flip(next(found.base.rglob("CURRENT")))

    with pytest.raises(ManifestCorrupt, match=r"CURRENT is damaged: expected 11 bytes with sha256"):
        copy(found, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("target", ["taken", "nowhere/copy"])
def test_a_target_that_cannot_be_is_refused(job: JobDirectory, tmp_path: Path, target: str) -> None:
    (tmp_path / "taken").mkdir()
    complete(job, tmp_path)

    with pytest.raises(ConfigError, match="there is"):
        copy(find(export.export(job, ONE, "monday")), tmp_path / target)


# --- in --------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # it may be a link
    path.write_bytes(data)
    path.chmod(0o600)


@pytest.fixture
def saved(job: JobDirectory, tmp_path: Path) -> Savepoint:
    """Return the savepoint "monday" of checkpoint 1, after which checkpoint 2 came."""
    complete(job, tmp_path)
    path = export.export(job, ONE, "monday")
    complete(job, tmp_path, text=b"more")
    return find(path)


def test_a_savepoint_of_the_jobs_own_becomes_its_newest_checkpoint(
    job: JobDirectory, saved: Savepoint
) -> None:
    run = job.run_id

    brought = bring_in(job, saved)

    assert (brought.checkpoint_id, brought.origin, brought.run_id) == (3, 1, run)
    assert job.read_manifest(CheckpointId(3)) == brought
    assert contents(job.root, brought) == WHOLE
    prepared = [output.checkpoint_id for task in brought.tasks for output in task.prepared]
    assert prepared == [1], "to commit it again changes nothing"


def test_a_savepoint_of_another_job_begins_a_new_run_with_nothing_prepared(
    saved: Savepoint, tmp_path: Path
) -> None:
    with opened(tmp_path / "state", "other") as other:
        former = other.begin_run()

        brought = bring_in(other, saved)

        assert (brought.job, brought.checkpoint_id, brought.origin) == ("other", 1, 0)
        assert other.run_id == brought.run_id not in {former, saved.manifest.run_id}
        assert other.lineage == (other.run_id,)
        assert [task.prepared for task in brought.tasks if task.prepared] == []
        assert contents(other.root, brought) == WHOLE


def test_neither_side_is_harmed_when_the_other_is_deleted(saved: Savepoint, tmp_path: Path) -> None:
    with opened(tmp_path / "state", "other") as other:
        brought = bring_in(other, saved)
        shutil.rmtree(saved.path)
        assert contents(other.root, brought) == WHOLE

        again = find(export.export(other, brought.checkpoint_id, "x"))
        shutil.rmtree(other.root / "shared")
        assert contents(again.base, again.manifest) == WHOLE


def test_the_checkpoint_directory_of_another_job_can_be_brought_in(
    job: JobDirectory, saved: Savepoint, tmp_path: Path
) -> None:
    with opened(tmp_path / "state", "other") as other:
        brought = bring_in(other, find(job.root / "checkpoints" / "00000001"))
        job.retire(1)

        assert contents(other.root, brought) == WHOLE


def test_files_that_were_brought_in_are_shared_with_later_checkpoints(
    job: JobDirectory, saved: Savepoint, tmp_path: Path
) -> None:
    brought = bring_in(job, saved)
    state = brought.tasks[1].state
    assert state is not None
    shared = [file.path for file in state.files if file.path.startswith("shared/")]

    assert [path in {p.path for p in manifests.files(saved.manifest)} for path in shared] == [False]
    assert (job.root / shared[0]).is_file()


def test_a_savepoint_is_not_the_jobs_own_any_more_after_a_fresh_start(
    job: JobDirectory, saved: Savepoint
) -> None:
    assert is_own(job, saved)

    job.begin_run()

    assert not is_own(job, saved)
    assert bring_in(job, saved).origin == 0


def test_a_savepoint_stays_the_jobs_own_when_the_job_went_back_to_it(
    job: JobDirectory, saved: Savepoint
) -> None:
    job.begin_run(after=saved.manifest.run_id)

    brought = bring_in(job, saved)

    assert (brought.origin, is_own(job, saved)) == (1, True)


def test_a_savepoint_of_a_checkpoint_that_was_brought_in_keeps_its_origin(
    job: JobDirectory, saved: Savepoint
) -> None:
    brought = bring_in(job, saved)

    again = bring_in(job, find(export.export(job, brought.checkpoint_id, "again")))

    assert (again.checkpoint_id, again.origin) == (4, 1)


def test_whenever_the_process_dies_the_job_goes_on_as_before_or_with_the_savepoint(
    saved: Savepoint, tmp_path: Path
) -> None:
    deaths = 0
    for files in failing(None):
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        with opened(tmp_path / "other") as other:
            former = other.begin_run()
        with suppress(SimulatedCrash):
            other = JobDirectory.open(tmp_path / "other", "words", filesystem=files)
            bring_in(other, saved)
        other.close()
        deaths += files.has_failed
        with opened(tmp_path / "other") as other:
            other.clean_leftovers()
            newest = other.latest()
            assert (newest is None) == (other.run_id == former)
            assert newest is None or contents(other.root, newest) == WHOLE
    assert deaths > 30


# --- what is refused -------------------------------------------------------------------------


def test_a_path_at_which_there_is_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RestoreError, match=r"there is no savepoint at .*/monday"):
        find(tmp_path / "monday")


def test_a_directory_without_a_manifest_is_torn_or_foreign(tmp_path: Path) -> None:
    with pytest.raises(ManifestCorrupt, match=r"is no savepoint: it has no manifest\.json"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-10], "is cut off or no manifest"),
        (lambda data: data.replace(b'"words"', b'"wards"'), "is damaged: its sha256 is"),
        (lambda data: b"", "is cut off or no manifest"),
        (lambda data: b'{"name": "package"}', "is cut off or no manifest"),
    ],
)
def test_a_torn_or_foreign_manifest_is_refused(
    saved: Savepoint, change: object, reason: str
) -> None:
    assert callable(change)
    path = saved.path / "manifest.json"
    path.write_bytes(change(path.read_bytes()))

    with pytest.raises(ManifestCorrupt, match=reason):
        find(saved.path)


def test_a_savepoint_of_a_newer_format_is_refused_with_both_versions(saved: Savepoint) -> None:
    newer = msgspec.structs.replace(saved.manifest, format_version=2)
    (saved.path / "manifest.json").write_bytes(manifests.encode(newer))

    with pytest.raises(ManifestCorrupt, match="has format version 2, expected 1") as caught:
        find(saved.path)
    assert "the version of flowsnap that wrote it" in caught.value.__notes__[0]


def test_a_flipped_bit_in_any_file_is_found_and_the_job_is_as_it_was(
    job: JobDirectory, saved: Savepoint
) -> None:
    flip(next(saved.base.rglob("*.sst")))

    with pytest.raises(ManifestCorrupt, match=r"\.sst is damaged: expected 14 bytes with sha256"):
        bring_in(job, saved)

    job.clean_leftovers()
    assert job.checkpoints() == [1, 2]


def test_a_missing_file_is_named(job: JobDirectory, saved: Savepoint) -> None:
    next(saved.base.rglob("CURRENT")).unlink()

    with pytest.raises(ManifestCorrupt, match=r"CURRENT is missing: expected 11 bytes"):
        bring_in(job, saved)


def test_a_link_in_the_place_of_a_file_is_refused(
    job: JobDirectory, saved: Savepoint, tmp_path: Path
) -> None:
    path = next(saved.base.rglob("CURRENT"))
    path.unlink()
    path.symlink_to(tmp_path / "1-CURRENT")

    with pytest.raises(ManifestCorrupt, match="is no regular file"):
        bring_in(job, saved)


@pytest.mark.parametrize("part", ["", "manifest"])
def test_a_savepoint_that_others_can_write_to_is_refused(
    job: JobDirectory, saved: Savepoint, part: str
) -> None:
    path = next(saved.base.rglob("CURRENT")) if part else saved.path
    path.chmod(0o777)

    with pytest.raises(ConfigError, match=r"can be written to by others \(mode 0777\)"):
        bring_in(job, find(saved.path))
