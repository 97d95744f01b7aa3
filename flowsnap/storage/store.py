"""The contract of a checkpoint store: a few named files that are durable once a call returns.

A name is a relative POSIX path of at most eight parts, each of letters, digits, ``.``, ``_`` and
``-``, beginning with a letter or a digit: there is no ``..``, nothing hidden, nothing absolute.
Anything else is refused before the store is touched.

A call that raises ``StorageError`` with ``is_definite`` has not taken effect. Without it the call
may have: look, and decide; never delete or give up on a guess (``storage/publish.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from flowsnap.errors import LocalProtocolError
from flowsnap.storage.translation import translated

PIECE_BYTES = 2**20
PARTS_MAX = 8

_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{16}")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

Step = Literal["tmp", "fsynced", "renamed", "dir_fsynced"]
"""How far a write has come: written under a temporary name, synced, visible, durably visible."""

StepCallback = Callable[[Step], None]


BEFORE_NAMED: tuple[Step, ...] = ("tmp", "fsynced")
AFTER_NAMED: tuple[Step, ...] = ("renamed", "dir_fsynced")


class StoredFile(msgspec.Struct, frozen=True):
    """One file of a store."""

    name: str
    size_bytes: int


StoredFiles = list[StoredFile]
Names = list[str]


class CheckpointStore(Protocol):
    """Durable files by name; what one call has returned every later call of anybody sees."""

    def put(self, name: str, data: bytes) -> None:
        """Store ``data`` under ``name``, in place of what was there: all of it or nothing.

        Raises:
            StorageError: it failed; where the outcome is unknown, the same call may be repeated.
        """

    def put_file(self, name: str, path: Path) -> None:
        """Store a finished local file, which nobody may write to again; it stays where it is.

        The store may keep a hard link instead of a copy; the local file is then made 0600.

        Raises:
            StorageError: as ``put``; or ``path`` is no regular file.
        """

    def create(self, name: str, data: bytes, *, on_step: StepCallback | None = None) -> bool:
        """Store ``data`` unless there is a file of that name; of all callers ever, one gets True.

        ``on_step`` is told after each step; an ``OSError`` from it counts as a failure there.

        Raises:
            StorageError: it failed.
        """

    def get(self, name: str) -> bytes:
        """Return the whole content.

        Raises:
            StorageError: there is none, or it cannot be read.
        """

    def fetch(self, name: str, path: Path, *, is_immutable: bool) -> None:
        """Make the local file ``path``, which must not exist, with the content of ``name``.

        ``is_immutable``: nobody will write to ``path``, so it may be a hard link.

        Raises:
            StorageError: there is none, or it cannot be read, or ``path`` cannot be made.
        """

    def exists(self, name: str) -> bool:
        """Return whether there is a file of that name."""

    def list(self, prefix: str = "") -> StoredFiles:
        """Return the files whose names begin with ``prefix``, by name."""

    def delete(self, name: str, *, is_durable: bool = True) -> None:
        """Delete a file; a missing one is fine.

        Not ``is_durable``: a loss of power may bring it back.

        Raises:
            StorageError: it may or may not be there still.
        """

    def sha256(self, name: str) -> str:
        """Return the hex sha256 of the content, read in pieces of 1 MiB.

        Raises:
            StorageError: there is none, or it cannot be read.
        """

    def delete_temporaries(self) -> int:
        """Delete what interrupted writes have left behind, and return how many there were.

        A write that is under way anywhere fails. Call it before there are any.
        """

    def strangers(self) -> Names:
        """Return what lies there under names that are none: links, hidden files, temporaries."""


@lru_cache(maxsize=4_096)
def is_name(name: str) -> bool:
    """Return whether ``name`` can be the name of a stored file."""
    parts = name.split("/")
    return len(parts) <= PARTS_MAX and all(_PART.fullmatch(part) for part in parts)


def is_temporary(part: str) -> bool:
    """Return whether ``part`` is the last part of a temporary file's path."""
    return bool(_TEMPORARY.fullmatch(part))


def check_name(name: str) -> str:
    """Return ``name``, if it can be one.

    Raises:
        LocalProtocolError: it cannot.
    """
    if not is_name(name):
        raise LocalProtocolError(f"{name!r} is not the name of a stored file")
    return name


def check_prefix(prefix: str) -> str:
    """Return ``prefix``, if a name can begin with it.

    Raises:
        LocalProtocolError: none can.
    """
    directory, _, part = prefix.rpartition("/")
    if not is_name(part or "x") or not is_name(directory or "x") or prefix.startswith("/"):
        raise LocalProtocolError(f"{prefix!r} does not begin the name of a stored file")
    return prefix


def tell_steps(name: str, steps: tuple[Step, ...], on_step: StepCallback | None) -> None:
    """Tell of steps that are one here; before a file has its name, a failure is definite.

    Raises:
        StorageError: ``on_step`` wants it.
    """
    with translated(f"cannot write {name}", is_definite=steps is BEFORE_NAMED):
        for step in steps:
            if on_step is not None:
                on_step(step)
