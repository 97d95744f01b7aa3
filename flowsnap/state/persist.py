"""How a frozen generation becomes rows in RocksDB and a local checkpoint, in short slices.

The phases, each of which may be interrupted between any two slices, and begins anew after an error:

1. sort: find each key's row, bucket the rows by key group and state, sort each bucket;
2. write: encode the values into sorted files;
3. ingest: RocksDB takes the files over, the newest rows of all;
4. checkpoint: hard links of all files in a directory of their own (not for a spill);
5. retire: move the entries, clean now, to the tables' clean dicts.

Until phase 3 is done the frozen dicts are the only place that has the values, so they are kept, and
protected by copy on write. Generations are written strictly one after the other.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from flowsnap.core.manifest import TableSpec
from flowsnap.core.operator import MISSING
from flowsnap.errors import LocalProtocolError, StateError
from flowsnap.failpoint import failpoint
from flowsnap.state.codec import encode_value, row_prefix
from flowsnap.state.generation import Frozen, Generations, Serialised
from flowsnap.state.rocksdb import ROWS_PER_FILE, RocksStore, SortedFile

SLICE_NS = 2_000_000
SLICE_ROWS = 256

Part = tuple[Generations, Frozen]


class LocalFile(msgspec.Struct, frozen=True):
    """A file of a local checkpoint; a shared one never changes and may be in later ones too."""

    name: str
    path: Path
    size_bytes: int
    is_shared: bool


class Persist:
    """One freeze on its way to the disk; a spill where it has no ``target``."""

    files: tuple[LocalFile, ...] = ()

    def __init__(
        self,
        store: RocksStore,
        parts: Sequence[Part],
        tables: tuple[TableSpec, ...],
        target: Path | None,
        key_groups: tuple[int, int],
    ) -> None:
        self.tables = tables
        self.is_done = False
        self.queue: list[Persist] = []
        self._store = store
        self._parts = parts
        self._target = target
        self._key_groups = range(*key_groups)
        self._buckets: dict[tuple[int, int], tuple[list[bytes], list[Any]]] = {}
        self._paths: list[Path] = []
        self._is_aborted = False
        self._phases: list[Callable[[], Iterator[None]]] = [self._checkpoint]
        if parts:
            self._phases = [self._sort, self._write, self._checkpoint, self._retire]
        self._running: Iterator[None] | None = None

    def step(self) -> bool:
        """Do about 2 ms of work; return True once the checkpoint is durable on the local disk.

        Earlier freezes go first: their rows are older. After an error the step can be tried again;
        the tables still hold everything.

        Raises:
            StateError: a value cannot be pickled, or the disk refuses.
        """
        if not self.is_done:
            self.queue[0].advance(time.perf_counter_ns() + SLICE_NS)
        return self.is_done

    def release(self) -> None:
        """Remove the local checkpoint, or make none if it is not done. Any thread may call it."""
        self._is_aborted = True
        if self.is_done and self._target is not None:
            shutil.rmtree(self._target, ignore_errors=True)

    def advance(self, deadline_ns: int) -> None:
        """Work until the deadline or the end, at the head of the queue."""
        while self._phases:
            try:
                if self._running is None:
                    self._running = self._phases[0]()
                for _ in self._running:
                    if time.perf_counter_ns() >= deadline_ns:
                        return
            except (OSError, StateError) as error:
                self._running = None
                self._remove_files()
                if isinstance(error, StateError):
                    raise
                raise StateError(f"persisting state failed: {error}") from error
            self._running = None
            del self._phases[0]
        self.queue.remove(self)
        self.is_done = True
        if self._is_aborted:
            self.release()

    def _sort(self) -> Iterator[None]:
        self._buckets.clear()
        buckets = self._buckets
        for number, (table, frozen) in enumerate(self._parts):
            for count, (group, encoded, reference) in enumerate(table.encoded(frozen), 1):
                try:
                    rows, references = buckets[group, number]
                except KeyError:
                    self._check_group(group, table, encoded)
                    rows, references = buckets[group, number] = ([], [])
                rows.append(encoded)
                references.append(reference)
                if count % SLICE_ROWS == 0:
                    yield
        for identity, (rows, references) in buckets.items():
            references_of = dict(zip(rows, references, strict=True))
            rows.sort()
            buckets[identity] = (rows, [references_of[row] for row in rows])
            yield

    def _check_group(self, group: int, table: Generations, encoded: bytes) -> None:
        if group not in self._key_groups:
            spec = table.spec
            raise LocalProtocolError(
                f"state {spec.name!r} of operator {spec.operator!r} was given key {encoded!r} of "
                f"key group {group}, but the task owns {self._key_groups.start} to "
                f"{self._key_groups.stop - 1}"
            )

    def _write(self) -> Iterator[None]:
        """Write and ingest: a failure of either begins with new files."""
        self._remove_files()
        file: SortedFile | None = None
        count = 0
        for prefix, part, rows, references in self._ordered():
            value_of = part[0].lookup(part[1])
            for start in range(0, len(rows), SLICE_ROWS):
                if file is None:
                    file = self._next_file()
                chunk = slice(start, start + SLICE_ROWS)
                file.write(_encoded(prefix, rows[chunk], references[chunk], value_of, part[0].spec))
                count += SLICE_ROWS
                if count >= ROWS_PER_FILE:
                    _finish(file)
                    file, count = None, 0
                yield
        if file is not None:
            _finish(file)
        yield
        self._store.ingest(self._paths)
        for _, frozen in self._parts:
            frozen.is_ingested = True
        self._buckets.clear()

    def _ordered(self) -> Iterator[tuple[bytes, Part, list[bytes], list[Any]]]:
        """Yield the buckets in the order of their rows."""
        by_prefix = {
            row_prefix(group, self._parts[number][0].spec.state_id): (group, number)
            for group, number in self._buckets
        }
        for prefix in sorted(by_prefix):
            identity = by_prefix[prefix]
            yield prefix, self._parts[identity[1]], *self._buckets[identity]

    def _next_file(self) -> SortedFile:
        path = self._store.directory.parent / f"ingest-{len(self._paths)}.sst"
        self._paths.append(path)
        return self._store.writer(path)

    def _remove_files(self) -> None:
        for path in self._paths:
            with suppress(OSError):  # RocksDB took it over, or it was never made.
                path.unlink()
        self._paths.clear()

    def _checkpoint(self) -> Iterator[None]:
        if self._target is None or self._is_aborted:
            return
        yield
        shutil.rmtree(self._target, ignore_errors=True)
        self._store.checkpoint(self._target)
        self.files = tuple(
            LocalFile(path.name, path, size, path.suffix == ".sst")
            for path in sorted(self._target.iterdir())
            if (size := path.stat().st_size) or path.suffix != ".log"  # No log is ever written.
        )
        failpoint("op.checkpointed")

    def _retire(self) -> Iterator[None]:
        for table, frozen in self._parts:
            while frozen in table.frozen and not table.retire(frozen, SLICE_ROWS):
                yield
        self._parts = ()


def _finish(file: SortedFile) -> None:
    file.finish()
    failpoint("op.file_written")


def _encoded(
    prefix: bytes,
    rows: list[bytes],
    references: list[Any],
    value_of: Callable[[Any], Any],
    spec: TableSpec,
) -> list[tuple[bytes, bytes | None]]:
    encoded: list[tuple[bytes, bytes | None]] = []
    for row, value in zip(rows, map(value_of, references), strict=True):
        if value is MISSING:
            encoded.append((prefix + row, None))
        elif type(value) is Serialised:
            encoded.append((prefix + row, value.data))
        else:
            try:
                encoded.append((prefix + row, encode_value(value)))
            except StateError as error:
                error.add_note(f"in state {spec.name!r} of operator {spec.operator!r}")
                raise
    return encoded
