"""What a value table and a map table have in common: young, frozen and clean generations.

A table is a stack of dicts over RocksDB, and the newest that knows a key is right::

    young      what was touched since the last barrier
    frozen     what earlier barriers froze and is being written, oldest first
    recent     clean: RocksDB holds the same, or a younger dict shadows it
    older      clean, and the first to be dropped

A tombstone is ``MISSING`` under its key. A frozen dict never changes. Before a mutable value in it
is handed out again, its bytes are put beside the dict (copy on write), and the object goes on in
young, where it shadows the frozen entry. Clean dicts hold no tombstones, and the older is always
dropped before the recent, so that an outdated value never comes to light.

While nothing has been restored or dropped, memory holds the whole table (``is_complete``), and a
key that is not there needs no look into RocksDB.

Source: the log-structured merge-tree (O'Neil et al., 1996), with a dict of live objects for its
memtable; Flink's ``CopyOnWriteStateMap`` for the freeze.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

from flowsnap.core.key import encode_key, encode_keys, key_group, key_groups
from flowsnap.core.manifest import TableSpec
from flowsnap.core.operator import MISSING
from flowsnap.errors import StateError
from flowsnap.state.codec import encode_plain_values, encode_value, is_immutable, row_prefix
from flowsnap.state.rocksdb import RocksStore

ABSENT: Final[Any] = object()
"""What a dict answers for a key it knows nothing of, as ``MISSING`` is a tombstone."""

SAMPLE_ENTRIES = 16
SAMPLE_EVERY_BATCHES = 64


class Serialised:
    """What a frozen value was when its object went back to young: its bytes, None if no state."""

    __slots__ = ("data",)

    def __init__(self, data: bytes | None) -> None:
        self.data = data


class Frozen:
    """One frozen generation of one table, and what is learned of it while it is encoded."""

    __slots__ = ("has_tombstones", "is_ingested", "is_shareable", "rest", "rows", "thawed")

    def __init__(self, rows: dict[Any, Any], *, is_shareable: bool) -> None:
        self.rows = rows
        self.thawed: dict[Any, Serialised] = {}
        """By reference, what was written of values that have gone back to young."""
        self.is_ingested = False
        """RocksDB holds its rows."""
        self.has_tombstones = False
        self.is_shareable = is_shareable
        """No value can change; known once all are encoded."""
        self.rest: Iterator[tuple[Any, Any]] | None = None
        """What has not moved to recent yet."""


class Generations:
    """The generations of one table; the subclass says what its dicts map to what."""

    def __init__(
        self,
        spec: TableSpec,
        store: RocksStore,
        *,
        key_groups: tuple[int, int],
        max_parallelism: int,
        is_complete: bool,
    ) -> None:
        self.spec = spec
        self.young: dict[Any, Any] = {}
        self.frozen: list[Frozen] = []
        self.recent: dict[Any, Any] = {}
        self.older: dict[Any, Any] = {}
        self.is_recent_shareable = True
        """No value in recent can change; False where it is not known."""
        self.is_complete = is_complete
        self._store = store
        self._key_groups = key_groups
        self._max_parallelism = max_parallelism
        self._entry_bytes = 64.0
        self._sampled_entries = 0
        self._batches = 0

    def freeze(self) -> Frozen | None:
        """Make young the newest frozen generation, whatever its size; None where it is empty."""
        if not self.young:
            return None
        frozen = Frozen(self.young, is_shareable=self.spec.kind != "list")
        self.frozen.append(frozen)
        self.young = {}
        self._forget_young()
        return frozen

    def references(self, frozen: Frozen) -> Iterator[Any]:
        """Yield what stands for each entry of a frozen generation."""
        raise NotImplementedError

    def keys(self, references: Sequence[Any]) -> Sequence[Any]:
        """Return the key of each entry."""
        raise NotImplementedError

    def rows(self, references: Sequence[Any], prefix: bytes) -> list[bytes]:
        """Return the row of each entry behind ``prefix``."""
        raise NotImplementedError

    def values(self, frozen: Frozen, references: Sequence[Any]) -> list[Any]:
        """Return the value of each entry, or ``MISSING``."""
        raise NotImplementedError

    def groups(self, references: Sequence[Any]) -> Sequence[int]:
        """Return the key group of each entry."""
        return key_groups(encode_keys(self.keys(references)), self._max_parallelism)

    def in_order(self, references: list[Any], prefix: bytes) -> tuple[list[Any], list[bytes]]:
        """Return the references in the order of their rows, and these."""
        rows = self.rows(references, prefix)
        by_row = dict(zip(rows, references, strict=True))
        rows.sort()
        return list(map(by_row.__getitem__, rows)), rows

    def encoded(self, frozen: Frozen, references: Sequence[Any]) -> Sequence[bytes | None]:
        """Return the bytes of each entry's value, None where it is deleted.

        Raises:
            StateError: a value cannot be pickled.
        """
        values = self.values(frozen, references)
        plain = encode_plain_values(values)
        if plain is not None:
            return plain
        thawed = frozen.thawed
        try:
            encoded = [
                thawed[reference].data if reference in thawed else self._encoded(value)
                for reference, value in zip(references, values, strict=True)
            ]
        except StateError as error:
            error.add_note(f"in state {self.spec.name!r} of operator {self.spec.operator!r}")
            raise
        frozen.has_tombstones |= None in encoded
        frozen.is_shareable = frozen.is_shareable and all(map(_is_shareable, values))
        return encoded

    def retire(self, frozen: Frozen, limit: int) -> bool:
        """Move ``limit`` entries of an ingested generation to recent; return if none is left."""
        raise NotImplementedError

    def rotate(self) -> dict[Any, Any]:
        """Make room among the clean: return the dict to be dropped, which was the older."""
        dropped, self.older, self.recent = self.older, self.recent, {}
        self.is_recent_shareable = True
        if dropped:
            self.is_complete = False
        return dropped

    def young_bytes(self) -> int:
        """Return an estimate of the memory that young takes, by sampling a few entries."""
        entries = self._young_entries()
        self._batches += 1
        if entries >= 2 * self._sampled_entries or self._batches % SAMPLE_EVERY_BATCHES == 0:
            self._sample(entries)
        return int(sys.getsizeof(self.young) + entries * self._entry_bytes)

    def recent_bytes(self) -> int:
        """Return an estimate of the memory that recent takes."""
        return int(sys.getsizeof(self.recent) + self._recent_entries() * self._entry_bytes)

    def _sample(self, entries: int) -> None:
        sample = [*islice(self.young.items(), SAMPLE_ENTRIES)]
        sample += islice(reversed(self.young.items()), SAMPLE_ENTRIES)
        total = sum(size_of(key) + size_of(value) for key, value in sample)
        if sample:
            per_key = total / len(sample)
            self._entry_bytes = max(16.0, per_key * len(self.young) / max(1, entries))
        self._sampled_entries = max(entries, 64)

    def _young_entries(self) -> int:
        return len(self.young)

    def _recent_entries(self) -> int:
        return len(self.recent)

    def _forget_young(self) -> None:
        self._sampled_entries = 0

    def _keep_as_frozen(self, frozen: Frozen, reference: Any, value: Any) -> None:
        """Keep the bytes of a frozen value that is about to be handed out, while it needs them."""
        if not frozen.is_ingested:
            frozen.thawed[reference] = Serialised(self._encoded(value))

    def _encoded(self, value: Any) -> bytes | None:
        return None if value is MISSING else encode_value(value)

    def _row(self, encoded: bytes) -> bytes:
        return row_prefix(key_group(encoded, self._max_parallelism), self.spec.state_id) + encoded

    def _row_of(self, key: Any) -> bytes:
        return self._row(encode_key(key))

    def _scan_all(self) -> Iterator[tuple[bytes, bytes]]:
        for group in range(*self._key_groups):
            yield from self._store.scan(row_prefix(group, self.spec.state_id))


def _is_shareable(value: Any) -> bool:
    return value is MISSING or is_immutable(value)


def size_of(value: Any, depth: int = 3) -> float:
    """Return an estimate of the bytes that ``value`` takes, from a few of its elements."""
    size = float(sys.getsizeof(value))
    if depth == 0 or isinstance(value, (str, bytes, int, float)):
        return size
    if isinstance(value, dict):
        elements: Any = ((k, v) for k, v in value.items())
        return size + _sampled(elements, len(value), depth, pairs=True)
    if isinstance(value, (list, tuple, set, frozenset)):
        return size + _sampled(iter(value), len(value), depth, pairs=False)
    attributes = getattr(value, "__dict__", None)
    if attributes is not None:
        size += size_of(attributes, depth - 1)
    names: Any = getattr(type(value), "__slots__", None) or getattr(value, "__struct_fields__", ())
    return size + sum(size_of(getattr(value, name, None), depth - 1) for name in names)


def _sampled(elements: Iterator[Any], count: int, depth: int, *, pairs: bool) -> float:
    sample = list(islice(elements, 8))
    if not sample:
        return 0.0
    if pairs:
        total = sum(size_of(k, depth - 1) + size_of(v, depth - 1) for k, v in sample)
    else:
        total = sum(size_of(element, depth - 1) for element in sample)
    return total * count / len(sample)
