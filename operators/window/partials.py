"""Accumulators by slice and key, outside state: what a batch is folded into first.

A slice has one column for each aggregate, all with the same keys in the same order. So a batch
costs one pass over its timestamps, and one loop per aggregate over keys and values; no object is
made for a record, nor for a key of a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

from flowsnap.operators.window.aggregate import Aggregates, Column


class Partials:
    """Slice to columns; a *row* is ``(slice, accumulator, ...)`` of one key."""

    def __init__(self, aggregates: Aggregates) -> None:
        self.slices: dict[int, list[Column]] = {}
        self._aggregates = aggregates

    def __len__(self) -> int:
        return sum([len(columns[0]) for columns in self.slices.values()])

    def columns(self, start: int) -> list[Column]:
        """Return the columns of a slice, which are made if there are none."""
        try:
            return self.slices[start]
        except KeyError:
            columns = self.slices[start] = self._aggregates.columns()
            return columns

    def fold(self, starts: list[int], keys: list[Any], records: list[Any]) -> None:
        """Put records in, each into the slice that begins at its entry in ``starts``."""
        for start, indices in _groups(starts):
            if indices is None:
                self._aggregates.fold_into(self.columns(start), keys, records)
            else:
                own_keys = list(map(keys.__getitem__, indices))
                own = list(map(records.__getitem__, indices))
                self._aggregates.fold_into(self.columns(start), own_keys, own)

    def merge(self, starts: list[int], keys: list[Any], rows: list[tuple[Any, ...]]) -> None:
        """Merge rows in, one for each of ``keys``; ``starts`` are their slices."""
        for start, indices in _groups(starts):
            own_keys, own = keys, rows
            if indices is not None:
                own_keys = list(map(keys.__getitem__, indices))
                own = list(map(rows.__getitem__, indices))
            _, *accumulators = zip(*own, strict=True)
            self._aggregates.merge_into(self.columns(start), own_keys, accumulators)

    def take(self, start: int) -> tuple[list[Any], list[tuple[Any, ...]]]:
        """Return the keys and rows of a slice, and forget it."""
        columns = self.slices.pop(start)
        return list(columns[0]), rows_of(start, columns)


def rows_of(start: int, columns: Sequence[Column]) -> list[tuple[Any, ...]]:
    """Return the row of each key."""
    return list(zip(repeat(start), *[column.values() for column in columns], strict=False))


def _groups(starts: list[int]) -> Iterator[tuple[int, list[int] | None]]:
    """Yield each different start with its indices; None: all there are."""
    if not starts:
        return
    if starts.count(starts[0]) == len(starts):
        yield starts[0], None
        return
    groups: dict[int, list[int]] = {}
    for index, start in enumerate(starts):
        try:
            groups[start].append(index)
        except KeyError:
            groups[start] = [index]
    yield from groups.items()
