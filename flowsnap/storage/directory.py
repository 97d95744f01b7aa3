"""The checkpoint store in a local directory.

Every write goes to a new file under a temporary name, is synced, is given its name, and the
directory is synced: only then does the call return. A file whose sync has failed is abandoned,
because the kernel may have dropped its data and would report success the second time; what is
tried again is tried with a new file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import count
from pathlib import Path

from flowsnap.errors import StorageError
from flowsnap.storage.filesystem import FileSystem
from flowsnap.storage.ownership import claim_directory
from flowsnap.storage.store import (
    PIECE_BYTES,
    Names,
    Step,
    StepCallback,
    StoredFile,
    StoredFiles,
    check_name,
    check_prefix,
    is_name,
    is_temporary,
)
from flowsnap.storage.translation import translated

_KNOWN_DIRECTORIES_MAX = 1_000

# What a file system says that has no hard links, or none for this file.
NO_LINK = {errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

_FileKey = tuple[int, int, int, int]


def _ignore_step(step: Step) -> None:
    """Do nothing: nobody asked to be told."""


class _NameTaken(Exception):
    """Somebody else was first; not an ``OSError``, which would be translated."""


class DirectoryStore:
    """A ``CheckpointStore`` whose root is a directory that nobody but its owner can write to.

    Directories are 0700 and files 0600, whatever the umask. Links are never followed on reading.

    Raises:
        ConfigError: the root cannot be made, is writable by others or belongs to somebody else.
    """

    def __init__(self, root: Path, filesystem: FileSystem | None = None) -> None:
        self.root = root
        self._filesystem = filesystem or FileSystem()
        self._numbers = count(secrets.randbits(63))  # of temporary files
        self._known_directories: set[Path] = set()
        self._abandoned: set[_FileKey] = set()
        claim_directory(root, self._filesystem)

    def put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        with translated(f"cannot write {name}"):
            temporary = self._write_new(path.parent, [data])
        self._publish(temporary, path, self._filesystem.replace)

    def put_file(self, name: str, path: Path) -> None:
        target = self._path(name)
        with translated(f"cannot store {path} as {name}"), self._opened(path) as descriptor:
            temporary = self._link_new(descriptor, path, target.parent)
            if temporary is None:
                temporary = self._write_new(target.parent, self._pieces(descriptor))
        self._publish(temporary, target, self._filesystem.replace)

    def create(self, name: str, data: bytes, *, on_step: StepCallback | None = None) -> bool:
        path, tell = self._path(name), on_step or _ignore_step
        with translated(f"cannot write {name}"):
            if self._filesystem.is_file(path):
                return False
            temporary = self._write_new(path.parent, [data], tell)
        try:
            self._publish(temporary, path, self._name_new, tell)
        except _NameTaken:
            return False
        return True

    def get(self, name: str) -> bytes:
        path = self._path(name)
        with translated(f"cannot read {name}"), self._opened(path) as descriptor:
            return b"".join(self._pieces(descriptor))

    def fetch(self, name: str, path: Path, *, is_immutable: bool) -> None:
        source = self._path(name)
        with translated(f"cannot fetch {name} to {path}"), self._opened(source) as descriptor:
            if is_immutable:
                try:
                    self._filesystem.link(source, path)
                    return
                except OSError as error:
                    if error.errno not in NO_LINK:
                        raise
            self._write(path, self._pieces(descriptor))

    def exists(self, name: str) -> bool:
        path = self._path(name)
        with translated(f"cannot look for {name}"):
            return self._filesystem.is_file(path)

    def delete(self, name: str, *, is_durable: bool = True) -> None:
        path = self._path(name)
        with translated(f"cannot delete {name}", is_definite=False):
            with suppress(FileNotFoundError, NotADirectoryError):
                self._filesystem.unlink(path)
            # Also where it was missing: an earlier call may have failed between the two steps.
            if is_durable and self._filesystem.is_directory(path.parent):
                self._filesystem.fsync_directory(path.parent)
        self._prune(path.parent)

    def sha256(self, name: str) -> str:
        path, digest = self._path(name), sha256()
        with translated(f"cannot read {name}"), self._opened(path) as descriptor:
            for piece in self._pieces(descriptor):
                digest.update(piece)
        return digest.hexdigest()

    def delete_temporaries(self) -> int:
        found = [path for path in self._walk_others() if is_temporary(path.name)]
        for path in found:
            with (
                translated(f"cannot delete {path}", is_definite=False),
                suppress(FileNotFoundError),
            ):
                self._filesystem.unlink(path)
        return len(found)

    def strangers(self) -> Names:
        return sorted(path.relative_to(self.root).as_posix() for path in self._walk_others())

    def list(self, prefix: str = "") -> StoredFiles:
        directory, _, start = check_prefix(prefix).rpartition("/")
        found, todo = [], [(directory, start)]
        with translated(f"cannot list {prefix or self.root}"):
            while todo:
                directory, start = todo.pop()
                for entry in self._filesystem.scan(self.root / directory):
                    name = f"{directory}/{entry.name}" if directory else entry.name
                    if not entry.name.startswith(start) or not is_name(name):
                        continue
                    if entry.is_file:
                        found.append(StoredFile(name, entry.size_bytes))
                    elif entry.is_directory:
                        todo.append((name, ""))
        return sorted(found, key=lambda file: file.name)

    # --- writing ---------------------------------------------------------------------------------

    def _write_new(
        self, directory: Path, pieces: Iterable[bytes], tell: StepCallback = _ignore_step
    ) -> Path:
        """Write a new file of a temporary name, synced; where it fails, nothing stays."""

        def sync(descriptor: int) -> None:
            tell("tmp")
            self._filesystem.fsync(descriptor)
            tell("fsynced")

        path = self._new_path(directory)
        self._write(path, pieces, sync)
        return path

    def _link_new(self, descriptor: int, source: Path, directory: Path) -> Path | None:
        """Give a finished file a temporary name, synced; None where only a copy will do."""
        status = self._filesystem.status(descriptor)
        key = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        if key in self._abandoned:
            raise StorageError(f"{source} is abandoned: to make it durable has failed before")
        if status.st_uid != os.geteuid():
            return None
        try:
            self._filesystem.restrict(descriptor)
            self._filesystem.fsync(descriptor)
        except OSError:
            self._abandoned.add(key)
            raise
        path = self._new_path(directory)
        try:
            self._filesystem.link(source, path)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            return None
        return path

    def _new_path(self, directory: Path) -> Path:
        self._make_directories(directory)
        return directory / f".tmp-{next(self._numbers):016x}"

    def _write(
        self, path: Path, pieces: Iterable[bytes], finish: Callable[[int], None] | None = None
    ) -> None:
        descriptor = self._filesystem.create(path)
        try:
            try:
                for piece in pieces:
                    rest = memoryview(piece)
                    while rest:
                        rest = rest[self._filesystem.write(descriptor, rest) :]
                if finish is not None:
                    finish(descriptor)
            finally:
                self._filesystem.close(descriptor)
        except (OSError, StorageError):
            self._discard(path)
            raise

    def _publish(
        self,
        temporary: Path,
        path: Path,
        give_name: Callable[[Path, Path], None],
        tell: StepCallback = _ignore_step,
    ) -> None:
        """Make a synced file visible, then durably visible. A failure in here is ambiguous."""
        what = f"cannot tell whether {path} was stored"
        try:
            with translated(what, is_definite=False):
                give_name(temporary, path)
                tell("renamed")
                self._filesystem.fsync_directory(path.parent)
                tell("dir_fsynced")
        finally:
            # A link leaves its other name behind, and so does renaming a file over itself.
            self._discard(temporary)

    def _name_new(self, temporary: Path, path: Path) -> None:
        try:
            self._filesystem.link(temporary, path)
        except FileExistsError as error:
            raise _NameTaken from error
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            with self._alone():
                if self._filesystem.is_file(path):
                    raise _NameTaken from error
                self._filesystem.replace(temporary, path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep every other process on this host out, or raise ``BlockingIOError``."""
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(descriptor)

    def _make_directories(self, directory: Path) -> None:
        """Make a directory of the store and those above it, durably."""
        if directory == self.root or (
            directory in self._known_directories and self._filesystem.is_directory(directory)
        ):
            return
        self._make_directories(directory.parent)
        with suppress(FileExistsError):
            self._filesystem.make_directory(directory)
        if not self._filesystem.is_directory(directory):
            raise NotADirectoryError(errno.ENOTDIR, "no directory", str(directory))
        # Also where it was there: who made it may have died before it was durable.
        self._filesystem.fsync_directory(directory.parent)
        if len(self._known_directories) >= _KNOWN_DIRECTORIES_MAX:
            self._known_directories.clear()
        self._known_directories.add(directory)

    def _discard(self, path: Path) -> None:
        # What stays is found by ``delete_temporaries``; the error under way matters more.
        with suppress(OSError):
            self._filesystem.unlink(path)

    def _prune(self, directory: Path) -> None:
        """Remove directories that have become empty, but those right below the root."""
        with suppress(OSError):
            while len(directory.relative_to(self.root).parts) > 1:
                self._filesystem.remove_directory(directory)
                directory = directory.parent

    # --- reading ---------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self.root / check_name(name)

    @contextmanager
    def _opened(self, path: Path) -> Iterator[int]:
        descriptor = self._filesystem.open(path)
        try:
            yield descriptor
        finally:
            self._filesystem.close(descriptor)

    def _pieces(self, descriptor: int) -> Iterator[bytes]:
        while piece := self._filesystem.read(descriptor, PIECE_BYTES):
            yield piece

    def _walk_others(self) -> Iterator[Path]:
        """Yield what ``list`` passes over."""
        todo = [""]
        with translated(f"cannot list {self.root}"):
            while todo:
                directory = todo.pop()
                for entry in self._filesystem.scan(self.root / directory):
                    name = f"{directory}/{entry.name}" if directory else entry.name
                    is_ours = is_name(name)
                    if is_ours and entry.is_directory:
                        todo.append(name)
                    elif not (is_ours and entry.is_file):
                        yield self.root / name
