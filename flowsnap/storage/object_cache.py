"""Immutable files of object storage that lie on this host already.

::

    <cache>/<16 hex: sha256 of the name>-<64 hex: sha256 of the content>

What was stored from here or fetched to here is kept as a hard link, so that a restart on the same
host fetches nothing; a link of a file that is still in use takes no space. What is given out is
hashed first: a damaged copy is dropped and fetched again. Several processes may share one cache: an
entry appears by one rename. It only saves time: every failure of it counts as not found.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

BYTES_MAX = 4 * 2**30


class FileCache:
    """The files in ``directory``, of at most ``bytes_max`` bytes together; the oldest go first."""

    def __init__(self, directory: Path, bytes_max: int = BYTES_MAX) -> None:
        self._directory = directory
        self._bytes_max = bytes_max

    def add(self, name: str, path: Path) -> None:
        """Keep the content of ``name``, which is that of the finished file ``path``."""
        with suppress(OSError):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._entry(name) is not None:
                return
            temporary = self._directory / f".tmp-{secrets.token_hex(8)}"
            os.link(path, temporary, follow_symlinks=False)
            os.replace(temporary, self._directory / f"{_tag(name)}-{_sha256(temporary)}")
            self._evict()

    def link(self, name: str, path: Path) -> bool:
        """Make ``path``, which must not exist, a hard link of the content, if it is here.

        Raises:
            FileExistsError: there is something at ``path``.
        """
        entry = self._entry(name)
        try:
            if entry is None:
                return False
            if _sha256(entry) != entry.name.partition("-")[2]:
                entry.unlink()
                return False
            os.link(entry, path, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:
            return False
        return True

    def _entry(self, name: str) -> Path | None:
        return next(iter(self._directory.glob(f"{_tag(name)}-*")), None)

    def _evict(self) -> None:
        entries = [(path.stat(), path) for path in self._directory.iterdir()]
        total = sum(status.st_size for status, _ in entries)
        for status, path in sorted(entries, key=lambda entry: entry[0].st_mtime_ns):
            if total <= self._bytes_max:
                return
            path.unlink(missing_ok=True)
            total -= status.st_size


def _tag(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
