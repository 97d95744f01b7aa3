"""What the engine hands to an operator: where it runs, its state, its timers, its side outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, Protocol, TypeVar

from flowsnap.core.expiry import TTL
from flowsnap.core.ids import AttemptId, OperatorId

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class _Missing:
    """The type of ``MISSING``."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final[Any] = _Missing()
"""What a table answers for a key it does not hold."""


class KeyedTable(Protocol):
    """One named state of one operator: key to value, of the task's key groups.

    ``young`` is what was touched since the last barrier. The engine replaces it at a barrier, so
    read the attribute anew for every batch, never in between. The hot path of an operator is::

        young, load = table.young, table.load
        for key, value in zip(batch.keys, batch.values):
            old = young.get(key, MISSING)
            if old is MISSING:
                old = load(key)              # MISSING where there is none
            young[key] = combine(old, value)
    """

    young: dict[Any, Any]

    def load(self, key: Any) -> Any:
        """Return the value of a key that is not in ``young`` from the older generations.

        A mutable value is promoted into ``young`` by this (it counts as touched, so that the
        caller may change it in place); an immutable one is not.
        """
        ...

    def get(self, key: Any) -> Any:
        """Return the value of ``key``, or ``MISSING``."""
        ...

    def put(self, key: Any, value: Any) -> None:
        """Set the value of ``key``."""
        ...

    def delete(self, key: Any) -> None:
        """Forget ``key``, which may be absent."""
        ...

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Yield every live key and value once, in no order; nothing may change meanwhile."""
        ...

    def relieve(self) -> None:
        """Spill what is young if the memory budget is spent; the engine calls it once per batch."""
        ...


class ValueState(Protocol[T]):
    """One value of the current key."""

    def value(self) -> T:
        """Return the value, or the default."""
        ...

    def update(self, value: T) -> None:
        """Set the value."""
        ...

    def clear(self) -> None:
        """Forget the value."""
        ...


class ListState(Protocol[T]):
    """A list of the current key."""

    def get(self) -> list[T]:
        """Return the list; changing it in place changes the state."""
        ...

    def add(self, value: T) -> None:
        """Append one value."""
        ...

    def add_all(self, values: Iterable[T]) -> None:
        """Append several values."""
        ...

    def update(self, values: Iterable[T]) -> None:
        """Replace the list."""
        ...

    def clear(self) -> None:
        """Forget the list."""
        ...


class MapState(Protocol[K, V]):
    """A mapping of the current key, stored entry by entry."""

    def get(self, key: K, default: V | None = None) -> V | None:
        """Return the value of an entry, or ``default``."""
        ...

    def put(self, key: K, value: V) -> None:
        """Set an entry."""
        ...

    def remove(self, key: K) -> None:
        """Forget an entry, which may be absent."""
        ...

    def __contains__(self, key: object) -> bool: ...

    def items(self) -> Iterator[tuple[K, V]]:
        """Yield the entries, in no order."""
        ...

    def keys(self) -> Iterator[K]:
        """Yield the keys, in no order."""
        ...

    def values(self) -> Iterator[V]:
        """Yield the values, in no order."""
        ...

    def is_empty(self) -> bool:
        """Return whether there is no entry."""
        ...

    def clear(self) -> None:
        """Forget all entries."""
        ...


class ReducingState(Protocol[T]):
    """A value of the current key into which others are folded."""

    def get(self) -> T | None:
        """Return the folded value, or None."""
        ...

    def add(self, value: T) -> None:
        """Fold one value in."""
        ...

    def clear(self) -> None:
        """Forget the value."""
        ...


class Aggregate(Protocol):
    """How values become an accumulator, and what it says.

    ``add`` may change the accumulator in place, and returns it.
    """

    def create(self) -> Any:
        """Return the accumulator of no value."""
        ...

    def add(self, accumulator: Any, value: Any) -> Any:
        """Return the accumulator with one more value."""
        ...

    def result(self, accumulator: Any) -> Any:
        """Return what the accumulator says."""
        ...


class AggregatingState(Protocol):
    """An accumulator of the current key, into which values are folded."""

    def get(self) -> Any:
        """Return the result, or None where nothing has been added."""
        ...

    def add(self, value: Any) -> None:
        """Fold one value in."""
        ...

    def clear(self) -> None:
        """Forget the accumulator."""
        ...


class Timers(Protocol):
    """Wake-ups of the keys of this operator, part of its keyed state.

    A timer is a time in ms since the epoch, a key, and a ``name`` (any key type: a window, say)
    that tells several timers of one key and time apart. Registering one again changes nothing.
    """

    def register(self, timestamp_ms: int, key: Any, name: Any = None) -> None:
        """Have the timer come out of ``due`` once its time has come."""
        ...

    def delete(self, timestamp_ms: int, key: Any, name: Any = None) -> None:
        """Forget a timer, which may be absent."""
        ...

    def due(self, until_ms: int) -> Iterator[tuple[int, Any, Any]]:
        """Yield ``(timestamp_ms, key, name)`` of every timer at or before ``until_ms``, in order.

        Each is forgotten as it is yielded. One registered meanwhile, if it is due, is yielded too.
        """
        ...

    def next_ms(self) -> int | None:
        """Return the earliest time at which a timer is due."""
        ...


class SideOutput(Protocol):
    """A second output of an operator, by tag; what nobody consumes is dropped."""

    def add(self, value: Any, timestamp_ms: int | None = None) -> None:
        """Emit one record."""
        ...

    def add_all(self, values: Iterable[Any], timestamps: Iterable[int] | None = None) -> None:
        """Emit several records."""
        ...


class Counter(Protocol):
    """Counts what an operator wants to be known, per subtask and attempt; no part of a snapshot."""

    value: int

    def increase(self, by: int = 1) -> None:
        """Count ``by`` more."""
        ...


class OperatorState(Protocol):
    """Non-keyed state of one subtask: a list of values, which a rescale deals out anew.

    ``list``: the values of all subtasks are dealt out in turn. ``union``: every subtask gets the
    values of all. ``broadcast``: every subtask gets the values of one, which are the same in all.
    """

    def get(self) -> list[Any]:
        """Return the values; after a restore those of the checkpoint."""
        ...

    def update(self, values: Iterable[Any]) -> None:
        """Replace the values; to be called from ``before_barrier`` at the latest."""
        ...


class OperatorContext(Protocol):
    """What an operator knows of where it runs; handed to ``open``."""

    job: str
    operator: OperatorId
    subtask: int
    parallelism: int
    attempt: AttemptId
    key: Any
    """The key whose state the keyed states below answer for; set it before using them."""

    watermark_ms: int
    """The event time that this operator has been told last; ``MIN_WATERMARK`` before the first."""

    def processing_time_ms(self) -> int:
        """Return the wall clock, in ms since the epoch."""
        ...

    def event_timers(self, name: str) -> Timers:
        """Return the timers in event time that this operator keeps under ``name``."""
        ...

    def processing_timers(self, name: str) -> Timers:
        """Return the timers in processing time that this operator keeps under ``name``."""
        ...

    def side_output(self, tag: str) -> SideOutput:
        """Return the side output ``tag`` of this operator."""
        ...

    def counter(self, name: str) -> Counter:
        """Return the counter ``name`` of this operator, which the status of the job shows."""
        ...

    def operator_state(
        self, name: str, kind: Literal["list", "union", "broadcast"] = "list"
    ) -> OperatorState:
        """Return the non-keyed state ``name`` of this operator."""
        ...

    def table(self, name: str) -> KeyedTable:
        """Return the raw table ``name`` of this operator."""
        ...

    def value_state(
        self,
        name: str,
        default: Any = None,
        *,
        ttl: TTL | None = None,
        version: int = 1,
        migrate: Callable[[Any, int], Any] | None = None,
    ) -> ValueState[Any]:
        """Return a value per key; a mutable ``default`` must be a function that makes one.

        Every state takes a time to live for its values, the version of their schema, and the
        function ``migrate(old_value, old_version)`` for restored values of an older version.
        """
        ...

    def list_state(
        self,
        name: str,
        *,
        ttl: TTL | None = None,
        version: int = 1,
        migrate: Callable[[Any, int], Any] | None = None,
    ) -> ListState[Any]:
        """Return a list per key, which expires as a whole."""
        ...

    def map_state(
        self,
        name: str,
        *,
        ttl: TTL | None = None,
        version: int = 1,
        migrate: Callable[[Any, int], Any] | None = None,
    ) -> MapState[Any, Any]:
        """Return a mapping per key, each entry of which expires on its own."""
        ...

    def reducing_state(
        self,
        name: str,
        reduce: Callable[[Any, Any], Any],
        *,
        ttl: TTL | None = None,
        version: int = 1,
        migrate: Callable[[Any, int], Any] | None = None,
    ) -> ReducingState[Any]:
        """Return a value per key into which others are folded."""
        ...

    def aggregating_state(
        self,
        name: str,
        aggregate: Aggregate,
        *,
        ttl: TTL | None = None,
        version: int = 1,
        migrate: Callable[[Any, int], Any] | None = None,
    ) -> AggregatingState:
        """Return an accumulator per key, into which values are folded."""
        ...
