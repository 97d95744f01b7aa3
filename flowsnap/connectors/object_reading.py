"""Objects as files that are open for reading: in a row, fetched ahead, or here and there.

What is read in a row comes in pieces that double up to 8 MiB, the next one under way on a thread
while one is read. A file that is read here and there fetches exactly what is asked for, more than
8 MiB in several requests. Both read the version that was found when the job was submitted, and
nothing else: see ``object_bucket.py``.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import IO, Any, TypeVar

from flowsnap.bucket.url import ObjectUrl
from flowsnap.connectors.object_bucket import Bucket, bucket_of
from flowsnap.errors import StorageError

PIECE_BYTES, PIECE_BYTES_MAX = 1 << 17, 1 << 23
BUFFER_BYTES = 1 << 16

R = TypeVar("R")


class ObjectFile(io.RawIOBase):
    """An object from any place on; nothing behind ``until`` is fetched before it is asked for.

    Raises:
        StorageError: from every read, if the object has vanished or was changed, or the service
            does not answer.
    """

    def __init__(
        self, bucket: Bucket, key: str, size_bytes: int, version: str, until: int | None = None
    ) -> None:
        self._closing = threading.Event()
        self._bucket = bucket.until(self._closing)
        self._key = key
        self.size_bytes = size_bytes
        self._version = version
        self._until = size_bytes if until is None else min(until, size_bytes)
        self._at = 0
        self._start = 0
        self._piece = memoryview(b"")
        self._piece_bytes = PIECE_BYTES
        self._ahead: tuple[int, Future[bytes]] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = (0, self._at, self.size_bytes)[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Fill ``buffer`` as far as there is a piece at hand, or fetch one; 0: the end."""
        if self._at >= self.size_bytes:
            return 0
        if not self._start <= self._at < self._start + len(self._piece):
            self._fetch()
        first = self._at - self._start
        data = self._piece[first : first + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        """Let go of it; a fetch that is under way ends by itself, and is not repeated."""
        self._closing.set()
        self._piece, self._ahead = memoryview(b""), None
        super().close()

    def _fetch(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == self._at:
            data = ahead[1].result()
        else:
            self._piece_bytes = PIECE_BYTES
            data = self._read(self._at, self._end_from(self._at))
        self._start, self._piece = self._at, memoryview(data)
        following = self._at + len(data)
        if following < self._until:
            self._piece_bytes = min(2 * self._piece_bytes, PIECE_BYTES_MAX)
            end = self._end_from(following)
            self._ahead = (following, on_thread(lambda: self._read(following, end)))

    def _end_from(self, start: int) -> int:
        limit = self._until if start < self._until else self.size_bytes
        return min(start + self._piece_bytes, limit)

    def _read(self, start: int, end: int) -> bytes:
        return self._bucket.read(self._key, start, end, self._version)


class ScatteredFile(io.RawIOBase):
    """An object of which each read fetches just that: for formats that have an index."""

    def __init__(self, bucket: Bucket, key: str, size_bytes: int, version: str) -> None:
        self._bucket = bucket
        self._key = key
        self._size_bytes = size_bytes
        self._version = version
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def size(self) -> int:
        """Return the size in bytes; Arrow asks for it."""
        return self._size_bytes

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = max(0, (0, self._at, self._size_bytes)[whence] + offset)
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """Return ``size`` bytes, or what is left.

        Raises:
            StorageError: as of ``ObjectFile``.
        """
        end = self._size_bytes
        if size is not None and size >= 0:
            end = min(end, self._at + size)
        pieces: list[bytes] = []
        while self._at < end:  # A request has a limit of time, so it has one of size.
            until = min(self._at + PIECE_BYTES_MAX, end)
            pieces.append(self._bucket.read(self._key, self._at, until, self._version))
            self._at = until
        return b"".join(pieces)


def open_object(
    text: str, size_bytes: int | None, version: str, until: int | None = None
) -> IO[bytes]:
    """Return an object as a file that is read in a row; by None and "" as it is now.

    Raises:
        StorageError: there is none.
    """
    bucket, key, size_bytes, version = _located(text, size_bytes, version)
    file = ObjectFile(bucket, key, size_bytes, version, until)
    return io.BufferedReader(file, BUFFER_BYTES)


def open_scattered(text: str, size_bytes: int | None, version: str) -> ScatteredFile:
    """Return an object as a file that is read here and there; else as ``open_object``."""
    return ScatteredFile(*_located(text, size_bytes, version))


def _located(text: str, size_bytes: int | None, version: str) -> tuple[Bucket, str, int, str]:
    url = ObjectUrl.of_object(text)
    bucket = bucket_of(url)
    if size_bytes is not None:
        return bucket, url.prefix, size_bytes, version
    found = bucket.find(url.prefix)
    if found is None:
        raise StorageError(f"{url} has vanished").hint(
            "objects are read again after a failure: keep them until the job has finished"
        )
    return bucket, url.prefix, found.size_bytes, found.version


def on_thread(call: Callable[[], R]) -> Future[R]:
    """Call on a thread of its own, which the end of the process waits for."""
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # It is raised where the result is asked for.
            future.set_exception(error)

    threading.Thread(target=run, name="flowsnap-objects").start()
    return future
