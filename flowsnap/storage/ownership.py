"""Who a directory belongs to: one user, and one job manager at a time."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from pathlib import Path
from typing import Self

import msgspec

from flowsnap.errors import ConfigError
from flowsnap.storage.filesystem import FILE_MODE, FileSystem

LOCK_BYTES_MAX = 4096


class Owner(msgspec.Struct, frozen=True):
    """The process that holds a lock; ``since`` is wall clock, in ISO 8601 with its zone."""

    pid: int
    host: str
    since: str


def claim_directory(path: Path, filesystem: FileSystem, *, may_be_shared: bool = False) -> None:
    """Make a directory with mode 0700 if it is missing, and check whose it is.

    ``may_be_shared``: a directory of root's or with the sticky bit, such as ``/tmp``, will do:
    nobody else can rename or delete what we make in there.

    Raises:
        ConfigError: it cannot be made, is writable by others, or belongs to somebody else.
    """
    try:
        _make(path, filesystem)
        status = filesystem.directory_status(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be used: {error.strerror or error}").hint(
            "choose a directory on a local disk that you may write to"
        ) from error
    is_sticky = may_be_shared and bool(status.st_mode & stat.S_ISVTX)
    owners = {os.geteuid(), 0} if may_be_shared else {os.geteuid()}
    if status.st_uid not in owners:
        raise ConfigError(f"{path} belongs to user {status.st_uid}, not to {os.geteuid()}").hint(
            "choose a directory of your own: a checkpoint is code that is run when it is restored"
        )
    if status.st_mode & 0o022 and not is_sticky:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(f"{path} can be written to by others (mode {mode:04o})").hint(
            f"chmod go-w {path}"
        )


def _make(path: Path, filesystem: FileSystem) -> None:
    if path.is_dir():
        return
    if path.parent != path:
        _make(path.parent, filesystem)
    try:
        filesystem.make_directory(path)
    except FileExistsError:
        if not path.is_dir():
            raise
    filesystem.fsync_directory(path.parent)


class OwnerLock:
    """The right to write to a job directory, held until ``release`` or the end of the process.

    It is an ``flock``, so it falls with the process that held it, however that died; what stands in
    the file is for people. The file is never deleted: two processes could then hold two locks.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path) -> Self:
        """Take the lock, at once or not at all.

        Raises:
            ConfigError: a living process holds it, or it cannot be made.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, FILE_MODE)
        except OSError as error:
            raise ConfigError(f"cannot open the lock {path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_owner(descriptor)
        except BlockingIOError as error:
            os.close(descriptor)
            raise _held(path) from error
        except OSError as error:
            os.close(descriptor)
            raise ConfigError(f"cannot lock {path}: {error.strerror}").hint(
                "the state directory must be on a file system that knows locks"
            ) from error
        return cls(descriptor)

    def release(self) -> None:
        """Let go; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_held(path: Path) -> bool:
    """Return whether a living process holds a lock, without holding it longer than to look.

    Raises:
        ConfigError: it cannot be told.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"cannot open the lock {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_owner(path: Path) -> Owner | None:
    """Return who holds or last held the lock; None where the file does not say."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(LOCK_BYTES_MAX), type=Owner)
    except (OSError, msgspec.MsgspecError):
        return None


def _write_owner(descriptor: int) -> None:
    os.fchmod(descriptor, FILE_MODE)
    since = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    data = msgspec.json.encode(Owner(os.getpid(), socket.gethostname(), since))
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, data, 0)


def _held(path: Path) -> ConfigError:
    owner = read_owner(path)
    if owner is None:
        text = f"{path.parent} is in use by another process"
        return ConfigError(text).hint("stop the other job manager first")
    return ConfigError(
        f"{path.parent} is in use by process {owner.pid} on {owner.host} since {owner.since}"
    ).hint(f"stop that job first (kill {owner.pid}), or choose another job name")
