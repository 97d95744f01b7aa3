"""Key to value: the generational table behind value, list and reducing state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from flowsnap.core.key import decode_key, encode_key, key_group
from flowsnap.core.operator import MISSING
from flowsnap.state.codec import PREFIX_BYTES, copied, decode_value, is_immutable
from flowsnap.state.generation import ABSENT, Frozen, Generations, freeze_value


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
        for frozen in reversed(self.frozen):
            value = frozen.rows.get(key, ABSENT)
            if value is not ABSENT:
                return self._thaw(key, value, frozen)
        value = self.recent.get(key, ABSENT)
        if value is ABSENT:
            value = self.older.get(key, ABSENT)
            if value is ABSENT:
                return MISSING if self.is_complete else self._read(key)
            self.recent[key] = value
        if not is_immutable(value):
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

    def encoded(self, frozen: Frozen) -> Iterator[tuple[int, bytes, Any]]:
        for key in frozen.rows:
            encoded = encode_key(key)
            yield key_group(encoded, self._max_parallelism), encoded, key

    def lookup(self, frozen: Frozen) -> Callable[[Any], Any]:
        rows = frozen.rows
        if self.spec.kind == "list":
            return lambda key: rows[key] or MISSING  # An empty list is no state.
        return rows.__getitem__

    def retire(self, frozen: Frozen, limit: int) -> bool:
        rows, recent, older = frozen.rows, self.recent, self.older
        for _ in range(min(limit, len(rows))):
            key, value = rows.popitem()
            if value is MISSING:
                recent.pop(key, None)
                older.pop(key, None)
            else:  # Bytes too: a younger generation shadows them, and ``delete`` must know the key.
                recent[key] = value
        if rows:
            return False
        self.frozen.remove(frozen)
        return True

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
        if value is MISSING or is_immutable(value):
            return value
        if not frozen.is_ingested:
            frozen.rows[key] = freeze_value(value)
        self.young[key] = value
        return value

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
