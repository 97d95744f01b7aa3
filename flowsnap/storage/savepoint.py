"""Savepoints: a completed checkpoint in a directory of its own, to which nothing else refers.

::

    <savepoint>/manifest.json       the checkpoint's manifest, its paths relative to this directory
    <savepoint>/shared/...          the files that it lists, under the names they had
    <savepoint>/checkpoints/...

*Out*: every file is hard-linked, or copied where that cannot be, into a directory with a temporary
name, the manifest is written, all is synced, and the directory gets its name: then the savepoint
exists. Links take no time and no space, and whoever deletes the checkpoint or the savepoint takes
nothing from the other.

*In*: the files are read and compared with the manifest, linked or copied into the job directory as
those of a new checkpoint, and the manifest is written there: then it is a checkpoint like any
other. So a running job never refers to a file that is not its own, and what it stores next may
build upon what was brought in.

Deviation from Flink: there a restored savepoint is claimed, copied at the first checkpoint, or
referred to without an owner, and each of the three has lost files (FLINK-21351, FLINK-39964); here
there is one way, in which files belong to exactly one directory.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from flowsnap.core import manifest as manifests
from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import CheckpointManifest, FileHandle, TaskSnapshot
from flowsnap.core.retention import CHECKPOINTS, MANIFEST, SHARED
from flowsnap.errors import ConfigError, ManifestCorrupt, RestoreError, StorageError
from flowsnap.storage import layout
from flowsnap.storage.directory import NO_LINK
from flowsnap.storage.filesystem import FileSystem
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.store import PIECE_BYTES, is_name, is_temporary
from flowsnap.storage.writer import CheckpointWriter

MANIFEST_BYTES_MAX = 2**30


@dataclass(frozen=True, slots=True)
class Savepoint:
    """A readable savepoint, or a checkpoint of another job; the files in ``base`` are unverified.

    ``path`` is what was asked for; the paths in the manifest are relative to ``base``.
    """

    path: Path
    base: Path
    manifest: CheckpointManifest


# --- out -----------------------------------------------------------------------------------------


def check_new(directory: JobDirectory, name: str) -> None:
    """Check that a savepoint of this name can be made; an empty name is chosen later.

    Raises:
        ConfigError: it is no name, or there is one already.
    """
    if not name:
        return
    if not is_name(name) or "/" in name:
        raise ConfigError(f"{name!r} cannot be the name of a savepoint").hint(
            "use letters, digits, '.', '_' and '-', begin with a letter or a digit, at most 128"
        )
    if (path := directory.root / layout.SAVEPOINTS / name).exists():
        raise ConfigError(f"job {directory.job} has a savepoint {name!r} already, {path}").hint(
            "choose another name, or delete that directory"
        )


def export(
    directory: JobDirectory,
    checkpoint_id: CheckpointId,
    name: str = "",
    filesystem: FileSystem | None = None,
) -> Path:
    """Make a savepoint of a complete checkpoint, durably, and return its directory.

    Without ``name`` it is called after the checkpoint; one that is there already is that very one.

    Raises:
        ConfigError: there is one of that name already, or it is none.
        RestoreError: there is no such checkpoint, or its manifest is damaged.
        StorageError: it was not made; unless ``is_definite``, it may be there.
    """
    check_new(directory, name)
    manifest = directory.read_manifest(checkpoint_id)
    target = directory.root / layout.SAVEPOINTS / (name or f"{checkpoint_id:08d}")
    if not name and (target / MANIFEST).is_file():
        return target
    disk = _Disk(filesystem or FileSystem())
    with _translated(f"cannot make the savepoint {target}"):
        disk.make(target.parent)
    exported = msgspec.structs.replace(manifest, kind="savepoint")
    disk.write_whole(target, exported, directory.root, disk.place)
    return target


def copy(savepoint: Savepoint, target: Path, filesystem: FileSystem | None = None) -> None:
    """Copy a savepoint, each file compared with the manifest, to a directory that is made.

    Raises:
        ConfigError: there is something at ``target``, or its parent is no directory.
        ManifestCorrupt: a file is missing or damaged.
        StorageError: as ``export``.
    """
    if target.exists():
        raise ConfigError(f"there is something at {target}").hint("name a directory to be made")
    if not target.parent.is_dir():
        raise ConfigError(f"there is no directory {target.parent}")
    disk = _Disk(filesystem or FileSystem())
    exported = msgspec.structs.replace(savepoint.manifest, kind="savepoint")
    disk.write_whole(target, exported, savepoint.base, disk.copy_verified)


def remove(path: Path) -> None:
    """Delete a savepoint: its manifest first, so that no half of one is taken for whole.

    Raises:
        StorageError: it is not gone, or not all of it.
    """
    with _translated(f"cannot delete {path}", is_definite=False):
        os.unlink(path / MANIFEST)
        FileSystem().fsync_directory(path)
        shutil.rmtree(path)


# --- in ------------------------------------------------------------------------------------------


def find(path: Path) -> Savepoint:
    """Read the manifest of a savepoint, or of a checkpoint in the directory of another job.

    Raises:
        RestoreError: there is nothing at ``path``.
        ManifestCorrupt: it is no savepoint, torn, damaged, or of another version of the format.
        ConfigError: others can write to it: a savepoint is code that is run when it is restored.
        StorageError: it cannot be read.
    """
    path = path.absolute()
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
    with _translated(f"cannot read {source}"), _opened(source) as descriptor:
        data = os.read(descriptor, MANIFEST_BYTES_MAX)
    manifest = manifests.decode(data, str(source))
    job_root = path.parent.parent
    is_in_job = path.parent.name == CHECKPOINTS.rstrip("/") and (job_root / layout.IDENTITY).exists()
    return Savepoint(path, job_root if is_in_job else path, manifest)


def is_own(directory: JobDirectory, savepoint: Savepoint) -> bool:
    """Return whether a savepoint lies in the history that the job's current run goes on with."""
    manifest = savepoint.manifest
    return manifest.job == directory.job and manifest.run_id in directory.lineage


def bring_in(directory: JobDirectory, savepoint: Savepoint) -> CheckpointManifest:
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
    tasks = _bring_in_files(savepoint, directory.writer(attempt), checkpoint_id)
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


def _bring_in_files(
    savepoint: Savepoint, writer: CheckpointWriter, checkpoint_id: CheckpointId
) -> tuple[TaskSnapshot, ...]:
    known: dict[str, FileHandle] = {}
    tasks = []
    for task in savepoint.manifest.tasks:

        def take(handle: FileHandle, task: TaskSnapshot = task) -> FileHandle:
            if handle.path not in known:
                path = savepoint.base / handle.path
                _check_file(path, handle)
                is_shared = handle.path.startswith(SHARED)
                local = _Foreign(handle.name, path, is_shared)
                stored = writer.store(checkpoint_id, task.task, local)
                _compare(path, handle, stored.size_bytes, stored.sha256)
                known[handle.path] = stored
            return known[handle.path]

        tasks.append(_with_files(task, take))
    return tuple(tasks)


def _with_files(task: TaskSnapshot, take: Callable[[FileHandle], FileHandle]) -> TaskSnapshot:
    state, channels = task.state, task.channel_file
    if state is not None:
        state = msgspec.structs.replace(state, files=tuple(map(take, state.files)))
    return msgspec.structs.replace(
        task, state=state, channel_file=None if channels is None else take(channels)
    )


def _check_file(path: Path, handle: FileHandle) -> None:
    """Check what can be said of a file without reading it."""
    try:
        status = path.lstat()
    except FileNotFoundError as error:
        expected = f"expected {handle.size_bytes} bytes with sha256 {handle.sha256}"
        raise ManifestCorrupt(f"{path} is missing: {expected}, found none") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ManifestCorrupt(f"{path} is no regular file")
    _check_private(path, status)


def _compare(path: Path, handle: FileHandle, size_bytes: int, sha256: str) -> None:
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


# --- on the disk ---------------------------------------------------------------------------------


class _Disk:
    """Writes a directory as a whole: it has its name when it is complete and durable."""

    def __init__(self, files: FileSystem) -> None:
        self._files = files

    def make(self, path: Path) -> None:
        """Make a directory, durably, unless it is there."""
        with suppress(FileExistsError):
            self._files.make_directory(path)
            self._files.fsync_directory(path.parent)

    def write_whole(
        self,
        target: Path,
        manifest: CheckpointManifest,
        base: Path,
        place: Callable[[Path, Path, FileHandle], None],
    ) -> None:
        """Put all that a manifest lists, from below ``base``, and itself into a new directory."""
        temporary = target.with_name(f".tmp-{secrets.token_hex(8)}")
        what = f"cannot make the savepoint {target}"
        try:
            with _translated(what):
                self._files.make_directory(temporary)
                handles = manifests.files(manifest)
                made = self._make_directories(temporary, (handle.path for handle in handles))
                for handle in handles:
                    place(base / handle.path, temporary / handle.path, handle)
                self._write(temporary / MANIFEST, [manifests.encode(manifest)])
                for path in made:
                    self._files.fsync_directory(path)
            with _translated(f"{what}, or it is there and not durable", is_definite=False):
                self._give_name(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def place(self, source: Path, target: Path, handle: FileHandle) -> None:
        """Link a durable file of the store, or copy it where the file system knows no links."""
        try:
            self._files.link(source, target)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            self.copy_verified(source, target, handle)

    def copy_verified(self, source: Path, target: Path, handle: FileHandle) -> None:
        """Copy a file, and compare it with its handle."""
        _check_file(source, handle)
        digest, size = hashlib.sha256(), 0
        with _opened(source) as descriptor:

            def pieces() -> Iterator[bytes]:
                nonlocal size
                while piece := self._files.read(descriptor, PIECE_BYTES):
                    digest.update(piece)
                    size += len(piece)
                    yield piece

            self._write(target, pieces())
        _compare(source, handle, size, digest.hexdigest())

    def _make_directories(self, root: Path, paths: Iterable[str]) -> list[Path]:
        """Make the directories of these files below ``root``; return all, the inner ones first."""
        parents = {parent for path in paths for parent in Path(path).parents}
        ordered = sorted(parents - {Path()}, key=lambda path: len(path.parts))
        for path in ordered:
            self._files.make_directory(root / path)
        return [root / path for path in reversed(ordered)] + [root]

    def _write(self, path: Path, pieces: Iterable[bytes]) -> None:
        descriptor = self._files.create(path)
        try:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[self._files.write(descriptor, rest) :]
            self._files.fsync(descriptor)
        finally:
            self._files.close(descriptor)

    def _give_name(self, temporary: Path, target: Path) -> None:
        if target.exists():  # An empty directory would be replaced.
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        self._files.replace(temporary, target)
        self._files.fsync_directory(target.parent)


def remove_temporaries(directory: JobDirectory) -> list[str]:
    """Delete what interrupted exports have left; call it before there are any."""
    place = directory.root / layout.SAVEPOINTS
    found = [entry.name for entry in FileSystem().scan(place) if is_temporary(entry.name)]
    for name in found:
        shutil.rmtree(place / name, ignore_errors=True)
    return [f"{layout.SAVEPOINTS}/{name}" for name in found]


def names(directory: JobDirectory) -> Mapping[str, Path]:
    """Return the savepoints that lie in a job's directory, by name."""
    place = directory.root / layout.SAVEPOINTS
    return {
        entry.name: place / entry.name
        for entry in FileSystem().scan(place)
        if entry.is_directory and (place / entry.name / MANIFEST).is_file()
    }


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = FileSystem().open(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _translated(what: str, *, is_definite: bool = True) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"{what}: {reason}", is_definite=is_definite) from error
