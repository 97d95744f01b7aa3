"""A snapshot in a bucket is found by the same places as one on a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowsnap.bucket.url import ObjectUrl
from flowsnap.core.ids import CheckpointId
from flowsnap.errors import ConfigError, ManifestCorrupt, RestoreError
from flowsnap.snapshot import Snapshot
from flowsnap.storage import keeping
from flowsnap.storage.object_remote import connect
from flowsnap.storage.opening import open_job
from tests.storage import buckets

STATE = ObjectUrl.parse("s3://bucket/state")


@pytest.fixture(autouse=True)
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a job with two checkpoints and a savepoint of the first."""
    buckets.serve_from(tmp_path / "objects", monkeypatch)
    with open_job(STATE, "words") as job:
        for _ in range(2):
            buckets.complete(job, tmp_path)
        keeping.export(job, CheckpointId(1), "monday")


def number(place: object, job: str | None = None) -> int:
    with Snapshot.open(place, job) as snapshot:  # type: ignore[arg-type]  # as a user may call it
        assert snapshot.source.startswith("s3://bucket/state/words/")
        return snapshot.checkpoint_id


def test_every_url_to_a_checkpoint_leads_to_it() -> None:
    job = STATE / "words"
    one = job / "checkpoints" / "00000001"

    assert number(one) == number(str(one)) == number(Path(str(one / "manifest.json"))) == 1
    assert number(job / "savepoints" / "monday") == 1
    assert number(STATE) == number(STATE, "words") == number(job) == 2


def test_url_of_one_of_several_jobs_must_name_it() -> None:
    open_job(STATE, "second").close()

    with pytest.raises(ConfigError, match="there are 2 jobs in s3://bucket/state") as caught:
        Snapshot.open(str(STATE))

    assert caught.value.__notes__ == ["name one of them: second, words"]


def test_job_without_a_checkpoint_and_a_checkpoint_that_there_is_not_are_named() -> None:
    open_job(STATE, "second").close()

    with pytest.raises(RestoreError, match="job second has no complete checkpoint"):
        Snapshot.open(str(STATE), "second")
    with pytest.raises(RestoreError, match="job words has no checkpoint 3"):
        Snapshot.open(str(STATE / "words" / "checkpoints" / "00000003"))


def test_what_is_no_snapshot_is_refused() -> None:
    connect(STATE.root / "other").put("notes", b"1")

    with pytest.raises(ManifestCorrupt, match="s3://bucket/other is no snapshot"):
        Snapshot.open("s3://bucket/other")
    with pytest.raises(ConfigError, match="there is no snapshot at s3://bucket/none"):
        Snapshot.open("s3://bucket/none")
