"""The checkpoint store in object storage: S3, Google Cloud Storage, Azure, and their likes.

It needs of a service what all of these promise: a put is seen whole or not at all, by everybody,
once it has returned; and a put on the condition that there is no such object yet (S3:
``If-None-Match: *``), which decides between all who try.

Every call is repeated, with pauses, while the service is unreachable, too slow or asks for less.
A conditional put that is repeated may meet its own earlier self; then nobody here knows who was
first, and the error says so (``is_definite``): the callers read back and decide (``publish.py``).

A manifest may be *barred*: an empty object in its place, made on the same condition, lets no job
manager that is paused or cut off complete that checkpoint later on. To everybody it does not exist.

Deviation from a directory: a file may be the directory of another; no name of ours is.

Source: Amazon S3 User Guide, "Add preconditions to S3 operations with conditional requests" and
"Amazon S3 data consistency model".
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore import exceptions

from flowsnap.bucket.requests import answered, put_file
from flowsnap.bucket.retrying import RetryPolicy, Transient
from flowsnap.core.retention import MANIFEST
from flowsnap.errors import StorageError
from flowsnap.storage.filesystem import FileSystem
from flowsnap.storage.object_cache import FileCache
from flowsnap.storage.store import (
    AFTER_NAMED,
    BEFORE_NAMED,
    PIECE_BYTES,
    Names,
    StepCallback,
    StoredFile,
    StoredFiles,
    check_name,
    check_prefix,
    is_name,
    tell_steps,
)
from flowsnap.storage.translation import translated

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Remote

LISTED_AT_ONCE = 1_000
BARS_KEPT = timedelta(days=1)

R = TypeVar("R")
_Objects = list[tuple[str, int, datetime]]  # name, size in bytes, when it was written


class ObjectStore:
    """A ``CheckpointStore`` below a prefix of a bucket; ``place`` is its URL, for people.

    ``cache``: where files lie that need not be fetched again. ``guard`` is called before each try
    to change anything, and raises where that is no longer allowed. Threads may share a store.
    """

    def __init__(
        self,
        remote: Remote,
        place: str = "",
        *,
        cache: FileCache | None = None,
        policy: RetryPolicy | None = None,
        guard: Callable[[], None] | None = None,
    ) -> None:
        self._remote = remote
        self._place = place
        self._cache = cache
        self._policy = policy or RetryPolicy()
        self._guard = guard or _allow
        self._limit = threading.local()

    def __repr__(self) -> str:
        return f"ObjectStore({self._place!r})"

    @contextmanager
    def within(self, total_ms: int) -> Iterator[None]:
        """Give all calls of this thread in the block so much time together.

        A call that begins when it is over fails at once, and one under way is not repeated: the
        block takes no longer than that and one request.
        """
        outer: float | None = getattr(self._limit, "until_s", None)
        until_s = self._policy.now_s() + total_ms / 1000
        self._limit.until_s = until_s if outer is None else min(until_s, outer)
        try:
            yield
        finally:
            self._limit.until_s = outer

    def put(self, name: str, data: bytes) -> None:
        check_name(name)

        def once() -> None:
            self._guard()
            obstore.put(self._remote, name, data, use_multipart=False)

        self._run(f"cannot write {name}", once, is_definite=False)

    def put_file(self, name: str, path: Path) -> None:
        check_name(name)
        what = f"cannot store {path} as {name}"
        with translated(what), open(FileSystem().open(path), "rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size

            def once() -> None:
                self._guard()
                put_file(self._remote, name, file, size_bytes)

            # An upload may take minutes: only a limit of the caller's counts from its beginning.
            has_limit = getattr(self._limit, "until_s", None) is not None
            policy = self._policy_left(what)
            answered(policy, what, once, is_definite=False, from_failure=not has_limit)
        if self._cache is not None:
            self._cache.add(name, path)

    def copy(self, name: str, target: str) -> None:
        """Copy an object to another name, within the service: its content does not come here.

        Both may have more parts than the name of a stored file, as in a store of a whole bucket.

        Raises:
            StorageError: it failed, or the service does not copy; the same call may be repeated.
        """

        def once() -> None:
            self._guard()
            obstore.copy(self._remote, name, target)

        self._run(f"cannot copy {name} to {target}", once, is_definite=False)

    def create(self, name: str, data: bytes, *, on_step: StepCallback | None = None) -> bool:
        check_name(name)
        if self._exists(name):
            return False
        tell_steps(name, BEFORE_NAMED, on_step)
        is_created = self._create(name, data)
        if is_created:
            tell_steps(name, AFTER_NAMED, on_step)
        return is_created

    def bar(self, name: str) -> bool:
        """Have nobody ever create this manifest; return whether there is none.

        Raises:
            StorageError: it is not barred, or perhaps not; to repeat the call is harmless.
        """
        assert _can_be_barred(name)
        try:
            return self._create(name, b"") or self._is_barred(name)
        except StorageError as error:
            if error.is_definite:
                raise
            return self._is_barred(name)

    def get(self, name: str) -> bytes:
        check_name(name)
        what = f"cannot read {name}"
        data = self._run(what, lambda: bytes(obstore.get(self._remote, name).bytes()))
        if not data and _can_be_barred(name):
            raise StorageError(f"{what}: there is no such object")
        return data

    def fetch(self, name: str, path: Path, *, is_immutable: bool) -> None:
        check_name(name)
        what = f"cannot fetch {name} to {path}"
        with translated(what):
            if is_immutable and self._cache is not None and self._cache.link(name, path):
                return
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with translated(what), closing(os.fdopen(descriptor, "wb")) as file:

                def once() -> None:
                    file.seek(0)
                    file.truncate()
                    for piece in self._pieces(name):
                        file.write(piece)

                self._run(what, once)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if is_immutable and self._cache is not None:
            self._cache.add(name, path)

    def exists(self, name: str) -> bool:
        return self._exists(check_name(name)) and not self._is_barred(name)

    def list(self, prefix: str = "") -> StoredFiles:
        return [
            StoredFile(name, size_bytes)
            for name, size_bytes, _ in self._list(check_prefix(prefix))
            if is_name(name) and (size_bytes or not _can_be_barred(name))
        ]

    def delete(self, name: str, *, is_durable: bool = True) -> None:
        check_name(name)
        if not self._is_barred(name):
            self._delete(name)

    def sha256(self, name: str) -> str:
        check_name(name)

        def once() -> str:
            digest = sha256()
            for piece in self._pieces(name):
                digest.update(piece)
            return digest.hexdigest()

        return self._run(f"cannot read {name}", once)

    def delete_temporaries(self) -> int:
        """Delete old bars: of an upload that was not finished a service shows nothing."""
        oldest = datetime.now(UTC) - BARS_KEPT
        found = [
            name
            for name, size_bytes, modified in self._list("")
            if not size_bytes and _can_be_barred(name) and modified < oldest
        ]
        for name in found:
            self._delete(name)
        return len(found)

    def strangers(self) -> Names:
        return sorted(name for name, _, _ in self._list("") if not is_name(name))

    def directories(self) -> Names:
        """Return the first parts of all names that have more than one, by name.

        Raises:
            StorageError: they cannot be read.
        """

        def once() -> Names:
            return list(obstore.list_with_delimiter(self._remote)["common_prefixes"])

        return sorted(filter(is_name, self._run(f"cannot list {self._place}", once)))

    # --- requests --------------------------------------------------------------------------------

    def _create(self, name: str, data: bytes) -> bool:
        tries = 0

        def once() -> bool:
            nonlocal tries
            tries += 1
            self._guard()
            try:
                obstore.put(self._remote, name, data, mode="create")
            except exceptions.AlreadyExistsError as error:
                if tries > 1:  # It may be our own: an earlier try had no answer.
                    text = f"cannot tell who wrote {name}: it was tried {tries} times"
                    raise StorageError(text, is_definite=False) from error
                if not self._exists(name):  # S3 says so, too, while another write is under way.
                    raise Transient(str(error)) from error
                return False
            return True

        return self._run(f"cannot write {name}", once, is_definite=False)

    def _delete(self, name: str) -> None:
        def once() -> None:
            self._guard()
            try:
                obstore.delete(self._remote, name)
            except FileNotFoundError:
                return

        self._run(f"cannot delete {name}", once, is_definite=False)

    def _exists(self, name: str) -> bool:
        return self._size(name) is not None

    def _is_barred(self, name: str) -> bool:
        return _can_be_barred(name) and self._size(name) == 0

    def _size(self, name: str) -> int | None:
        def once() -> int | None:
            try:
                return obstore.head(self._remote, name)["size"]
            except FileNotFoundError:
                return None

        return self._run(f"cannot look for {name}", once)

    def _list(self, prefix: str) -> _Objects:
        directory = prefix.rpartition("/")[0]  # A service lists whole directories.

        def once() -> _Objects:
            pages = obstore.list(self._remote, directory or None, chunk_size=LISTED_AT_ONCE)
            return [
                (item["path"], item["size"], item["last_modified"])
                for page in pages
                for item in page
                if item["path"].startswith(prefix)
            ]

        return sorted(self._run(f"cannot list {prefix or self._place}", once))

    def _pieces(self, name: str) -> Iterator[bytes]:
        for piece in obstore.get(self._remote, name).stream(min_chunk_size=PIECE_BYTES):
            yield bytes(piece)

    def _run(self, what: str, call: Callable[[], R], *, is_definite: bool = True) -> R:
        """Call until there is an answer, and translate an error; ``is_definite``: it only reads."""
        return answered(self._policy_left(what), what, call, is_definite=is_definite)

    def _policy_left(self, what: str) -> RetryPolicy:
        until_s: float | None = getattr(self._limit, "until_s", None)
        if until_s is None:
            return self._policy
        left_ms = int((until_s - self._policy.now_s()) * 1000)
        if left_ms <= 0:
            raise StorageError(f"{what}: it was not tried, as all before took too long")
        return replace(self._policy, total_ms_max=min(left_ms, self._policy.total_ms_max))


def _can_be_barred(name: str) -> bool:
    return name.endswith(f"/{MANIFEST}")


def _allow() -> None:
    """Do nothing: whoever has no guard may write."""
