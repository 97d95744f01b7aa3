from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from flowsnap.core.ids import AttemptId, CheckpointId
from flowsnap.core.manifest import files
from flowsnap.errors import (
    ConfigError,
    LocalProtocolError,
    ManifestCorrupt,
    RestoreError,
    StorageError,
)
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.job_directory import JobDirectory, job_names
from flowsnap.storage.job_store import JobStore
from flowsnap.storage.memory import MemoryStore
from tests.jobs import complete, damage, manifest_of, spoil, stored


@pytest.fixture
def job(tmp_path: Path) -> Iterator[JobDirectory]:
    with JobDirectory.open(tmp_path / "state", "words") as opened:
        opened.begin_run()
        opened.begin_attempt()
        yield opened


# --- who may open it -----------------------------------------------------------------------------


def test_a_second_job_manager_is_refused_and_told_who_is_there(
    job: JobDirectory, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} on .+ since 2") as e:
        JobDirectory.open(tmp_path / "state", "words")

    assert str(os.getpid()) in e.value.__notes__[0]


def test_a_closed_directory_can_be_opened_again(job: JobDirectory, tmp_path: Path) -> None:
    job.close()
    job.close()

    with JobDirectory.open(tmp_path / "state", "words") as again:
        assert again.run_id == job.run_id


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path;"
        "from flowsnap.storage.job_directory import JobDirectory;"
        "job = JobDirectory.open(Path(sys.argv[1]), 'words'); job.begin_run();"
        "os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert ended.returncode == -9

    with JobDirectory.open(tmp_path, "words") as job:
        assert json.loads((job.root / "lock").read_bytes())["pid"] == os.getpid()


def test_another_job_in_the_same_state_directory_is_independent(
    job: JobDirectory, tmp_path: Path
) -> None:
    with JobDirectory.open(tmp_path / "state", "other") as other:
        assert other.begin_run() != job.run_id

    assert job_names(tmp_path / "state") == ["other", "words"]


def test_a_running_job_can_be_read_but_not_changed(job: JobDirectory, tmp_path: Path) -> None:
    complete(job, "000001.sst")
    reader = JobDirectory.read(tmp_path / "state", "words")

    assert reader.checkpoints() == [1]
    assert {finding.kind for finding in reader.verify()} == {"ok"}
    for change in (reader.begin_run, reader.begin_attempt, reader.clean_leftovers):
        with pytest.raises(LocalProtocolError, match="opened for reading"):
            change()


def test_reading_a_job_that_is_not_there_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no job words"):
        JobDirectory.read(tmp_path, "words")

    assert list(tmp_path.iterdir()) == []
    assert job_names(tmp_path) == job_names(tmp_path / "gone") == []


@pytest.mark.parametrize("name", ["", "..", "a/b", ".x", "a b", "x" * 129, "/tmp"])
def test_a_job_needs_a_name_that_is_safe(tmp_path: Path, name: str) -> None:
    for call in (JobDirectory.open, JobDirectory.read):
        with pytest.raises(ConfigError, match="cannot be the name of a job"):
            call(tmp_path, name)


def test_a_state_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="can be written to by others"):
        JobDirectory.open(tmp_path, "words")

    tmp_path.chmod(0o1777)
    JobDirectory.open(tmp_path, "words").close()


def test_a_missing_job_json_beside_checkpoints_is_refused(
    job: JobDirectory, tmp_path: Path
) -> None:
    complete(job)
    job.close()
    (job.root / "job.json").unlink()

    with pytest.raises(ConfigError, match=r"job\.json is missing, although there is attempts/"):
        JobDirectory.open(tmp_path / "state", "words")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is not JSON"),
        (b"\x80\x05K\x01.", "is not JSON"),
        (b'{"format_version": 99}', "has format version 99, expected 1"),
        (b'{"some": "config"}', "does not end with a sha256"),
        (b"[]", "does not end with a sha256"),
    ],
)
def test_a_foreign_job_json_is_refused_and_kept(tmp_path: Path, content: bytes, found: str) -> None:
    root = tmp_path / "words"
    root.mkdir(mode=0o700)
    (root / "job.json").write_bytes(content)

    with pytest.raises(ManifestCorrupt, match=found) as raised:
        JobDirectory.open(tmp_path, "words")

    assert str(root / "job.json") in str(raised.value)
    assert (root / "job.json").read_bytes() == content


def test_the_directory_of_another_job_is_refused(job: JobDirectory, tmp_path: Path) -> None:
    job.close()
    job.root.rename(tmp_path / "state" / "renamed")

    with pytest.raises(ConfigError, match="is of job 'words', not 'renamed'"):
        JobDirectory.open(tmp_path / "state", "renamed")


def test_a_refused_directory_is_not_left_locked(job: JobDirectory, tmp_path: Path) -> None:
    job.close()
    good = (job.root / "job.json").read_bytes()
    (job.root / "job.json").write_bytes(b"x")
    with pytest.raises(ManifestCorrupt):
        JobDirectory.open(tmp_path / "state", "words")
    (job.root / "job.json").write_bytes(good)

    JobDirectory.open(tmp_path / "state", "words").close()


# --- runs, attempts, outcomes --------------------------------------------------------------------


def test_runs_are_remembered_over_lives(job: JobDirectory, tmp_path: Path) -> None:
    first, second = job.run_id, job.begin_run()
    job.close()

    with JobDirectory.open(tmp_path / "state", "words") as again:
        assert (again.run_id, again.former_run_ids) == (second, (first,))
        assert len(second) == 8
        int(second, 16)


def test_attempts_increase_over_lives(job: JobDirectory, tmp_path: Path) -> None:
    assert job.begin_attempt() == 2
    job.close()

    with JobDirectory.open(tmp_path / "state", "words") as again:
        assert again.begin_attempt() == 3
        assert again.newest_attempt() == 3


def test_only_the_last_twenty_attempts_are_kept(job: JobDirectory) -> None:
    for _ in range(24):
        newest = job.begin_attempt()

    kept = sorted(path.name for path in (job.root / "attempts").iterdir())
    assert newest == 25
    assert kept == [f"{number:08d}.json" for number in range(6, 26)]


def test_of_two_managers_that_begin_the_same_attempt_one_loses() -> None:
    class Racing(MemoryStore):
        def create(self, name: str, data: bytes, **_: object) -> bool:
            super().create(name, b"the other was faster")
            return super().create(name, data)

    job = JobStore(Racing(), "words")

    with pytest.raises(StorageError, match="attempt 1 was begun by another") as raised:
        job.begin_attempt()
    assert raised.value.is_definite


def test_how_a_run_ended_is_remembered(job: JobDirectory, tmp_path: Path) -> None:
    assert job.outcome() is None
    job.record_outcome("failed", "boom")
    job.record_outcome("finished")
    job.close()

    outcome = JobDirectory.read(tmp_path / "state", "words").outcome()
    assert outcome is not None
    assert (outcome.state, outcome.message, outcome.run_id) == ("finished", "", job.run_id)


def test_local_directories_are_private(job: JobDirectory) -> None:
    paths = [job.work_directory(AttemptId(1)), job.log_directory(), job.log_directory()]

    assert paths[0] == job.root / "work" / "00000001"
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o700}


# --- checkpoints ---------------------------------------------------------------------------------


def test_a_manifest_comes_back_as_it_was_written(job: JobDirectory) -> None:
    job.reserve_checkpoint(CheckpointId(1))
    manifest = manifest_of(job, 1, stored(job, 1, "000001.sst", "CURRENT"))

    job.write_manifest(manifest)
    job.write_manifest(manifest)

    assert job.checkpoints() == [1]
    assert job.read_manifest(CheckpointId(1)) == job.latest() == manifest
    assert damage(job) == []


def test_the_id_of_a_checkpoint_is_never_given_twice(job: JobDirectory, tmp_path: Path) -> None:
    complete(job)
    job.reserve_checkpoint(CheckpointId(7))
    with pytest.raises(StorageError, match="checkpoint 7 has been begun before"):
        job.reserve_checkpoint(CheckpointId(7))
    job.close()

    with JobDirectory.open(tmp_path / "state", "words") as again:
        again.clean_leftovers()
        assert again.next_checkpoint_id() == 8
        assert again.checkpoints() == [1]


def test_a_file_without_reservation_takes_an_id_too(job: JobDirectory) -> None:
    stored(job, 9, "000001.sst")

    assert job.next_checkpoint_id() == 10


def test_the_manifest_of_a_fenced_attempt_is_refused(job: JobDirectory) -> None:
    manifest = manifest_of(job, 1)
    job.begin_attempt()

    with pytest.raises(StorageError, match="attempt 2 has begun") as raised:
        job.write_manifest(manifest)

    assert raised.value.is_definite
    assert job.checkpoints() == []


def test_a_manager_that_is_fenced_in_the_middle_of_a_write_is_refused(tmp_path: Path) -> None:
    class Sleepy(DirectoryStore):
        def create(self, name: str, data: bytes, *, on_step: object = None) -> bool:
            if name.endswith("manifest.json"):
                JobStore(DirectoryStore(self.root), "words").begin_attempt()
            return super().create(name, data, on_step=on_step)  # type: ignore[arg-type]

    job = JobStore(Sleepy(tmp_path / "words"), "words")
    job.begin_attempt()

    with pytest.raises(StorageError, match="attempt 2 has begun"):
        job.write_manifest(manifest_of(job, 1))
    assert job.checkpoints() == []


def test_a_manifest_that_lists_a_file_that_is_not_there_is_refused(job: JobDirectory) -> None:
    (handle,) = stored(job, 1, "000001.sst")
    longer = msgspec.structs.replace(handle, size_bytes=handle.size_bytes + 1)
    gone = msgspec.structs.replace(handle, path=handle.path.replace("0.sst", "1.sst") + "x")

    for wrong in (longer, gone):
        with pytest.raises(StorageError, match="checkpoint 1 lists shared/"):
            job.write_manifest(manifest_of(job, 1, (wrong,)))
    assert job.checkpoints() == []


def test_a_manifest_is_never_overwritten_by_another(job: JobDirectory) -> None:
    job.write_manifest(manifest_of(job, 1))
    other = msgspec.structs.replace(manifest_of(job, 1), duration_ms=99)

    with pytest.raises(StorageError, match="complete with other content"):
        job.write_manifest(other)
    assert job.read_manifest(CheckpointId(1)).duration_ms != 99


def test_a_manifest_of_another_run_is_a_bug(job: JobDirectory) -> None:
    manifest = manifest_of(job, 1)
    job.begin_run()

    with pytest.raises(LocalProtocolError, match="of run"):
        job.write_manifest(manifest)


def test_the_latest_checkpoint_is_that_of_the_current_run(job: JobDirectory) -> None:
    old_run = job.run_id
    complete(job)
    complete(job)
    job.begin_run()

    assert job.latest() is None
    former = job.latest(old_run)
    assert former is not None
    assert former.checkpoint_id == 2
    assert complete(job) == 3


def test_a_damaged_newest_checkpoint_is_never_passed_over_in_silence(job: JobDirectory) -> None:
    for _ in range(3):
        complete(job)
    path = job.root / "checkpoints" / "00000003" / "manifest.json"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(ManifestCorrupt, match=r"checkpoints/00000003/manifest\.json") as raised:
        job.latest()
    assert raised.value.__notes__[-1].endswith(": 2, 1")
    assert job.read_manifest(CheckpointId(2)).checkpoint_id == 2


def test_a_manifest_in_the_place_of_another_is_refused(job: JobDirectory) -> None:
    complete(job)
    complete(job)
    one, two = (job.root / "checkpoints" / f"0000000{n}" / "manifest.json" for n in (1, 2))
    two.write_bytes(one.read_bytes())

    with pytest.raises(ManifestCorrupt, match="is of checkpoint 1 of 'words', expected 2"):
        job.read_manifest(CheckpointId(2))
    assert damage(job) == ["checkpoints/00000002/manifest.json"]


def test_damage_to_a_manifest_is_not_written_anew(job: JobDirectory) -> None:
    number = complete(job)
    path = job.root / "checkpoints" / "00000001" / "manifest.json"
    spoil(path, "flip", bit=99)
    damaged = path.read_bytes()

    with pytest.raises(ManifestCorrupt, match=r"checkpoints/00000001/manifest.json is damaged"):
        job.secure(number)
    assert path.read_bytes() == damaged


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(job: JobDirectory) -> None:
    complete(job)

    with pytest.raises(RestoreError, match="has no checkpoint 5") as raised:
        job.read_manifest(CheckpointId(5))
    assert raised.value.__notes__ == ["complete checkpoints: 1"]


# --- deleting ------------------------------------------------------------------------------------


def test_a_retired_checkpoint_goes_with_the_files_that_only_it_had(job: JobDirectory) -> None:
    complete(job, "000001.sst", "000002.sst", "CURRENT")
    one, two, _ = files(job.read_manifest(CheckpointId(1)))
    complete(job, "000003.sst", "CURRENT", reuse=(two,))

    deleted = job.retire(1)

    assert deleted[0] == "checkpoints/00000001/manifest.json"
    assert one.path in deleted
    assert job.checkpoints() == [2]
    assert not (job.root / "checkpoints" / "00000001").exists()
    assert {finding.kind for finding in job.verify()} == {"ok"}


def test_what_is_stored_for_a_pending_checkpoint_is_left_alone(job: JobDirectory) -> None:
    complete(job, "000001.sst")
    job.reserve_checkpoint(CheckpointId(2))
    handles = stored(job, 2, "000002.sst", "CURRENT")

    job.retire(1, pending=[CheckpointId(2)])
    job.write_manifest(manifest_of(job, 2, handles))

    assert damage(job) == []


def test_a_pending_checkpoint_may_build_upon_the_newest_before_it(job: JobDirectory) -> None:
    complete(job, "000001.sst")
    base = files(job.read_manifest(CheckpointId(1)))
    job.reserve_checkpoint(CheckpointId(2))
    complete(job, "000003.sst")

    job.retire(1, pending=[CheckpointId(2)])
    job.write_manifest(manifest_of(job, 2, base))

    assert job.checkpoints() == [1, 2, 3]
    assert damage(job) == []


def test_a_protected_checkpoint_is_not_retired(job: JobDirectory) -> None:
    for number in range(4):
        complete(job, f"00000{number}.sst")

    job.retire(2, protected=[CheckpointId(1)])

    assert job.checkpoints() == [1, 3, 4]
    assert damage(job) == []


def test_what_was_stored_for_an_aborted_checkpoint_is_collected(job: JobDirectory) -> None:
    complete(job, "000001.sst")
    job.reserve_checkpoint(CheckpointId(2))
    aborted = stored(job, 2, "000002.sst", "CURRENT")
    job.reserve_checkpoint(CheckpointId(3))

    deleted = job.retire(3, pending=[CheckpointId(3)])

    assert {handle.path for handle in aborted} < set(deleted)
    assert {finding.kind for finding in job.verify()} == {"ok"}


def test_nothing_is_collected_while_a_manifest_cannot_be_read(
    job: JobDirectory, tmp_path: Path
) -> None:
    complete(job, "000001.sst")
    complete(job, "000002.sst")
    job.close()
    path = job.root / "checkpoints" / "00000002" / "manifest.json"
    path.write_bytes(b"{}")

    with JobDirectory.open(tmp_path / "state", "words") as again:
        assert again.clean_leftovers() == ["work/00000001"]
        assert len(list((again.root / "shared").iterdir())) == 2


def test_leftovers_of_earlier_lives_are_deleted_and_foreign_files_never(
    job: JobDirectory, tmp_path: Path
) -> None:
    complete(job, "000001.sst")
    job.reserve_checkpoint(CheckpointId(2))
    garbage = [job.root / handle.path for handle in stored(job, 2, "000002.sst", "CURRENT")]
    garbage += [job.root / "shared" / ".tmp-00000000deadbeef", job.root / "work" / "00000001"]
    garbage[2].write_bytes(b"torn")
    foreign = ["notes.txt", "shared/x.sst", "checkpoints/00000002/README", "work/mine/a", ".env"]
    for name in foreign:
        (job.root / name).parent.mkdir(exist_ok=True)
        (job.root / name).write_bytes(b"mine")
    job.close()

    with JobDirectory.open(tmp_path / "state", "words") as again:
        again.clean_leftovers()
        assert not [path for path in garbage if path.exists()]
        assert [name for name in foreign if not (again.root / name).is_file()] == []
        assert again.next_checkpoint_id() == 3
        assert again.begin_attempt() == 2


def test_a_job_can_live_in_memory() -> None:
    job = JobStore(MemoryStore(), "words")
    job.begin_run()
    job.begin_attempt()

    for number in (1, 2, 3):
        job.reserve_checkpoint(CheckpointId(number))
        job.write_manifest(manifest_of(job, number))
    job.retire(2)

    assert job.checkpoints() == [2, 3]
    assert {finding.kind for finding in job.verify()} == {"ok"}
