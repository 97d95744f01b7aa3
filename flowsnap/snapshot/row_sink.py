"""Rows of keyed state on their way into the files of a savepoint, as a running task stores them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from flowsnap.core.manifest import FileHandle
from flowsnap.errors import StorageError
from flowsnap.state.rocksdb import ROWS_PER_FILE, RocksStore

CACHE_BYTES = 8 << 20
_SLICE_ROWS = 1024


class RowSink:
    """Takes the rows of one task in any order; of rows with one key the last one counts.

    They are sorted ``ROWS_PER_FILE`` at a time, so that memory does not depend on how many there
    are. ``directory`` is its own.
    """

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise StorageError(f"cannot make {directory}: {error.strerror}") from error
        self.directory = directory
        self._store = RocksStore(directory / "db", cache_bytes=CACHE_BYTES)
        self._rows: dict[bytes, bytes] = {}
        self._is_closed = False

    def add(self, row: bytes, data: bytes) -> None:
        """Take one row.

        Raises:
            StateError: the disk refuses.
        """
        self._rows[row] = data
        if len(self._rows) >= ROWS_PER_FILE:
            self._flush()

    def finish(self) -> list[Path]:
        """Return the files that hold all rows.

        Raises:
            StateError: the disk refuses.
        """
        self._flush()
        target = self.directory / "files"
        self._store.checkpoint(target)
        self.close()
        return [path for path in sorted(target.iterdir()) if path.stat().st_size]

    def close(self) -> None:
        """Release the database; a second time does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._store.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        path = self.directory / "ingest.sst"
        file = self._store.writer(path)
        rows = sorted(self._rows)
        for start in range(0, len(rows), _SLICE_ROWS):
            chunk = rows[start : start + _SLICE_ROWS]
            file.write(chunk, [self._rows[row] for row in chunk])
        file.finish()
        self._store.ingest([path])
        self._rows.clear()


def handle_of(path: Path, name: str, stored: str) -> FileHandle:
    """Return the handle of a finished file that is ``name`` where it is used.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileHandle(name, stored, path.stat().st_size, digest)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
