"""Reading through a whole table, a little at a time, while it is in use.

Between two steps of these iterators a table may change in any way. What is there from beginning to
end and does not move is yielded, at least once; what changes meanwhile may be missed, or yielded as
it was. So a reader asks the table again before it acts, and comes back later for what it missed.
Reading promotes nothing: a value that is only looked at stays clean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from flowsnap.core.key import decode_key, decode_prefix
from flowsnap.core.operator import MISSING
from flowsnap.state.codec import PREFIX_BYTES, decode_value, row_prefix
from flowsnap.state.generation import Generations, Serialised
from flowsnap.state.map_table import GenerationalMapTable
from flowsnap.state.rocksdb import RocksStore
from flowsnap.state.table import GenerationalTable

PAGE_ROWS = 512

_NOTHING: dict[Any, Any] = {}


def value_rows(
    table: GenerationalTable, store: RocksStore, groups: Iterable[int]
) -> Iterator[tuple[Any, Any]]:
    """Yield keys of a value table with what is stored under them."""
    for layer in _layers(table):
        for key in list(layer):
            value = layer.get(key, MISSING)
            if _is_there(value):
                yield key, value
    if not table.is_complete:
        for row, data in _stored(table, store, groups):
            yield decode_key(row[PREFIX_BYTES:]), decode_value(data)


def map_rows(
    table: GenerationalMapTable, store: RocksStore, groups: Iterable[int]
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield keys and entries of a map table with what is stored under them."""
    for layer in _layers(table):
        for key in list(layer):
            for entry in list(layer.get(key, _NOTHING)):
                value = layer.get(key, _NOTHING).get(entry, MISSING)
                if _is_there(value):
                    yield key, entry, value
    if not table.is_complete:
        for row, data in _stored(table, store, groups):
            key, end = decode_prefix(row, PREFIX_BYTES)
            entry, _ = decode_prefix(row, end)
            yield key, entry, decode_value(data)


def _layers(table: Generations) -> list[dict[Any, Any]]:
    layers = [table.young, *(frozen.rows for frozen in reversed(table.frozen))]
    return [*layers, table.recent, table.older] if table.is_complete else layers


def _is_there(value: Any) -> bool:
    return value is not MISSING and type(value) is not Serialised  # Its object is young again.


def _stored(
    table: Generations, store: RocksStore, groups: Iterable[int]
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows in RocksDB; between two pages nothing is held open."""
    for group in groups:
        prefix = row_prefix(group, table.spec.state_id)
        start = prefix
        while page := list(islice(store.scan(prefix, start), PAGE_ROWS)):
            yield from page
            start = page[-1][0] + b"\0"
