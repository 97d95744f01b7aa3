"""The temporary directory of one running job: sockets, code, and all state if it is kept nowhere.

It goes with the job. Of a job manager that was killed it stays behind, and goes when the next one
of the same user makes its own: a lock in it, which falls with its process, says who is still alive.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

from flowsnap.errors import ConfigError
from flowsnap.storage.ownership import OwnerLock

PREFIX = "flowsnap-"
LOCK = "owner.lock"


class Scratch:
    """A private directory (mode 0700) that is ours for as long as the process holds its lock."""

    def __init__(self, path: Path, lock: OwnerLock) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def make(cls, parent: Path | None = None) -> Self:
        """Remove what killed job managers have left behind, and make a new one in ``parent``.

        ``parent``: where temporary files go, if it is None.

        Raises:
            ConfigError: it cannot be made.
        """
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        remove_left_behind(parent)
        try:
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))  # which mkdtemp makes 0700
        except OSError as error:
            raise ConfigError(
                f"cannot make a temporary directory in {parent}: {error.strerror}"
            ).hint("set TMPDIR to a directory that can be written to") from error
        try:
            return cls(path, OwnerLock.acquire(path / LOCK))
        except ConfigError:  # The file system knows no locks: nothing would ever remove it.
            shutil.rmtree(path, ignore_errors=True)
            raise

    def remove(self) -> None:
        """Delete it; what cannot be deleted stays."""
        _delete(self.path)
        self._lock.release()


def remove_left_behind(parent: Path) -> list[Path]:
    """Remove the directories of our user's job managers that have died; return them.

    One without a lock is left alone: it may be about to get it.
    """
    removed = []
    for path in _scratches(parent):
        lock = _abandoned(path)
        if lock is not None:
            _delete(path)
            lock.release()
            removed.append(path)
    return removed


def _delete(path: Path) -> None:
    """Delete a directory, its lock last: as long as something is left in it, it is found again."""
    with suppress(OSError):
        for one in path.iterdir():
            if one.is_dir() and not one.is_symlink():
                shutil.rmtree(one, ignore_errors=True)
            elif one.name != LOCK:
                one.unlink()
        if os.listdir(path) == [LOCK]:
            shutil.rmtree(path)


def _scratches(parent: Path) -> list[Path]:
    """Return what has our lock in it; a directory for temporary files may be large."""
    try:
        with os.scandir(parent) as entries:
            names = sorted(one.name for one in entries if one.name.startswith(PREFIX))
    except OSError:
        return []
    return [parent / name for name in names if os.path.lexists(f"{parent}/{name}/{LOCK}")]


def _abandoned(path: Path) -> OwnerLock | None:
    """Return the lock of a directory whose process has died, which is ours then."""
    try:
        status = path.lstat()
        if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
            return None  # Somebody else's, who may want us to delete something of ours.
        if not (path / LOCK).lstat().st_size:
            return None  # It is being locked just now.
        return OwnerLock.acquire(path / LOCK)
    except (OSError, ConfigError):
        return None
