"""Joins: what keyed streams have for two inputs, and any stream for an outside table.

A join is drawn in two steps: which records belong together, and what comes out for them::

    orders.key_by("id").join(payments.key_by("order")).apply(lambda order, payment: ...)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from flowsnap.api.drawing import Drawing, Input, Request
from flowsnap.config import Duration, duration_ms
from flowsnap.core.operator import Operator
from flowsnap.errors import ConfigError
from flowsnap.operators.join.co_group import CoGroup
from flowsnap.operators.join.interval_join import IntervalJoin
from flowsnap.operators.join.lookup_join import Lookup, LookupCache, LookupJoin, LookupRetry
from flowsnap.operators.join.pairing import How, Pairing
from flowsnap.operators.join.stream_join import StreamJoin
from flowsnap.operators.join.temporal_join import TemporalJoin
from flowsnap.operators.join.window_join import WindowJoin
from flowsnap.operators.selector import Selector
from flowsnap.operators.window.assigner import Assigner

if TYPE_CHECKING:
    from flowsnap.api.keyed import KeyedStream
    from flowsnap.api.stream import Stream

K = TypeVar("K")
L = TypeVar("L")
R = TypeVar("R")
T = TypeVar("T")
U = TypeVar("U")

_NEGATIVE = re.compile(r"\s*-\s*(.*)", re.DOTALL)
_LONGEST_MS = 2**62

Make = Callable[[Pairing], Operator]
"""Makes the operator of a join, once it is known what comes out."""


class _Joining:
    """A join of which it is known what belongs together, but not yet what comes out."""

    def __init__(
        self, drawing: Drawing, inputs: tuple[Input, ...], make: Make, *, is_keyed: bool
    ) -> None:
        make(Pairing())  # Mistakes show where they were made, not at apply.
        self._drawing = drawing
        self._inputs = inputs
        self._make = make
        self._is_keyed = is_keyed

    def _drawn(self, pairing: Pairing, name: str | None, parallelism: int | None) -> Stream[Any]:
        from flowsnap.api.stream import Stream  # noqa: PLC0415 - streams are made of joins as well

        code = self._make(pairing)
        request = Request(code, self._inputs, name, parallelism, is_keyed=self._is_keyed)
        return Stream(self._drawing, (Input(self._drawing.add(request)),))


class Joined(_Joining, Generic[L, R]):
    """Pairs of records, or of a record and None in outer joins; say what comes out for them."""

    def apply(
        self, fn: Callable[[L, R], U], *, name: str | None = None, parallelism: int | None = None
    ) -> Stream[U]:
        """Emit ``fn(left, right)`` for each pair."""
        return self._drawn(Pairing(_function(fn)), name, parallelism)

    def process(
        self,
        fn: Callable[[L, R], Iterable[U] | None],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[U]:
        """Emit whatever ``fn(left, right)`` yields or returns in a list, for each pair."""
        return self._drawn(Pairing(_function(fn), is_flat=True), name, parallelism)

    def pairs(
        self, *, name: str | None = None, parallelism: int | None = None
    ) -> Stream[tuple[L, R]]:
        """Emit ``(left, right)`` for each pair."""
        return self._drawn(Pairing(), name, parallelism)


class CoGrouped(_Joining, Generic[K, L, R]):
    """The records of a key and window from both sides; say what comes out for them."""

    def apply(
        self,
        fn: Callable[[K, list[L], list[R]], U],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[U]:
        """Emit ``fn(key, lefts, rights)`` for each key and window; one list may be empty."""
        return self._drawn(Pairing(_function(fn)), name, parallelism)

    def process(
        self,
        fn: Callable[[K, list[L], list[R]], Iterable[U] | None],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[U]:
        """Emit whatever ``fn(key, lefts, rights)`` yields or returns in a list."""
        return self._drawn(Pairing(_function(fn), is_flat=True), name, parallelism)


class Joins(Generic[K, L]):
    """The joins of a keyed stream, which is the left input, with another one of equal keys.

    Late records, which come after the watermark has gone past what they belong to, go to the side
    outputs "late-left" and "late-right" of the join.
    """

    _drawing: Drawing
    _inputs: tuple[Input, ...]

    def interval_join(
        self,
        right: KeyedStream[K, R],
        *,
        lower: Duration,
        upper: Duration,
        lower_inclusive: bool = True,
        upper_inclusive: bool = True,
    ) -> Joined[L, R]:
        """Pair records if ``left time + lower <= right time <= left time + upper``.

        A bound may be negative: ``"-5s"``. A pair has the later of the two times.
        """
        lower_ms = _signed_ms(lower, "interval_join lower") + (not lower_inclusive)
        upper_ms = _signed_ms(upper, "interval_join upper") - (not upper_inclusive)
        inputs = self._with(right, "interval_join")
        return Joined(
            self._drawing, inputs, lambda p: IntervalJoin(p, lower_ms, upper_ms), is_keyed=True
        )

    @overload
    def join(
        self,
        right: KeyedStream[K, R],
        *,
        how: Literal["inner"] = "inner",
        window: Assigner | None = None,
        allowed_lateness: Duration = "0s",
        ttl: Duration | None = None,
    ) -> Joined[L, R]: ...
    @overload
    def join(
        self,
        right: KeyedStream[K, R],
        *,
        how: Literal["left"],
        window: Assigner | None = None,
        allowed_lateness: Duration = "0s",
        ttl: Duration | None = None,
    ) -> Joined[L, R | None]: ...
    @overload
    def join(
        self,
        right: KeyedStream[K, R],
        *,
        how: Literal["right"],
        window: Assigner | None = None,
        allowed_lateness: Duration = "0s",
        ttl: Duration | None = None,
    ) -> Joined[L | None, R]: ...
    @overload
    def join(
        self,
        right: KeyedStream[K, R],
        *,
        how: Literal["full"],
        window: Assigner | None = None,
        allowed_lateness: Duration = "0s",
        ttl: Duration | None = None,
    ) -> Joined[L | None, R | None]: ...
    def join(
        self,
        right: KeyedStream[K, R],
        *,
        how: How = "inner",
        window: Assigner | None = None,
        allowed_lateness: Duration = "0s",
        ttl: Duration | None = None,
    ) -> Joined[Any, Any]:
        """Pair all records of equal keys: those in one ``window``, or all that are kept.

        Without a window, records are kept for ``ttl`` of processing time, or for ever. Records of
        an outer side that have found no partner come out with None in its place: when
        their window ends or their ``ttl`` is up, or else at the end of input.
        """
        inputs = self._with(right, "join")
        lateness_ms = duration_ms(allowed_lateness, "join allowed_lateness")
        if window is not None:
            if ttl is not None:
                raise ConfigError("join: a window and a ttl exclude each other").hint(
                    "records are kept until their window has ended"
                )
            return Joined(
                self._drawing,
                inputs,
                lambda p: WindowJoin(p, window, how, lateness_ms),
                is_keyed=True,
            )
        if lateness_ms:
            raise ConfigError("join: allowed_lateness is that of a window, and there is none")
        ttl_ms = None if ttl is None else duration_ms(ttl, "join ttl", at_least_ms=1)
        return Joined(self._drawing, inputs, lambda p: StreamJoin(p, how, ttl_ms), is_keyed=True)

    def co_group(
        self,
        right: KeyedStream[K, R],
        *,
        window: Assigner,
        allowed_lateness: Duration = "0s",
    ) -> CoGrouped[K, L, R]:
        """Bring the records of a key and window together, also if they are all of one side."""
        inputs = self._with(right, "co_group")
        lateness_ms = duration_ms(allowed_lateness, "co_group allowed_lateness")
        return CoGrouped(
            self._drawing, inputs, lambda p: CoGroup(p, window, lateness_ms), is_keyed=True
        )

    @overload
    def as_of_join(
        self,
        right: KeyedStream[K, R],
        *,
        how: Literal["inner"] = "inner",
        deleted: Callable[[R], object] | None = None,
    ) -> Joined[L, R]: ...
    @overload
    def as_of_join(
        self,
        right: KeyedStream[K, R],
        *,
        how: Literal["left"],
        deleted: Callable[[R], object] | None = None,
    ) -> Joined[L, R | None]: ...
    def as_of_join(
        self,
        right: KeyedStream[K, R],
        *,
        how: Literal["inner", "left"] = "inner",
        deleted: Callable[[R], object] | None = None,
    ) -> Joined[Any, Any]:
        """Pair every record with the newest of ``right`` that is not newer than itself.

        ``right`` holds versions of a row, each valid from its event time on; one for which
        ``deleted(version)`` is true says that there is no row from then on.
        """
        inputs = self._with(right, "as_of_join")
        return Joined(self._drawing, inputs, lambda p: TemporalJoin(p, how, deleted), is_keyed=True)

    def _with(self, right: KeyedStream[K, R], what: str) -> tuple[Input, ...]:
        """Return the inputs of a join with ``right``."""
        from flowsnap.api.keyed import KeyedStream  # noqa: PLC0415 - it is made of joins as well

        if not isinstance(right, KeyedStream):
            raise ConfigError(f"{what}: {right!r} is not a keyed stream").hint(
                "give the right stream a key as well: other.key_by(...)"
            )
        if right._drawing is not self._drawing:
            raise ConfigError(f"{what}: the streams belong to different pipelines")
        return (*self._inputs, *(above._replace(port=1) for above in right._inputs))


class Lookups(Generic[L]):
    """The join of any stream with a table outside."""

    _drawing: Drawing
    _inputs: tuple[Input, ...]

    @overload
    def lookup_join(
        self,
        lookup: Lookup,
        *,
        by: Selector = None,
        how: Literal["inner"] = "inner",
        cache: LookupCache | None = None,
        retry: LookupRetry | None = None,
    ) -> Joined[L, Any]: ...
    @overload
    def lookup_join(
        self,
        lookup: Lookup,
        *,
        by: Selector = None,
        how: Literal["left"],
        cache: LookupCache | None = None,
        retry: LookupRetry | None = None,
    ) -> Joined[L, Any | None]: ...
    def lookup_join(
        self,
        lookup: Lookup,
        *,
        by: Selector = None,
        how: Literal["inner", "left"] = "inner",
        cache: LookupCache | None = None,
        retry: LookupRetry | None = None,
    ) -> Joined[L, Any]:
        """Pair every record with the row that ``lookup(keys)`` returns for it now.

        ``lookup`` takes a list of distinct keys and returns a mapping, or a list with a row or None
        for each. The key is what ``by`` selects; without it, that of a keyed stream, or else
        the record itself.
        """
        from flowsnap.api.keyed import KeyedStream  # noqa: PLC0415 - it is made of joins as well

        has_key = by is None and isinstance(self, KeyedStream)

        def make(pairing: Pairing) -> Operator:
            operator = LookupJoin(pairing, lookup, by, how, cache=cache, retry=retry)
            return operator.by_key() if has_key else operator

        return Joined(self._drawing, self._inputs, make, is_keyed=False)


def _function(fn: T) -> T:
    if not callable(fn):
        raise ConfigError(f"join: {fn!r} is not a function")
    return fn


def _signed_ms(value: Duration, what: str) -> int:
    if isinstance(value, timedelta):
        return duration_ms(value, what, at_least_ms=-_LONGEST_MS)
    negative = _NEGATIVE.fullmatch(value) if isinstance(value, str) else None
    return duration_ms(value, what) if negative is None else -duration_ms(negative[1], what)
