"""Savepoints in object storage.

::

    <savepoint>/begun               who makes it, or made it
    <savepoint>/shared/...          the files that it lists, under the names they had
    <savepoint>/checkpoints/...
    <savepoint>/manifest.json       last, on the condition that there is none

What a directory has by its one rename, a prefix of a bucket has by its order. Whoever creates
``begun`` is alone in there; the manifest comes when every file lies there in its size, and is
created once. So a savepoint is complete if and only if it has a manifest, and what a crash has left
behind names who began it. But for ``begun`` it is what it would be in a directory: either may be
copied to the other by any tool.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flowsnap.bucket.url import ObjectUrl
from flowsnap.core import manifest as manifests
from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import CheckpointManifest, FileHandle
from flowsnap.core.retention import CHECKPOINTS, MANIFEST
from flowsnap.errors import FlowsnapError, ManifestCorrupt, RestoreError
from flowsnap.storage import layout
from flowsnap.storage.object_remote import connect
from flowsnap.storage.object_store import ObjectStore
from flowsnap.storage.record import Record, unseal
from flowsnap.storage.savepoint import SavepointFiles, compare, missing
from flowsnap.storage.store import CheckpointStore
from flowsnap.storage.translation import translated
from flowsnap.storage.writer import measure

BEGUN = "begun"


class Begun(Record, frozen=True, kw_only=True):
    """A savepoint is being made; ``nonce`` tells two apart who make one at the same place."""

    checkpoint_id: CheckpointId
    nonce: str
    pid: int
    host: str
    since: str


@dataclass(frozen=True, slots=True)
class ObjectSavepoint:
    """A savepoint, or a checkpoint of another job, in object storage; see ``Savepoint``."""

    path: ObjectUrl
    base: ObjectUrl
    manifest: CheckpointManifest
    store: ObjectStore = field(repr=False, compare=False)
    """What lies below ``base``."""

    @contextmanager
    def local_file(self, handle: FileHandle) -> Iterator[Path]:
        """Yield a local copy of a file, which is not compared with its handle."""
        with tempfile.TemporaryDirectory(prefix="flowsnap-") as scratch:
            path = Path(scratch) / "file"
            self._check_there(handle)
            self.store.fetch(handle.path, path, is_immutable=False)
            yield path

    def fetch(self, handle: FileHandle, path: Path) -> None:
        """Make the local file ``path``, and compare it with its handle.

        Raises:
            ManifestCorrupt: the file is missing or damaged.
            StorageError: it cannot be fetched.
        """
        self._check_there(handle)
        self.store.fetch(handle.path, path, is_immutable=False)
        compare_local(self, handle, path)

    def check(self, handle: FileHandle) -> None:
        """Read a file, and compare it with its handle.

        Raises:
            ManifestCorrupt: it is missing or damaged.
            StorageError: it cannot be read.
        """
        self._check_there(handle)
        digest = self.store.sha256(handle.path)
        # The hash says that the size is right, too, if it is the one.
        compare(self.base / handle.path, handle, handle.size_bytes, digest)

    def _check_there(self, handle: FileHandle) -> None:
        if not self.store.exists(handle.path):
            raise missing(self.base / handle.path, handle)


def find(url: ObjectUrl) -> ObjectSavepoint:
    """Read the manifest of a savepoint, or of a checkpoint of another job.

    Raises:
        RestoreError: there is nothing at ``url``.
        ManifestCorrupt: it is no savepoint, not finished, damaged, or of another version.
        StorageError: the service failed, or refuses.
    """
    url = url.parent if url.name == MANIFEST else url
    store = connect(url)
    data = store.get(MANIFEST) if store.exists(MANIFEST) else b""
    if not data:  # A manifest that is barred is empty.
        raise _absent(url, store)
    manifest = manifests.decode(data, f"{url}/{MANIFEST}")
    if url.parent.name == CHECKPOINTS.rstrip("/"):
        job_store = connect(url.parent.parent)
        if job_store.exists(layout.IDENTITY):
            return ObjectSavepoint(url, url.parent.parent, manifest, job_store)
    return ObjectSavepoint(url, url, manifest, store)


def _absent(url: ObjectUrl, store: ObjectStore) -> FlowsnapError:
    if not store.list():
        return RestoreError(f"there is no savepoint at {url}").hint(
            "name the URL of a savepoint, or of a checkpoint of another job"
        )
    if by := begun_by(store, BEGUN):
        return ManifestCorrupt(f"{url} is no savepoint: {by}, and it is not finished").hint(
            "wait for it; where it has died, delete what is there and make the savepoint again"
        )
    return ManifestCorrupt(f"{url} is no savepoint: it has no {MANIFEST}").hint(
        "it was not written to its end, or it is something else"
    )


def finished(store: CheckpointStore, job: ObjectUrl) -> dict[str, ObjectUrl]:
    """Return the savepoints that lie at a job, whose store is given, by name."""
    return {
        name: job / layout.SAVEPOINTS / name
        for name, files in _by_name(store).items()
        if MANIFEST in files
    }


def unfinished(store: CheckpointStore) -> Mapping[str, str]:
    """Return who has begun each savepoint of a job that is not finished, by its name."""
    return {
        name: begun_by(store, f"{layout.SAVEPOINTS}/{name}/{BEGUN}")
        for name, files in _by_name(store).items()
        if BEGUN in files and MANIFEST not in files
    }


def _by_name(store: CheckpointStore) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for file in store.list(f"{layout.SAVEPOINTS}/"):
        _, name, *parts = file.name.split("/")
        found.setdefault(name, set()).add("/".join(parts))
    return found


def begun_by(store: CheckpointStore, name: str) -> str:
    """Return who began a savepoint, in words; nothing where nobody has."""
    if not store.exists(name):
        return ""
    try:
        begun = unseal(store.get(name), Begun, name)
    except ManifestCorrupt:
        return "somebody began it"
    return (
        f"process {begun.pid} on {begun.host} began it at {begun.since}, "
        f"of checkpoint {begun.checkpoint_id}"
    )


def compare_local(source: SavepointFiles, handle: FileHandle, path: Path) -> None:
    """Compare a local file with its handle in a savepoint.

    Raises:
        ManifestCorrupt: it is damaged.
        StorageError: it cannot be read.
    """
    with translated(f"cannot read {path}"):
        size_bytes, digest = measure(path)
    compare(source.base / handle.path, handle, size_bytes, digest)
