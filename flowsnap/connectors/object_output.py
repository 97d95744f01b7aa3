"""Parts in object storage: uploaded to a hidden place, copied to their final names by commit.

::

    <place>/part-<run>-<operator>-...            what readers see
    <place>/.pending/.part-<run>-...<suffix>.tmp what is not committed

A part is written into a local file without a name, and uploaded on a thread once it has ended;
prepare waits until the service has it. Commit copies it within the service, looks whether the copy
is whole, and deletes what was copied. Each of these may be repeated: names never come twice, what a
part holds never changes, and nothing is copied any more once it has been deleted. So a commit whose
answer was lost, or that comes late and from another worker, changes nothing that is there.

What is pending and of an older attempt when a recovery has committed all that its checkpoint holds
will never be committed, and is deleted.

Source: Flink, "Google Cloud Storage", recoverable writer: temporary objects, composed at commit.
Deviation: on S3 as well, where Flink completes a multipart upload: see
``docs/decisions/0012-files-in-object-storage.md``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from flowsnap.bucket.url import ObjectUrl
from flowsnap.connectors.committer import Committer
from flowsnap.connectors.object_bucket import bucket_of
from flowsnap.connectors.output import checked_directory
from flowsnap.connectors.parts import (
    is_later,
    is_older,
    is_uncommitted,
    missing,
    names_of,
)
from flowsnap.core.operator import Submission
from flowsnap.errors import StorageError

PENDING = ".pending"
IN_MEMORY_BYTES = 1 << 20
"""How much of a part that is being written is held in memory, before it goes to the disk."""

UPLOADS_AT_ONCE = 2
UPLOADS_WAITING_MAX = 8
"""How many parts may wait for their upload, on the disk, before records have to wait for it."""

COPIES_AT_ONCE = 8
COPY_TIMEOUT_MS = 120_000
"""How long a copy may take: the answer comes when all of it is done."""


class ObjectOutput:
    """A prefix of a bucket; ``is_parted``: parts are also in the directories below it."""

    def __init__(self, url: ObjectUrl, *, is_parted: bool = False) -> None:
        self.place = str(url)
        self._closing = threading.Event()
        self._bucket = bucket_of(url).until(self._closing)
        self._copying = bucket_of(url, COPY_TIMEOUT_MS).until(self._closing)
        self._root = url.prefix
        self._is_parted = is_parted
        self._executor: ThreadPoolExecutor | None = None
        self._uploads: dict[str, Future[None]] = {}

    # --- in the submitting process ------------------------------------------------------------

    def make(self) -> None:
        probe = self._key(PENDING, f".flowsnap-probe-{os.getpid()}.tmp")
        with SpooledTemporaryFile(IN_MEMORY_BYTES) as file:
            file.write(b"flowsnap")
            self._bucket.put_file(probe, file, file.tell())
        self._bucket.delete([probe])

    def parts(self) -> Sequence[tuple[str, str]]:
        bucket = self._bucket
        listed = (bucket.list_below if self._is_parted else bucket.list_flat)(self._root)
        below = (found.key[len(self._root) :].lstrip("/") for found in listed)
        found = (key.rpartition("/") for key in below if not key.startswith("."))
        return [(directory, name) for directory, _, name in found]

    def remove(self, parts: Sequence[tuple[str, str]]) -> None:
        self._bucket.delete(self._key(directory, name) for directory, name in parts)

    def remove_later(self, submission: Submission) -> None:
        if submission.restored_from is not None:
            self.remove([one for one in self.parts() if is_later(one[1], submission)])

    def remove_uncommitted(self, run_ids: Sequence[str], operator: str | None = None) -> None:
        self._remove_pending(lambda name: is_uncommitted(name, run_ids, operator))

    # --- in the task --------------------------------------------------------------------------

    def create(self, directory: str, name: str) -> IO[bytes]:
        return SpooledTemporaryFile(IN_MEMORY_BYTES, prefix="flowsnap-part-")

    def end(self, name: str, file: IO[bytes]) -> dict[str, Any]:
        size_bytes = file.seek(0, os.SEEK_END)
        if self._executor is None:
            self._executor = ThreadPoolExecutor(UPLOADS_AT_ONCE, "flowsnap-upload")
        waiting = [upload for upload in self._uploads.values() if not upload.done()]
        if len(waiting) >= UPLOADS_WAITING_MAX:
            waiting[0].result()
        self._uploads[name] = self._executor.submit(self._upload, name, file, size_bytes)
        return {"size_bytes": size_bytes}

    def settle(self, directories: set[str]) -> None:
        for name in list(self._uploads):
            self._uploads[name].result()
            del self._uploads[name]

    def publish(self, parts: Sequence[dict[str, Any]]) -> None:
        if len(parts) == 1:
            copied = [self._copied(parts[0])]
        else:
            with ThreadPoolExecutor(COPIES_AT_ONCE, "flowsnap-copy") as pool:
                copied = list(pool.map(self._copied, parts))
        self._bucket.delete(copied)

    def remove_older(self, run: str, operator: str, attempt: int) -> None:
        self._remove_pending(lambda name: is_older(name, run, operator, attempt))

    def drop(self, directory: str, name: str, file: IO[bytes]) -> None:
        """Close a part; one that is uploaded is left to the next attempt, which removes it."""
        upload = self._uploads.pop(name, None)
        if upload is None or upload.cancel():
            file.close()

    def committer(self, name: str, commit_one: Callable[[Any], None]) -> Committer | None:
        return Committer(
            name, commit_one, release=_nothing, interrupt=self._closing.set, retry_timeout_ms=0
        )

    def close(self) -> None:
        self._closing.set()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _upload(self, name: str, file: IO[bytes], size_bytes: int) -> None:
        with file:
            self._bucket.put_file(self._key(PENDING, name), file, size_bytes)

    def _copied(self, part: dict[str, Any]) -> str:
        """Have a part at its final place, whole; return what is not needed any more."""
        temporary, final = names_of(part)
        pending = self._key(PENDING, temporary[0])
        target = self._key(checked_directory(part), final[0])
        found = self._bucket.find(target)
        if found is None:
            is_copied = self._copying.copy(pending, target)
            found = self._bucket.find(target)
            # Another commit of the same part may have come to its end just now.
            if found is None and not is_copied:
                raise missing(final, self._bucket.url_of(pending))
        size_bytes = part.get("size_bytes")
        if found is None or found.size_bytes != size_bytes:
            there = 0 if found is None else found.size_bytes
            raise StorageError(
                f"{self._bucket.url_of(target)} has {there} bytes, where {size_bytes} were prepared"
            ).hint("does something else write objects of that name?")
        return pending

    def _remove_pending(self, is_meant: Callable[[str], bool]) -> None:
        found = [one.key for one in self._bucket.list_flat(self._key(PENDING))]
        self._bucket.delete(key for key in found if is_meant(key.rpartition("/")[2]))

    def _key(self, *names: str) -> str:
        return "/".join(name for name in (self._root, *names) if name)


def _nothing() -> None:
    """Release nothing: the connections are of all who use the bucket."""
