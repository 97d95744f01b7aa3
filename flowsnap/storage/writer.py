"""A worker's view of the checkpoint store: it stores and restores files, and decides nothing."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Protocol, TypeVar

from flowsnap.core.ids import AttemptId, CheckpointId, TaskId
from flowsnap.core.manifest import FileHandle
from flowsnap.core.retention import SHARED
from flowsnap.errors import ManifestCorrupt, StorageError
from flowsnap.storage import layout
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.parallel import each
from flowsnap.storage.publish import pass_failpoint
from flowsnap.storage.store import PIECE_BYTES, CheckpointStore, check_name, is_name
from flowsnap.storage.translation import translated

T = TypeVar("T")
R = TypeVar("R")

Copy = Callable[[FileHandle, str], None]
"""Copies a file, by its handle where it is, to a name of the store, without it coming here."""


class LocalFile(Protocol):
    """A finished local file; ``is_shared``: immutable, and later checkpoints may refer to it."""

    @property
    def name(self) -> str:
        """What it is called where it is used."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    @property
    def is_shared(self) -> bool:
        """Whether it is immutable."""


class CheckpointWriter:
    """Stores the files of one attempt, and brings those of any checkpoint back.

    Takes no lock: what it stores means nothing until a manifest lists it. ``store`` stands in for
    the directory ``root``. ``files_at_once``: more than one where the store is far away.
    """

    def __init__(
        self,
        root: Path,
        attempt: AttemptId,
        store: CheckpointStore | None = None,
        *,
        files_at_once: int = 1,
    ) -> None:
        self._attempt = attempt
        self._numbers = count(secrets.randbits(63))  # of shared files: no other writer has them
        self._files_at_once = files_at_once
        self._store = DirectoryStore(root) if store is None else store

    def store(self, checkpoint_id: CheckpointId, task: TaskId, local: LocalFile) -> FileHandle:
        """Store a file, durably, and return its handle. Every call stores anew.

        Raises:
            StorageError: it is not stored, or nobody knows: then it is in no manifest, and will be
                collected. Also when a newer attempt has begun.
        """
        path = self._new_path(checkpoint_id, task, local.name, is_shared=local.is_shared)
        with translated(f"cannot read {local.path}"):
            size_bytes, digest = measure(local.path)
        self._store.put_file(path, local.path)
        if local.is_shared:
            pass_failpoint("op.file_stored")
        return FileHandle(local.name, path, size_bytes, digest)

    def adopt(
        self, checkpoint_id: CheckpointId, task: TaskId, file: FileHandle, copy: Copy
    ) -> FileHandle:
        """Store a file that the store itself can copy, and return its new handle, as ``store``.

        Raises:
            StorageError: as ``store``.
        """
        is_shared = file.path.startswith(SHARED)
        path = self._new_path(checkpoint_id, task, file.name, is_shared=is_shared)
        copy(file, path)
        return FileHandle(file.name, path, file.size_bytes, file.sha256)

    def each(self, function: Callable[[T], R], files: Sequence[T]) -> list[R]:
        """Return what ``function`` returns for each file, as ``parallel.each``."""
        return each(function, files, self._files_at_once)

    def restore(self, handles: Sequence[FileHandle], directory: Path) -> None:
        """Make ``directory`` with the files of ``handles``: all of them, and verified, or nothing.

        Shared files may be hard links: never write to them. ``directory`` must not exist, or be
        empty; those above it are made.

        Raises:
            ManifestCorrupt: a file is missing or not what its handle says.
            StorageError: the store or the local disk failed.
        """
        partial = directory.with_name(f"{directory.name}.partial")
        with translated(f"cannot restore into {directory}"):
            directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(mode=0o700)
            self.each(lambda handle: self._restore_file(handle, partial), handles)
            os.rename(partial, directory)

    def _restore_file(self, handle: FileHandle, directory: Path) -> None:
        if not is_name(handle.path) or not is_name(handle.name) or "/" in handle.name:
            raise ManifestCorrupt(f"{handle.path!r} as {handle.name!r} is no stored file's name")
        expected = f"expected {handle.size_bytes} bytes with sha256 {handle.sha256}"
        if not self._store.exists(handle.path):
            raise ManifestCorrupt(f"{handle.path} is missing: {expected}, found none")
        path = directory / handle.name
        is_immutable = handle.path.startswith(SHARED)
        self._store.fetch(handle.path, path, is_immutable=is_immutable)
        size_bytes, digest = measure(path)
        if (size_bytes, digest) != (handle.size_bytes, handle.sha256):
            raise ManifestCorrupt(
                f"{handle.path} is damaged: {expected}, found {size_bytes} bytes with {digest}"
            )

    def _new_path(
        self, checkpoint_id: CheckpointId, task: TaskId, name: str, *, is_shared: bool
    ) -> str:
        """Return where a file is to lie, if this attempt may still store any."""
        check_name(name)
        self._check_fence(checkpoint_id)
        if is_shared:
            return layout.shared_path(self._attempt, checkpoint_id, f"{next(self._numbers):016x}")
        return layout.private_path(checkpoint_id, task, name)

    def _check_fence(self, checkpoint_id: CheckpointId) -> None:
        begun = [layout.attempt_of(file.name) for file in self._store.list(layout.ATTEMPTS)]
        newest = max((attempt for attempt in begun if attempt is not None), default=None)
        if newest is not None and newest > self._attempt:
            raise StorageError(
                f"a file of attempt {self._attempt} for checkpoint {checkpoint_id} is refused: "
                f"attempt {newest} has begun"
            )


def measure(path: Path) -> tuple[int, str]:
    """Return the size in bytes and the hex sha256 of a local file; raises ``OSError``."""
    digest, size_bytes = sha256(), 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            size_bytes += len(piece)
    return size_bytes, digest.hexdigest()
