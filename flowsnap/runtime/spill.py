"""The queue of a feedback channel: it takes whatever comes, and what is too much goes to disk.

In a cycle whoever waits for credit may be waiting for himself. So a feedback channel grants credit
for what has *arrived*, and keeps it: up to some batches in memory, the rest in a local file, in
order.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from flowsnap import serialize
from flowsnap.core.element import Batch, Element
from flowsnap.errors import StateError

BATCHES_MAX = 256
"""How many elements wait in memory, at the front and at the back of the file each."""

FILE_BYTES_MAX = 64 * 2**20
"""How much that has been read already may stay in the file, while as much is still to be read."""

_MOVED_BYTES = 2**20
_LENGTH = struct.Struct("!I")


class SpillQueue:
    """A FIFO queue of elements without bound; used as the ``queue`` of an ``InputChannel``."""

    def __init__(
        self, path: Path, batches_max: int = BATCHES_MAX, file_bytes_max: int = FILE_BYTES_MAX
    ) -> None:
        self.spilled = 0  # elements that went through the file
        self._file_bytes_max = file_bytes_max
        self._path = path
        self._batches_max = batches_max
        self._front: deque[Element] = deque()
        self._back: deque[Element] = deque()  # behind what is in the file
        self._in_file = 0
        self._file: BinaryIO | None = None
        self._read_at = 0

    def __bool__(self) -> bool:
        return bool(self._front)

    def __len__(self) -> int:
        return len(self._front) + self._in_file + len(self._back)

    def __iter__(self) -> Iterator[Element]:
        """Yield everything that waits, in order, without taking it."""
        yield from self._front
        yield from self._peek()
        yield from self._back

    def append(self, element: Element) -> None:
        """Put an element at the end.

        Raises:
            StateError: the local disk failed.
        """
        if not self._in_file and not self._back and len(self._front) < self._batches_max:
            self._front.append(element)
            return
        self._back.append(element)
        if len(self._back) >= self._batches_max:
            self._write()

    def appendleft(self, element: Element) -> None:
        """Put an element back in front."""
        self._front.appendleft(element)

    def popleft(self) -> Element:
        """Take the first element."""
        element = self._front.popleft()
        if not self._front:
            self._refill()
        return element

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        self.spilled += len(self._back)
        self._in_file += len(self._back)
        blobs = [_encode(element) for element in self._back]
        self._back.clear()
        try:
            if self._file is None:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._file = self._path.open("w+b")
            self._file.seek(0, 2)
            self._file.write(b"".join(_LENGTH.pack(len(blob)) + blob for blob in blobs))
        except OSError as error:
            raise StateError(f"cannot keep feedback in {self._path}: {error}") from error

    def _refill(self) -> None:
        while self._in_file and len(self._front) < self._batches_max:
            element, self._read_at = self._read(self._read_at)
            self._front.append(element)
            self._in_file -= 1
        if self._in_file:
            self._compact()
            return
        self._front.extend(self._back)
        self._back.clear()
        if self._file is not None:
            self._file.truncate(0)
            self._read_at = 0

    def _compact(self) -> None:
        """Give back the space of what has been read: the queue of a busy loop is never empty."""
        assert self._file is not None
        left_bytes = self._file.seek(0, 2) - self._read_at
        if self._read_at < max(self._file_bytes_max, left_bytes):
            return
        try:
            self._move(left_bytes)
        except OSError as error:
            raise StateError(f"cannot keep feedback in {self._path}: {error}") from error

    def _move(self, left_bytes: int) -> None:
        assert self._file is not None
        for at in range(0, left_bytes, _MOVED_BYTES):
            self._file.seek(self._read_at + at)
            part = self._file.read(min(_MOVED_BYTES, left_bytes - at))
            self._file.seek(at)
            self._file.write(part)
        self._file.truncate(left_bytes)
        self._read_at = 0

    def _peek(self) -> Iterator[Element]:
        at = self._read_at
        for _ in range(self._in_file):
            element, at = self._read(at)
            yield element

    def _read(self, at: int) -> tuple[Element, int]:
        assert self._file is not None
        try:
            self._file.seek(at)
            (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
            blob = self._file.read(length)
        except OSError as error:
            raise StateError(f"cannot read feedback in {self._path}: {error}") from error
        return _decode(blob), at + _LENGTH.size + length


def _encode(element: Element) -> bytes:
    if isinstance(element, Batch):
        return serialize.dump((element.values, element.timestamps, element.keys))
    return serialize.dump(element)


def _decode(blob: bytes) -> Element:
    loaded = serialize.load(blob)
    if isinstance(loaded, tuple):
        return Batch(*loaded)
    element: Element = loaded
    return element
