"""``async_map``: many slow answers at once, by the user's ``async def``."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowsnap.config import Duration, duration_ms
from flowsnap.errors import ConfigError, OperatorError
from flowsnap.operators.holding import Held, Holding

if TYPE_CHECKING:
    from flowsnap.operators.requests import Requests

CAPACITY_MAX = 100_000
RETRIES_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Settings:
    """How often a request is tried, and for how long each time; the pause doubles each time."""

    timeout_ms: int
    retries: int
    backoff_ms: int


class Request:
    """One record on its way; ``place`` says which it is.

    ``is_done`` and ``has_left`` are the task's: they say what it has seen, and what it has emitted.
    """

    __slots__ = (
        "error",
        "has_left",
        "is_done",
        "number",
        "place",
        "result",
        "retries",
        "timeouts",
        "timestamp",
        "value",
    )

    def __init__(self, number: int, value: Any, timestamp: int | None, place: str) -> None:
        self.number = number
        self.value = value
        self.timestamp = timestamp
        self.place = place
        self.result: Any = None
        self.error: Exception | None = None
        self.retries = 0
        self.timeouts = 0
        self.is_done = False
        self.has_left = False


class AsyncMap(Holding):
    """Replaces every record by what awaiting ``fn(record)`` gives, ``capacity`` at a time.

    ``fn`` runs in an asyncio loop in a thread of the task's own. A request that takes longer than
    ``timeout`` or raises is tried again up to ``retries`` times, after ``backoff``, which doubles
    each time; then its error is the job's. With ``ordered`` the results leave in the order of their
    records, otherwise as they come, though none overtakes a watermark.

    A restore asks again for whatever had not left at the barrier: ``fn`` is called at least once
    for a record, while its result counts once.
    """

    def __init__(
        self,
        fn: Callable[[Any], Awaitable[Any]],
        capacity: int = 100,
        *,
        ordered: bool = True,
        timeout: Duration = "30s",
        retries: int = 3,
        backoff: Duration = "100ms",
    ) -> None:
        if not (inspect.iscoroutinefunction(fn) or _has_async_call(fn)):
            raise ConfigError(f"async_map: {fn!r} is not an async function").hint(
                "write it with async def; a function that blocks belongs into map"
            )
        _check_int(capacity, "capacity", 1, CAPACITY_MAX)
        _check_int(retries, "retries", 0, RETRIES_MAX)
        if not isinstance(ordered, bool):
            raise ConfigError(f"async_map: ordered={ordered!r} is not a bool").hint(
                "ordered=False lets results leave as they come"
            )
        self.fn = fn
        self.capacity = capacity
        self.ordered = ordered
        self.settings = Settings(
            timeout_ms=duration_ms(timeout, "timeout", at_least_ms=1),
            retries=retries,
            backoff_ms=duration_ms(backoff, "backoff"),
        )
        self._requests: Requests | None = None

    def can_accept(self) -> bool:
        return self._count < self.capacity

    def close(self) -> None:
        if self._requests is not None:
            self._requests.close()

    def _start(self) -> None:
        self._queue: deque[Request] = deque()
        self._early: list[Request] = []
        self._count = 0
        self._retries = self._context.counter("retries")
        self._timeouts = self._context.counter("timeouts")
        self._requests = self._make_requests()

    def _make_requests(self) -> Requests:
        # Whoever draws a pipeline need not wait for asyncio to be imported.
        from flowsnap.operators.requests import Requests  # noqa: PLC0415

        name = f"{self._context.operator}-{self._context.subtask}"
        return Requests(self.fn, self.capacity, self.settings, name)

    def _take(
        self, values: list[Any], timestamps: list[int | None], *, restored: bool = False
    ) -> None:
        assert self._requests is not None, "process before open"
        of = len(values)
        where = "of those restored" if restored else f"of a batch of {of}"
        taken = [
            Request(number, value, at, f"record {index + 1} {where}")
            for index, (number, value, at) in enumerate(
                zip(range(self._next, self._next + of), values, timestamps, strict=True)
            )
        ]
        self._next += of
        self._count += of
        self._queue.extend(taken)
        self._requests.issue(taken)

    def _release(self) -> list[Held]:
        assert self._requests is not None, "poll before open"
        answered = self._requests.take_done()
        self._retries.increase(sum(request.retries for request in answered))
        self._timeouts.increase(sum(request.timeouts for request in answered))
        done = self._early + answered
        for request in done:
            if request.error is not None:
                raise self._failure(request, request.error)
        leaving = self._in_order(done) if self.ordered else self._as_they_come(done)
        self._count -= len(leaving)
        return [(request.result, request.timestamp) for request in leaving]

    def _in_order(self, done: list[Request]) -> list[Request]:
        queue, leaving = self._queue, []
        while queue and queue[0].is_done:
            leaving.append(queue.popleft())
        self._announce()
        return leaving

    def _as_they_come(self, done: list[Request]) -> list[Request]:
        """Return what is done before the next watermark, and go on to that if nothing is left."""
        leaving: list[Request] = []
        while True:
            limit = self._marks[0][0] if self._marks else self._next
            now = [request for request in done if request.number < limit]
            done = [request for request in done if request.number >= limit]
            for request in now:
                request.has_left = True
            leaving += now
            while self._queue and self._queue[0].has_left:
                self._queue.popleft()
            if not self._marks or self._oldest() < limit:
                self._early = done
                return leaving
            self._announce()

    def _held(self) -> Iterable[Held]:
        return [(held.value, held.timestamp) for held in self._queue if not held.has_left]

    def _oldest(self) -> int:
        return self._queue[0].number if self._queue else self._next

    def _failure(self, request: Request, error: Exception) -> OperatorError:
        operator, subtask = self._context.operator, self._context.subtask
        what = f"{request.place} (a {type(request.value).__name__})"
        failure = OperatorError(
            f"operator {operator!r}, subtask {subtask}: {type(error).__name__}: {error} "
            f"on {what}, tried {self.settings.retries + 1} times",
            operator=operator,
            subtask=subtask,
            record=what,
        )
        failure.__cause__ = error
        return failure


def _has_async_call(fn: object) -> bool:
    return inspect.iscoroutinefunction(getattr(type(fn), "__call__", None))  # noqa: B004 - its kind


def _check_int(value: object, what: str, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(f"async_map: {what}={value!r} is not an int").hint(
            f"{what} lies between {least} and {most}"
        )
