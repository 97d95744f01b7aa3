"""Key to value: the generational table behind value, list and reducing state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice, repeat
from operator import call, length_hint
from typing import Any

from flowsnap.core.key import decode_key, encode_keys, is_sorted_as_bytes
from flowsnap.core.operator import MISSING
from flowsnap.state.codec import (
    IMMUTABLE_TYPES,
    PREFIX_BYTES,
    copied,
    decode_value,
    is_immutable,
)
from flowsnap.state.generation import ABSENT, Frozen, Generations

FREED_AT_ONCE = 128_000
"""A dict of more entries is emptied step by step: to free one of 200,000 at once takes 5 ms."""


class GenerationalTable(Generations):
    """A ``KeyedTable`` over RocksDB. The engine relieves it through its backend."""

    relieve: Callable[[], None]

    def load(self, key: Any) -> Any:
        """Return the value of a key that is not in young, or ``MISSING``.

        A mutable value becomes young by this, so that its changes in place are kept.
        """
        young = self.young
        if key in young:
            return young[key]  # A tombstone: the caller took it for absent.
        if self.frozen:
            for frozen in reversed(self.frozen):
                value = frozen.rows.get(key, ABSENT)
                if value is not ABSENT:
                    if type(value) in IMMUTABLE_TYPES or is_immutable(value):
                        return value
                    return self._thaw(key, value, frozen)
        value = self.recent.get(key, ABSENT)
        if value is ABSENT:
            return self._load_older(key)
        if not (self.is_recent_shareable or is_immutable(value)):
            young[key] = value
        return value

    def get(self, key: Any) -> Any:
        """Return the value of ``key``, or ``MISSING``."""
        value = self.young.get(key, MISSING)
        return self.load(key) if value is MISSING else value

    def put(self, key: Any, value: Any) -> None:
        """Set the value of ``key``."""
        self.young[key] = value

    def delete(self, key: Any) -> None:
        """Forget ``key``; one that was never frozen leaves no trace."""
        if self.is_complete and not self._is_known(key):
            self.young.pop(key, None)
        else:
            self.young[key] = MISSING

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Yield every live key and value, each once.

        The values are to be read: one that is changed in place must be ``put``.
        """
        newer: list[dict[Any, Any]] = []
        for layer in (self.young, *(frozen.rows for frozen in reversed(self.frozen))):
            for key, value in list(layer.items()):
                if value is not MISSING and not any(key in shadow for shadow in newer):
                    yield key, value if layer is self.young else copied(value)
            newer.append(layer)
        yield from self._clean_items(newer)

    def references(self, frozen: Frozen) -> Iterator[Any]:
        return iter(frozen.rows)

    def keys(self, references: Sequence[Any]) -> Sequence[Any]:
        return references

    def rows(self, references: Sequence[Any], prefix: bytes) -> list[bytes]:
        return encode_keys(references, prefix)

    def values(self, frozen: Frozen, references: Sequence[Any]) -> list[Any]:
        return list(map(frozen.rows.__getitem__, references))

    def in_order(self, references: list[Any], prefix: bytes) -> tuple[list[Any], list[bytes]]:
        if not is_sorted_as_bytes(references):
            return super().in_order(references, prefix)
        references = sorted(references)
        return references, encode_keys(references, prefix)

    def retire(self, frozen: Frozen, limit: int) -> bool:
        rows = frozen.rows
        self.is_recent_shareable = self.is_recent_shareable and frozen.is_shareable
        if not self.recent and not frozen.has_tombstones:
            self.recent = rows
            self.frozen.remove(frozen)
            return True
        # Thawed ones too: a younger generation shadows them, and ``delete`` must know the key.
        if frozen.has_tombstones or len(rows) > FREED_AT_ONCE:
            entries = map(call, repeat(rows.popitem, min(limit, len(rows))))
            self._retire_each(entries)
        else:
            frozen.rest = frozen.rest or iter(rows.items())
            self.recent.update(islice(frozen.rest, limit))
            if not length_hint(frozen.rest):
                rows = {}
        if rows:
            return False
        self.frozen.remove(frozen)
        return True

    def _retire_each(self, entries: Iterator[tuple[Any, Any]]) -> None:
        recent, older = self.recent, self.older
        for key, value in entries:
            if value is MISSING:
                recent.pop(key, None)
                older.pop(key, None)
            else:
                recent[key] = value

    def _load_older(self, key: Any) -> Any:
        value = self.older.get(key, ABSENT)
        if value is ABSENT:
            return MISSING if self.is_complete else self._read(key)
        self.recent[key] = value
        if not is_immutable(value):
            self.is_recent_shareable = False
            self.young[key] = value
        return value

    def _clean_items(self, newer: list[dict[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        if not self.is_complete:
            for row, data in self._scan_all():
                key = decode_key(row[PREFIX_BYTES:])
                if not any(key in shadow for shadow in newer):
                    yield key, decode_value(data)
            return
        for layer in (self.recent, self.older):
            for key, value in list(layer.items()):
                if not any(key in shadow for shadow in newer):
                    yield key, copied(value)
            newer.append(layer)

    def _thaw(self, key: Any, value: Any, frozen: Frozen) -> Any:
        if value is MISSING:
            return value
        self._keep_as_frozen(frozen, key, value)
        self.young[key] = value
        return value

    def _encoded(self, value: Any) -> bytes | None:
        if self.spec.kind == "list" and not value:
            return None  # An empty list is no state.
        return super()._encoded(value)

    def _read(self, key: Any) -> Any:
        data = self._store.get(self._row_of(key))
        if data is None:
            return MISSING
        value = decode_value(data)
        if is_immutable(value):
            self.recent[key] = value
        else:
            self.young[key] = value
        return value

    def _is_known(self, key: Any) -> bool:
        return (
            key in self.recent
            or key in self.older
            or any(key in frozen.rows for frozen in self.frozen)
        )
