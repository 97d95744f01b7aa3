"""A keyed state of a snapshot: looked up by key, scanned by prefix or key group.

It is read where it lies, row by row, and nothing is held in memory. Rows come by key group, and
within a group in the order of their keys' bytes; the entries of a map lie side by side.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from flowsnap.core.key import encode_key, key_group
from flowsnap.core.manifest import TableSpec
from flowsnap.errors import ConfigError
from flowsnap.snapshot.content import Row, StateInfo
from flowsnap.snapshot.copies import Rows
from flowsnap.snapshot.decode import Decoder
from flowsnap.state.codec import row_prefix
from flowsnap.state.registry import is_expiring

Raw = tuple[bytes, bytes, TableSpec]
"""A row without its prefix, its value, and the table that it lies in."""

_MISSING: Any = object()


@dataclass(frozen=True, slots=True)
class StatePart:
    """What one task has of a state; ``tables`` are its layouts, the newest first."""

    open: Callable[[], Rows]
    key_groups: range
    tables: tuple[TableSpec, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """How a state is read: what has expired by ``now_ms`` is gone."""

    decoder: Decoder
    max_parallelism: int
    now_ms: int


class KeyedState:
    """One keyed state, over all subtasks; see ``Snapshot.state``.

    The value of a map state is a dict of its entries. What had expired when the checkpoint was
    triggered is left out, as the job would have left it out.
    """

    def __init__(self, info: StateInfo, parts: Sequence[StatePart], reading: Reading) -> None:
        self.info = info
        self._parts = sorted(parts, key=lambda part: part.key_groups.start)
        self._reading = reading
        self._is_map = info.kind == "map"

    @property
    def operator(self) -> str:
        """The operator whose state it is."""
        return self.info.operator

    @property
    def name(self) -> str:
        """The name of the state."""
        return self.info.name

    @property
    def kind(self) -> str:
        """What it is: value, list, map, reducing or aggregating."""
        return self.info.kind

    @property
    def max_parallelism(self) -> int:
        """The number of key groups."""
        return self._reading.max_parallelism

    def __repr__(self) -> str:
        return f"<{self.kind} state {self.operator}.{self.name}>"

    def __getitem__(self, key: Any) -> Any:
        value = self.get(key, _MISSING)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return self.get(key, _MISSING) is not _MISSING

    def __iter__(self) -> Iterator[Any]:
        return self.keys()

    def __len__(self) -> int:
        if self.info.expires:
            return sum(1 for _ in self.keys())
        raws = (raw for _, raw in self.raw_rows())
        if not self._is_map:
            return sum(1 for _ in raws)
        key = self._reading.decoder.key
        return sum(1 for _ in groupby(raws, key=lambda raw: raw[0][: key(raw[0], 0)[1]]))

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of one key, or ``default``; only its rows are read.

        Raises:
            StateError: it cannot be a key.
        """
        rows = list(self.rows_of(key))
        if not rows:
            return default
        return {row.namespace: row.value for row in rows} if self._is_map else rows[0].value

    def keys(self, prefix: Any = None, key_group: int | None = None) -> Iterator[Any]:
        """Yield the keys."""
        return map(itemgetter(0), self.items(prefix, key_group))

    def values(self, prefix: Any = None, key_group: int | None = None) -> Iterator[Any]:
        """Yield the values."""
        return map(itemgetter(1), self.items(prefix, key_group))

    def items(self, prefix: Any = None, key_group: int | None = None) -> Iterator[tuple[Any, Any]]:
        """Yield keys and values.

        ``prefix``: of str and bytes those that begin with it; of tuples those whose first elements
        it has. ``key_group``: one group alone.

        Raises:
            ConfigError: the prefix or the key group cannot be one.
            ManifestCorrupt: a file is damaged.
        """
        if self._is_map:
            return _gathered(self.rows(prefix, key_group))
        if self.info.expires:
            return ((row.key, row.value) for row in self.rows(prefix, key_group))
        key_of, value_of = self._reading.decoder.key, self._reading.decoder.value
        found = chain.from_iterable(raws for _, raws in self._found(prefix, key_group))
        return ((key_of(suffix, 0)[0], value_of(data)) for suffix, data, _ in found)

    def rows(self, prefix: Any = None, key_group: int | None = None) -> Iterator[Row]:
        """Yield the rows: of a map one for each entry; see ``items``."""
        for group, raws in self._found(prefix, key_group):
            yield from self._decoded(group, raws)

    def rows_of(self, key: Any) -> Iterator[Row]:
        """Yield the rows of one key."""
        encoded = encode_key(key)
        group = key_group(encoded, self.max_parallelism)
        for part in self._parts:
            if group in part.key_groups:
                raw: Iterable[Raw] = (
                    self._scan(part, group, encoded)
                    if self._is_map
                    else self._lookup(part, group, encoded)
                )
                yield from self._decoded(group, raw)

    def raw_rows(self, *, by_key: bool = False) -> Iterator[tuple[tuple[int, bytes], Raw]]:
        """Yield all rows as bytes, with what they are sorted by: their group and their key.

        ``by_key``: as if all were in one group, in the order of the keys' bytes alone.
        """
        groups = [(part, group) for part in self._parts for group in part.key_groups]
        if by_key:
            streams = [self._scan(part, group, b"") for part, group in groups]
            return (((0, raw[0]), raw) for raw in heapq.merge(*streams, key=itemgetter(0)))
        return (
            ((group, raw[0]), raw) for part, group in groups for raw in self._scan(part, group, b"")
        )

    def decode(self, group: int, raw: Raw) -> Row:
        """Return a row of its bytes.

        Raises:
            StateError: the bytes are no row.
        """
        suffix, data, table = raw
        return decoded_row(self._reading.decoder, table, group, suffix, data)

    def _found(self, prefix: Any, key_group: int | None) -> Iterator[tuple[int, Iterator[Raw]]]:
        """Return the key groups, each with its rows that begin with ``prefix``."""
        groups = self._groups(key_group)
        begins = b"" if prefix is None else key_prefix(prefix)
        parts = ((part, group) for part in self._parts for group in part.key_groups)
        return (
            (group, self._scan(part, group, begins)) for part, group in parts if group in groups
        )

    def _decoded(self, group: int, raws: Iterable[Raw]) -> Iterator[Row]:
        now_ms = self._reading.now_ms
        for raw in raws:
            row = self.decode(group, raw)
            if row.expires_ms is None or row.expires_ms > now_ms:
                yield row

    def _scan(self, part: StatePart, group: int, begins: bytes) -> Iterator[Raw]:
        rows = part.open()
        streams = [_of_table(rows, table, group, begins) for table in part.tables]
        if len(streams) == 1:
            return streams[0]
        return _newest(heapq.merge(*streams, key=itemgetter(0)))  # Stable: the newest comes first.

    def _lookup(self, part: StatePart, group: int, encoded: bytes) -> Iterator[Raw]:
        rows = part.open()
        for table in part.tables:
            data = rows.get(row_prefix(group, table.state_id) + encoded)
            if data is not None:
                yield encoded, data, table
                return

    def _groups(self, group: int | None) -> range:
        if group is None:
            return range(self.max_parallelism)
        if not 0 <= group < self.max_parallelism:
            raise ConfigError(
                f"there is no key group {group} in state {self.name!r} of operator "
                f"{self.operator!r}"
            ).hint(f"key groups are 0 to {self.max_parallelism - 1}")
        return range(group, group + 1)


def decoded_row(decoder: Decoder, table: TableSpec, group: int, suffix: bytes, data: bytes) -> Row:
    """Return a row of its bytes; ``suffix`` is what follows its key group and state id.

    Raises:
        StateError: the bytes are no row.
    """
    key, end = decoder.key(suffix, 0)
    namespace = decoder.key(suffix, end)[0] if table.kind.startswith("map") else None
    value, expires_ms = decoder.value(data), None
    if is_expiring(table):
        expires_ms, value = value
    return Row(key, namespace, value, group, expires_ms, table.version)


def key_prefix(prefix: Any) -> bytes:
    """Return what the bytes of all keys begin with that begin with ``prefix``.

    Raises:
        ConfigError: keys of that type have no prefix.
    """
    if not isinstance(prefix, (str, bytes, tuple)):
        raise ConfigError(f"{prefix!r} is no prefix of keys").hint(
            "give a str, bytes, or a tuple of the first elements"
        )
    return encode_key(prefix)[:-1]  # All three end with a byte that says that they do.


def _of_table(rows: Rows, table: TableSpec, group: int, begins: bytes) -> Iterator[Raw]:
    prefix = row_prefix(group, table.state_id)
    length = len(prefix)
    return ((row[length:], data, table) for row, data in rows.scan(prefix + begins))


def _newest(rows: Iterable[Raw]) -> Iterator[Raw]:
    """Yield the first of rows with equal keys."""
    former: bytes | None = None
    for raw in rows:
        if raw[0] != former:
            yield raw
        former = raw[0]


def _gathered(rows: Iterator[Row]) -> Iterator[tuple[Any, dict[Any, Any]]]:
    """Yield each key with its entries, which lie side by side."""
    key, group, entries = _MISSING, -1, dict[Any, Any]()
    for row in chain(rows, (None,)):
        if row is None or (row.key_group, row.key) != (group, key):
            if entries:
                yield key, entries
            if row is None:
                return
            key, group, entries = row.key, row.key_group, {}
        entries[row.namespace] = row.value
