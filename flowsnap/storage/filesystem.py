"""The one seam between the directory store and the operating system.

One method is one system call, or nearly. Tests put a subclass in its place that fails, dies or
forgets (``flowsnap.testing.faults``). Methods raise ``OSError``; the store translates.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from pathlib import Path

import msgspec

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600


class Entry(msgspec.Struct, frozen=True):
    """One name in a directory; a link or a device is neither file nor directory."""

    name: str
    is_file: bool
    is_directory: bool
    size_bytes: int


class FileSystem:
    """The operating system's files, private to the owner whatever the umask says."""

    def create(self, path: Path) -> int:
        """Open a new file for writing; ``FileExistsError`` if there is anything of that name."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, FILE_MODE)
        os.fchmod(descriptor, FILE_MODE)  # The umask may have taken rights even from the owner.
        return descriptor

    def open(self, path: Path) -> int:
        """Open a regular file for reading; a link, a device or a pipe is refused."""
        # O_NONBLOCK: to open a pipe without a writer would wait for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "no regular file", str(path))
        return descriptor

    def read(self, descriptor: int, size_bytes: int) -> bytes:
        """Return up to ``size_bytes``; nothing at the end."""
        return os.read(descriptor, size_bytes)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """Write some of ``data``, and return how much."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Make the content durable, on macOS down to the platter."""
        if sys.platform == "darwin":
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a file."""
        os.close(descriptor)

    def restrict(self, descriptor: int) -> None:
        """Make an open file readable and writable by its owner alone."""
        os.fchmod(descriptor, FILE_MODE)

    def status(self, descriptor: int) -> os.stat_result:
        """Return what is known of an open file."""
        return os.fstat(descriptor)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; ``FileExistsError`` if it is taken."""
        os.link(source, target)

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file over whatever file is there."""
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        os.unlink(path)

    def make_directory(self, path: Path) -> None:
        """Make a directory; ``FileExistsError`` if there is anything of that name."""
        os.mkdir(path, DIRECTORY_MODE)
        os.chmod(path, DIRECTORY_MODE)

    def remove_directory(self, path: Path) -> None:
        """Remove an empty directory."""
        os.rmdir(path)

    def fsync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def scan(self, path: Path) -> list[Entry]:
        """Return what is in a directory, by name; nothing if it is gone or no directory."""
        try:
            with os.scandir(path) as entries:
                return sorted(map(_entry, entries), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def directory_status(self, path: Path) -> os.stat_result:
        """Return what is known of a directory, or of the one that a link leads to."""
        return os.stat(path)

    def is_directory(self, path: Path) -> bool:
        """Return whether there is a directory, and not a link to one."""
        try:
            return stat.S_ISDIR(os.lstat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_file(self, path: Path) -> bool:
        """Return whether there is a regular file, and not a link to one."""
        try:
            return stat.S_ISREG(os.lstat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False


def _entry(entry: os.DirEntry[str]) -> Entry:
    is_file = entry.is_file(follow_symlinks=False)
    try:
        size_bytes = entry.stat(follow_symlinks=False).st_size if is_file else 0
    except FileNotFoundError:  # Deleted since it was listed: as good as a moment ago.
        size_bytes = 0
    return Entry(entry.name, is_file, entry.is_dir(follow_symlinks=False), size_bytes)
