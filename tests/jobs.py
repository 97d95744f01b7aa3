"""A job's directory for tests: local files stored, checkpoints completed, files damaged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from flowsnap.core.ids import AttemptId, CheckpointId
from flowsnap.core.manifest import CheckpointManifest, FileHandle
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.job_store import JobStore
from tests.manifests import checkpoint, keyed_state, task, words

COUNT = task("count/0")


@dataclass(frozen=True)
class Local:
    """A finished local file."""

    name: str
    path: Path
    is_shared: bool


def local(job: JobDirectory, name: str) -> Local:
    """Write a local file; one that ends with .sst is shared."""
    directory = job.work_directory(AttemptId(1))
    path = directory / name
    path.write_text(f"content of {name}")
    return Local(name, path, name.endswith(".sst"))


def stored(job: JobDirectory, number: int, *names: str) -> tuple[FileHandle, ...]:
    """Store fresh local files for a checkpoint."""
    writer = job.writer(job.newest_attempt() or AttemptId(1))
    return tuple(writer.store(CheckpointId(number), COUNT, local(job, name)) for name in names)


def manifest_of(
    job: JobStore, number: int, handles: tuple[FileHandle, ...] = ()
) -> CheckpointManifest:
    """Return a manifest of the current run and attempt that lists ``handles``."""
    state = msgspec.structs.replace(keyed_state(0, 128), files=handles)
    manifest = checkpoint(words(), {COUNT: {"state": state}}, number=number)
    attempt = job.newest_attempt() or AttemptId(1)
    return msgspec.structs.replace(manifest, run_id=job.run_id, attempt=attempt)


def complete(job: JobDirectory, *names: str, reuse: tuple[FileHandle, ...] = ()) -> CheckpointId:
    """Make a complete checkpoint of fresh files and of what earlier ones have stored."""
    number = job.next_checkpoint_id()
    job.reserve_checkpoint(number)
    job.write_manifest(manifest_of(job, number, (*stored(job, number, *names), *reuse)))
    return number


def damage(job: JobStore) -> list[str]:
    """Return the names of what is corrupt or missing."""
    return [f.name for f in job.verify() if f.kind in {"corrupt", "missing"}]


def spoil(path: Path, how: str, bit: int = 0) -> None:
    """Damage a file in its place, as a disk does."""
    data = bytearray(path.read_bytes())
    path.unlink()  # It may be a hard link to a local file.
    if how == "flip":
        data[bit // 8] ^= 1 << bit % 8
    if how == "cut":
        del data[-1]
    if how != "remove":
        path.write_bytes(data)
