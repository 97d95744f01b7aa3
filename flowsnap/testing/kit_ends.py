"""The ends of a user's pipeline in a simulated world: its inputs, its own sinks, its requests.

A sink that runs for real is watched through its *view*: what a reader of the target would see. The
contract of ``Sink`` is checked against it at every call: nothing becomes visible by ``write`` or
``prepare``, and a ``commit`` that is repeated changes nothing.
"""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

from flowsnap.core.element import Batch
from flowsnap.core.event_time import EventTime
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import Sink, SinkContext, Source, Split, SplitReader, Submission
from flowsnap.errors import FlowsnapError
from flowsnap.operators.async_map import AsyncMap, Request
from flowsnap.operators.requests import Requests
from flowsnap.testing.kit_compare import frozen
from flowsnap.testing.sink import TransactionalSink, TransactionalSystem
from flowsnap.testing.sources import Timed, timed_batch
from flowsnap.testing.steps import Pace, PacedReader, Trouble
from flowsnap.testing.world import Actor, World

Splits = Mapping[str, Sequence[Any]]
View = Callable[[Sink], Iterable[Any]]


class InputSource(Source):
    """Reads given values, some at a time, and has nothing to say now and then."""

    discovers = False

    def __init__(
        self, splits: Splits, pace: Pace, event_time: EventTime | None, trouble: Trouble
    ) -> None:
        self.event_time = event_time
        self._splits = splits
        self._pace = pace
        self._trouble = trouble

    def splits(self, parallelism: int) -> list[Split]:
        return [Split(id, {}, len(values)) for id, values in self._splits.items()]

    def open_split(self, split: Split, position: int | None) -> SplitReader:
        return _InputReader(self._splits[split.id], self._pace, self._trouble, position or 0)


class _InputReader(PacedReader[Any]):
    def __init__(self, values: Sequence[Any], pace: Pace, trouble: Trouble, position: int) -> None:
        super().__init__(values, pace, position)
        self._trouble = trouble

    def read(self, limit: int) -> Batch | None:
        if self._next < len(self._values):
            self._trouble.pass_by()
        return super().read(limit)

    def _batch(self, ahead: Sequence[Any]) -> Batch:
        same = [one for one in ahead if isinstance(one, Timed) is isinstance(ahead[0], Timed)]
        return timed_batch(same if len(same) == len(ahead) else list(ahead[:1]))


class OwnSink(TransactionalSink):
    """The user's sink in a simulated process; its twin in the transactional system is the ledger.

    A call of the user's sink is an effect, so that a crash is put before it or after it.
    """

    def __init__(self, system: TransactionalSystem, own: Sink, view: View) -> None:
        super().__init__(system)
        self._template = own
        self._view = view
        self._opened: list[Sink] = []

    def of(self, actor: Actor) -> OwnSink:
        bound = copy.copy(self)
        bound._actor = actor
        return bound

    def release(self) -> None:
        """Close what processes had open that were killed, once their world has ended."""
        for own in self._opened:
            with suppress(FlowsnapError, OSError):
                own.close()

    def on_submit(self, submission: Submission) -> None:
        self._template.on_submit(submission)

    def on_finish(self) -> None:
        self._template.on_finish()

    def open(self, context: SinkContext) -> None:
        super().open(context)
        self._own = copy.copy(self._template)
        self._opened.append(self._own)
        self._own.open(context)

    def write(self, batch: Batch) -> None:
        with self._unseen("write"):
            self._own.write(batch)
        super().write(batch)

    def can_accept(self) -> bool:
        return self._own.can_accept()

    def prepare(self, checkpoint_id: CheckpointId) -> dict[str, Any] | None:
        with self._effect("prepare"), self._unseen("prepare"):
            own = self._own.prepare(checkpoint_id)
        known = super().prepare(checkpoint_id)
        if known is None and own is not None:
            known = self._prepare(checkpoint_id, ())
        return None if known is None else {**known, "own": own}

    def commit(self, committables: Sequence[dict[str, Any]]) -> bool | None:
        own = [one["own"] for one in committables if one["own"] is not None]
        if own:
            with self._effect("commit"):
                if self._own.commit(own) is False:
                    return False
            self._commit_again(own)
        return super().commit(committables)

    def recover(self, committables: Sequence[dict[str, Any]]) -> None:
        with self._effect("recover"):
            self._own.recover([one["own"] for one in committables if one["own"] is not None])
        self._commit(committables)
        assert self._actor is not None
        place = self._context
        self._system.abort_older(self._actor, place.operator, place.attempt)

    def _commit_again(self, own: list[Any]) -> None:
        before = self._seen()
        with self._effect("commit again"):
            self._own.commit(own)
        if self._seen() != before:
            self._world.fail(
                f"sink {self._context.operator!r}: a commit that is repeated changes what is seen"
            )

    @contextmanager
    def _unseen(self, what: str) -> Iterator[None]:
        before = self._seen()
        yield
        if self._seen() != before:
            self._world.fail(
                f"sink {self._context.operator!r}: {what} makes output visible, before its "
                f"checkpoint is complete"
            )

    @contextmanager
    def _effect(self, what: str) -> Iterator[None]:
        assert self._actor is not None
        number = self._world.begin_effect(self._actor, f"sink {what} by its own code")
        yield
        self._world.end_effect(self._actor, number)

    def _seen(self) -> Counter[Hashable]:
        return Counter(map(frozen, self._view(self._template)))

    @property
    def _world(self) -> World:
        return self._system._world


class _DirectRequests:
    """Answers each request at once, in the thread of the task."""

    def __init__(self, fn: Callable[[Any], Any], retries: int) -> None:
        self._fn = fn
        self._retries = retries
        self._done: list[Request] = []

    def issue(self, requests: Iterable[Request]) -> None:
        for request in requests:
            for _ in range(self._retries + 1):
                try:
                    request.result, request.error = asyncio.run(self._once(request.value)), None
                    break
                except Exception as error:  # What the user's code raises is anybody's guess.
                    request.error = error
            self._done.append(request)

    def take_done(self) -> list[Request]:
        done, self._done = self._done, []
        for request in done:
            request.is_done = True
        return done

    def close(self) -> None:
        self._done.clear()

    async def _once(self, value: Any) -> Any:
        return await self._fn(value)


class DirectAsyncMap(AsyncMap):
    """The real operator, without its thread: in a simulated world there is only one."""

    @classmethod
    def of(cls, template: AsyncMap) -> DirectAsyncMap:
        """Return a template that does the same, in one thread."""
        direct = copy.copy(template)
        direct.__class__ = cls
        return cast("DirectAsyncMap", direct)

    def _make_requests(self) -> Requests:
        return cast("Requests", _DirectRequests(self.fn, self.settings.retries))
