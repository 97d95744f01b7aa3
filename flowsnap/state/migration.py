"""State whose layout has changed: restored values move to the new table as they are first read.

A layout is the version of a state's schema, and whether its values expire. The new table shadows
the legacies, oldest last: what is written goes to the new one alone, what is deleted goes from all,
and what only a legacy has is converted, put into the new table and deleted from the legacy. A
checkpoint taken meanwhile has both tables, so that a restore goes on where this one was.

Conversions, for each value on its own:

- an older version: ``migrate(old_value, old_version)``;
- a ttl was added: the value counts as written when the task was opened;
- a ttl was taken away: what had expired when the task was opened is gone, the rest stays.

Source: Flink's state schema evolution. Deviation: Flink migrates a whole state when it is restored,
or reads old bytes with a snapshot of the old serializer; here the user's function gets the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from flowsnap.core.expiry import TTL
from flowsnap.core.manifest import TableSpec
from flowsnap.core.operator import MISSING
from flowsnap.errors import ConfigError, StateIncompatible
from flowsnap.state.registry import is_expiring

if TYPE_CHECKING:
    from flowsnap.state.keyed import MapTable, ValueTable

Migrate = Callable[[Any, int], Any]
"""``migrate(old_value, old_version)`` returns the value in the declared version."""


class Layout:
    """The layout that an operator declares of a state, checked; ``opened_ms`` is the time now."""

    def __init__(
        self, ttl: TTL | None, version: int, migrate: Migrate | None, opened_ms: int
    ) -> None:
        if ttl is not None and not isinstance(ttl, TTL):
            raise ConfigError(f"ttl: {ttl!r} is not a TTL").hint('pass TTL("1h")')
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ConfigError(f"version: {version!r} is not a positive int").hint(
                "the first version of a state is 1; count up whenever its values change"
            )
        if migrate is not None and not callable(migrate):
            raise ConfigError(f"migrate: {migrate!r} is not a function")
        if migrate is not None and version == 1:
            raise ConfigError("migrate: version 1 has no older version to migrate from").hint(
                "pass version=2, or whichever number the values now have"
            )
        self.ttl = ttl
        self.version = version
        self._migrate = migrate
        self._opened_ms = opened_ms

    def converter(self, legacy: TableSpec) -> Callable[[Any], Any]:
        """Return the function from what is stored in a legacy to what is stored now, or MISSING.

        Raises:
            StateIncompatible: values are of an older version, and nothing migrates them.
        """
        migrate, had_ttl = self._migration_of(legacy), is_expiring(legacy)
        opened_ms = self._opened_ms
        ttl = self.ttl

        def converted(stored: Any) -> Any:
            expires_ms, value = stored if had_ttl else (None, stored)
            if expires_ms is not None and expires_ms <= opened_ms:
                return MISSING
            if migrate is not None:
                value = migrate(value, legacy.version)
            if ttl is None:
                return value
            return (opened_ms + ttl.ms if expires_ms is None else expires_ms), value

        return converted

    def is_gone(self, stored: tuple[int, Any]) -> bool:
        """Return whether an expiring value of a legacy had expired when the task was opened."""
        return stored[0] <= self._opened_ms

    def _migration_of(self, legacy: TableSpec) -> Migrate | None:
        if legacy.version == self.version:
            return None
        if self._migrate is None:
            raise StateIncompatible(
                f"state {legacy.name!r} of operator {legacy.operator!r} is declared with version "
                f"{self.version}, but the checkpoint has values of version {legacy.version}"
            ).hint("pass migrate=, a function of the old value and its version")
        return self._migrate


class Legacy:
    """A restored table of another layout. ``converted`` makes what is stored fit, or MISSING."""

    def __init__(self, spec: TableSpec, table: Any, converted: Callable[[Any], Any]) -> None:
        self.spec = spec
        self.table = table
        self.converted = converted


class MigratingTable:
    """A value table over its legacies; the values are as the new table has them."""

    def __init__(self, table: ValueTable, legacies: Sequence[Legacy]) -> None:
        self._table = table
        self._legacies = legacies

    def get(self, key: Any) -> Any:
        """Return the value of ``key``, which has moved to the new table, or ``MISSING``."""
        value = self._table.get(key)
        if value is not MISSING:
            return value
        for legacy in self._legacies:
            old = legacy.table.get(key)
            if old is not MISSING:
                value = legacy.converted(old)
                self._forget_legacies(key)
                if value is not MISSING:
                    self._table.put(key, value)
                return value
        return MISSING

    def put(self, key: Any, value: Any) -> None:
        """Set the value of ``key``."""
        self._forget_legacies(key)
        self._table.put(key, value)

    def delete(self, key: Any) -> None:
        """Forget ``key`` in every table."""
        self._table.delete(key)
        self._forget_legacies(key)

    def _forget_legacies(self, key: Any) -> None:
        for legacy in self._legacies:
            legacy.table.delete(key)


class MigratingMapTable:
    """A map table over its legacies; the values are as the new table has them."""

    def __init__(self, table: MapTable, legacies: Sequence[Legacy]) -> None:
        self._table = table
        self._legacies = legacies

    def get(self, key: Any, entry: Any) -> Any:
        """Return the value of an entry, which has moved to the new table, or ``MISSING``."""
        value = self._table.get(key, entry)
        if value is not MISSING:
            return value
        for legacy in self._legacies:
            old = legacy.table.get(key, entry)
            if old is not MISSING:
                value = legacy.converted(old)
                self._forget_legacies(key, entry)
                if value is not MISSING:
                    self._table.put(key, entry, value)
                return value
        return MISSING

    def put(self, key: Any, entry: Any, value: Any) -> None:
        """Set the value of an entry."""
        self._forget_legacies(key, entry)
        self._table.put(key, entry, value)

    def remove(self, key: Any, entry: Any) -> None:
        """Forget an entry in every table."""
        self._table.remove(key, entry)
        self._forget_legacies(key, entry)

    def entries(self, key: Any) -> Iterator[Any]:
        """Yield the entries of ``key``, all of which have moved to the new table."""
        self._move(key)
        return self._table.entries(key)

    def items(self, key: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the entries of ``key`` with their values; all have moved to the new table."""
        self._move(key)
        return self._table.items(key)

    def is_empty(self, key: Any) -> bool:
        """Return whether ``key`` has no entry."""
        self._move(key)
        return self._table.is_empty(key)

    def clear(self, key: Any) -> None:
        """Forget all entries of ``key`` in every table."""
        self._table.clear(key)
        for legacy in self._legacies:
            legacy.table.clear(key)

    def all_items(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield what has moved already."""
        return self._table.all_items()

    def _forget_legacies(self, key: Any, entry: Any) -> None:
        for legacy in self._legacies:
            legacy.table.remove(key, entry)

    def _move(self, key: Any) -> None:
        for legacy in self._legacies:
            for entry in list(legacy.table.entries(key)):
                self.get(key, entry)
