"""Buckets that are directories of a test, and jobs with checkpoints in them or on the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from obstore.store import LocalStore

from flowsnap.bucket.url import ObjectUrl
from flowsnap.core import manifest as manifests
from flowsnap.core.manifest import CheckpointManifest, PreparedOutput, StateHandle
from flowsnap.storage import keeping
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.object_url import StateDir
from flowsnap.storage.opening import open_job
from flowsnap.storage.savepoint import SavepointFiles
from flowsnap.testing.faults import SimulatedCrash
from tests.jobs import COUNT, Local
from tests.manifests import checkpoint, words

WHOLE = {"000001.sst": b"000001.sst of 1", "CURRENT": b"CURRENT of 1"}


def serve_from(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every URL lead to a directory below ``root``, in which a bucket is a directory."""

    def from_url(url: str, **settings: object) -> LocalStore:
        scheme, _, place = url.partition("://")
        return LocalStore(root / scheme / place, mkdir=True)

    monkeypatch.setattr("flowsnap.bucket.remote.from_url", from_url)
    monkeypatch.setenv("FLOWSNAP_WORK_DIR", str(root / "work"))


def on_disk(root: Path, url: ObjectUrl) -> Path:
    """Return where the objects below a URL are."""
    return root / url.scheme / url.bucket / url.prefix


def complete(job: JobDirectory, scratch: Path) -> CheckpointManifest:
    """Complete a checkpoint with a shared and a private file, and something prepared."""
    if not job.run_id:
        job.begin_run()
    attempt = job.begin_attempt()
    number = job.next_checkpoint_id()
    job.reserve_checkpoint(number)
    handles = []
    for name in WHOLE:
        path = scratch / f"{number}-{name}"
        path.write_bytes(f"{name} of {number}".encode())
        local = Local(name, path, name.endswith(".sst"))
        handles.append(job.writer(attempt).store(number, COUNT, local))
    state: Any = {
        "state": StateHandle((0, 128), (), tuple(handles)),
        "prepared": (PreparedOutput(number, "part-1"),),
    }
    made = checkpoint(words(), {COUNT: state}, number=number)
    made = msgspec.structs.replace(made, run_id=job.run_id, attempt=attempt)
    job.write_manifest(made)
    return made


def made(state: StateDir, scratch: Path) -> SavepointFiles:
    """Return a savepoint that was made at a job."""
    with open_job(state, "words") as job:
        number = complete(job, scratch).checkpoint_id
        return keeping.find(keeping.export(job, number, "monday"))


def contents(savepoint: SavepointFiles) -> dict[str, bytes]:
    """Return the files of a savepoint, by the names they have where they are used."""
    found = {}
    for handle in manifests.files(savepoint.manifest):
        with savepoint.local_file(handle) as path:
            found[handle.name] = path.read_bytes()
    return found


def names(root: Path, place: StateDir) -> list[str]:
    """Return what lies at a place."""
    path = on_disk(root, place) if isinstance(place, ObjectUrl) else place
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


def dies_at(count: int) -> Callable[[], None]:
    """Return a guard: the process is killed before its ``count``-th change."""
    return _after(count, lambda: SimulatedCrash("killed"))


def fails_at(count: int, error: BaseException) -> Callable[[], None]:
    """Return a guard: the ``count``-th change fails, and those after it do not."""
    return _after(count, lambda: error)


def _after(count: int, error: Callable[[], BaseException]) -> Callable[[], None]:
    left = count

    def guard() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise error()

    return guard
