"""Making savepoints: a completed checkpoint, linked or copied into a directory of its own.

Every file is hard-linked, or copied where that cannot be, into a directory with a temporary name,
the manifest is written, all is synced, and the directory gets its name: then the savepoint exists.
Links take no time and no space, and whoever deletes the checkpoint or the savepoint takes nothing
from the other. Only the job manager, or whoever holds the job's lock in its place, may export.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from flowsnap.core import manifest as manifests
from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import CheckpointManifest, FileHandle
from flowsnap.core.retention import MANIFEST
from flowsnap.errors import ConfigError, FlowsnapError
from flowsnap.storage import layout
from flowsnap.storage.directory import NO_LINK
from flowsnap.storage.filesystem import FileSystem
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.parallel import each
from flowsnap.storage.savepoint import Savepoint, check_file, compare, opened
from flowsnap.storage.store import PIECE_BYTES, is_name
from flowsnap.storage.translation import translated


def check_new(directory: JobDirectory, name: str) -> None:
    """Check that a savepoint of this name can be made; an empty name is chosen later.

    Raises:
        ConfigError: it is no name, or there is one already.
    """
    check_name(name)
    if name and (path := directory.root / layout.SAVEPOINTS / name).exists():
        raise ConfigError(f"job {directory.job} has a savepoint {name!r} already, {path}").hint(
            "choose another name, or delete that directory"
        )


def check_name(name: str) -> None:
    """Check that a savepoint can be called so, or not be named at all.

    Raises:
        ConfigError: it is no name.
    """
    if name and (not is_name(name) or "/" in name):
        raise ConfigError(f"{name!r} cannot be the name of a savepoint").hint(
            "use letters, digits, '.', '_' and '-', begin with a letter or a digit, at most 128"
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
    disk = Disk(filesystem or FileSystem())
    with translated(f"cannot make the savepoint {target}"):
        disk.make(target.parent)
    exported = msgspec.structs.replace(manifest, kind="savepoint")
    disk.write_whole(target, exported, partial(disk.place, directory.root))
    return target


def copy(savepoint: Savepoint, target: Path, filesystem: FileSystem | None = None) -> None:
    """Copy a savepoint, each file compared with the manifest, to a directory that is made.

    Raises:
        ConfigError: there is something at ``target``, or its parent is no directory.
        ManifestCorrupt: a file is missing or damaged.
        StorageError: as ``export``.
    """
    check_target(target)
    disk = Disk(filesystem or FileSystem())
    exported = msgspec.structs.replace(savepoint.manifest, kind="savepoint")
    disk.write_whole(target, exported, partial(disk.copy_verified, savepoint.base))


def check_target(target: Path) -> None:
    """Check that a savepoint can be copied to ``target``.

    Raises:
        ConfigError: there is something already, or its parent is no directory.
    """
    if target.exists():
        raise ConfigError(f"there is something at {target}").hint("name a directory to be made")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"there is no directory {target.absolute().parent}").hint("make it first")


def remove(path: Path) -> None:
    """Delete a savepoint: its manifest first, so that no half of one is taken for whole.

    Raises:
        StorageError: it is not gone, or not all of it.
    """
    with translated(f"cannot delete {path}", is_definite=False):
        os.unlink(path / MANIFEST)
        FileSystem().fsync_directory(path)
        shutil.rmtree(path)


class Disk:
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
        place: Callable[[FileHandle, Path], None],
        *,
        at_once: int = 1,
    ) -> None:
        """Put all that a manifest lists, and itself, into a new directory.

        ``place`` makes a file at the path it is given, durably; ``at_once``: in so many threads.
        """
        temporary = target.with_name(f".tmp-{secrets.token_hex(8)}")
        what = f"cannot make the savepoint {target}"
        try:
            with translated(what):
                self._files.make_directory(temporary)
                handles = manifests.files(manifest)
                made = self._make_directories(temporary, (handle.path for handle in handles))
                each(lambda handle: place(handle, temporary / handle.path), handles, at_once)
                self._write(temporary / MANIFEST, [manifests.encode(manifest)])
                for path in made:
                    self._files.fsync_directory(path)
            with translated(f"{what}, or it is there and not durable", is_definite=False):
                self._give_name(temporary, target)
        except (OSError, FlowsnapError, KeyboardInterrupt):
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def place(self, base: Path, handle: FileHandle, target: Path) -> None:
        """Link a durable file of the store, or copy it where the file system knows no links."""
        try:
            self._files.link(base / handle.path, target)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            self.copy_verified(base, handle, target)

    def copy_verified(self, base: Path, handle: FileHandle, target: Path) -> None:
        """Copy a file, and compare it with its handle."""
        source = base / handle.path
        check_file(source, handle)
        digest, size = hashlib.sha256(), 0
        with opened(source) as descriptor:

            def pieces() -> Iterator[bytes]:
                nonlocal size
                while piece := self._files.read(descriptor, PIECE_BYTES):
                    digest.update(piece)
                    size += len(piece)
                    yield piece

            self._write(target, pieces())
        compare(source, handle, size, digest.hexdigest())

    def sync(self, path: Path) -> None:
        """Make the content of a finished file durable."""
        with opened(path) as descriptor:
            self._files.fsync(descriptor)

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
