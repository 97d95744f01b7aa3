from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowsnap.core.ids import CheckpointId
from flowsnap.errors import StorageError
from flowsnap.failpoint import arm
from flowsnap.storage.job_directory import JobDirectory
from tests.jobs import complete, damage, manifest_of, stored


@pytest.fixture
def job(tmp_path: Path) -> Iterator[JobDirectory]:
    with JobDirectory.open(tmp_path, "words") as opened:
        opened.begin_run()
        opened.begin_attempt()
        complete(opened, "000001.sst")
        yield opened
    arm("")


@pytest.mark.parametrize("point", ["op.file_stored", "jm.id_persisted", "jm.finish_recorded"])
def test_a_failpoint_after_a_step_is_a_storage_error_of_unknown_outcome(
    job: JobDirectory, point: str
) -> None:
    def finish() -> None:
        complete(job, "000002.sst")
        job.record_outcome("finished")

    arm(f"{point}=raise:OSError(28)")

    with pytest.raises(StorageError, match=point) as raised:
        finish()
    assert not raised.value.is_definite


@pytest.mark.parametrize("point", ["jm.subsumed_deleted", "gc.listed", "gc.deleted"])
def test_a_retirement_that_stops_half_way_is_finished_by_the_next(
    job: JobDirectory, point: str
) -> None:
    complete(job, "000002.sst")
    arm(f"{point}=raise:OSError(5)")

    with pytest.raises(StorageError, match=point):
        job.retire(1)

    assert damage(job) == []
    job.retire(1)
    assert {finding.kind for finding in job.verify()} == {"ok"}


@pytest.mark.parametrize("step", ["jm.manifest_tmp", "jm.manifest_fsynced"])
def test_a_manifest_that_fails_before_it_is_visible_is_surely_not_written(
    job: JobDirectory, step: str
) -> None:
    manifest = manifest_of(job, 2, stored(job, 2, "000002.sst"))
    arm(f"{step}=raise:OSError(28)")

    with pytest.raises(StorageError, match=step) as raised:
        job.write_manifest(manifest)

    assert raised.value.is_definite
    assert job.checkpoints() == [1]
    assert not list(job.root.rglob(".tmp-*"))


@pytest.mark.parametrize("step", ["jm.manifest_renamed", "jm.dir_fsynced"])
def test_a_manifest_that_fails_after_it_is_visible_is_read_back_and_counts(
    job: JobDirectory, step: str
) -> None:
    manifest = manifest_of(job, 2, stored(job, 2, "000002.sst"))
    arm(f"{step}=raise:OSError(5)")

    job.write_manifest(manifest)

    assert job.read_manifest(CheckpointId(2)) == manifest
