"""Where tests keep the files of sources and sinks: a directory, or a bucket in memory."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import obstore

from flowsnap.bucket.remote import client_of
from flowsnap.bucket.url import ObjectUrl

if TYPE_CHECKING:
    from obstore.store import ObjectStore


class Place(Protocol):
    """A directory of files, wherever it is; names are relative to it."""

    path: str

    def write(self, name: str, data: bytes) -> str:
        """Write a file, and return its path."""
        ...

    def read(self, name: str) -> bytes:
        """Return what is in a file."""
        ...

    def names(self) -> list[str]:
        """Return the names of all files, hidden ones too, sorted."""
        ...


class LocalPlace:
    """A directory, which is made."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self.path = str(directory)

    def write(self, name: str, data: bytes) -> str:
        path = self._directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)

    def read(self, name: str) -> bytes:
        return (self._directory / name).read_bytes()

    def names(self) -> list[str]:
        found = (path for path in self._directory.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self._directory)) for path in found)


class BucketPlace:
    """A prefix of a bucket."""

    def __init__(self, path: str, remote: ObjectStore) -> None:
        self.path = path
        self.prefix = ObjectUrl.parse_files(path).prefix
        self.remote = remote

    def write(self, name: str, data: bytes) -> str:
        obstore.put(self.remote, f"{self.prefix}/{name}", data)
        return f"{self.path}/{name}"

    def read(self, name: str) -> bytes:
        return bytes(obstore.get(self.remote, f"{self.prefix}/{name}").bytes())

    def remove(self, name: str) -> None:
        """Remove a file."""
        obstore.delete(self.remote, f"{self.prefix}/{name}")

    def names(self) -> list[str]:
        listed = obstore.list(self.remote, self.prefix).collect()
        return sorted(one["path"].removeprefix(f"{self.prefix}/") for one in listed)


def in_memory(directory: Path) -> BucketPlace:
    """Return a place in memory of a test's own, by its directory."""
    tag = sha256(str(directory).encode()).hexdigest()[:16]
    url = ObjectUrl("memory", f"b-{tag}", "")
    return BucketPlace(str(url / "data"), client_of(url, timeout_ms=1))
