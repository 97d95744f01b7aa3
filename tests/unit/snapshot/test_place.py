"""A snapshot is found by the path of a checkpoint, a job, a state directory or a savepoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowsnap.core import manifest as manifests
from flowsnap.errors import ConfigError, ManifestCorrupt, RestoreError
from flowsnap.snapshot import SavepointBuilder, Snapshot
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.job_directory import JobDirectory
from tests.manifests import checkpoint, words


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """Return a state directory in which job "words" has checkpoints 1 and 2."""
    with JobDirectory.open(tmp_path / "state", "words") as job:
        run_id, attempt = job.begin_run(), job.begin_attempt()
        for number in (1, 2):
            job.reserve_checkpoint(job.next_checkpoint_id())
            manifest = checkpoint(words(), number=number)
            changes: Any = {"run_id": run_id, "attempt": attempt}
            job.write_manifest(msgspec.structs.replace(manifest, **changes))
    return tmp_path / "state"


@pytest.fixture
def savepoint(tmp_path: Path) -> Path:
    path = tmp_path / "savepoint"
    SavepointBuilder.new(words()).add_state("count", "balance", {"a": 1}).write(path)
    return path


def number(*arguments: object) -> int:
    with Snapshot.open(*arguments) as snapshot:  # type: ignore[arg-type]  # as a user may call it
        return snapshot.checkpoint_id


def test_every_path_to_a_checkpoint_leads_to_it(state_dir: Path) -> None:
    one = state_dir / "words" / "checkpoints" / "00000001"

    assert number(one) == number(str(one)) == number(one / "manifest.json") == 1
    assert number(state_dir) == number(state_dir, "words") == number(state_dir / "words") == 2


def test_nothing_of_a_reader_stays_in_the_directory_of_the_job(state_dir: Path) -> None:
    before = sorted(path for path in state_dir.rglob("*") if path.name != "work")

    with Snapshot.open(state_dir):
        assert len(list((state_dir / "words" / "work").iterdir())) == 1

    assert sorted(path for path in state_dir.rglob("*") if path.name != "work") == before
    with JobDirectory.read(state_dir, "words") as job:
        assert {finding.kind for finding in job.verify()} == {"ok"}


def test_manifest_that_is_not_written_yet_can_be_looked_at(state_dir: Path) -> None:
    root = state_dir / "words"
    (root / "work").mkdir(exist_ok=True)

    with Snapshot.of(checkpoint(words(), number=3), DirectoryStore(root)) as snapshot:
        assert snapshot.checkpoint_id == 3
        assert [path.name[:8] for path in (root / "work").iterdir()] == ["reading-"]

    assert list((root / "work").iterdir()) == []


def test_savepoint_is_found_wherever_it_lies(savepoint: Path) -> None:
    moved = savepoint.rename(savepoint.with_name("elsewhere"))

    with Snapshot.open(moved) as snapshot:
        assert dict(snapshot.state("count", "balance").items()) == {"a": 1}
        assert snapshot.source == str(moved)


def test_path_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no snapshot at"):
        Snapshot.open(tmp_path / "none")


def test_job_that_there_is_not_is_named(state_dir: Path) -> None:
    with pytest.raises(ConfigError, match="there is no job other") as caught:
        Snapshot.open(state_dir, "other")

    assert caught.value.__notes__ == ["jobs: words"]


def test_one_of_several_jobs_must_be_named(state_dir: Path) -> None:
    JobDirectory.open(state_dir, "second").close()

    with pytest.raises(ConfigError, match="there are 2 jobs") as caught:
        Snapshot.open(state_dir)

    assert caught.value.__notes__ == ["name one of them: second, words"]


def test_job_without_a_complete_checkpoint_is_named(tmp_path: Path) -> None:
    JobDirectory.open(tmp_path / "state", "words").close()

    with pytest.raises(RestoreError, match="job words has no complete checkpoint"):
        Snapshot.open(tmp_path / "state")


def test_checkpoint_that_was_given_up_is_named(state_dir: Path) -> None:
    place = state_dir / "words" / "checkpoints" / "00000003"
    place.mkdir()

    with pytest.raises(RestoreError, match="job words has no checkpoint 3") as caught:
        Snapshot.open(place)

    assert caught.value.__notes__ == ["complete checkpoints: 1, 2"]


def test_savepoint_without_its_manifest_is_torn(savepoint: Path) -> None:
    (savepoint / "manifest.json").unlink()

    with pytest.raises(ManifestCorrupt, match=r"is no snapshot: it has no manifest\.json"):
        Snapshot.open(savepoint)


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_torn_manifest_is_named(savepoint: Path, kept: int) -> None:
    path = savepoint / "manifest.json"
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(ManifestCorrupt, match="is cut off or no manifest"):
        Snapshot.open(savepoint)


def test_manifest_of_something_else_is_named(savepoint: Path) -> None:
    (savepoint / "manifest.json").write_text('{"name": "some web app"}\n')

    with pytest.raises(ManifestCorrupt, match="no manifest: it does not end with a sha256"):
        Snapshot.open(savepoint)


def test_snapshot_of_a_newer_format_is_named(
    savepoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Snapshot.open(savepoint) as snapshot:
        newer = msgspec.structs.replace(snapshot.manifest, format_version=99)
    (savepoint / "manifest.json").write_bytes(manifests.encode(newer))

    with pytest.raises(ManifestCorrupt, match="has format version 99, expected 1") as caught:
        Snapshot.open(savepoint)

    assert caught.value.__notes__ == ["read it with the version of flowsnap that wrote it"]


def test_savepoint_that_lacks_a_file_is_torn(savepoint: Path) -> None:
    next(savepoint.glob("shared/*.sst")).unlink()

    with pytest.raises(ManifestCorrupt, match="is missing: expected"):
        Snapshot.open(savepoint)


def test_savepoint_that_others_can_write_to_is_refused(savepoint: Path) -> None:
    os.chmod(savepoint, 0o777)

    with pytest.raises(ConfigError, match="can be written to by others"):
        Snapshot.open(savepoint)
