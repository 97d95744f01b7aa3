"""Is everything that a job has stored what it was when it was stored?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from flowsnap.core import manifest as manifests
from flowsnap.core import retention
from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import CheckpointManifest, FileHandle
from flowsnap.errors import RestoreError, StorageError
from flowsnap.storage import layout
from flowsnap.storage.record import (
    AttemptRecord,
    Completion,
    Identity,
    Outcome,
    Record,
    Reservation,
    unseal,
)
from flowsnap.storage.store import CheckpointStore, is_temporary

Kind = Literal["ok", "corrupt", "missing", "unreferenced", "foreign"]


class Finding(msgspec.Struct, frozen=True):
    """What became of one file. Only "corrupt" and "missing" are damage.

    "unreferenced": of ours, and in no complete checkpoint: of one that is under way or was given
    up, or left by a crash; the next start deletes the latter two. "foreign": not ours, never
    deleted. ``checkpoint_id``: the checkpoint that needs the file, if one does.
    """

    kind: Kind
    name: str
    detail: str = ""
    checkpoint_id: CheckpointId | None = None


def verify(store: CheckpointStore) -> Iterator[Finding]:
    """Yield a finding for each file: records, each checkpoint's, and what is left over.

    A shared file is hashed once, and reported for each checkpoint if it is damaged. The job may
    run: a checkpoint that is retired meanwhile is no finding.
    """
    sizes = {file.name: file.size_bytes for file in store.list() if not layout.is_local(file.name)}
    yield from _verify_records(store, list(sizes))
    check = _Check(store, sizes)
    complete = [name for name in sizes if name.endswith("/" + retention.MANIFEST)]
    for name in sorted(complete):
        checkpoint_id = layout.checkpoint_of(name)
        if checkpoint_id is not None:
            yield from check.checkpoint(checkpoint_id)
    yield from check.left_over()
    for name in store.strangers():
        if is_temporary(name.rpartition("/")[2]):
            yield Finding("unreferenced", name, "a write that is under way or was interrupted")
        elif not layout.is_local(name):
            yield Finding(
                "foreign", name, "a link, a hidden file or a name that flowsnap never uses"
            )


def verify_files(store: CheckpointStore, manifest: CheckpointManifest) -> Iterator[Finding]:
    """Yield a finding for each file of one snapshot, whose manifest was read.

    Its job may run: what is missing since the snapshot was retired meanwhile is no finding.
    """
    sizes = {file.name: file.size_bytes for file in store.list()}
    check = _Check(store, sizes)
    for handle in manifests.files(manifest):
        finding = check.file(handle, manifest.checkpoint_id)
        if finding.kind == "ok" or _is_there(store, manifest.checkpoint_id):
            yield finding


def _is_there(store: CheckpointStore, checkpoint_id: CheckpointId) -> bool:
    """Return whether a snapshot still has its manifest: that of a job, or of a savepoint."""
    return store.exists(retention.manifest_path(checkpoint_id)) or store.exists(retention.MANIFEST)


def check_listed(store: CheckpointStore, manifest: CheckpointManifest) -> None:
    """Check that each file of a manifest that is yet to be written is there, in its full size.

    Raises:
        StorageError: one is not.
    """
    own = retention.checkpoint_directory(manifest.checkpoint_id)
    found = {
        file.name: file.size_bytes
        for prefix in (own, retention.SHARED)
        for file in store.list(prefix)
    }
    for handle in manifests.files(manifest):
        if found.get(handle.path) != handle.size_bytes:
            raise StorageError(
                f"checkpoint {manifest.checkpoint_id} lists {handle.path} with "
                f"{handle.size_bytes} bytes, found {found.get(handle.path, 'none')}"
            )


def _verify_records(store: CheckpointStore, names: list[str]) -> Iterator[Finding]:
    if layout.IDENTITY not in names:
        yield Finding("missing", layout.IDENTITY, "nothing says whose directory this is")
    for name in names:
        type_ = _record_type(name)
        if type_ is None:
            continue
        checkpoint_id = layout.checkpoint_of(name)
        try:
            unseal(store.get(name), type_, name)
        except (RestoreError, StorageError) as error:
            if store.exists(name):
                yield Finding("corrupt", name, str(error), checkpoint_id)
        else:
            yield Finding("ok", name, "", checkpoint_id)


def _record_type(name: str) -> type[Record] | None:
    if name == layout.IDENTITY:
        return Identity
    if name == layout.OUTCOME:
        return Outcome
    if layout.attempt_of(name) is not None:
        return AttemptRecord
    if layout.checkpoint_of(name) is not None and name.endswith("/begun"):
        return Reservation
    if layout.checkpoint_of(name) is not None and name.endswith("/completion.json"):
        return Completion
    return None


class _Check:
    """One walk over all checkpoints, which remembers what it has hashed."""

    def __init__(self, store: CheckpointStore, sizes: dict[str, int]) -> None:
        self._store = store
        self._sizes = sizes
        self._hashes: dict[str, str] = {}
        self._referenced: set[str] = set()
        self._is_complete = True

    def checkpoint(self, checkpoint_id: CheckpointId) -> Iterator[Finding]:
        path = retention.manifest_path(checkpoint_id)
        self._referenced.add(path)
        try:
            manifest = manifests.decode(self._store.get(path), path)
            detail = self._misplaced(manifest, checkpoint_id)
        except (RestoreError, StorageError) as error:
            detail = str(error)
        if not self._store.exists(path):
            return  # Retired since the listing.
        if detail:
            self._is_complete = False
            yield Finding("corrupt", path, detail, checkpoint_id)
            return
        yield Finding("ok", path, "", checkpoint_id)
        for handle in manifests.files(manifest):
            finding = self.file(handle, checkpoint_id)
            is_new = handle.path not in self._referenced
            self._referenced.add(handle.path)
            if is_new if finding.kind == "ok" else self._store.exists(path):
                yield finding

    def left_over(self) -> Iterator[Finding]:
        for name in sorted(self._sizes.keys() - self._referenced):
            stored_for = layout.stored_for(name) or layout.checkpoint_of(name)
            if not layout.is_ours(name):
                yield Finding("foreign", name, "flowsnap writes no file of this name")
            elif stored_for is None or _record_type(name) is not None:
                continue  # Reported with the records.
            elif self._is_complete:  # Otherwise a damaged manifest may list it.
                yield Finding(
                    "unreferenced", name, f"stored for checkpoint {stored_for}, and in none"
                )

    def _misplaced(self, manifest: CheckpointManifest, checkpoint_id: CheckpointId) -> str:
        if manifest.checkpoint_id == checkpoint_id:
            return ""
        return f"is of checkpoint {manifest.checkpoint_id}, expected {checkpoint_id}"

    def file(self, handle: FileHandle, checkpoint_id: CheckpointId) -> Finding:
        path = handle.path
        try:
            if not self._store.exists(path):
                detail = f"expected {handle.size_bytes} bytes with sha256 {handle.sha256}"
                return Finding("missing", path, detail, checkpoint_id)
            if self._sizes.get(path, handle.size_bytes) != handle.size_bytes:
                detail = f"has {self._sizes[path]} bytes, expected {handle.size_bytes}"
                return Finding("corrupt", path, detail, checkpoint_id)
            if path not in self._hashes:
                self._hashes[path] = self._store.sha256(path)
        except StorageError as error:
            return Finding("corrupt", path, str(error), checkpoint_id)
        if self._hashes[path] != handle.sha256:
            detail = f"has sha256 {self._hashes[path]}, expected {handle.sha256}"
            return Finding("corrupt", path, detail, checkpoint_id)
        return Finding("ok", path, f"{handle.size_bytes} bytes", checkpoint_id)
