"""The seam between a sink of files and the place where its parts are: here, local directories.

A part goes through ``create``, ``end``, ``settle`` and ``publish``. It is hidden until it is
published, whatever crashes, and durable once it is settled; to publish it again changes nothing.
Formats and ``partitioned.py`` know no more of a place than this. See ``object_output.py`` for
object storage.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Protocol

from flowsnap.bucket.url import ObjectUrl, is_url
from flowsnap.connectors.committer import Committer
from flowsnap.connectors.parts import (
    publish,
    remove_files,
    remove_later,
    remove_older,
    remove_part,
    remove_uncommitted,
    sync_directory,
)
from flowsnap.core.operator import Submission
from flowsnap.errors import StorageError

_COMPONENT = re.compile(r"[A-Za-z0-9_~%=+@,-][A-Za-z0-9_.~%=+@,-]*")


class Output(Protocol):
    """A place of parts; directories are relative to it, the empty one is its own.

    Raises:
        OSError: from every method, where the operating system refuses.
        StorageError: where a store does, or what is published does not exist.
    """

    place: str
    """Its path or URL, for messages."""

    # --- in the submitting process ------------------------------------------------------------

    def make(self) -> None:
        """Make it where it is missing, and try whether it can be written."""

    def parts(self) -> Sequence[tuple[str, str]]:
        """Return directory and name of all files that can be seen in it."""
        ...

    def remove(self, parts: Sequence[tuple[str, str]]) -> None:
        """Remove files, some of which may be gone already, durably."""

    def remove_later(self, submission: Submission) -> None:
        """Remove what an operator published after the checkpoint that its job goes back to."""

    def remove_uncommitted(self, run_ids: Sequence[str], operator: str | None = None) -> None:
        """Remove what these lives of a job have not published, of one operator or of all."""

    # --- in the task --------------------------------------------------------------------------

    def create(self, directory: str, name: str) -> IO[bytes]:
        """Begin a part of a hidden name."""
        ...

    def end(self, name: str, file: IO[bytes]) -> dict[str, Any]:
        """Close a part, whose content is complete; return what its committable has to tell."""
        ...

    def settle(self, directories: set[str]) -> None:
        """Return when all parts that have ended, in these directories, are durable."""

    def publish(self, parts: Sequence[dict[str, Any]]) -> None:
        """Give settled parts their final names, durably."""

    def remove_older(self, run: str, operator: str, attempt: int) -> None:
        """Remove what attempts before ``attempt`` have not published, of an operator by tags."""

    def drop(self, directory: str, name: str, file: IO[bytes]) -> None:
        """Give up a part that was not settled."""

    def committer(self, name: str, commit_one: Callable[[Any], None]) -> Committer | None:
        """Return what commits on a thread, where that takes long."""
        ...

    def close(self) -> None:
        """Release what is open."""


class LocalOutput:
    """A directory ``place``; ``is_parted``: parts are also in the directories below it."""

    def __init__(self, place: str, *, is_parted: bool = False) -> None:
        self.place = place
        self._is_parted = is_parted

    def make(self) -> None:
        os.makedirs(self.place, exist_ok=True)
        probe = os.path.join(self.place, f".flowsnap-probe-{os.getpid()}.tmp")
        with open(probe, "wb"):
            os.unlink(probe)

    def parts(self) -> Sequence[tuple[str, str]]:
        return [(below, name) for below in self._directories() for name in os.listdir(below)]

    def remove(self, parts: Sequence[tuple[str, str]]) -> None:
        for below in dict.fromkeys(directory for directory, _ in parts):
            remove_files(below, [name for directory, name in parts if directory == below])

    def remove_later(self, submission: Submission) -> None:
        for below in self._directories():
            remove_later(below, submission)

    def remove_uncommitted(self, run_ids: Sequence[str], operator: str | None = None) -> None:
        for below in self._directories():
            remove_uncommitted(below, run_ids, operator)

    def create(self, directory: str, name: str) -> IO[bytes]:
        if directory:
            _make_durably(self.place, directory)
        return open(os.path.join(self.place, directory, name), "xb")

    def end(self, name: str, file: IO[bytes]) -> dict[str, Any]:
        file.flush()
        os.fsync(file.fileno())
        file.close()
        return {}

    def settle(self, directories: set[str]) -> None:
        for directory in directories:
            sync_directory(os.path.join(self.place, directory))

    def publish(self, parts: Sequence[dict[str, Any]]) -> None:
        directories = set()
        for part in parts:
            directory = os.path.join(self.place, checked_directory(part))
            publish(directory, part)
            directories.add(directory)
        # Also when all had their names: the crash may have come before the last sync.
        for directory in directories:
            sync_directory(directory)

    def remove_older(self, run: str, operator: str, attempt: int) -> None:
        for below in self._directories():
            remove_older(below, run, operator, attempt)

    def drop(self, directory: str, name: str, file: IO[bytes]) -> None:
        try:
            file.close()
        finally:
            remove_part(os.path.join(self.place, directory), name)

    def committer(self, name: str, commit_one: Callable[[Any], None]) -> Committer | None:
        return None

    def close(self) -> None:
        """Do nothing: every part is closed by itself."""

    def _directories(self) -> Iterator[str]:
        """Yield the directory, and those below it if records are parted."""
        yield self.place
        if self._is_parted:
            for parent, names, _ in os.walk(self.place):
                names[:] = sorted(name for name in names if not name.startswith("."))
                yield from (os.path.join(parent, name) for name in names)


def resolved(path: str) -> str:
    """Return the place of a sink in a way that holds in every process: absolute, or a URL."""
    return str(ObjectUrl.parse_files(path)) if is_url(path) else os.path.abspath(path)


def output_at(place: str, *, is_parted: bool) -> Output:
    """Return the output at a path or a URL.

    Raises:
        ConfigError: a package is missing, or the environment does not say how to reach it.
    """
    if not is_url(place):
        return LocalOutput(place, is_parted=is_parted)
    from flowsnap.connectors.object_output import ObjectOutput  # noqa: PLC0415 - needs an extra

    return ObjectOutput(ObjectUrl.parse_files(place), is_parted=is_parted)


def checked_directory(part: dict[str, Any]) -> str:
    """Return the directory of a part of a committable, which never leads out of its place.

    Raises:
        StorageError: it would.
    """
    directory = part.get("directory", "")
    if not isinstance(directory, str) or not all(
        _COMPONENT.fullmatch(name) for name in directory.split("/") if directory
    ):
        raise StorageError(f"{directory!r} does not name a directory of parts")
    return directory


def _make_durably(root: str, directory: str) -> None:
    parent = root
    for name in directory.split("/"):
        path = os.path.join(parent, name)
        if not os.path.isdir(path):
            os.makedirs(path, exist_ok=True)
            sync_directory(parent)
        parent = path
