"""Mutants: what is durable when, what is deleted, and what is listed again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowsnap.core import retention
from flowsnap.core.ids import CheckpointId, TaskId
from flowsnap.core.manifest import FileHandle
from flowsnap.runtime.snapshot import Snapshotter
from flowsnap.storage import job_store, layout
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.job_store import JobStore
from flowsnap.storage.ownership import OwnerLock
from flowsnap.storage.writer import CheckpointWriter
from flowsnap.testing.disk_files import DiskFileSystem
from flowsnap.testing.mutants import Patch, mutant


@mutant("C8")
def files_without_sync(patch: Patch) -> None:
    """No file is synced."""
    patch.set(DiskFileSystem, "fsync", lambda self, descriptor: None)


@mutant("C8")
def fsync_that_is_tried_again(patch: Patch) -> None:
    """A sync that has failed is tried again, and returns, for the kernel has forgotten the data."""
    original = DiskFileSystem.fsync

    def fsync(self: DiskFileSystem, descriptor: int) -> None:
        try:
            original(self, descriptor)
        except OSError:
            original(self, descriptor)

    patch.set(DiskFileSystem, "fsync", fsync)


@mutant("C4", "C6", "C7", "C8")
def names_without_sync(patch: Patch) -> None:
    """No directory is synced."""
    patch.set(DiskFileSystem, "fsync_directory", lambda self, path: None)


@mutant("C8")
def manifest_of_files_whose_names_are_not_synced(patch: Patch) -> None:
    """The directory of shared files is not synced before the manifest lists them."""
    original = DiskFileSystem.fsync_directory

    def fsync_directory(self: DiskFileSystem, path: Any) -> None:
        if path.name != "shared":
            original(self, path)

    patch.set(DiskFileSystem, "fsync_directory", fsync_directory)


@mutant("C8")
def manifest_that_is_written_in_place(patch: Patch) -> None:
    """The manifest has its name before it has its content."""
    original = DirectoryStore.create

    def create(self: DirectoryStore, name: str, data: bytes, **settings: Any) -> bool:
        if not name.endswith(retention.MANIFEST):
            return original(self, name, data, **settings)
        descriptor = self._filesystem.create(self._path(name))
        self._filesystem.write(descriptor, data)
        self._filesystem.fsync(descriptor)
        self._filesystem.close(descriptor)
        return True

    patch.set(DirectoryStore, "create", create)


@mutant("C4")
def manifests_that_are_not_secured(patch: Patch) -> None:
    """A restored checkpoint may be one whose name is not durable."""
    patch.set(JobStore, "secure", lambda self, checkpoint_id: None)


@mutant("C8")
def collection_that_forgets_what_is_kept(patch: Patch) -> None:
    """Files are deleted that only the newest checkpoint does not list."""
    original = retention.collect

    def collect(manifests: Any, pending_paths: Any, stored: Any) -> list[str]:
        return original(manifests[-1:], pending_paths, stored)

    patch.set(retention, "collect", collect)


@mutant("C6", "C8")
def collection_that_ignores_what_is_under_way(patch: Patch) -> None:
    """Files are deleted that a checkpoint under way has just stored."""
    original = retention.collect

    def collect(manifests: Any, pending_paths: Any, stored: Any) -> list[str]:
        return original(manifests, (), stored)

    patch.set(retention, "collect", collect)
    # The writer's last look would stand in for it.
    patch.set(job_store, "check_listed", lambda store, manifest: None)


@mutant("C8")
def files_that_go_before_their_manifest(patch: Patch) -> None:
    """A checkpoint that is given up loses its files first, and its manifest is not synced away."""
    original = retention.collect
    patch.set(JobStore, "_settle", lambda self, names: None)
    patch.set(retention, "collect", lambda *parts: list(reversed(original(*parts))))
    delete = DirectoryStore.delete
    patch.set(
        DirectoryStore,
        "delete",
        lambda self, name, *, is_durable=True: delete(self, name, is_durable=False),
    )


@mutant("C3", "C5")
def state_that_is_read_after_the_barrier(patch: Patch) -> None:
    """The snapshot holds a reference to the state, which the next records change."""
    from flowsnap.testing.state import SharedFilesBackend, SharedFilesPersist  # noqa: PLC0415

    freeze, step = SharedFilesBackend.freeze, SharedFilesPersist.step

    def keep_reference(self: Any) -> Any:
        persist: Any = freeze(self)
        persist.late = self
        return persist

    def read_late(self: Any) -> bool:
        if not self.files:
            self._rows = list(self.late._rows())
        return step(self)

    patch.set(SharedFilesBackend, "freeze", keep_reference)
    patch.set(SharedFilesPersist, "step", read_late)


@mutant("C3", "C5", "C8", "C0")
def acknowledgement_of_files_that_are_not_stored(patch: Patch) -> None:
    """A task acknowledges when its files are written, and not when they are in the store."""
    original = Snapshotter._store_files

    def store_files(self: Any, pending: Any, persist: Any) -> Any:
        put_file = DirectoryStore.put_file
        DirectoryStore.put_file = lambda *arguments: None  # type: ignore[method-assign]
        try:
            return original(self, pending, persist)
        finally:
            DirectoryStore.put_file = put_file  # type: ignore[method-assign]

    patch.set(Snapshotter, "_store_files", store_files)
    patch.set(job_store, "check_listed", lambda store, manifest: None)


@mutant("C0", "C3", "C4", "C5", "C12")
def files_that_are_not_verified(patch: Patch) -> None:
    """What is restored is opened without a look at its sha256."""

    def restore_file(self: CheckpointWriter, handle: FileHandle, directory: Path) -> None:
        self._store.fetch(handle.path, directory / handle.name, is_immutable=False)

    patch.set(CheckpointWriter, "_restore_file", restore_file)


@mutant("C7")
def stale_files_of_one_checkpoint(patch: Patch) -> None:
    """A worker of an older attempt may store what belongs to one checkpoint alone."""
    original = CheckpointWriter._new_path

    def new_path(
        self: CheckpointWriter, checkpoint_id: CheckpointId, task: TaskId, name: str, **kind: Any
    ) -> str:
        if kind["is_shared"]:
            return original(self, checkpoint_id, task, name, **kind)
        return layout.private_path(checkpoint_id, task, name)

    patch.set(CheckpointWriter, "_new_path", new_path)


@mutant("C7")
def directory_that_is_nobodys(patch: Patch) -> None:
    """Who begins with a job directory locks it, and lets go at once."""
    original = OwnerLock.acquire

    def acquire(path: Path) -> OwnerLock:
        original(path).release()
        return OwnerLock(-1)

    patch.set(OwnerLock, "acquire", staticmethod(acquire))
