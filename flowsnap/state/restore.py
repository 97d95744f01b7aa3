"""How a task's database comes out of restored ones: opened as it is, or put together."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path

import msgspec

from flowsnap.core.ids import OperatorId
from flowsnap.core.key import decode_prefix, key_group
from flowsnap.core.manifest import TableSpec
from flowsnap.errors import StateError, StateIncompatible
from flowsnap.state.codec import PREFIX_BYTES, row_prefix
from flowsnap.state.registry import TableRegistry
from flowsnap.state.rocksdb import ROWS_PER_FILE, RocksStore, SortedFile

SOURCE_CACHE_BYTES = 4 << 20
WRITE_ROWS = 1024


class RestoredState(msgspec.Struct, frozen=True):
    """A local directory with the verified files of a state handle; the backend may consume it."""

    directory: Path
    tables: tuple[TableSpec, ...]
    key_groups: tuple[int, int]


def can_open_directly(
    restored: Sequence[RestoredState],
    key_groups: tuple[int, int],
    operators: Collection[OperatorId] | None,
) -> bool:
    """Return whether the one restored state is exactly ours."""
    return (
        len(restored) == 1
        and restored[0].key_groups == key_groups
        and all(_is_ours(spec, operators) for spec in restored[0].tables)
    )


def take_over(restored: RestoredState, directory: Path) -> None:
    """Make the restored files the database in ``directory``.

    Raises:
        StateError: they cannot be moved.
    """
    try:
        shutil.move(restored.directory, directory)
    except OSError as error:
        raise StateError(f"moving {restored.directory} to {directory} failed: {error}") from error


def check_key_groups(store: RocksStore, state: RestoredState, max_parallelism: int) -> None:
    """Check, by one row of each table, that the keys lie in the groups that we expect them in.

    Raises:
        StateIncompatible: the state was written with another ``max_parallelism``.
    """
    for spec in state.tables:
        for group in range(*state.key_groups):
            row, _ = next(store.scan(row_prefix(group, spec.state_id)), (None, None))
            if row is None:
                continue
            key, end = decode_prefix(row, PREFIX_BYTES)
            if key_group(row[PREFIX_BYTES:end], max_parallelism) != group:
                raise StateIncompatible(
                    f"key {key!r} of state {spec.name!r} of operator {spec.operator!r} is in key "
                    f"group {group}: it was not written with max_parallelism {max_parallelism}"
                ).hint("run the pipeline with the max_parallelism that it was started with")
            break


def import_rows(
    store: RocksStore,
    registry: TableRegistry,
    restored: Sequence[RestoredState],
    *,
    key_groups: tuple[int, int],
    max_parallelism: int,
    operators: Collection[OperatorId] | None,
) -> None:
    """Copy the rows of our key groups and operators into an empty database.

    Raises:
        StateError: a restored database cannot be read, or ours not written.
        StateIncompatible: two restored parts disagree on a state's kind.
    """
    with ExitStack() as stack:
        sources = []
        for state in restored:
            source = stack.enter_context(
                closing(
                    RocksStore(state.directory, cache_bytes=SOURCE_CACHE_BYTES, is_read_only=True)
                )
            )
            check_key_groups(source, state, max_parallelism)
            numbers = [
                (registry.merge(spec).state_id, spec.state_id)
                for spec in state.tables
                if _is_ours(spec, operators)
            ]
            sources.append((source, range(*state.key_groups), numbers))
        _ingest_all(store, _merged(sources, range(*key_groups)))
    for state in restored:
        shutil.rmtree(state.directory, ignore_errors=True)


def _merged(
    sources: list[tuple[RocksStore, range, list[tuple[int, int]]]], key_groups: range
) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield the rows in the order of our numbers."""
    for group in key_groups:
        parts = sorted(
            (ours, theirs, index)
            for index, (_, groups, numbers) in enumerate(sources)
            if group in groups
            for ours, theirs in numbers
        )
        for ours, theirs, index in parts:
            prefix = row_prefix(group, ours)
            for row, value in sources[index][0].scan(row_prefix(group, theirs)):
                yield prefix + row[PREFIX_BYTES:], value


def _ingest_all(store: RocksStore, rows: Iterator[tuple[bytes, bytes | None]]) -> None:
    paths: list[Path] = []
    file: SortedFile | None = None
    count = 0
    while page := list(islice(rows, WRITE_ROWS)):
        if file is None:
            paths.append(store.directory.parent / f"import-{len(paths)}.sst")
            file = store.writer(paths[-1])
        file.write(*zip(*page, strict=True))
        count += len(page)
        if count % ROWS_PER_FILE == 0:
            file.finish()
            file = None
    if file is not None:
        file.finish()
    if paths:
        store.ingest(paths)


def _is_ours(spec: TableSpec, operators: Collection[OperatorId] | None) -> bool:
    return operators is None or spec.operator in operators
