"""Objects that appear: each is read once, as it is when its turn has come, for ever.

Objects do not grow, so what is followed is the bucket. As in ``follow.py`` every subtask has one
split, a *lane*, and looks itself for the objects whose URL hashes to its number; those that it has
read it knows by a hash of name and version, eight bytes each, for as long as they are there. One
that is put into the place of another is a new one. They are read in the order in which the service
says they were written, as far as they were found together.

An object that is gone before its turn has come is left out, and the log says so; one that is gone
or changed while it is read is an error.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Event
from typing import Any, NamedTuple

from flowsnap.connectors.files import InputFile
from flowsnap.connectors.object_bucket import Found, ObjectGone
from flowsnap.connectors.object_files import find_new
from flowsnap.connectors.object_reading import on_thread
from flowsnap.core.element import Batch
from flowsnap.core.operator import Split, SplitReader

LOG = logging.getLogger("flowsnap.files")

LOOKING_MS = 20
"""How often it is asked whether a look has come to its end."""

OPENING_MS = 2
"""How often it is asked whether the next object is open."""

OPENING_MAX = 8
"""How many objects are opened ahead: of small ones, most of the time is on the way."""

OPENING_BYTES_MAX = 1 << 25
"""How large they are together, at most: the first records of one may be a whole row group."""

_DIGEST_BYTES = 8

OpenSplit = Callable[[Split, Any], SplitReader]


class _Opening(NamedTuple):
    """An object that is being opened on a thread, and its first records being read."""

    split: Split
    begun: Future[tuple[SplitReader, Batch | None]]


class ObjectLane(SplitReader):
    """Reads a lane; its position has what was read, and how far the object that is open was.

    ``open_split`` opens one object; ``clock`` is in seconds.

    Raises:
        StorageError: from ``read``, where an object or a bucket cannot be read.
    """

    def __init__(
        self,
        split: Split,
        position: dict[str, Any] | None,
        *,
        open_split: OpenSplit,
        look_ms: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lane: int = split.payload["lane"]
        self._of: int = split.payload["of"]
        self._paths: list[str] = split.payload["paths"]
        self._open_split = open_split
        self._look_s = look_ms / 1000
        self._clock = clock
        self._closing = Event()
        self._next_look_s = clock()
        self._looking: Future[dict[str, Found]] | None = None
        self._waiting: deque[tuple[str, Found]] = deque()
        self._opening: deque[_Opening] = deque()
        self._done = _unpacked("" if position is None else position["done"])
        self._packed: str | None = None
        self._current: Split | None = None
        self._reader: SplitReader | None = None
        if position is not None and position["open"] is not None:
            payload, inner = position["open"]
            self._current = Split(payload["path"], payload)
            self._reader = open_split(self._current, inner)

    def read(self, limit: int) -> Batch | None:
        self._look()
        self._open_ahead(limit)
        batch = self._begin_next() if self._reader is None else self._reader.read(limit)
        if batch is not None:
            return batch
        assert self._current is not None
        self._done.add(_digest_of(self._current))
        self._packed = None
        self._end()
        return Batch([])

    def position(self) -> dict[str, Any]:
        if self._packed is None:
            self._packed = base64.b64encode(b"".join(sorted(self._done))).decode()
        current = None
        if self._reader is not None and self._current is not None:
            current = [self._current.payload, self._reader.position()]
        return {"done": self._packed, "open": current}

    def wait_ms(self) -> int:
        if self._reader is not None or (self._opening and self._opening[0].begun.done()):
            return 0
        if self._opening or self._waiting:
            return OPENING_MS
        if self._looking is not None:
            return LOOKING_MS
        return max(1, round((self._next_look_s - self._clock()) * 1000))

    def close(self) -> None:
        self._closing.set()
        opening, self._opening = self._opening, deque()
        for one in opening:
            one.begun.add_done_callback(_close_opened)
        self._end()

    def _open_ahead(self, limit: int) -> None:
        while self._waiting and self._has_room(self._waiting[0][1].size_bytes):
            path, found = self._waiting.popleft()
            file = InputFile(path, path, found.size_bytes, found.version)
            split = Split(path, file.payload(0, None))
            self._opening.append(_Opening(split, on_thread(partial(self._opened, split, limit))))

    def _has_room(self, size_bytes: int) -> bool:
        if self._reader is None and not self._opening:
            return True  # It is the one that is read next.
        ahead_bytes = sum(one.split.payload["size_bytes"] for one in self._opening)
        is_small = ahead_bytes + size_bytes <= OPENING_BYTES_MAX
        return is_small and len(self._opening) < OPENING_MAX

    def _opened(self, split: Split, limit: int) -> tuple[SplitReader, Batch | None]:
        reader = self._open_split(split, None)
        try:
            return reader, reader.read(limit)
        except BaseException:
            reader.close()
            raise

    def _begin_next(self) -> Batch | None:
        """Return the first records of the next object, which is open then, or none now."""
        while self._opening and self._opening[0].begun.done():
            split, begun = self._opening.popleft()
            try:
                self._reader, batch = begun.result()
            except ObjectGone:  # If it was replaced, it will be found anew.
                _say_gone(split.payload["path"])
                continue
            self._current = split
            return batch
        return Batch([])

    def _end(self) -> None:
        reader, self._reader, self._current = self._reader, None, None
        if reader is not None:
            reader.close()

    def _look(self) -> None:
        """Begin to look where it is time, and take what was found."""
        if self._looking is None and self._clock() >= self._next_look_s:
            self._looking = on_thread(partial(find_new, self._paths, self._closing))
        if self._looking is None or not self._looking.done():
            return
        looking, self._looking = self._looking, None
        self._next_look_s = self._clock() + self._look_s
        listed = {
            _digest(path, found.version): (path, found)
            for path, found in looking.result().items()
            if _lane_of(path, self._of) == self._lane
        }
        if self._done - listed.keys():
            self._done &= listed.keys()  # What is gone need not be remembered.
            self._packed = None
        paths = {path for path, _ in listed.values()}
        for path, _ in self._waiting:
            if path not in paths:
                _say_gone(path)
        begun = {_digest_of(one.split) for one in self._opening}
        if self._current is not None:
            begun.add(_digest_of(self._current))
        new = [listed[digest] for digest in listed.keys() - self._done - begun]
        self._waiting = deque(sorted(new, key=lambda one: (one[1].modified_ms, one[0])))


def _say_gone(path: str) -> None:
    LOG.warning("%s was removed or replaced before it was read", path)


def _close_opened(begun: Future[tuple[SplitReader, Batch | None]]) -> None:
    if begun.exception() is None:
        begun.result()[0].close()


def _digest_of(split: Split) -> bytes:
    return _digest(split.payload["path"], split.payload["version"])


def _digest(path: str, version: str) -> bytes:
    text = f"{path}\n{version}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).digest()[:_DIGEST_BYTES]


def _lane_of(path: str, count: int) -> int:
    """Return the number of the lane that reads an object; none is a rotation of another."""
    return int.from_bytes(_digest(path, ""), "big") % count


def _unpacked(text: str) -> set[bytes]:
    data = base64.b64decode(text)
    return {data[at : at + _DIGEST_BYTES] for at in range(0, len(data), _DIGEST_BYTES)}
