"""The one file that knows RocksDB: rows in sorted files, read by key, checkpointed by hard links.

Rows are never put into RocksDB's memtable. They are written to sorted files of at most
``ROWS_PER_FILE`` rows, which RocksDB takes over as they are; so there is no write-ahead log, no
flush, and what a checkpoint holds is what has been ingested. Size-tiered compaction merges the
files: see ``docs/decisions/0002-generational-table.md`` for the figures behind the options.

The binding raises bare ``Exception``, so that is what is caught here, and nowhere else.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DBCompactionStyle,
    DBCompressionType,
    IngestExternalFileOptions,
    Options,
    Rdict,
    SstFileWriter,
    UniversalCompactOptions,
)

from flowsnap.errors import StateError

ROWS_PER_FILE = 65_536
RUNS_MAX = 8
"""So many sorted runs may lie side by side before some are merged: reads against writes."""


@contextmanager
def _translated(what: str) -> Generator[None]:
    try:
        yield
    except StateError:
        raise
    except Exception as error:  # rocksdict has no exception class of its own
        raise _failure(what, error) from error


def _failure(what: str, error: Exception) -> StateError:
    return StateError(f"{what} failed: {error}").hint(
        "check that the disk of the work directory has space and is writable"
    )


class RocksStore:
    """The rows of one task on its local disk."""

    def __init__(self, directory: Path, *, cache_bytes: int, is_read_only: bool = False) -> None:
        self.directory = directory
        self._options = _options(cache_bytes)
        access = AccessType.read_only(False) if is_read_only else AccessType.read_write()
        with _translated(f"opening RocksDB in {directory}"):
            self._db = Rdict(str(directory), self._options, access_type=access)
        self._read: Callable[[bytes], bytes | None] = self._db.get
        self._ingest = IngestExternalFileOptions()
        self._ingest.set_move_files(True)

    def get(self, row: bytes) -> bytes | None:
        """Return the value of a row, or None."""
        try:
            return self._read(row)
        except Exception as error:  # rocksdict has no exception class of its own
            raise StateError(f"reading a row in {self.directory} failed: {error}") from error

    def scan(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows that begin with ``prefix``, in order, as of the first call.

        ``start`` is the first row wanted, where earlier ones are not.
        """
        with _translated(f"scanning {self.directory}"):
            rows: Iterator[Any] = self._db.items(from_key=prefix if start is None else start)
            for row, value in rows:
                if not row.startswith(prefix):
                    return
                yield row, value

    def writer(self, path: Path) -> SortedFile:
        """Return a new sorted file at ``path``, to be ingested once it is finished."""
        return SortedFile(path, self._options)

    def ingest(self, paths: list[Path]) -> None:
        """Take over finished files (they are moved), whose rows replace older ones."""
        with _translated(f"ingesting {len(paths)} files into {self.directory}"):
            self._db.ingest_external_file([str(path) for path in paths], self._ingest)

    def checkpoint(self, target: Path) -> None:
        """Make ``target``, which must not exist, a copy of the database by hard links."""
        with _translated(f"checkpoint {target}"):
            try:
                Checkpoint(self._db).create_checkpoint(str(target))
            except BaseException:
                shutil.rmtree(target, ignore_errors=True)
                raise
            # The binding's own file, without which it takes the rows for its pickles.
            shutil.copyfile(self.directory / _CONFIG, target / _CONFIG)

    def close(self) -> None:
        """Release the database; its compactions end."""
        with _translated(f"closing {self.directory}"):
            self._db.close()


_CONFIG = "rocksdict-config.json"


class SortedFile:
    """A file of rows being written in ascending order."""

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        self._writer: Any = SstFileWriter(options)
        with _translated(f"opening {path}"):
            self._writer.open(str(path))

    def write(self, rows: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        """Append rows with their values; None deletes.

        Raises:
            StateError: the disk is full, or rows are not in strictly ascending order.
        """
        writer = self._writer
        try:
            for row, value in zip(rows, values, strict=True):
                if value is None:
                    del writer[row]
                else:
                    writer[row] = value
        except Exception as error:  # rocksdict has no exception class of its own
            raise _failure(f"writing {self.path}", error) from error

    def finish(self) -> None:
        """Make the file durable."""
        with _translated(f"finishing {self.path}"):
            self._writer.finish()
        self._writer = None


def _options(cache_bytes: int) -> Options:
    blocks = BlockBasedOptions()
    blocks.set_block_cache(Cache(cache_bytes))
    blocks.set_bloom_filter(10, False)
    blocks.set_format_version(5)
    blocks.set_cache_index_and_filter_blocks(True)
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(False)
    options = Options(raw_mode=True)
    options.set_block_based_table_factory(blocks)
    options.create_if_missing(True)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_max_background_jobs(2)
    options.set_max_open_files(256)
    options.set_keep_log_file_num(1)
    options.set_max_log_file_size(1 << 20)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_write_buffer_size(1 << 20)  # never written to
    # A file's filter must fit into one of the cache's 16 shards, or each read loads it anew.
    options.set_target_file_size_base(min(max(cache_bytes // 16, 1 << 20), 16 << 20))
    options.set_compaction_style(DBCompactionStyle.universal())
    universal = UniversalCompactOptions()
    universal.size_ratio = 20
    options.set_universal_compaction_options(universal)
    options.set_level_zero_file_num_compaction_trigger(RUNS_MAX)
    options.set_level_zero_slowdown_writes_trigger(64)
    options.set_level_zero_stop_writes_trigger(128)
    return options
