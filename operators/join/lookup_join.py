"""Lookup join: records meet what an outside table says of their keys, now.

The table is asked by a function of the user's, once for each batch and with distinct keys only;
what it says is kept in a cache. Neither is part of a snapshot: after a restore the table is asked
again, and may say something else. The call blocks the subtask, and so do the pauses before it is
tried again, as a lookup function of Flink does.

Source: Flink SQL, "Lookup Join", and FLIP-221 for cache and retry.
"""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Literal, Self

from flowsnap.config import Duration, duration_ms
from flowsnap.core.element import Batch
from flowsnap.core.operator import Operator, OperatorContext
from flowsnap.errors import ConfigError
from flowsnap.operators.join.pairing import Pairing, Rows, check_how
from flowsnap.operators.selector import Selector, check_selector, selected

Lookup = Callable[[list[Any]], Mapping[Any, Any] | Sequence[Any]]
"""Takes distinct keys; returns a mapping, or a list with one entry for each; None: no such row."""

FOR_EVER = float("inf")


@dataclass(frozen=True, slots=True)
class LookupCache:
    """What a lookup join remembers: the rows of the ``size`` keys used last, each for ``ttl``.

    That a key has no row is remembered too, unless ``missing`` is false. ``size=0``: nothing is
    remembered; ``ttl=None``: until it is crowded out.
    """

    size: int = 10_000
    ttl: Duration | None = None
    missing: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 0:
            raise ConfigError(f"cache: {self.size!r} is not a number of keys")
        if self.ttl is not None:
            duration_ms(self.ttl, "cache ttl", at_least_ms=1)

    @property
    def ttl_ms(self) -> float:
        """The ttl in ms, or infinity."""
        return FOR_EVER if self.ttl is None else duration_ms(self.ttl, "cache ttl")


@dataclass(frozen=True, slots=True)
class LookupRetry:
    """How often a lookup that raises one of ``errors`` is tried, at most.

    ``delay`` is the pause before the second attempt; it doubles from one to the next.
    """

    attempts_max: int = 3
    delay: Duration = "100ms"
    errors: tuple[type[Exception], ...] = (OSError,)

    def __post_init__(self) -> None:
        attempts = self.attempts_max
        if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
            raise ConfigError(f"retry: attempts_max {attempts!r} is not a positive int")
        duration_ms(self.delay, "retry delay")
        if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in self.errors):
            raise ConfigError(f"retry: errors {self.errors!r} are not exception classes")


class LookupJoin(Operator):
    """Joins every record with what ``lookup`` returns for its key.

    The key is what ``by`` selects from the record, or the key of the stream: see ``by_key``.
    Outputs have the event time of their record. ``how="left"``: a record without a row comes out
    with None.
    """

    pause: Callable[[float], object] = staticmethod(time.sleep)
    """Waits for a number of seconds."""

    def __init__(
        self,
        pairing: Pairing,
        lookup: Lookup,
        by: Selector = None,
        how: Literal["inner", "left"] = "inner",
        *,
        cache: LookupCache | None = None,
        retry: LookupRetry | None = None,
    ) -> None:
        if not callable(lookup):
            raise ConfigError(f"lookup_join: {lookup!r} is not a function")
        check_selector(by, "lookup_join")
        check_how(how, ("inner", "left"))
        self.pairing = pairing
        self.lookup = lookup
        self.by = by
        self.how = how
        self.cache = cache or LookupCache()
        self.retry = retry or LookupRetry()
        self.is_by_key = False

    def by_key(self) -> Self:
        """Return a copy that looks up the keys of a keyed stream."""
        twin = copy.copy(self)
        twin.is_by_key = True
        return twin

    def open(self, context: OperatorContext) -> None:
        self._now_ms = context.processing_time_ms
        self._known: OrderedDict[Any, tuple[Any, float]] = OrderedDict()

    def process(self, batch: Batch) -> Batch:
        """Return the records of a batch with what was found for them.

        Raises:
            TypeError: what ``lookup`` returned is neither a mapping nor a list with an entry for
                each key.
        """
        keys: list[Any]
        if self.is_by_key:
            assert batch.keys is not None, "a keyed operator was given a batch without keys"
            keys = batch.keys
        else:
            self.cursor = iter(batch.values)
            keys = list(selected(self.by, batch.values, self.cursor))
            self.cursor = None  # What fails from here on does not fail on one record.
        found = list(map(self._found(keys).__getitem__, keys))
        lefts: list[Any] = batch.values
        times: list[Any] = batch.timestamps or [None] * len(lefts)
        if self.how == "inner":
            is_met = [row is not None for row in found]
            lefts, times = list(compress(lefts, is_met)), list(compress(times, is_met))
            found = list(compress(found, is_met))
        rows = Rows(self.pairing)
        rows.add(times, lefts, found)
        return rows.take()

    def _found(self, keys: list[Any]) -> dict[Any, Any]:
        """Return the row of every key, or None, from the cache or else from the table."""
        now_ms, known = self._now_ms(), self._known
        found: dict[Any, Any] = {}
        unknown = []
        for key in dict.fromkeys(keys):
            entry = known.get(key)
            if entry is None or entry[1] <= now_ms:
                unknown.append(key)
            else:
                found[key] = entry[0]
                known.move_to_end(key)
        if unknown:
            new = self._asked(unknown)
            found |= new
            self._remember(new, now_ms + self.cache.ttl_ms)
        return found

    def _remember(self, new: dict[Any, Any], until_ms: float) -> None:
        known, cache = self._known, self.cache
        for key, row in new.items():
            if row is not None or cache.missing:
                known[key] = (row, until_ms)
                known.move_to_end(key)
            else:
                known.pop(key, None)
        while len(known) > cache.size:
            known.popitem(last=False)

    def _asked(self, keys: list[Any]) -> dict[Any, Any]:
        pause_s = duration_ms(self.retry.delay, "retry delay") / 1000
        for _ in range(self.retry.attempts_max - 1):
            try:
                return _by_key(keys, self.lookup(list(keys)))
            except self.retry.errors:
                self.pause(pause_s)
                pause_s *= 2
        return _by_key(keys, self.lookup(list(keys)))


def _by_key(keys: list[Any], answer: Iterable[Any]) -> dict[Any, Any]:
    if isinstance(answer, Mapping):
        return {key: answer.get(key) for key in keys}
    if not isinstance(answer, Sequence) or isinstance(answer, str | bytes):
        kind = type(answer).__name__
        raise TypeError(f"lookup returned a {kind}, neither a mapping nor a list")
    if len(answer) != len(keys):
        raise TypeError(f"lookup returned {len(answer)} rows for {len(keys)} keys")
    return dict(zip(keys, answer, strict=True))
