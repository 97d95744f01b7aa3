"""A checkpoint of RocksDB has every row at once: none lies in memory only, or in a log.

RocksDB #14931: there, without a write-ahead log, a checkpoint missed what only the memtable had.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flowsnap.state.rocksdb import RUNS_MAX, RocksStore

CACHE_BYTES = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RocksStore]:
    with closing(RocksStore(tmp_path / "store", cache_bytes=CACHE_BYTES)) as made:
        yield made


def ingest(store: RocksStore, number: int, rows: dict[bytes, bytes | None]) -> None:
    file = store.writer(store.directory.parent / f"{number}.sst")
    file.write(sorted(rows), [rows[row] for row in sorted(rows)])
    file.finish()
    store.ingest([file.path])


def all_rows(directory: Path) -> dict[bytes, bytes]:
    with closing(RocksStore(directory, cache_bytes=CACHE_BYTES, is_read_only=True)) as copy:
        return dict(copy.scan(b""))


def test_every_checkpoint_has_the_rows_that_were_there_at_once(
    store: RocksStore, tmp_path: Path
) -> None:
    expected: list[dict[bytes, bytes]] = [{}]
    for number in range(1, 3 * RUNS_MAX):  # so that files are merged meanwhile
        rows = {b"%03d" % row: b"%d" % number for row in range(number, number + 20)}
        ingest(store, number, {**rows, b"%03d" % (number - 1): None})
        store.checkpoint(tmp_path / f"copy-{number}")
        kept = {**expected[-1], **rows}
        kept.pop(b"%03d" % (number - 1), None)
        expected.append(kept)

    found = [all_rows(tmp_path / f"copy-{number}") for number in range(1, 3 * RUNS_MAX)]

    assert found == expected[1:]


def test_a_checkpoint_needs_no_log(store: RocksStore, tmp_path: Path) -> None:
    ingest(store, 1, {b"a": b"1", b"b": b"2"})
    store.checkpoint(tmp_path / "copy")

    logs = list((tmp_path / "copy").glob("*.log"))
    assert sum(log.stat().st_size for log in logs) == 0
    for log in logs:
        log.unlink()
    assert all_rows(tmp_path / "copy") == {b"a": b"1", b"b": b"2"}
