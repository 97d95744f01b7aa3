"""A full disk: what failed checkpoints have left is deleted before the next one needs its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowsnap.core.ids import CheckpointId
from flowsnap.errors import StorageError
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.job_store import JobStore
from tests.jobs import complete, damage, stored


@pytest.fixture
def job(tmp_path: Path) -> Iterator[JobDirectory]:
    with JobDirectory.open(tmp_path / "state", "words") as opened:
        opened.begin_run()
        opened.begin_attempt()
        yield opened


def test_what_a_failed_checkpoint_has_stored_makes_room_and_nothing_else_does(
    job: JobDirectory,
) -> None:
    complete(job, "000001.sst")
    for number in (2, 3):
        job.reserve_checkpoint(CheckpointId(number))
    failed = stored(job, 2, "000002.sst", "CURRENT")
    pending = stored(job, 3, "000003.sst", "CURRENT")

    deleted = job.make_room([CheckpointId(3)])

    assert {handle.path for handle in failed} <= set(deleted)
    assert job.checkpoints() == [1]
    assert all((job.root / handle.path).exists() for handle in pending)
    assert not damage(job)


def test_a_fenced_job_manager_makes_no_room(job: JobDirectory) -> None:
    failed = stored(job, 1, "000001.sst")
    JobStore(DirectoryStore(job.root), "words").begin_attempt()

    with pytest.raises(StorageError, match="nothing is deleted: attempt 2 has begun"):
        job.make_room()
    assert (job.root / failed[0].path).exists()
