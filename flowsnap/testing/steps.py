"""The users' own code in simulated jobs: sources, and steps with state, timers and requests."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from flowsnap.core.element import Batch
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.operators.async_map import AsyncMap, Request
from flowsnap.operators.broadcast import BroadcastContext, BroadcastProcess
from flowsnap.operators.process import KeyedProcess
from flowsnap.operators.process_context import ProcessContext
from flowsnap.testing import reference
from flowsnap.testing.reference import SLOT_MS, Item, Record

if TYPE_CHECKING:
    from flowsnap.operators.requests import Requests

T = TypeVar("T")
Pace = list[tuple[int, int]]
"""How many records come at a time, and how long to wait where none do, in ms."""


@dataclass(slots=True)
class Trouble:
    """Makes a user function raise, once, at its n-th call."""

    at: set[int] = field(default_factory=set)
    calls: int = 0
    fired: int = 0

    def pass_by(self) -> None:
        """Count a call.

        Raises:
            ValueError: it is the turn of this one.
        """
        self.calls += 1
        if self.calls in self.at:
            self.fired += 1
            raise ValueError("a user function fails")


class SimulatedSource(Source):
    """Splits of prepared items; ``pace`` says how many come at a time."""

    discovers = False

    def __init__(self, inputs: Mapping[str, list[Item]], pace: Pace, *, is_timed: bool) -> None:
        self.inputs = inputs
        self.pace = pace
        self.is_timed = is_timed

    def splits(self, parallelism: int) -> list[Split]:
        return [Split(id, {}, len(items)) for id, items in self.inputs.items()]

    def open_split(self, split: Split, position: int | None) -> SplitReader:
        return SimulatedReader(self, split.id, position or 0)


class PacedReader(SplitReader, Generic[T]):
    """Reads a list in small batches, and has nothing to say now and then."""

    def __init__(self, values: Sequence[T], pace: Pace, position: int) -> None:
        self._values = values
        self._pace = pace
        self._next = self._turn = position
        self._wait_ms = 0

    def read(self, limit: int) -> Batch | None:
        if self._next >= len(self._values):
            return None
        count, self._wait_ms = self._pace[self._turn % len(self._pace)]
        self._turn += 1
        batch = self._batch(self._values[self._next : self._next + min(count, limit)])
        self._next += len(batch)
        return batch

    def position(self) -> int:
        return self._next

    def progress(self) -> int:
        return self._next

    def wait_ms(self) -> int:
        return self._wait_ms

    @abstractmethod
    def _batch(self, ahead: Sequence[T]) -> Batch:
        """Return a batch of the first of these values, or of all."""


class SimulatedReader(PacedReader[Item]):
    """Makes records of items: they know the split they come from, and their number in it."""

    def __init__(self, source: SimulatedSource, split: str, position: int) -> None:
        super().__init__(source.inputs[split], source.pace, position)
        self._source = source
        self._split = split

    def _batch(self, ahead: Sequence[Item]) -> Batch:
        records = [(self._split, number, at_ms) for number, at_ms in ahead]
        return Batch(records, [at_ms for _, at_ms in ahead] if self._source.is_timed else None)


class Chained(KeyedProcess[Record, Record]):
    """For each key and origin, a hash over all numbers so far, in order."""

    def __init__(self, modulus: int) -> None:
        self.modulus = modulus

    def open(self, context: ProcessContext) -> None:
        self._is_map = self.modulus % 2 == 0
        if self._is_map:
            self._map = context.map_state("hashes")
        else:
            self._value = context.value_state("hashes", dict)

    def process(self, value: Record, context: ProcessContext) -> Iterator[Record]:
        origin, number, at_ms = value
        if self._is_map:
            hashed = reference.chained(self._map.get(origin) or 0, number)
            self._map.put(origin, hashed)
        else:
            hashes: dict[str, int] = self._value.value()
            hashed = hashes[origin] = reference.chained(hashes.get(origin, 0), number)
            self._value.update(hashes)
        yield f"{origin}|{context.key}", hashed, at_ms


Token = tuple[str, int, int, int, int]
"""A record in a loop: (origin, number, at_ms, hops left, laps left)."""


def hop(token: Token) -> Token:
    """Return what becomes of a record that goes round once."""
    origin, number, at_ms, left, laps_left = token
    return origin, reference.mapped((origin, number, at_ms))[1], at_ms, left - 1, laps_left


class Mover(KeyedProcess[Token, Token]):
    """Counts the hops of each key, and sends the record on, to another one."""

    def open(self, context: ProcessContext) -> None:
        self._hops = context.value_state("hops", int)

    def process(self, value: Token, context: ProcessContext) -> Iterator[Token]:
        self._hops.update(self._hops.value() + 1)
        yield hop(value)


class SlotTimers(KeyedProcess[Record, Record]):
    """For each key, how many records each slot of event time had, told by a timer at its end."""

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, context: ProcessContext) -> None:
        self._counts = context.map_state("counts")

    def process(self, value: Record, context: ProcessContext) -> None:
        slot = value[2] // SLOT_MS
        self._counts.put(slot, (self._counts.get(slot) or 0) + 1)
        context.register_event_timer((slot + 1) * SLOT_MS - 1)

    def on_timer(self, timestamp: int, context: ProcessContext) -> Iterator[Record]:
        slot = timestamp // SLOT_MS
        count = self._counts.get(slot) or 0  # 0: it fires twice, which must show in the output
        self._counts.remove(slot)
        yield self.name, context.key * 1000 + count, slot * SLOT_MS


class Rules(BroadcastProcess[Record, Record, Record]):
    """Records pass; the first subtask tells of each rule what its origin amounts to so far."""

    def __init__(self, name: str, *, is_ordered: bool) -> None:
        self.name = name
        self.is_ordered = is_ordered

    def process(self, value: Record, context: BroadcastContext) -> Iterator[Record]:
        yield value

    def process_broadcast(self, value: Record, context: BroadcastContext) -> Iterable[Record]:
        origin, number, at_ms = value
        so_far = context.broadcast.get(origin, 0)
        so_far = reference.chained(so_far, number) if self.is_ordered else so_far + 1
        context.broadcast[origin] = so_far
        if context.subtask:
            return []
        return [(f"{self.name}|{origin}", so_far, at_ms if self.is_ordered else 0)]


POLLS_MAX = 12


class SimulatedRequests:
    """Answers by the number of times that it is asked, instead of by a thread."""

    def __init__(self) -> None:
        self._asked: list[tuple[int, Request]] = []
        self._times = 0

    def issue(self, requests: Iterable[Request]) -> None:
        """Have requests answered, some before others."""
        for request in requests:
            request.result = reference.mapped(request.value)
            due = self._times + request.value[1] * 7 % POLLS_MAX
            self._asked.append((due, request))

    def take_done(self) -> list[Request]:
        """Return the requests that have been answered since the last call."""
        self._times += 1
        done = [request for due, request in self._asked if due < self._times]
        self._asked = [one for one in self._asked if one[0] >= self._times]
        for request in done:
            request.is_done = True
        return done

    def close(self) -> None:
        """Forget what has not been answered."""
        self._asked.clear()


async def ask(record: Record) -> Record:
    """Stand for what ``SimulatedRequests`` answers."""
    return reference.mapped(record)


class SimulatedAsyncMap(AsyncMap):
    """The real operator, whose requests are answered in virtual time."""

    def _make_requests(self) -> Requests:
        return cast("Requests", SimulatedRequests())
