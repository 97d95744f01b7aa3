"""How a frozen generation becomes rows in RocksDB and a local checkpoint, in short slices.

The phases, each of which may be interrupted between any two slices, and begins anew after an error:

1. sort: put the entries into buckets by key group and table;
2. write: sort each bucket, encode its keys and values into sorted files;
3. ingest: RocksDB takes the files over, one by one, the newest rows of all;
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

import msgspec

from flowsnap.core.manifest import TableSpec
from flowsnap.errors import StateError
from flowsnap.failpoint import failpoint
from flowsnap.state.buckets import SLICE_ENTRIES, Buckets, Part
from flowsnap.state.rocksdb import ROWS_PER_FILE, RocksStore, SortedFile

SLICE_NS = 2_000_000


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
        self._paths: list[Path] = []
        self._is_aborted = False
        self._phases: list[Callable[[], Iterator[None]]] = [self._checkpoint]
        if parts:
            self._phases = [self._write, self._checkpoint, self._retire]
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
            except OSError as error:
                self._begin_phase_anew()
                raise StateError(f"persisting state failed: {error}") from error
            except BaseException:
                self._begin_phase_anew()
                raise
            self._running = None
            del self._phases[0]
        self.queue.remove(self)
        self.is_done = True
        if self._is_aborted:
            self.release()

    def _begin_phase_anew(self) -> None:
        self._running = None
        self._remove_files()

    def _write(self) -> Iterator[None]:
        """Sort, write and ingest: a failure of any begins with new files."""
        self._remove_files()
        buckets = Buckets(self._parts, self._key_groups)
        yield from buckets.fill()
        file: SortedFile | None = None
        count = 0
        for prefix, (table, frozen), run in buckets.ordered():
            references, rows = table.in_order(run, prefix)
            yield
            for start in range(0, len(rows), SLICE_ENTRIES):
                if file is None:
                    file = self._next_file()
                chunk = slice(start, start + SLICE_ENTRIES)
                file.write(rows[chunk], table.encoded(frozen, references[chunk]))
                yield
            count += len(rows)
            if file is not None and count >= ROWS_PER_FILE:
                _finish(file)
                file, count = None, 0
                yield
        if file is not None:
            _finish(file)
        yield
        yield from self._ingest()

    def _ingest(self) -> Iterator[None]:
        """Let RocksDB take over file by file; the frozen dicts shadow them until all are in."""
        for path in self._paths:
            self._store.ingest([path])
            yield
        for _, frozen in self._parts:
            frozen.is_ingested = True

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
            while frozen in table.frozen and not table.retire(frozen, SLICE_ENTRIES):
                yield
        self._parts = ()


def _finish(file: SortedFile) -> None:
    file.finish()
    failpoint("op.file_written")
