"""File systems that fail, die or forget: to be put below a ``DirectoryStore``.

``FaultyFileSystem`` fails the k-th changing call: run a scenario for k = 1, 2, ... until
it goes through without a fault, and check after each. ``PowerLossFileSystem`` keeps what was synced
and forgets the rest, as a disk may when the power goes.

Source: the counter loop is SQLite's ("How SQLite Is Tested", section 3, I/O error testing); what a
disk may forget follows Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flowsnap.storage.filesystem import FileSystem


class SimulatedCrash(BaseException):
    """The process has died here: nobody may catch it, and nothing after it takes effect."""


class UnsyncedFileSystem(FileSystem):
    """Syncs nothing: for tests in which the power stays on, and which should be fast."""

    def fsync(self, descriptor: int) -> None:
        """Do nothing."""

    def fsync_directory(self, path: Path) -> None:
        """Do nothing."""


class FaultyFileSystem(FileSystem):
    """Fails the ``fail_at``-th changing call with ``error``: an errno, or None to die there.

    ``takes_effect``: the call is carried out before it fails, so that its outcome is unknown to the
    caller. ``is_lasting``: every later one fails too, as on a full disk. ``fail_at`` 0 only counts.
    ``calls`` lists what was called, as "fsync" or "link x.sst"; ``below`` carries the calls out.
    """

    def __init__(
        self,
        fail_at: int = 0,
        error: int | None = errno.EIO,
        *,
        takes_effect: bool = False,
        is_lasting: bool = False,
        below: FileSystem | None = None,
    ) -> None:
        self.calls: list[str] = []
        self.has_failed = False
        self._below = below or FileSystem()
        self._fail_at = fail_at
        self._error = error
        self._takes_effect = takes_effect
        self._is_lasting = is_lasting or error is None

    def create(self, path: Path) -> int:
        with self._call(f"create {path.name}"):
            return self._below.create(path)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        with self._call("write", lambda: self._below.write(descriptor, data[:1])):
            return self._below.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        with self._call("fsync"):
            self._below.fsync(descriptor)

    def link(self, source: Path, target: Path) -> None:
        with self._call(f"link {target.name}"):
            self._below.link(source, target)

    def replace(self, source: Path, target: Path) -> None:
        with self._call(f"replace {target.name}"):
            self._below.replace(source, target)

    def unlink(self, path: Path) -> None:
        with self._call(f"unlink {path.name}"):
            self._below.unlink(path)

    def make_directory(self, path: Path) -> None:
        with self._call(f"make_directory {path.name}"):
            self._below.make_directory(path)

    def remove_directory(self, path: Path) -> None:
        with self._call(f"remove_directory {path.name}"):
            self._below.remove_directory(path)

    def fsync_directory(self, path: Path) -> None:
        with self._call(f"fsync_directory {path.name}"):
            self._below.fsync_directory(path)

    @contextmanager
    def _call(self, what: str, tear: Callable[[], object] | None = None) -> Iterator[None]:
        """Count a call, and fail before or after it if it is its turn."""
        if self.has_failed and self._is_lasting:
            raise self._fault(what)
        self.calls.append(what)
        is_turn = len(self.calls) == self._fail_at
        self.has_failed = self.has_failed or is_turn
        if is_turn and not self._takes_effect:
            if tear is not None:
                tear()  # What was written before the disk was full stays.
            raise self._fault(what)
        yield
        if is_turn:
            raise self._fault(what)

    def _fault(self, what: str) -> BaseException:
        if self._error is None:
            return SimulatedCrash(what)
        return OSError(self._error, os.strerror(self._error), what)


class PowerLossFileSystem(UnsyncedFileSystem):
    """Remembers what is not durable yet, and takes it back at ``lose_power``.

    The worst case: no content that was not synced, no change of a name in a directory that was not
    synced afterwards. What was there before is durable. ``attic`` is a directory on the same file
    system for what may have to return.
    """

    def __init__(self, attic: Path) -> None:
        self._attic = attic
        self._count = 0
        self._undo: list[tuple[Path, Callable[[], None]]] = []
        self._synced: set[int] = set()
        self._dirty: set[int] = set()

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        self._written(os.fstat(descriptor).st_ino)
        self._changed(path, lambda: path.unlink(missing_ok=True))
        return descriptor

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        self._written(os.fstat(descriptor).st_ino)
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        self._synced.add(inode)
        self._dirty.discard(inode)

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        inode = os.lstat(target).st_ino
        if inode not in self._synced:  # A local file that nobody has made durable.
            self._dirty.add(inode)
        self._changed(target, lambda: target.unlink(missing_ok=True))

    def replace(self, source: Path, target: Path) -> None:
        moved, old = self._keep(source), self._keep(target)
        super().replace(source, target)
        self._changed(target, lambda: self._bring_back(old, target))
        self._changed(source, lambda: self._bring_back(moved, source))

    def unlink(self, path: Path) -> None:
        kept = self._keep(path)
        super().unlink(path)
        self._changed(path, lambda: self._bring_back(kept, path))

    def make_directory(self, path: Path) -> None:
        super().make_directory(path)
        self._changed(path, lambda: shutil.rmtree(path, ignore_errors=True))

    def remove_directory(self, path: Path) -> None:
        super().remove_directory(path)
        self._changed(path, lambda: path.mkdir(0o700))

    def fsync_directory(self, path: Path) -> None:
        self._undo = [(directory, undo) for directory, undo in self._undo if directory != path]

    def lose_power(self, root: Path, is_written_out: Callable[[Path], bool] | None = None) -> None:
        """Take back what is not durable below ``root``; contents that were not synced are lost.

        ``is_written_out`` says of a directory that its names have reached the disk all the same: a
        disk may write one directory and not the other, in any order.
        """
        for directory, undo in reversed(self._undo):
            if is_written_out is not None and is_written_out(directory):
                continue
            with suppress(FileNotFoundError):  # The directory itself has gone.
                undo()
        self._undo.clear()
        for path in root.rglob("*"):
            status = path.lstat()
            if path.is_file() and status.st_ino in self._dirty:
                os.truncate(path, status.st_size // 2)

    def _written(self, inode: int) -> None:
        self._synced.discard(inode)
        self._dirty.add(inode)

    def _changed(self, path: Path, undo: Callable[[], None]) -> None:
        self._undo.append((path.parent, undo))

    def _keep(self, path: Path) -> Path | None:
        if not self.is_file(path):
            return None
        self._count += 1
        kept = self._attic / str(self._count)
        os.link(path, kept)
        return kept

    def _bring_back(self, kept: Path | None, path: Path) -> None:
        path.unlink(missing_ok=True)
        if kept is not None:
            os.link(kept, path)
