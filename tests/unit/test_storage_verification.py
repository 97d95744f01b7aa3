from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import files
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.export import export
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.verification import verify_files
from tests.jobs import complete, damage, spoil, stored


@pytest.fixture
def job(tmp_path: Path) -> Iterator[JobDirectory]:
    with JobDirectory.open(tmp_path / "state", "words") as opened:
        opened.begin_run()
        opened.begin_attempt()
        yield opened


def file_classes(job: JobDirectory) -> dict[str, str]:
    complete(job, "000001.sst", "CURRENT")
    job.record_outcome("finished")
    shared, private = files(job.read_manifest(CheckpointId(1)))
    return {
        "identity": "job.json",
        "attempt": "attempts/00000001.json",
        "reservation": "checkpoints/00000001/begun",
        "manifest": "checkpoints/00000001/manifest.json",
        "shared": shared.path,
        "private": private.path,
        "outcome": "outcome.json",
    }


CLASSES = ["identity", "attempt", "reservation", "manifest", "shared", "private", "outcome"]


@pytest.mark.parametrize("name", CLASSES)
def test_every_flipped_bit_is_found(job: JobDirectory, name: str) -> None:
    path = job.root / file_classes(job)[name]
    data, bits = path.read_bytes(), path.stat().st_size * 8
    assert damage(job) == []

    for bit in range(0, bits, max(1, bits // 150)):
        spoil(path, "flip", bit)
        assert damage(job) == [str(path.relative_to(job.root))], f"bit {bit}"
        path.write_bytes(data)


@pytest.mark.parametrize("name", CLASSES)
def test_a_truncated_file_is_found(job: JobDirectory, name: str) -> None:
    path = job.root / file_classes(job)[name]

    spoil(path, "cut")

    assert damage(job) == [str(path.relative_to(job.root))]


@pytest.mark.parametrize("name", ["identity", "shared", "private"])
def test_a_missing_file_is_found(job: JobDirectory, name: str) -> None:
    path = job.root / file_classes(job)[name]

    path.unlink()

    (finding,) = [finding for finding in job.verify() if finding.kind == "missing"]
    assert finding.name == str(path.relative_to(job.root))
    assert finding.checkpoint_id == (None if name == "identity" else 1)


def test_a_damaged_shared_file_is_reported_for_each_checkpoint(job: JobDirectory) -> None:
    complete(job, "000001.sst")
    (handle,) = files(job.read_manifest(CheckpointId(1)))
    complete(job, reuse=(handle,))
    spoil(job.root / handle.path, "flip")

    found = [(f.checkpoint_id, f.name) for f in job.verify() if f.kind == "corrupt"]

    assert found == [(1, handle.path), (2, handle.path)]


def test_checkpoint_that_is_retired_while_it_is_verified_is_not_called_damaged(
    job: JobDirectory,
) -> None:
    complete(job, "000001.sst", "CURRENT")
    retired = job.read_manifest(CheckpointId(1))
    complete(job, "000002.sst", "CURRENT")

    job.retire(1)

    assert list(verify_files(job.store, retired)) == []


@pytest.mark.parametrize("place", ["job", "savepoint"])
def test_file_that_is_missing_in_a_snapshot_that_is_there_is_found(
    job: JobDirectory, place: str
) -> None:
    complete(job, "000001.sst", "CURRENT")
    manifest = job.read_manifest(CheckpointId(1))
    path = job.root if place == "job" else export(job, CheckpointId(1))
    (path / files(manifest)[0].path).unlink()

    found = verify_files(DirectoryStore(path), manifest)

    assert [finding.kind for finding in found] == ["missing", "ok"]


def test_what_belongs_to_nothing_and_what_is_not_ours_are_told_apart(job: JobDirectory) -> None:
    complete(job, "000001.sst")
    (orphan,) = stored(job, 2, "000002.sst")
    torn = job.root / "shared" / ".tmp-00000000deadbeef"
    link = job.root / "shared" / "link"
    torn.write_bytes(b"")
    link.symlink_to(torn)
    (job.root / "notes.txt").write_bytes(b"mine")

    found = {(f.kind, f.name) for f in job.verify() if f.kind != "ok"}

    assert found == {
        ("unreferenced", orphan.path),
        ("unreferenced", "shared/.tmp-00000000deadbeef"),
        ("foreign", "shared/link"),
        ("foreign", "notes.txt"),
    }
