"""A job's directory on the local disk: its checkpoint store, its lock, and its local state."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Self

from flowsnap.core.ids import AttemptId
from flowsnap.errors import ConfigError, StorageError
from flowsnap.storage import layout
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.filesystem import FileSystem
from flowsnap.storage.job_store import JobStore
from flowsnap.storage.object_url import StateDir
from flowsnap.storage.ownership import OwnerLock, claim_directory
from flowsnap.storage.store import is_name, is_temporary
from flowsnap.storage.writer import CheckpointWriter, Copy


class JobDirectory(JobStore):
    """``<state directory>/<job>``, owned by one job manager or opened for reading by anybody.

    Made by ``open`` and ``read``; ``close`` it, or use it in a ``with`` statement.
    """

    def __init__(self, store: DirectoryStore, job: str, lock: OwnerLock | None) -> None:
        self.root = store.root
        self._lock = lock
        super().__init__(store, job, place=str(store.root), is_read_only=lock is None)

    @classmethod
    def open(cls, state_dir: Path, job: str, *, filesystem: FileSystem | None = None) -> Self:
        """Take possession of a job's directory, and make it if there is none.

        Raises:
            ConfigError: another job manager is at work; or the directory is another job's, open to
                others, or cannot be made; or ``job`` is no name.
            ManifestCorrupt: its ``job.json`` is damaged, foreign or of another version.
            StorageError: the disk failed.
        """
        check_job(job)
        state_dir, files = state_dir.absolute(), filesystem or FileSystem()
        claim_directory(state_dir, files, may_be_shared=True)
        claim_directory(state_dir / job, files)
        lock = OwnerLock.acquire(state_dir / job / layout.LOCK)
        try:
            return cls(DirectoryStore(state_dir / job, files), job, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def read(cls, state_dir: Path, job: str) -> Self:
        """Open a job's directory for reading, also while the job runs.

        Raises:
            ConfigError: there is no such job, or as ``open``.
            ManifestCorrupt: as ``open``.
        """
        check_job(job)
        root = state_dir.absolute() / job
        if not root.is_dir():
            known = ", ".join(job_names(state_dir)) or "none"
            raise ConfigError(f"there is no job {job} in {state_dir}").hint(f"jobs: {known}")
        return cls(DirectoryStore(root), job, None)

    def close(self) -> None:
        """Give up possession; a second time does nothing."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def location(self) -> str:
        """Where workers find the store: a path or a URL."""
        return str(self.root)

    @property
    def place(self) -> StateDir:
        """Where the store is."""
        return self.root

    def copier(self, base: StateDir) -> Copy | None:
        """Return what copies files of ``base`` into the store without reading them, if it can."""
        return None

    def writer(self, attempt: AttemptId) -> CheckpointWriter:
        """Return a writer of files for an attempt that runs in this process."""
        return CheckpointWriter(self.root, attempt, self._store)

    def work_directory(self, attempt: AttemptId) -> Path:
        """Return the directory for the local state of an attempt, made with mode 0700.

        Raises:
            StorageError: it cannot be made.
        """
        return self._local(layout.WORK, f"{attempt:08d}")

    def log_directory(self) -> Path:
        """Return the directory for logs, made with mode 0700.

        Raises:
            StorageError: it cannot be made.
        """
        return self._local(layout.LOGS)

    def clean_leftovers(self) -> list[str]:
        """Delete what earlier lives have left behind; call it before anything is pending.

        Raises:
            StorageError: it stopped half-way; the next call goes on. Nothing kept is affected.
        """
        return self.remove_work() + self._remove_savepoints_begun() + super().clean_leftovers()

    def remove_work(self) -> list[str]:
        """Delete the local state of every attempt there was; none may be running."""
        deleted = []
        for entry in FileSystem().scan(self.root / layout.WORK):
            if entry.is_directory and layout.is_work(entry.name):
                # A worker of an earlier life may still be writing: what stays goes the next time.
                shutil.rmtree(self.root / layout.WORK / entry.name, ignore_errors=True)
                deleted.append(f"{layout.WORK}/{entry.name}")
        return deleted

    def _remove_savepoints_begun(self) -> list[str]:
        """Delete what interrupted exports have left beside the savepoints."""
        place, deleted = self.root / layout.SAVEPOINTS, []
        for entry in FileSystem().scan(place):
            if entry.is_directory and is_temporary(entry.name):
                shutil.rmtree(place / entry.name, ignore_errors=True)
                deleted.append(f"{layout.SAVEPOINTS}/{entry.name}")
        return deleted

    def _local(self, *parts: str) -> Path:
        self._check_writable()
        path, files = self.root, FileSystem()
        try:
            for part in parts:
                path = path / part
                with suppress(FileExistsError):
                    files.make_directory(path)
        except OSError as error:
            raise StorageError(f"cannot make {path}: {error.strerror}") from error
        return path


def job_names(state_dir: Path) -> list[str]:
    """Return the jobs that have a directory in ``state_dir``, by name."""
    found = FileSystem().scan(state_dir)
    return [
        entry.name
        for entry in found
        if is_name(entry.name) and (state_dir / entry.name / layout.IDENTITY).is_file()
    ]


def check_job(job: str) -> None:
    """Check that a job can be called so.

    Raises:
        ConfigError: it cannot.
    """
    if not is_name(job) or "/" in job:
        raise ConfigError(f"{job!r} cannot be the name of a job").hint(
            "use letters, digits, '.', '_' and '-', begin with a letter or a digit, at most 128"
        )
