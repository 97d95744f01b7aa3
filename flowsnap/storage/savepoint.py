"""Savepoints, and how one becomes a checkpoint of a job.

::

    <savepoint>/manifest.json       the checkpoint's manifest, its paths relative to this directory
    <savepoint>/shared/...          the files that it lists, under the names they had
    <savepoint>/checkpoints/...

A savepoint is a completed checkpoint in a directory of its own, to which nothing else refers
(``export.py`` makes it). To restore it, the files are read and compared with the manifest, linked
or copied into the job directory as those of a new checkpoint, and the manifest is written there:
then it is a checkpoint like any other. So a running job never refers to a file that is not its own,
and what it stores next may build upon what was brought in.

Deviation from Flink: there a restored savepoint is claimed, copied at the first checkpoint, or
referred to without an owner, and each of the three has lost files (FLINK-21351, FLINK-39964); here
there is one way, in which a file belongs to exactly one directory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from flowsnap.core import manifest as manifests
from flowsnap.core.ids import AttemptId, CheckpointId
from flowsnap.core.manifest import CheckpointManifest, FileHandle, TaskSnapshot, files_of
from flowsnap.core.retention import CHECKPOINTS, MANIFEST, SHARED
from flowsnap.errors import ConfigError, ManifestCorrupt, RestoreError, StorageError
from flowsnap.storage import layout
from flowsnap.storage.filesystem import FileSystem
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.object_url import StateDir
from flowsnap.storage.store import PIECE_BYTES
from flowsnap.storage.translation import translated
from flowsnap.storage.writer import measure


class SavepointFiles(Protocol):
    """A readable savepoint, or a checkpoint of another job; the files in ``base`` are unverified.

    ``path`` is what was asked for; the paths in the manifest are relative to ``base``.
    """

    @property
    def path(self) -> StateDir:
        """What was asked for."""

    @property
    def base(self) -> StateDir:
        """Where the files are."""

    @property
    def manifest(self) -> CheckpointManifest:
        """Its manifest."""

    def local_file(self, handle: FileHandle) -> AbstractContextManager[Path]:
        """Yield a file on the local disk, whose content is not compared with its handle.

        Raises:
            ManifestCorrupt: it is missing.
            ConfigError: others can write to it.
            StorageError: it cannot be had.
        """

    def check(self, handle: FileHandle) -> None:
        """Read a file, and compare it with its handle.

        Raises:
            ManifestCorrupt: it is missing or damaged.
            StorageError: it cannot be read.
        """


@dataclass(frozen=True, slots=True)
class Savepoint:
    """Such a one on the local disk."""

    path: Path
    base: Path
    manifest: CheckpointManifest

    @contextmanager
    def local_file(self, handle: FileHandle) -> Iterator[Path]:
        path = self.base / handle.path
        check_file(path, handle)
        yield path

    def check(self, handle: FileHandle) -> None:
        with self.local_file(handle) as path, translated(f"cannot read {path}"):
            compare(path, handle, *measure(path))


def find(path: Path) -> Savepoint:
    """Read the manifest of a savepoint, or of a checkpoint in the directory of another job.

    Raises:
        RestoreError: there is nothing at ``path``.
        ManifestCorrupt: it is no savepoint, torn, damaged, or of another version of the format.
        ConfigError: others can write to it: a savepoint is code that is run when it is restored.
        StorageError: it cannot be read.
    """
    path = path.absolute()
    path = path.parent if path.name == MANIFEST else path
    if not path.exists():
        raise RestoreError(f"there is no savepoint at {path}").hint(
            "name the directory of a savepoint, or of a checkpoint of another job"
        )
    if not (path / MANIFEST).is_file():
        raise ManifestCorrupt(f"{path} is no savepoint: it has no {MANIFEST}").hint(
            "it was not written to its end, or it is something else"
        )
    _check_private(path, path.stat())
    source = path / MANIFEST
    with translated(f"cannot read {source}"), opened(source) as descriptor:
        data = b"".join(iter(lambda: os.read(descriptor, PIECE_BYTES), b""))
    manifest = manifests.decode(data, str(source))
    job_root = path.parent.parent
    is_in_job = (
        path.parent.name == CHECKPOINTS.rstrip("/") and (job_root / layout.IDENTITY).exists()
    )
    return Savepoint(path, job_root if is_in_job else path, manifest)


def is_own(directory: JobDirectory, savepoint: SavepointFiles) -> bool:
    """Return whether a savepoint lies in the history that the job's current run goes on with."""
    manifest = savepoint.manifest
    return manifest.job == directory.job and manifest.run_id in directory.lineage


def bring_in(directory: JobDirectory, savepoint: SavepointFiles) -> CheckpointManifest:
    """Make a savepoint the newest checkpoint of a job, and return its new manifest.

    One of the job's own history goes on with it, and what the sinks had prepared is in there: to
    commit it again changes nothing. One of another job's begins a new run here, and holds nothing
    prepared: what that job had promised to its target is for that job to commit, once, and this
    one's target may be another. ``origin`` in the manifest says after which checkpoint of this
    job's own history output is to be written anew: all of it, where the savepoint is another's.

    A crash before the end leaves the job as it was, and files that the next start removes.

    Raises:
        ManifestCorrupt: a file is missing, or not what the manifest says.
        ConfigError: others can write to a file.
        StorageError: the disk failed; unless ``is_definite``, it may have been brought in.
    """
    is_ours = is_own(directory, savepoint)
    old = savepoint.manifest
    attempt = directory.begin_attempt()
    checkpoint_id = directory.next_checkpoint_id()
    directory.reserve_checkpoint(checkpoint_id)
    bringing = _Bringing(savepoint, directory, attempt, checkpoint_id)
    tasks = bringing.tasks()
    manifest = msgspec.structs.replace(
        old,
        job=directory.job,
        run_id=directory.run_id,
        checkpoint_id=checkpoint_id,
        attempt=attempt,
        kind="savepoint",
        origin=_origin(old) if is_ours else CheckpointId(0),
        tasks=tasks if is_ours else tuple(map(_without_prepared, tasks)),
    )
    if is_ours and old.run_id == directory.run_id:
        directory.write_manifest(manifest)
    else:
        directory.begin_run(after=old.run_id if is_ours else "", first=manifest)
    return directory.read_manifest(checkpoint_id)


def _origin(manifest: CheckpointManifest) -> CheckpointId:
    """Return the checkpoint of the job's own history that one is, or is a copy of."""
    return manifest.checkpoint_id if manifest.origin is None else manifest.origin


def _without_prepared(task: TaskSnapshot) -> TaskSnapshot:
    return msgspec.structs.replace(task, prepared=())


@dataclass(frozen=True, slots=True)
class _Foreign:
    """A file of a savepoint, as the writer wants it."""

    name: str
    path: Path
    is_shared: bool


class _Bringing:
    """The files of one savepoint on their way into a job."""

    def __init__(
        self,
        savepoint: SavepointFiles,
        directory: JobDirectory,
        attempt: AttemptId,
        checkpoint_id: CheckpointId,
    ) -> None:
        self._savepoint = savepoint
        self._writer = directory.writer(attempt)
        self._copy = directory.copier(savepoint.base)
        self._checkpoint_id = checkpoint_id

    def tasks(self) -> tuple[TaskSnapshot, ...]:
        """Store every file, once, and return the tasks with the new handles."""
        tasks = self._savepoint.manifest.tasks
        first = {
            handle.path: (task, handle) for task in reversed(tasks) for handle in files_of(task)
        }
        stored = self._writer.each(self._take, list(first.values()))
        known = dict(zip(first, stored, strict=True))
        return tuple(_with_files(task, lambda handle: known[handle.path]) for task in tasks)

    def _take(self, wanted: tuple[TaskSnapshot, FileHandle]) -> FileHandle:
        task, handle = wanted
        if self._copy is not None:
            try:
                stored = self._writer.adopt(self._checkpoint_id, task.task, handle, self._copy)
            except StorageError as error:
                if not error.is_definite:
                    raise
                # Not all services copy, and none what is too large: it goes through this host.
            else:
                self._savepoint.check(handle)
                return stored
        with self._savepoint.local_file(handle) as path:
            local = _Foreign(handle.name, path, handle.path.startswith(SHARED))
            stored = self._writer.store(self._checkpoint_id, task.task, local)
        compare(self._savepoint.base / handle.path, handle, stored.size_bytes, stored.sha256)
        return stored


def _with_files(task: TaskSnapshot, take: Callable[[FileHandle], FileHandle]) -> TaskSnapshot:
    state, channels = task.state, task.channel_file
    if state is not None:
        state = msgspec.structs.replace(state, files=tuple(map(take, state.files)))
    return msgspec.structs.replace(
        task, state=state, channel_file=None if channels is None else take(channels)
    )


def check_file(path: Path, handle: FileHandle) -> None:
    """Check what can be said of a file without reading it.

    Raises:
        ManifestCorrupt: it is missing, or no regular file.
        ConfigError: others can write to it.
        StorageError: the disk failed.
    """
    try:
        status = path.lstat()
    except FileNotFoundError as error:
        raise missing(path, handle) from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ManifestCorrupt(f"{path} is no regular file")
    _check_private(path, status)


def missing(path: StateDir, handle: FileHandle) -> ManifestCorrupt:
    """Return the error that a file is not there."""
    expected = f"expected {handle.size_bytes} bytes with sha256 {handle.sha256}"
    return ManifestCorrupt(f"{path} is missing: {expected}, found none")


def compare(path: StateDir, handle: FileHandle, size_bytes: int, sha256: str) -> None:
    """Check what was found of a file against its handle.

    Raises:
        ManifestCorrupt: it is another.
    """
    if (size_bytes, sha256) != (handle.size_bytes, handle.sha256):
        raise ManifestCorrupt(
            f"{path} is damaged: expected {handle.size_bytes} bytes with sha256 {handle.sha256}, "
            f"found {size_bytes} bytes with {sha256}"
        ).hint("take another savepoint, or restore a checkpoint")


def _check_private(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in {os.geteuid(), 0}:
        raise ConfigError(f"{path} belongs to user {status.st_uid}, not to {os.geteuid()}").hint(
            "copy it if you trust its owner: a savepoint is code that is run when it is restored"
        )
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(f"{path} can be written to by others (mode {mode:04o})").hint(
            f"chmod -R go-w {path}"
        )


def savepoint_paths(directory: JobDirectory) -> Mapping[str, Path]:
    """Return the savepoints that lie in a job's directory, by name."""
    place = directory.root / layout.SAVEPOINTS
    return {
        entry.name: place / entry.name
        for entry in FileSystem().scan(place)
        if entry.is_directory and (place / entry.name / MANIFEST).is_file()
    }


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Yield a descriptor of a regular file, to read from; links are not followed."""
    descriptor = FileSystem().open(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
