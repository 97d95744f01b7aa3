"""Keyed state for simulation: the memory twin, stored in shared files as RocksDB's would be.

The rows of a snapshot lie in a few files by key. A file whose rows have not changed stays as it is,
so that a checkpoint lists what an older one has stored: reuse, protection and collection of shared
files are all exercised without a database. Numbers of files are used again after a failure, with
other content, as RocksDB's are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from zlib import crc32

from flowsnap.core.ids import OperatorId
from flowsnap.core.manifest import TableSpec
from flowsnap.errors import StateError
from flowsnap.state.codec import decode_value, encode_value
from flowsnap.state.memory import FILE_NAME, MemoryBackend, MemoryPersist, Rows
from flowsnap.state.persist import LocalFile
from flowsnap.state.restore import RestoredState

BUCKETS = 2
SUFFIX = ".sst"
CURRENT = "CURRENT"


class SharedFilesPersist(MemoryPersist):
    """One freeze: a file for each bucket that has changed, and a list of all: ``target``."""

    def __init__(
        self,
        rows: Rows,
        tables: tuple[TableSpec, ...],
        target: Path,
        keep: Callable[[int, bytes], LocalFile],
    ) -> None:
        super().__init__(rows, tables, target)
        self._keep = keep

    def step(self) -> bool:
        """Write what is new.

        Raises:
            StateError: the disk refuses.
        """
        if self.files:
            return True
        buckets: dict[int, Rows] = {}
        for row in sorted(self._rows, key=lambda row: (row[0], row[1], row[2] or b"")):
            buckets.setdefault(crc32(row[1]) % BUCKETS, []).append(row)
        try:
            shared = [self._keep(at, encode_value(rows)) for at, rows in sorted(buckets.items())]
            current = "\n".join(file.name for file in shared).encode()
            _write(self._target, current)
        except OSError as error:
            raise StateError(f"persisting state failed: {error}") from error
        own = LocalFile(CURRENT, self._target, len(current), is_shared=False)
        self.files = (*shared, own)
        return True

    def release(self) -> None:
        """Remove the list."""
        self._target.unlink(missing_ok=True)


class SharedFilesBackend(MemoryBackend):
    """A ``MemoryBackend`` whose checkpoints share files."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self._files: dict[int, tuple[bytes, LocalFile]] = {}  # by bucket: its bytes, and where
        self._count = 0
        super().__init__(directory, **settings)

    def freeze(self) -> SharedFilesPersist:
        """Copy all tables, as bytes."""
        frozen = super().freeze()
        return SharedFilesPersist(frozen._rows, frozen.tables, frozen._target, self._keep)

    def _keep(self, bucket: int, data: bytes) -> LocalFile:
        """Return the local file that holds ``data``, which is what it held before, or a new one."""
        known = self._files.get(bucket)
        if known is not None and known[0] == data:
            return known[1]
        self._count += 1
        return self._write(bucket, data, f"{self._count:06d}{SUFFIX}")

    def _write(self, bucket: int, data: bytes, name: str) -> LocalFile:
        path = self.directory / name
        _write(path, data)
        file = LocalFile(name, path, len(data), is_shared=True)
        self._files[bucket] = (data, file)
        return file

    def _restore(self, state: RestoredState, operators: Collection[OperatorId] | None) -> None:
        names = [name for name in (state.directory / CURRENT).read_text().split("\n") if name]
        for name in names:
            data = (state.directory / name).read_bytes()
            _write(state.directory / FILE_NAME, data)
            super()._restore(state, operators)
            if self.is_opened_directly:
                self._adopt(data, name)

    def _adopt(self, data: bytes, name: str) -> None:
        """Go on with a restored file, and with the numbers behind it."""
        rows: Rows = decode_value(data)
        self._count = max(self._count, int(name.removesuffix(SUFFIX)))
        self._write(crc32(rows[0][1]) % BUCKETS, data, name)


def _write(path: Path, data: bytes) -> None:
    """Write a file; its directory is made where it is missing."""
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
