"""Files that grow, are rotated, and appear: read up to their last complete line, for ever.

Every subtask has one split, a *lane*, and looks itself for the files that are its own: those whose
name hashes to the number of the lane. No one has to be asked, and the lanes of a job stay as they
are when it is restored. The position of a lane has, for every file, its path, its inode, the offset
of the next line, and a fingerprint of its first bytes: so it is known over restarts

- that a file was renamed: it is read on under its new name, or, where that is not looked for, up to
  its end; a file that took its place is read from its beginning;
- that it was truncated, or another one put into its place: it is read from its beginning, and the
  log says so, since what was written in between may be lost.

Names that differ in a rotation's number or date (``app.log``, ``app.log.1``, ``app.log-20240531``)
are in the same lane, so that a rename is seen. A line without its end is not read before it has
one, but where its file has been rotated away.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from flowsnap.bucket.url import is_url
from flowsnap.connectors.compression import compression_of
from flowsnap.connectors.files import find_growing
from flowsnap.core.element import Batch
from flowsnap.core.operator import Split, SplitReader
from flowsnap.errors import ConfigError, StorageError

LOG = logging.getLogger("flowsnap.files")

HEAD_BYTES = 256
"""How much of a file's beginning tells it from another one."""

OPEN_FILES_MAX = 256
"""How many files of a lane stay open though nothing is written to them."""

_ROTATED = re.compile(r"(\.\d{1,5}|[-._]\d{4}-?\d{2}-?\d{2}([-T_]?\d{2,6})?)$")

Parse = Callable[[bytes, str, int], list[Any]]


def lanes(paths: Sequence[str], count: int) -> list[Split]:
    """Return the splits of a source that follows files, one for each subtask.

    Raises:
        ConfigError: a path can never lead to a file.
    """
    absolute = [path if is_url(path) else os.path.abspath(path) for path in paths]
    for path in absolute:
        if is_url(path):  # Of objects, which are looked at one by one, any may be followed.
            continue
        fixed = next(one for one in (path, *map(str, Path(path).parents)) if os.path.exists(one))
        is_dead_end = fixed != path and not os.path.isdir(fixed)
        if is_dead_end or compression_of(path) is not None:
            raise ConfigError(f"{path} cannot be followed").hint(
                "give a directory, a glob, or a plain file that exists or is going to"
            )
    return [
        Split(f"follow-{lane}", {"lane": lane, "of": count, "paths": absolute})
        for lane in range(count)
    ]


def kept_lanes(paths: Sequence[str], known: Sequence[tuple[Split, Any]]) -> list[Split]:
    """Return the lanes of a job that goes on, which look for files where they are told now.

    Raises:
        ConfigError: what the checkpoint knows are no lanes, or lanes of objects and not of files.
    """
    found = lanes(paths, 1)[0].payload["paths"]
    for split, position in known:
        if "lane" not in split.payload:
            raise ConfigError(f"{split.id} was read by a source that did not follow").hint(
                "leave follow out, or give the source that follows another name"
            )
        if position is not None and isinstance(position, dict) != is_url(found[0]):
            raise ConfigError(
                f"{found[0]} cannot be followed where files of another kind were"
            ).hint("files and objects are told apart in other ways: give the source another name")
    return [Split(split.id, {**split.payload, "paths": found}) for split, _ in known]


def lane_of(path: str, count: int) -> int:
    """Return the number of the lane that reads a file."""
    family = _ROTATED.sub("", path)
    digest = hashlib.sha256(family.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % count


class FollowedFile:
    """One file, up to ``offset``, which is behind the end of a line.

    ``is_dry``: there was no complete line when it was last looked at. ``is_leaving``: it has been
    rotated away, and is read to its end.
    """

    def __init__(self, path: str, inode: int, offset: int = 0, head: str = "") -> None:
        self.path = path
        self.inode = inode
        self.offset = offset
        self.head = head
        self.is_dry = False
        self.is_leaving = False
        self.size_bytes = -1
        self._file: IO[bytes] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it holds a file open."""
        return self._file is not None

    def position(self) -> list[Any]:
        """Return what a checkpoint holds of it; the arguments of the constructor."""
        return [self.path, self.inode, self.offset, self.head]

    def open(self, path: str) -> bool:
        """Open it; False: there is nothing at ``path``, or something else."""
        try:
            file = open(path, "rb")  # noqa: SIM115 - closed by close()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error}") from error
        if os.fstat(file.fileno()).st_ino != self.inode:
            file.close()
            return False
        self._file = file
        return True

    def lines(self, size_bytes: int) -> bytes:
        """Return complete lines from the offset on, about so many bytes; nothing: there is none."""
        if self._file is None and not self.open(self.path):
            return b""
        assert self._file is not None
        try:
            data = os.pread(self._file.fileno(), size_bytes, self.offset)
            while data and b"\n" not in data:
                at = self.offset + len(data)
                more = os.pread(self._file.fileno(), max(size_bytes, len(data)), at)
                if not more:
                    return data if self.is_leaving else b""
                data += more
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read: {error}") from error
        return data[: data.rfind(b"\n") + 1]

    def advance(self, size_bytes: int) -> None:
        """Take note that so many bytes have been read."""
        was_short = self.offset < HEAD_BYTES
        self.offset += size_bytes
        if was_short and self._file is not None:
            self.head = _head(self._file, self.offset)

    def is_same(self) -> bool:
        """Return whether it still begins as it did when it was read, and is as long."""
        if self._file is None and not self.open(self.path):
            return False
        assert self._file is not None
        if self.offset == 0:
            return True
        is_long = os.fstat(self._file.fileno()).st_size >= self.offset
        return is_long and _head(self._file, self.offset) == self.head

    def restart(self) -> None:
        """Go back to the beginning."""
        self.offset, self.head, self.is_dry = 0, "", False

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class FollowReader(SplitReader):
    """Reads a lane; its position is a list of one entry for each file. ``clock`` is in seconds."""

    def __init__(
        self,
        split: Split,
        position: list[list[Any]] | None,
        *,
        batch_bytes: int,
        parse: Parse,
        look_ms: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        payload = split.payload
        self._lane: int = payload["lane"]
        self._of: int = payload["of"]
        self._paths: list[str] = payload["paths"]
        self._batch_bytes = batch_bytes
        self._parse = parse
        self._look_s = look_ms / 1000
        self._clock = clock
        self._next_look_s = clock()
        self._files = [FollowedFile(*entry) for entry in position or ()]
        self._turn = 0

    def read(self, limit: int) -> Batch | None:
        """Return the next lines of one of the files; ``limit`` is not looked at.

        Raises:
            MalformedInput: a line does not parse.
            StorageError: a file cannot be read.
        """
        if self._clock() >= self._next_look_s:
            self._look()
            self._next_look_s = self._clock() + self._look_s
        for file in self._in_turn():
            data = file.lines(self._batch_bytes)
            if data:
                values = self._parse(data, file.path, file.offset)
                file.advance(len(data))
                self._turn += 1
                if values:
                    return Batch(values)
            elif file.is_leaving:
                LOG.info("%s was rotated away and has been read to its end", file.path)
                self._drop(file)
            else:
                file.is_dry = True
        return Batch([])

    def position(self) -> list[list[Any]]:
        return [file.position() for file in self._files]

    def wait_ms(self) -> int:
        if any(not file.is_dry for file in self._files):
            return 0
        return max(1, round((self._next_look_s - self._clock()) * 1000))

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _in_turn(self) -> list[FollowedFile]:
        leaving = [file for file in self._files if file.is_leaving]
        others = [file for file in self._files if not (file.is_leaving or file.is_dry)]
        start = self._turn % len(others) if others else 0
        return leaving + others[start:] + others[:start]

    # --- what has happened to the files? ------------------------------------------------------

    def _look(self) -> None:
        found = {
            path: stat
            for path, stat in find_growing(self._paths).items()
            if lane_of(path, self._of) == self._lane
        }
        paths = {stat.st_ino: path for path, stat in found.items()}
        for file in [file for file in self._files if not file.is_leaving]:
            stat = found.get(file.path)
            if stat is not None and stat.st_ino == file.inode:
                self._look_at(file, stat.st_size)
            elif self._is_renamed(file, paths.get(file.inode)):
                LOG.info("%s was renamed to %s, and is read on there", file.path, paths[file.inode])
                file.path, file.size_bytes, file.is_dry = paths[file.inode], -1, False
            elif stat is None or stat.st_size > 0:
                self._leave(file)
            # Else its place is taken, but whoever writes has not gone over to the new one yet.
        known = {file.path for file in self._files if not file.is_leaving}
        for path in sorted(found.keys() - known):
            self._files.append(FollowedFile(path, found[path].st_ino))
        self._close_dry()

    def _look_at(self, file: FollowedFile, size_bytes: int) -> None:
        if size_bytes == file.size_bytes:
            return
        file.size_bytes = size_bytes
        if not file.is_same():
            self._say_restarted(file)
        file.is_dry = size_bytes <= file.offset

    def _is_renamed(self, file: FollowedFile, path: str | None) -> bool:
        """Return whether a file is now at ``path``, where its inode is: it may be a new one's."""
        if path is None or any(
            other.path == path and other.inode == file.inode for other in self._files
        ):
            return False
        if (file.is_open or file.open(path)) and file.is_same():
            return True
        file.close()
        return False

    def _say_restarted(self, file: FollowedFile) -> None:
        LOG.warning(
            "%s was truncated or replaced: it is read from its beginning again; what was written"
            " to it behind byte %d before that is lost, if there was any",
            file.path,
            file.offset,
        )
        file.restart()

    def _leave(self, file: FollowedFile) -> None:
        """Have a file that is not at its path any more read to its end, if it can be found."""
        file.is_leaving = True
        if file.is_open or self._find(file):
            return
        LOG.warning(
            "%s was rotated away or removed while nobody looked, and is not found by its inode:"
            " what was written to it behind byte %d is lost, if there was any",
            file.path,
            file.offset,
        )
        self._drop(file)

    def _find(self, file: FollowedFile) -> bool:
        try:
            with os.scandir(os.path.dirname(file.path)) as entries:
                found = [entry.path for entry in entries if entry.inode() == file.inode]
        except OSError:
            return False
        return any(file.open(path) for path in found) and file.is_same()

    def _drop(self, file: FollowedFile) -> None:
        file.close()
        self._files.remove(file)

    def _close_dry(self) -> None:
        idle = [file for file in self._files if file.is_open and file.is_dry]
        for file in idle[OPEN_FILES_MAX:]:
            file.close()


def _head(file: IO[bytes], size_bytes: int) -> str:
    data = os.pread(file.fileno(), min(size_bytes, HEAD_BYTES), 0)
    return hashlib.sha256(data).hexdigest()[:16]
