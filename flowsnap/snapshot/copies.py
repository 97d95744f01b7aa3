"""The files of a snapshot, brought together, verified, and opened for reading.

What is read are hard links in a directory of our own, where the file system has them, so that the
job may retire the checkpoint while it is looked at. A file is compared with its sha256 before it is
opened, and not until somebody asks for what is in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
import weakref
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from flowsnap.core.ids import TaskId
from flowsnap.core.key import key_group
from flowsnap.core.manifest import CheckpointManifest, FileHandle, TaskSnapshot, files_of
from flowsnap.errors import ManifestCorrupt, StorageError
from flowsnap.snapshot.decode import plain_value
from flowsnap.state import memory
from flowsnap.state.codec import row_prefix
from flowsnap.state.rocksdb import RocksStore
from flowsnap.storage.store import CheckpointStore, is_name

CACHE_BYTES = 8 << 20
PREFIX = "reading-"
_LEFT_BEHIND_S = 86_400


class Rows(Protocol):
    """The rows of one task, sorted."""

    def get(self, row: bytes) -> bytes | None:
        """Return the value of a row, or None."""

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows that begin with ``prefix``, in order."""

    def close(self) -> None:
        """Release the files."""


class MemoryRows:
    """The rows that the memory backend of a test has left in one file."""

    def __init__(self, path: Path, max_parallelism: int) -> None:
        rows: memory.Rows = plain_value(path.read_bytes())
        self._rows = {
            row_prefix(key_group(key, max_parallelism), state_id) + key + (entry or b""): data
            for state_id, key, entry, data in rows
        }
        self._order = sorted(self._rows)

    def get(self, row: bytes) -> bytes | None:
        return self._rows.get(row)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for index in range(bisect_left(self._order, prefix), len(self._order)):
            row = self._order[index]
            if not row.startswith(prefix):
                return
            yield row, self._rows[row]

    def close(self) -> None:
        """Do nothing: all of it is in memory."""


class LocalCopies:
    """The files of one checkpoint in a scratch directory; ``close`` removes it.

    ``parent``: where that is made; a directory on the file system of the store makes for links
    instead of copies. ``is_verified``: the files are known to be whole, and not hashed again. Not
    to be used by two threads at once.

    Raises:
        StorageError: the scratch directory cannot be made.
    """

    def __init__(
        self,
        manifest: CheckpointManifest,
        store: CheckpointStore,
        parent: Path | None,
        *,
        is_verified: bool = False,
    ) -> None:
        self._manifest = manifest
        self._is_verified = is_verified
        self._store = store
        self._directory = _scratch(parent)
        self._numbers = {task.task: number for number, task in enumerate(manifest.tasks)}
        self._opened: dict[TaskId, Rows] = {}
        self._verified: set[Path] = set()
        self._remove = weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)

    def pin(self) -> None:
        """Take hold of all files, so that they stay whatever becomes of the checkpoint.

        Raises:
            ManifestCorrupt: one is missing.
            StorageError: the store or the local disk failed.
        """
        for task in self._manifest.tasks:
            for handle in files_of(task):
                self._fetch(task, handle)

    def rows(self, task: TaskSnapshot) -> Rows:
        """Return the rows of a task's keyed state, verified and opened.

        Raises:
            ManifestCorrupt: a file is missing or damaged.
            StateError: RocksDB cannot open them.
        """
        if task.task not in self._opened:
            self._opened[task.task] = self._open(task)
        return self._opened[task.task]

    def channel_file(self, task: TaskSnapshot) -> Path | None:
        """Return the verified file of what was in transit, where there is one.

        Raises:
            ManifestCorrupt: it is missing or damaged.
        """
        return None if task.channel_file is None else self._verify(task, task.channel_file)

    def files(self, task: TaskSnapshot) -> Iterator[tuple[FileHandle, Path]]:
        """Yield the files of a task, verified.

        Raises:
            ManifestCorrupt: one is missing or damaged.
        """
        for handle in files_of(task):
            yield handle, self._verify(task, handle)

    def close(self) -> None:
        """Close and remove everything; a second time does nothing."""
        while self._opened:
            self._opened.popitem()[1].close()
        self._remove()

    def _open(self, task: TaskSnapshot) -> Rows:
        assert task.state is not None
        names = {h.name: self._verify(task, h) for h in task.state.files}
        if memory.FILE_NAME in names:
            graph = self._manifest.graph
            return MemoryRows(names[memory.FILE_NAME], graph.max_parallelism)
        directory = self._directory_of(task, "state")
        return RocksStore(directory, cache_bytes=CACHE_BYTES, is_read_only=True)

    def _verify(self, task: TaskSnapshot, handle: FileHandle) -> Path:
        path = self._fetch(task, handle)
        if self._is_verified or path in self._verified:
            return path
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                found = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        if (found, digest) != (handle.size_bytes, handle.sha256):
            raise ManifestCorrupt(
                f"{handle.path} of {task.task} is damaged: expected {handle.size_bytes} bytes with "
                f"sha256 {handle.sha256}, found {found} bytes with {digest}"
            ).hint("flowsnap verify tells which checkpoints are whole")
        self._verified.add(path)
        return path

    def _fetch(self, task: TaskSnapshot, handle: FileHandle) -> Path:
        part = "channels" if handle == task.channel_file else "state"
        path = self._directory_of(task, part) / handle.name
        if path.exists():
            return path
        if not is_name(handle.path) or not is_name(handle.name) or "/" in handle.name:
            raise ManifestCorrupt(f"{handle.path!r} as {handle.name!r} is no stored file's name")
        if not self._store.exists(handle.path):
            raise ManifestCorrupt(
                f"{handle.path} of {task.task} is missing: expected {handle.size_bytes} bytes with "
                f"sha256 {handle.sha256}, found none"
            ).hint("flowsnap verify tells which checkpoints are whole")
        self._store.fetch(handle.path, path, is_immutable=handle.path.endswith(".sst"))
        return path

    def _directory_of(self, task: TaskSnapshot, part: str) -> Path:
        path = self._directory / f"{self._numbers[task.task]}-{part}"
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {path}: {error.strerror}") from error
        return path


def _scratch(parent: Path | None) -> Path:
    """Make a directory of our own in ``parent``, or where temporary files go."""
    if parent is not None:
        try:
            parent.mkdir(mode=0o700, exist_ok=True)
            _remove_left_behind(parent)
            return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
        except OSError:
            pass  # It is read-only: then nobody retires anything there either.
    try:
        return Path(tempfile.mkdtemp(prefix=f"flowsnap-{PREFIX}"))
    except OSError as error:
        raise StorageError(f"cannot make a scratch directory: {error.strerror}") from error


def _remove_left_behind(parent: Path) -> None:
    """Remove what readers that were killed have left there, after a day.

    A process of that id may live on another host or in another container, hence the day.
    """
    for path in parent.glob(f"{PREFIX}*"):
        pid = path.name.removeprefix(PREFIX).partition("-")[0]
        is_old = path.stat().st_mtime < time.time() - _LEFT_BEHIND_S
        if is_old and pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # It is somebody else's.
    return True


__all__ = ["LocalCopies", "MemoryRows", "Rows"]
