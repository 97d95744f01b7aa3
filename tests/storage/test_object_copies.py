"""Files that go from one place in a bucket to another: within the service, or through this host."""

from __future__ import annotations

from pathlib import Path

import msgspec
import obstore
import pytest
from obstore.exceptions import GenericError, NotSupportedError
from obstore.store import LocalStore

from flowsnap.bucket.retrying import RetryPolicy
from flowsnap.bucket.url import ObjectUrl
from flowsnap.core import manifest as manifests
from flowsnap.errors import ManifestCorrupt, StorageError
from flowsnap.storage import keeping, object_export
from flowsnap.storage.object_remote import connect
from flowsnap.storage.object_savepoint import BEGUN
from flowsnap.storage.opening import open_job, read_job
from flowsnap.storage.savepoint import bring_in
from tests.jobs import damage
from tests.storage import buckets
from tests.storage.buckets import WHOLE, contents, made, names

STATE = ObjectUrl.parse("s3://bucket/state")
ANSWER = "Error performing PUT http://host/b in 1 ms - Server returned non-2xx status code:"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    buckets.serve_from(tmp_path / "objects", monkeypatch)
    return tmp_path / "objects"


def test_within_a_bucket_the_service_copies(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    savepoint = made(STATE, tmp_path)
    got, get = [], obstore.get

    def told(remote: LocalStore, name: str) -> object:
        got.append(name)
        return get(remote, name)

    monkeypatch.setattr("obstore.get", told)
    object_export.write(STATE.root / "kept", savepoint, is_verified=True)

    assert got == [BEGUN]  # Is it still ours?
    assert contents(keeping.find(STATE.root / "kept")) == WHOLE


@pytest.mark.parametrize(
    "refusal",
    [
        NotSupportedError("no copies here"),
        GenericError(f"{ANSWER} 405 Method Not Allowed: no"),
        GenericError(f"{ANSWER} 501 Not Implemented: no"),
    ],
    ids=["by the client", "405", "501"],
)
def test_where_the_service_does_not_copy_files_go_through_this_host(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise refusal

    monkeypatch.setattr("obstore.copy", refuse)

    savepoint = made(STATE, tmp_path)

    assert contents(savepoint) == WHOLE
    with open_job(STATE / "other", "letters") as job:
        bring_in(job, savepoint)
        assert damage(job) == []


@pytest.mark.parametrize("how", ["copied", "brought in"])
def test_file_that_goes_through_this_host_is_read_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    savepoint = made(STATE, tmp_path)
    got, get = [], obstore.get

    def told(remote: LocalStore, name: str) -> object:
        got.append(name)
        return get(remote, name)

    monkeypatch.setattr("obstore.get", told)
    monkeypatch.setattr(object_export, "COPIED_BYTES_MAX", 0)
    if how == "copied":
        object_export.write(STATE.root / "kept", savepoint)
    else:
        with open_job(STATE / "other", "letters") as job:
            bring_in(job, savepoint)

    for handle in manifests.files(savepoint.manifest):
        assert got.count(handle.path) == 1


def test_damaged_savepoint_is_not_brought_in_although_the_service_copies(
    root: Path, tmp_path: Path
) -> None:
    savepoint = made(STATE, tmp_path)
    shared = manifests.files(savepoint.manifest)[0].path
    (buckets.on_disk(root, STATE) / "words" / "savepoints" / "monday" / shared).write_bytes(
        b"other"
    )

    with (
        open_job(STATE / "other", "letters") as job,
        pytest.raises(ManifestCorrupt, match=f"{shared} is damaged"),
    ):
        bring_in(job, savepoint)
    with read_job(STATE / "other", "letters") as job:
        assert job.checkpoints() == []


def test_what_the_service_copies_too_late_or_not_at_all_is_not_relied_upon(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    azure = ObjectUrl.parse("az://container/state")
    savepoint = made(azure, tmp_path)
    handle = manifests.files(savepoint.manifest)[0]
    copy = object_export.copier(savepoint.base, azure / "there")
    monkeypatch.setattr("obstore.copy", lambda remote, name, target: None)
    connect(azure / "there").put("slow", b"not yet")

    assert copy is not None
    large = msgspec.structs.replace(handle, size_bytes=2**33)
    for wanted, said in ((handle, "is not copied yet"), (large, "is too large")):
        with pytest.raises(StorageError, match=said) as raised:
            copy(wanted, "slow")
        assert raised.value.is_definite


def test_service_that_is_away_is_not_gone_around(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise GenericError("connection refused")

    savepoint = made(STATE, tmp_path)
    monkeypatch.setattr("obstore.copy", away)
    policy = RetryPolicy(sleep=lambda pause_s: None)

    with pytest.raises(StorageError, match=r"cannot copy .*: connection refused"):
        object_export.write(STATE.root / "kept", savepoint, policy=policy)

    assert names(root, STATE.root / "kept") == []
