"""Key and entry to value: the generational table behind map state.

Each generation maps a key to a dict of its entries. An entry is a row of its own, so a large map
costs what is touched of it; all entries of a key lie side by side and are scanned by their prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from operator import add
from typing import Any

from flowsnap.core.key import decode_prefix, encode_key, encode_keys
from flowsnap.core.operator import MISSING
from flowsnap.state.codec import PREFIX_BYTES, copied, decode_value, is_immutable
from flowsnap.state.generation import ABSENT, Frozen, Generations

_NOTHING: dict[Any, Any] = {}


class GenerationalMapTable(Generations):
    """The maps of all keys, entry by entry."""

    _entries = 0
    _clean_entries = 0

    def get(self, key: Any, entry: Any) -> Any:
        """Return the value of an entry, or ``MISSING``; a mutable one counts as touched."""
        value = self.young.get(key, _NOTHING).get(entry, ABSENT)
        if value is not ABSENT:
            return value
        for frozen in reversed(self.frozen):
            value = frozen.rows.get(key, _NOTHING).get(entry, ABSENT)
            if value is not ABSENT:
                return self._thaw(key, entry, value, frozen)
        for layer in (self.recent, self.older):
            value = layer.get(key, _NOTHING).get(entry, ABSENT)
            if value is not ABSENT:
                return self._touched(key, entry, value)
        if self.is_complete:
            return MISSING
        data = self._store.get(self._row_of(key) + encode_key(entry))
        return MISSING if data is None else self._adopt(key, entry, data)

    def put(self, key: Any, entry: Any, value: Any) -> None:
        """Set the value of an entry."""
        try:
            entries = self.young[key]
        except KeyError:
            entries = self.young[key] = {}
        if entry not in entries:
            self._entries += 1
        entries[entry] = value

    def remove(self, key: Any, entry: Any) -> None:
        """Forget an entry; one that was never frozen leaves no trace."""
        if not self.is_complete or self._is_known(key, entry):
            self.put(key, entry, MISSING)
        elif entry in (entries := self.young.get(key, _NOTHING)):
            self._entries -= 1
            del entries[entry]
            if not entries:
                del self.young[key]

    def entries(self, key: Any) -> Iterator[Any]:
        """Yield the entries of ``key`` that were there at the first call, in no order."""
        return iter(self._live(key))

    def items(self, key: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the entries of ``key`` that were there at the first call and are there still."""
        for entry, data in self._live(key).items():
            value = self._get_or_adopt(key, entry, data)
            if value is not MISSING:
                yield entry, value

    def is_empty(self, key: Any) -> bool:
        """Return whether ``key`` has no entry."""
        if any(value is not MISSING for value in self.young.get(key, _NOTHING).values()):
            return False
        return not self._live(key)

    def clear(self, key: Any) -> None:
        """Forget all entries of ``key``."""
        for entry in self._live(key):
            self.remove(key, entry)

    def all_items(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield every live key, entry and value, each once; the values are to be read."""
        newer: list[dict[Any, Any]] = []
        layers = [self.young, *(frozen.rows for frozen in reversed(self.frozen))]
        if self.is_complete:
            layers += [self.recent, self.older]
        for layer in layers:
            for key, entries in list(layer.items()):
                for entry, value in list(entries.items()):
                    if value is not MISSING and not _is_in(newer, key, entry):
                        yield key, entry, value if layer is self.young else copied(value)
            newer.append(layer)
        if not self.is_complete:
            for row, data in self._scan_all():
                key, end = decode_prefix(row, PREFIX_BYTES)
                entry, _ = decode_prefix(row, end)
                if not _is_in(newer, key, entry):
                    yield key, entry, decode_value(data)

    def references(self, frozen: Frozen) -> Iterator[Any]:
        for key, entries in frozen.rows.items():
            for entry in entries:
                yield key, entry

    def keys(self, references: Sequence[Any]) -> Sequence[Any]:
        return [key for key, _ in references]

    def rows(self, references: Sequence[Any], prefix: bytes) -> list[bytes]:
        entries = encode_keys([entry for _, entry in references])
        return list(map(add, encode_keys(self.keys(references), prefix), entries))

    def values(self, frozen: Frozen, references: Sequence[Any]) -> list[Any]:
        rows = frozen.rows
        return [rows[key][entry] for key, entry in references]

    def retire(self, frozen: Frozen, limit: int) -> bool:
        rows, recent = frozen.rows, self.recent
        while rows and limit > 0:
            key, entries = rows.popitem()
            if key in recent or frozen.has_tombstones:
                limit -= self._retire_entries(key, entries, limit)
                if entries:
                    rows[key] = entries
            else:
                recent[key] = entries
                self._clean_entries += len(entries)
                limit -= 1
        if rows:
            return False
        self.frozen.remove(frozen)
        return True

    def rotate(self) -> dict[Any, Any]:
        self._clean_entries = 0
        return super().rotate()

    def _retire_entries(self, key: Any, entries: dict[Any, Any], limit: int) -> int:
        recent = self.recent.setdefault(key, {})
        older = self.older.get(key, _NOTHING)
        count = min(limit, len(entries))
        before = len(recent)
        for _ in range(count):
            entry, value = entries.popitem()
            if value is MISSING:
                recent.pop(entry, None)
                older.pop(entry, None)
            else:  # Thawed ones too: a younger one shadows them, and ``remove`` must know them.
                recent[entry] = value
        self._clean_entries += len(recent) - before
        if not recent:
            del self.recent[key]
        return count

    def _live(self, key: Any) -> dict[Any, bytes | None]:
        """Return the live entries of ``key``, with their bytes where RocksDB alone has them."""
        live: dict[Any, bytes | None] = {}
        if not self.is_complete:
            prefix = self._row_of(key)
            for row, data in self._store.scan(prefix):
                live[decode_prefix(row, len(prefix))[0]] = data
        layers = chain(
            (self.older, self.recent), (frozen.rows for frozen in self.frozen), (self.young,)
        )
        for layer in layers:
            for entry, value in layer.get(key, _NOTHING).items():
                if value is MISSING:
                    live.pop(entry, None)
                else:
                    live[entry] = None
        return live

    def _get_or_adopt(self, key: Any, entry: Any, data: bytes | None) -> Any:
        if data is None or any(entry in layer.get(key, _NOTHING) for layer in self._layers()):
            return self.get(key, entry)
        return self._adopt(key, entry, data)

    def _adopt(self, key: Any, entry: Any, data: bytes) -> Any:
        value = decode_value(data)
        if is_immutable(value):
            self.recent.setdefault(key, {})[entry] = value
            self._clean_entries += 1
        else:
            self.put(key, entry, value)
        return value

    def _thaw(self, key: Any, entry: Any, value: Any, frozen: Frozen) -> Any:
        if value is MISSING or is_immutable(value):
            return value
        self._keep_as_frozen(frozen, (key, entry), value)
        self.put(key, entry, value)
        return value

    def _touched(self, key: Any, entry: Any, value: Any) -> Any:
        if not is_immutable(value):
            self.put(key, entry, value)
        return value

    def _layers(self) -> Iterator[dict[Any, Any]]:
        return chain(
            (self.young,), (frozen.rows for frozen in self.frozen), (self.recent, self.older)
        )

    def _is_known(self, key: Any, entry: Any) -> bool:
        layers = (*(frozen.rows for frozen in self.frozen), self.recent, self.older)
        return any(entry in layer.get(key, _NOTHING) for layer in layers)

    def _young_entries(self) -> int:
        return self._entries

    def _recent_entries(self) -> int:
        return self._clean_entries

    def _forget_young(self) -> None:
        super()._forget_young()
        self._entries = 0


def _is_in(layers: list[dict[Any, Any]], key: Any, entry: Any) -> bool:
    return any(entry in layer.get(key, _NOTHING) for layer in layers)
