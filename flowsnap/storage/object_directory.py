"""A job in object storage: its store, its lease, and a local directory for what is no checkpoint.

::

    <bucket>/<prefix>/<job>/...     what a job directory holds, but for what is local
    <bucket>/<prefix>/<job>/lock/   who is at work (``lease.py``)
    <work directory>/<job>/         lock, requests, logs, local state, files fetched before

Nothing in the local directory is needed to go on elsewhere, unless a sink keeps output there.

Two job managers. The second is refused while the lease of the first is renewed. One that was
paused for longer than its lease finds it lost at its next write. One that was paused between that
look and the arrival of its write meets a condition: an attempt and a reservation are created once,
and of every checkpoint that was begun and not completed, the successor bars the manifest, after it
has begun its own attempt. So either the old manifest was there before, and the successor restores
it, or it never will be.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection
from hashlib import sha256
from pathlib import Path
from typing import Self

from flowsnap.bucket.retrying import RetryPolicy
from flowsnap.bucket.url import ObjectUrl
from flowsnap.core import retention
from flowsnap.core.ids import AttemptId, CheckpointId
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.errors import StorageError
from flowsnap.storage import layout
from flowsnap.storage.filesystem import FileSystem
from flowsnap.storage.job_directory import JobDirectory, check_job
from flowsnap.storage.job_store import JobStore
from flowsnap.storage.lease import RENEWAL_MS_MAX, RENEWAL_TIMEOUT_MS, Lease
from flowsnap.storage.object_export import clear, copier, write
from flowsnap.storage.object_remote import connect
from flowsnap.storage.object_savepoint import BEGUN, ObjectSavepoint, unfinished
from flowsnap.storage.object_store import ObjectStore
from flowsnap.storage.object_url import WORK_VARIABLE, StateDir
from flowsnap.storage.ownership import OwnerLock, claim_directory
from flowsnap.storage.parallel import FILES_AT_ONCE
from flowsnap.storage.writer import CheckpointWriter, Copy

# A job manager that waits hears nobody: a checkpoint that fails does less harm.
CALL_TIMEOUT_MS = 8_000
CALL_MS_MAX = 10_000


class ObjectJobDirectory(JobDirectory):
    """``<url>/<job>``; ``root`` is its local directory. Made by ``claim`` and ``look``.

    ``patient``: the same store, for files, which may take longer than a call of a running job.
    """

    def __init__(
        self,
        store: ObjectStore,
        url: ObjectUrl,
        root: Path,
        held: tuple[OwnerLock, Lease] | None,
        patient: ObjectStore | None = None,
    ) -> None:
        self.root = root
        self._patient = patient
        self._url = url
        self._objects = store
        self._held = held
        job = url.prefix.rpartition("/")[2]
        JobStore.__init__(self, store, job, place=str(url), is_read_only=held is None)

    @classmethod
    def claim(cls, state_dir: ObjectUrl, job: str) -> Self:
        """Take possession of a job, and make it if there is none.

        Raises:
            ConfigError: another job manager is at work; or the local directory cannot be used.
            ManifestCorrupt: its ``job.json`` is damaged, foreign or of another version.
            StorageError: the service failed, or refuses.
        """
        check_job(job)
        url, root = state_dir / job, work_directory(state_dir) / job
        files = FileSystem()
        claim_directory(root.parent, files, may_be_shared=True)
        claim_directory(root, files)
        lock = OwnerLock.acquire(root / layout.LOCK)
        try:
            policy = RetryPolicy(total_ms_max=RENEWAL_MS_MAX)
            renewing = connect(url, timeout_ms=RENEWAL_TIMEOUT_MS, policy=policy)
            lease = Lease.acquire(renewing, str(url))
            lease.start()
        except BaseException:
            lock.release()
            raise
        try:
            policy = RetryPolicy(total_ms_max=CALL_MS_MAX)
            store = connect(url, guard=lease.check, timeout_ms=CALL_TIMEOUT_MS, policy=policy)
            return cls(store, url, root, (lock, lease), connect(url, guard=lease.check))
        except BaseException:
            lease.release()
            lock.release()
            raise

    @classmethod
    def look(cls, state_dir: ObjectUrl, job: str) -> Self:
        """Open a job for reading, also while it runs.

        Raises:
            ConfigError: there is no such job.
            StorageError: the service failed, or refuses.
        """
        check_job(job)
        url = state_dir / job
        return cls(connect(url), url, work_directory(state_dir) / job, None)

    @property
    def location(self) -> str:
        return str(self._url)

    def close(self) -> None:
        if self._held is not None:
            lock, lease = self._held
            lease.release()
            lock.release()

    @property
    def place(self) -> StateDir:
        return self._url

    def make_savepoint(self, checkpoint_id: CheckpointId, name: str) -> ObjectUrl:
        """Make a savepoint of a complete checkpoint, as ``keeping.export``."""
        manifest = self.read_manifest(checkpoint_id)
        url = self._url / layout.SAVEPOINTS / (name or f"{checkpoint_id:08d}")
        policy = RetryPolicy(total_ms_max=CALL_MS_MAX)
        store = connect(url, guard=self._guard, timeout_ms=CALL_TIMEOUT_MS, policy=policy)
        if not name and store.exists(retention.MANIFEST):
            return url
        if store.exists(BEGUN):
            clear(store)  # Who began it has died, or gave up: two cannot own a job.
        source = ObjectSavepoint(url, self._url, manifest, self._patient or self._objects)
        write(url, source, guard=self._guard, policy=policy, is_verified=True)
        return url

    @property
    def _guard(self) -> Callable[[], None] | None:
        return None if self._held is None else self._held[1].check

    def copier(self, base: StateDir) -> Copy | None:
        return copier(base, self._url, guard=self._guard)

    def writer(self, attempt: AttemptId) -> CheckpointWriter:
        store = self._patient or self._store
        return CheckpointWriter(self.root, attempt, store, files_at_once=FILES_AT_ONCE)

    # What a running job does has a limit as a whole: while its job manager waits it hears nobody.

    def begin_attempt(self) -> AttemptId:
        with self._objects.within(CALL_MS_MAX):
            attempt = super().begin_attempt()
            self._bar_begun()
            return attempt

    def reserve_checkpoint(self, checkpoint_id: CheckpointId) -> None:
        with self._objects.within(CALL_MS_MAX):
            super().reserve_checkpoint(checkpoint_id)

    def write_manifest(self, manifest: CheckpointManifest) -> None:
        with self._objects.within(CALL_MS_MAX):
            super().write_manifest(manifest)

    def secure(self, checkpoint_id: CheckpointId) -> None:
        with self._objects.within(CALL_MS_MAX):
            super().secure(checkpoint_id)

    def make_room(self, pending: Collection[CheckpointId] = ()) -> list[str]:
        """Leave it to the next checkpoint: a bucket has room, and its service may be away."""
        return []

    def retire(
        self,
        retained: int,
        *,
        pending: Collection[CheckpointId] = (),
        protected: Collection[CheckpointId] = (),
    ) -> list[str]:
        with self._objects.within(CALL_MS_MAX):
            return super().retire(retained, pending=pending, protected=protected)

    def clean_leftovers(self) -> list[str]:
        # Before reservations go: what is reserved later is seen when the attempt begins.
        self._bar_begun()
        return super().clean_leftovers()

    def _remove_savepoints_begun(self) -> list[str]:
        begun = unfinished(self._store)
        for name in begun:
            clear(connect(self._url / layout.SAVEPOINTS / name, guard=self._guard))
        return [f"{layout.SAVEPOINTS}/{name}" for name in begun]

    def _bar_begun(self) -> None:
        """Let nobody complete what was begun before."""
        names = [file.name for file in self._store.list(retention.CHECKPOINTS)]
        begun = {layout.checkpoint_of(name) for name in names if name.endswith("/begun")}
        for checkpoint_id in sorted(begun - set(self.checkpoints()), key=lambda id_: id_ or 0):
            assert checkpoint_id is not None
            path = retention.manifest_path(CheckpointId(checkpoint_id))
            if not self._objects.bar(path) and not self._store.exists(path):
                raise StorageError(f"{self._source(path)} is neither barred nor complete")


def work_directory(state_dir: ObjectUrl) -> Path:
    """Return the local directory for the jobs in a state directory that is in object storage.

    Where the environment names none, the same URL has the same directory for the same user of a
    host: so a job is found by those who ask it something, and what was fetched is found again.
    """
    named = os.environ.get(WORK_VARIABLE)
    if named:
        return Path(named).absolute()
    tag = sha256(str(state_dir).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()).absolute() / f"flowsnap-{os.geteuid()}-{tag}"


def job_names(state_dir: ObjectUrl) -> list[str]:
    """Return the jobs that there are below a URL, by name.

    Raises:
        StorageError: the service failed, or refuses.
    """
    store = connect(state_dir)
    return [name for name in store.directories() if store.exists(f"{name}/{layout.IDENTITY}")]
