"""Further steps: asynchronous and batched functions, rates, and the small keyed operators.

They are mixed into the streams of ``api/stream.py`` and ``api/keyed.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, Unpack, cast

from flowsnap.config import Duration
from flowsnap.core.operator import Operator
from flowsnap.errors import ConfigError
from flowsnap.operators.async_map import AsyncMap
from flowsnap.operators.deduplicate import Deduplicate
from flowsnap.operators.map_batches import MapBatches
from flowsnap.operators.over import Aggregates, OverRange, OverRows
from flowsnap.operators.rate_limit import RateLimit
from flowsnap.operators.rolling import Emit
from flowsnap.operators.selector import Selector
from flowsnap.operators.stateful_map import StatefulMap
from flowsnap.operators.top_n import TopN

if TYPE_CHECKING:
    from flowsnap.api.stream import Stream

T = TypeVar("T")
U = TypeVar("U")
S = TypeVar("S")
K = TypeVar("K")


class AsyncSettings(TypedDict, total=False):
    """How ``async_map`` goes about it."""

    capacity: int
    ordered: bool
    timeout: Duration
    retries: int
    backoff: Duration


class FunctionSteps(Generic[T]):
    """Steps of plain and keyed streams alike; the stream that comes out is plain."""

    def async_map(
        self,
        fn: Callable[[T], Awaitable[U]],
        *,
        name: str | None = None,
        parallelism: int | None = None,
        **settings: Unpack[AsyncSettings],
    ) -> Stream[U]:
        """Replace every record by what ``await fn(record)`` gives, many at a time.

        ``capacity`` (100) requests are under way at most in each subtask. With ``ordered`` (True)
        results leave in the order of their records. A try takes ``timeout`` ("30s") at most; a
        failed one is repeated up to ``retries`` (3) times, after ``backoff`` ("100ms"), which
        doubles each time.
        """
        for setting in settings.keys() - AsyncSettings.__annotations__.keys():
            raise ConfigError(f"async_map: there is no setting {setting!r}").hint(
                f"there are {', '.join(AsyncSettings.__annotations__)}"
            )
        return _drawn(self, AsyncMap(fn, **settings), name, parallelism)

    def map_batches(
        self,
        fn: Callable[[list[T]], list[U]],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[U]:
        """Replace the records of every batch by the list ``fn(records)``.

        Event times are kept if as many records come out as went in, and dropped otherwise.
        """
        return _drawn(self, MapBatches(fn), name, parallelism)

    def rate_limit(
        self, per_second: float, *, name: str | None = None, parallelism: int | None = None
    ) -> Stream[T]:
        """Let at most ``per_second`` records a second pass in each subtask."""
        return _drawn(self, RateLimit(per_second), name, parallelism)


class PlainSteps(Generic[T]):
    """Steps of plain streams alone."""

    def deduplicate(
        self,
        key: Selector = None,
        *,
        ttl: Duration | None = None,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[T]:
        """Let the first record of each key pass; without ``key`` the record is its own key.

        ``ttl`` forgets a key so long after its first record. The key is taken in a step of its own,
        called ``<name>.key`` where there is a name.
        """
        code = Deduplicate(ttl)
        stream: Any = self
        keyed = stream.key_by(key, name=None if name is None else f"{name}.key")
        return _keyed(keyed, code, name, parallelism)


class KeyedSteps(Generic[K, T]):
    """Steps of keyed streams alone."""

    def deduplicate(
        self,
        *,
        ttl: Duration | None = None,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[T]:
        """Let the first record of each key pass; ``ttl`` forgets a key so long after it."""
        return _keyed(self, Deduplicate(ttl), name, parallelism)

    def top_n(
        self,
        n: int,
        *,
        by: Selector = None,
        emit: Emit = "each",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[tuple[K, list[T]]]:
        """Emit ``(key, records)``: the ``n`` greatest by ``by``, the greatest first.

        With ``emit="each"`` whenever a record changes the list, with ``"batch"`` once per batch
        that does, with ``"final"`` at the end of input.
        """
        return _keyed(self, TopN(n, by, emit), name, parallelism)

    def over(
        self,
        aggregates: Aggregates,
        *,
        rows: int | None = None,
        range: Duration | None = None,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[tuple[T, dict[str, Any]]]:
        """Emit ``(record, {name: value})``: every record with aggregates of those before it.

        ``rows=10``: of the record and the nine before it, as they come. ``range="1m"``: of the
        records of the last minute of event time; a record leaves once the watermark has passed it.
        ``aggregates`` maps names to "sum", "count", "min", "max" or "mean", or to a pair of one
        of these and a selector.
        """
        if (rows is None) == (range is None):
            raise ConfigError("over: give either rows or range").hint(
                'rows=10 for the last ten records, range="1m" for the last minute of event time'
            )
        if range is not None:
            return _keyed(self, OverRange(aggregates, range), name, parallelism)
        return _keyed(self, OverRows(aggregates, cast(int, rows)), name, parallelism)

    def stateful_map(
        self,
        fn: Callable[[S, T], tuple[S, U]],
        initial: S | Callable[[], S],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[U]:
        """Emit the output of ``fn(state, record)``, which returns ``(state, output)``.

        ``initial`` is an immutable value, or a function that makes the state of a new key: only
        then may ``fn`` change it in place.
        """
        return _keyed(self, StatefulMap(fn, initial), name, parallelism)


def _drawn(stream: Any, code: Operator, name: str | None, parallelism: int | None) -> Stream[Any]:
    return cast("Stream[Any]", stream._then(code, name, parallelism))


def _keyed(stream: Any, code: Operator, name: str | None, parallelism: int | None) -> Stream[Any]:
    return cast("Stream[Any]", stream._keyed(code, stream._inputs, name, parallelism))
