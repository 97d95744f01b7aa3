"""A job in object storage whose job manager is succeeded by another, with no lease to help."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore as RemoteMemory

from flowsnap.bucket.retrying import RetryPolicy
from flowsnap.bucket.url import ObjectUrl
from flowsnap.core.ids import AttemptId, CheckpointId
from flowsnap.errors import ManifestCorrupt, StorageError
from flowsnap.storage import job_store, layout
from flowsnap.storage.lease import Lease
from flowsnap.storage.memory import MemoryStore
from flowsnap.storage.object_directory import (
    CALL_MS_MAX,
    CALL_TIMEOUT_MS,
    ObjectJobDirectory,
    work_directory,
)
from flowsnap.storage.object_store import ObjectStore
from flowsnap.storage.ownership import OwnerLock
from flowsnap.storage.writer import CheckpointWriter
from tests.jobs import COUNT, local, manifest_of, stored
from tests.storage.test_object_store import Clock

URL = ObjectUrl.parse("s3://bucket/state/words")
Open = Callable[..., ObjectJobDirectory]


@pytest.fixture
def manager(tmp_path: Path) -> Open:
    """Job managers of one job, each on a host and with a lease of its own."""
    remote, hosts = RemoteMemory(), iter(range(9))

    def opened(**settings: Any) -> ObjectJobDirectory:
        root = tmp_path / str(next(hosts))
        root.mkdir()
        held = (OwnerLock.acquire(root / layout.LOCK), Lease.acquire(MemoryStore(), "elsewhere"))
        job = ObjectJobDirectory(ObjectStore(remote, str(URL), **settings), URL, root, held)
        job.clean_leftovers()
        if not job.run_id:
            job.begin_run()
        job.begin_attempt()
        return job

    return opened


def test_a_checkpoint_that_was_begun_is_never_completed_by_a_paused_job_manager(
    manager: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = manager()
    paused.reserve_checkpoint(CheckpointId(1))
    files = stored(paused, 1, "000001.sst")
    manifest = manifest_of(paused, 1, tuple(files))
    # It has looked for newer attempts, and stopped; what it looks at now is of then.
    monkeypatch.setattr(paused, "_check_fence", lambda manifest: None)
    monkeypatch.setattr(job_store, "check_listed", lambda store, manifest: None)

    successor = manager()

    with pytest.raises(StorageError, match="was not written") as raised:
        paused.write_manifest(manifest)
    assert raised.value.is_definite
    assert successor.checkpoints() == paused.checkpoints() == []


def test_what_a_paused_job_manager_completed_in_time_is_found_by_its_successor(
    manager: Open,
) -> None:
    paused = manager()
    paused.reserve_checkpoint(CheckpointId(1))
    paused.write_manifest(manifest_of(paused, 1, tuple(stored(paused, 1, "000001.sst"))))

    assert manager().checkpoints() == [1]


def test_an_id_that_is_barred_is_not_given_away_again(manager: Open) -> None:
    manager().reserve_checkpoint(CheckpointId(1))

    successor = manager()

    assert successor.next_checkpoint_id() == 2
    successor.reserve_checkpoint(CheckpointId(2))
    manifest = manifest_of(successor, 2, tuple(stored(successor, 2, "000001.sst")))
    successor.write_manifest(manifest)
    assert successor.checkpoints() == [2]


def test_an_older_attempt_stores_nothing_any_more(manager: Open) -> None:
    paused = manager()
    manager()

    with pytest.raises(StorageError, match="attempt 2 has begun"):
        paused.writer(AttemptId(1)).store(CheckpointId(1), COUNT, local(paused, "000001.sst"))
    assert paused.store.list("shared/") == []


def test_a_job_is_verified_where_it_is(manager: Open) -> None:
    job = manager()
    job.reserve_checkpoint(CheckpointId(1))
    job.write_manifest(manifest_of(job, 1, tuple(stored(job, 1, "000001.sst", "CURRENT"))))
    manager()

    kinds = {finding.kind for finding in manager().verify()}

    assert kinds == {"ok"}


@pytest.mark.parametrize("files_at_once", [1, 8])
def test_nothing_is_restored_where_one_of_many_files_is_damaged(
    manager: Open, tmp_path: Path, files_at_once: int
) -> None:
    job = manager()
    handles = stored(job, 1, *(f"{number:06d}.sst" for number in range(20)))
    job.store.put(handles[7].path, b"other")
    writer = CheckpointWriter(job.root, AttemptId(1), job.store, files_at_once=files_at_once)

    with pytest.raises(ManifestCorrupt, match=handles[7].path):
        writer.restore(handles, tmp_path / "task")
    assert not (tmp_path / "task").exists()


def test_what_a_running_job_asks_of_a_slow_service_ends_in_time(manager: Open) -> None:
    clock, pause_s = Clock(), 0.0
    job = manager(policy=clock.policy(), guard=lambda: clock.advance(pause_s))
    job.reserve_checkpoint(CheckpointId(1))
    pause_s = 11.0

    with pytest.raises(StorageError, match="checkpoints/: it was not tried"):
        job.begin_attempt()

    assert clock.now_s == pause_s
    pause_s = 0.0
    assert job.begin_attempt() == 3


def test_savepoint_of_a_job_whose_service_is_away_is_given_up_soon(
    manager: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = manager()
    job.reserve_checkpoint(CheckpointId(1))
    job.write_manifest(manifest_of(job, 1, tuple(stored(job, 1, "000001.sst"))))
    clock = silent_service(monkeypatch)

    with pytest.raises(StorageError, match=r"cannot look for begun: .*no answer"):
        job.make_savepoint(CheckpointId(1), "monday")

    assert clock.now_s <= (CALL_MS_MAX + CALL_TIMEOUT_MS) / 1000


def silent_service(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Have every new client wait for an answer until its time is over, which is told."""
    clock, head = Clock(), obstore.head
    clients: list[tuple[RemoteMemory, int]] = []

    def from_url(url: str, *, client_options: dict[str, str], **_: object) -> RemoteMemory:
        client = RemoteMemory()
        clients.append((client, int(client_options["timeout"].removesuffix("ms"))))
        return client

    def silent(remote: RemoteMemory, name: str) -> object:
        for client, timeout_ms in clients:
            if remote is client:
                clock.advance(timeout_ms / 1000)
                raise GenericError("no answer")
        return head(remote, name)

    policy = partial(RetryPolicy, sleep=clock.advance, now_s=lambda: clock.now_s)
    monkeypatch.setattr("flowsnap.bucket.remote.from_url", from_url)
    monkeypatch.setattr("flowsnap.storage.object_directory.RetryPolicy", policy)
    monkeypatch.setattr("flowsnap.storage.object_store.RetryPolicy", policy)
    monkeypatch.setattr("obstore.head", silent)
    return clock


def test_the_same_url_has_the_same_local_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWSNAP_WORK_DIR", raising=False)
    one, other = ObjectUrl.parse("s3://bucket/a"), ObjectUrl.parse("s3://bucket/b")

    assert work_directory(one) == work_directory(one) != work_directory(other)

    monkeypatch.setenv("FLOWSNAP_WORK_DIR", "/var/lib/jobs")
    assert work_directory(one) == Path("/var/lib/jobs")
