"""A savepoint in object storage is made: file by file, and complete by its manifest.

Whoever creates ``begun`` is alone at a place. The manifest comes when every file lies there in its
size, and is created on the condition that there is none. See ``object_savepoint.py``.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from flowsnap.bucket.retrying import RetryPolicy
from flowsnap.bucket.url import ObjectUrl
from flowsnap.core import manifest as manifests
from flowsnap.core.manifest import FileHandle
from flowsnap.core.retention import MANIFEST
from flowsnap.errors import ConfigError, FlowsnapError, StorageError
from flowsnap.storage import export
from flowsnap.storage.filesystem import FileSystem
from flowsnap.storage.object_remote import connect
from flowsnap.storage.object_savepoint import BEGUN, Begun, ObjectSavepoint, begun_by, compare_local
from flowsnap.storage.object_store import ObjectStore
from flowsnap.storage.object_url import StateDir
from flowsnap.storage.parallel import FILES_AT_ONCE, each
from flowsnap.storage.publish import create_surely
from flowsnap.storage.record import seal
from flowsnap.storage.savepoint import SavepointFiles
from flowsnap.storage.store import CheckpointStore
from flowsnap.storage.writer import Copy

CLEARING_MS_MAX = 10_000
COPIED_BYTES_MAX = 2**29
"""What is copied in one request, whose answer comes when all of it is done; S3 takes 5 GiB."""

Guard = Callable[[], None]


def check_target(url: ObjectUrl) -> None:
    """Check that a savepoint can be made at ``url``.

    Raises:
        ConfigError: there is something, or the environment does not say how to get there.
        StorageError: the service failed, or refuses.
    """
    _check_free(url, connect(url))


def _check_free(url: ObjectUrl, store: ObjectStore) -> None:
    if store.exists(MANIFEST):
        raise ConfigError(f"there is a savepoint at {url}").hint("name another place")
    if by := begun_by(store, BEGUN):
        raise ConfigError(f"there is a savepoint at {url} that is not finished: {by}").hint(
            "name another place; or, where it has died, delete what is there"
        )
    if store.list():
        raise ConfigError(f"there is something at {url}").hint("name a place that is empty")


def write(
    url: ObjectUrl,
    source: SavepointFiles,
    *,
    guard: Guard | None = None,
    policy: RetryPolicy | None = None,
    is_verified: bool = False,
) -> None:
    """Make a savepoint of ``source`` at ``url``: complete on return, or not there.

    Several files at once; within the service where the source is in the same bucket. Each is read
    and compared with the manifest, unless ``is_verified``. ``guard`` and ``policy`` are those of
    ``ObjectStore``.

    Raises:
        ConfigError: as ``check_target``.
        ManifestCorrupt: a file of the source is missing or damaged.
        StorageError: it was not made; unless ``is_definite``, it may be there.
    """
    store = connect(url, guard=guard, policy=policy)
    _check_free(url, store)
    making = _Making(url, store, source, is_verified)
    try:
        making.begin()
        making.place_all(copier(source.base, url, guard=guard, policy=policy))
        making.publish()
    except (FlowsnapError, KeyboardInterrupt):
        if making.is_ours:
            with suppress(StorageError), store.within(CLEARING_MS_MAX):
                clear(store)  # What stays is named by ``begun``.
        raise


def download(savepoint: SavepointFiles, target: Path) -> None:
    """Copy a savepoint from a bucket to a directory that is made, as ``export.copy``.

    Raises:
        ConfigError: there is something at ``target``, or its parent is no directory.
        ManifestCorrupt: a file is missing or damaged.
        StorageError: it was not made; unless ``is_definite``, it may be there.
    """
    assert isinstance(savepoint, ObjectSavepoint)
    export.check_target(target)
    disk = export.Disk(FileSystem())

    def place(handle: FileHandle, path: Path) -> None:
        savepoint.fetch(handle, path)
        disk.sync(path)

    exported = msgspec.structs.replace(savepoint.manifest, kind="savepoint")
    disk.write_whole(target, exported, place, at_once=FILES_AT_ONCE)


class _Making:
    """One savepoint that is being made; ``is_ours``: what lies there may be cleared away."""

    def __init__(
        self, url: ObjectUrl, store: ObjectStore, source: SavepointFiles, is_verified: bool
    ) -> None:
        self.is_ours = False
        self._url = url
        self._store = store
        self._source = source
        self._is_verified = is_verified
        self._manifest = msgspec.structs.replace(source.manifest, kind="savepoint")
        self._begun = seal(
            Begun(
                checkpoint_id=source.manifest.checkpoint_id,
                nonce=secrets.token_hex(8),
                pid=os.getpid(),
                host=socket.gethostname(),
                since=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            )
        )

    def begin(self) -> None:
        """Be the one who makes it."""
        if not create_surely(self._store, BEGUN, self._begun):
            by = begun_by(self._store, BEGUN) or "somebody else was faster"
            raise ConfigError(f"a savepoint is being made at {self._url}: {by}")
        self.is_ours = True

    def place_all(self, copy: Copy | None) -> None:
        """Put every file there, and see that it is there in its size."""
        handles = manifests.files(self._manifest)
        each(lambda handle: self._place(handle, copy), handles)
        found = {file.name: file.size_bytes for file in self._store.list()}
        for handle in handles:
            if found.get(handle.path) != handle.size_bytes:
                size = found.get(handle.path, "none")
                raise StorageError(
                    f"{self._url}/{handle.path} should have {handle.size_bytes} bytes, found {size}"
                )

    def publish(self) -> None:
        """Create the manifest, and with it the savepoint."""
        data = manifests.encode(self._manifest)
        self.is_ours = False
        try:
            is_created = create_surely(self._store, MANIFEST, data)
        except StorageError as error:
            self.is_ours = error.is_definite and _is(self._store, BEGUN, self._begun)
            raise
        if not is_created:  # What lies there now is whole, and not ours to clear away.
            raise StorageError(f"another savepoint was made at {self._url}")
        if not self._is_begun_by_us():
            # We were paused, taken for dead, and cleared away: what the manifest lists may be gone.
            connect(self._url).delete(MANIFEST)
            raise StorageError(f"the savepoint at {self._url} was given up by another process")

    def _is_begun_by_us(self) -> bool:
        try:
            return _is(self._store, BEGUN, self._begun)
        except StorageError as error:
            text = f"cannot tell whether the savepoint at {self._url} was given up: {error}"
            raise StorageError(text, is_definite=False) from error

    def _place(self, handle: FileHandle, copy: Copy | None) -> None:
        if copy is not None and isinstance(self._source, ObjectSavepoint):
            try:
                copy(handle, handle.path)
            except StorageError as error:
                if not error.is_definite:
                    raise
                # Not all services copy, and none what is too large: it goes through this host.
            else:
                if not self._is_verified:
                    self._source.check(handle)
                return
        with self._source.local_file(handle) as path:
            compare_local(self._source, handle, path)
            self._store.put_file(handle.path, path)


def copier(
    source: StateDir,
    target: ObjectUrl,
    *,
    guard: Guard | None = None,
    policy: RetryPolicy | None = None,
) -> Copy | None:
    """Return what copies a file from one place to another within a service; None: none can.

    Where it raises a ``StorageError`` that ``is_definite``, the file has to go another way.
    """
    if not isinstance(source, ObjectUrl) or source.root != target.root:
        return None
    bucket = connect(target.root, guard=guard, policy=policy)
    there = connect(target, policy=policy)

    def copy(handle: FileHandle, name: str) -> None:
        if handle.size_bytes > COPIED_BYTES_MAX:
            raise StorageError(f"{handle.path} is too large to be copied within the service")
        bucket.copy((source / handle.path).prefix, (target / name).prefix)
        # Azure may answer before it has copied, and nobody tells us when it has.
        if target.scheme == "az" and there.sha256(name) != handle.sha256:
            raise StorageError(f"{target}/{name} is not copied yet")

    return copy


def clear(store: ObjectStore) -> None:
    """Delete a savepoint, finished or not: its manifest first, who began it last.

    Whoever is still making it, paused, finds at its end that it is not theirs any more.

    Raises:
        StorageError: it is not gone, or not all of it.
    """
    store.put(BEGUN, b"")
    names = [file.name for file in store.list()]
    store.delete(MANIFEST)
    each(store.delete, [name for name in names if name not in {MANIFEST, BEGUN}])
    store.delete(BEGUN)


def remove(url: ObjectUrl) -> None:
    """Delete a savepoint, as ``clear``."""
    clear(connect(url))


def _is(store: CheckpointStore, name: str, data: bytes) -> bool:
    return store.exists(name) and store.get(name) == data
