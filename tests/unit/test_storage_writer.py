from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from flowsnap.core.ids import AttemptId, CheckpointId
from flowsnap.errors import ManifestCorrupt, StorageError
from flowsnap.storage.job_directory import JobDirectory
from tests.jobs import COUNT, local, spoil, stored


@pytest.fixture
def job(tmp_path: Path) -> Iterator[JobDirectory]:
    with JobDirectory.open(tmp_path / "state", "words") as opened:
        opened.begin_run()
        opened.begin_attempt()
        yield opened


def test_shared_files_have_random_names_and_private_ones_their_own(job: JobDirectory) -> None:
    first, private = stored(job, 3, "000001.sst", "CURRENT")
    (second,) = stored(job, 3, "000001.sst")

    assert first.path.startswith("shared/00000001-00000003-")
    assert first.path != second.path
    assert first.sha256 == second.sha256
    assert private.path == "checkpoints/00000003/count.0/CURRENT"


def test_restored_files_are_what_was_stored(job: JobDirectory, tmp_path: Path) -> None:
    handles = stored(job, 1, "000001.sst", "CURRENT")

    job.writer(AttemptId(1)).restore(handles, tmp_path / "new" / "task")

    restored = {path.name: path.read_text() for path in (tmp_path / "new" / "task").iterdir()}
    assert restored == {"000001.sst": "content of 000001.sst", "CURRENT": "content of CURRENT"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["task"]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_nothing_is_restored_from_a_damaged_file(
    job: JobDirectory, tmp_path: Path, which: int, how: str
) -> None:
    handles = stored(job, 1, "000001.sst", "CURRENT")
    spoil(job.root / handles[which].path, how)

    with pytest.raises(ManifestCorrupt, match=handles[which].path) as raised:
        job.writer(AttemptId(1)).restore(handles, tmp_path / "task")

    assert f"with sha256 {handles[which].sha256}" in str(raised.value)
    assert "found" in str(raised.value)
    assert not (tmp_path / "task").exists()


@pytest.mark.parametrize("change", [{"path": "../../etc/passwd"}, {"name": "../x"}, {"name": ""}])
def test_a_handle_that_leads_out_of_the_store_is_refused(
    job: JobDirectory, tmp_path: Path, change: dict[str, str]
) -> None:
    (handle,) = stored(job, 1, "000001.sst")

    with pytest.raises(ManifestCorrupt, match="is no stored file's name"):
        job.writer(AttemptId(1)).restore(
            [msgspec.structs.replace(handle, **change)], tmp_path / "task"
        )


def test_a_directory_in_use_is_not_restored_into(job: JobDirectory, tmp_path: Path) -> None:
    handles = stored(job, 1, "000001.sst")
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "mine").write_bytes(b"mine")

    with pytest.raises(StorageError, match="cannot restore into"):
        job.writer(AttemptId(1)).restore(handles, tmp_path / "task")
    assert (tmp_path / "task" / "mine").read_bytes() == b"mine"


def test_a_worker_of_a_fenced_attempt_stores_nothing(job: JobDirectory) -> None:
    zombie = job.writer(AttemptId(1))
    job.begin_attempt()

    with pytest.raises(StorageError, match="attempt 2 has begun"):
        zombie.store(CheckpointId(1), COUNT, local(job, "000001.sst"))
    assert not (job.root / "shared").exists()
