"""Keyed streams: records with a key, and the steps that keep state for each key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from flowsnap.api.drawing import NAME_LENGTH_MAX, Input, Request, check_name
from flowsnap.api.joined import Joins
from flowsnap.api.patterned import Patterns
from flowsnap.api.steps import KeyedSteps
from flowsnap.api.stream import Steps, Stream, check_function
from flowsnap.api.timed import TimedKeyedSteps
from flowsnap.api.windowed import KeyedWindows
from flowsnap.core.graph import Partitioning
from flowsnap.core.operator import Operator
from flowsnap.errors import ConfigError
from flowsnap.operators.aggregate import Count, Fold, Max, Min, Sum
from flowsnap.operators.combine import Combine
from flowsnap.operators.process import KeyedProcess, Process
from flowsnap.operators.reduce import Reduce
from flowsnap.operators.rolling import Emit, Rolling
from flowsnap.operators.selector import Selector

K = TypeVar("K")
V = TypeVar("V")
U = TypeVar("U")
Field = str | int | tuple[Any, ...]

_COMBINE = ".combine"


class KeyedStream(
    Steps[V],
    KeyedSteps[K, V],
    TimedKeyedSteps[V],
    Joins[K, V],
    KeyedWindows[K, V],
    Patterns[K, V],
    Generic[K, V],
):
    """Records of type ``V`` with a key of type ``K``; made by ``Stream.key_by``.

    ``emit`` says when an aggregate puts out the value of a key: ``"each"``: for each record;
    ``"batch"``: once for all records of the key in a batch, which costs less and skips values in
    between; ``"final"``: once, when the input has ended. With the latter two, records
    are combined before they are sent to the owner of their key.
    """

    def union(self, *others: KeyedStream[K, V]) -> KeyedStream[K, V]:
        """Return the records of this stream and of ``others``, each with its key."""
        inputs = self._inputs
        for other in others:
            if not isinstance(other, KeyedStream) or other._drawing is not self._drawing:
                raise ConfigError(f"union: {other!r} is not a keyed stream of this pipeline")
            inputs += other._inputs
        return KeyedStream(self._drawing, inputs)

    def reduce(
        self,
        fn: Callable[[V, V], V],
        *,
        emit: Emit = "each",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[V]:
        """Emit ``fn(reduced, record)``, beginning with the first record of the key.

        ``fn`` changes neither argument, and is associative unless ``emit`` is ``"each"``.
        """
        return self._rolling(Reduce(check_function(fn, "reduce"), emit), name, parallelism)

    def fold(
        self,
        initial: U | Callable[[], U],
        fn: Callable[[U, V], U],
        *,
        emit: Emit = "each",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[tuple[K, U]]:
        """Emit ``(key, fn(value, record))``, beginning with ``initial``.

        ``initial`` is an immutable value, or a function that makes one: ``list``, for example;
        then ``fn`` may change the value in place, and returns it.
        """
        return self._rolling(Fold(initial, check_function(fn, "fold"), emit), name, parallelism)

    def count(
        self, *, emit: Emit = "each", name: str | None = None, parallelism: int | None = None
    ) -> Stream[tuple[K, int]]:
        """Emit ``(key, number of records)``."""
        return self._rolling(Count(emit), name, parallelism)

    @overload
    def sum(
        self,
        selector: Callable[[V], U],
        *,
        emit: Emit = "each",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[tuple[K, U]]: ...
    @overload
    def sum(
        self,
        selector: Field,
        *,
        emit: Emit = "each",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[tuple[K, Any]]: ...
    @overload
    def sum(
        self,
        selector: None = None,
        *,
        emit: Emit = "each",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[tuple[K, V]]: ...
    def sum(
        self,
        selector: Selector = None,
        *,
        emit: Emit = "each",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[Any]:
        """Emit ``(key, sum)`` of a field, of what a function returns, or of the record."""
        return self._rolling(Sum(emit, selector), name, parallelism)

    @overload
    def min(
        self,
        selector: Callable[[V], U],
        *,
        emit: Emit = "each",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[tuple[K, U]]: ...
    @overload
    def min(
        self,
        selector: Field,
        *,
        emit: Emit = "each",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[tuple[K, Any]]: ...
    @overload
    def min(
        self,
        selector: None = None,
        *,
        emit: Emit = "each",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[tuple[K, V]]: ...
    def min(
        self,
        selector: Selector = None,
        *,
        emit: Emit = "each",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[Any]:
        """Emit ``(key, least)`` of a field, of what a function returns, or of the record."""
        return self._rolling(Min(emit, selector), name, parallelism)

    @overload
    def max(
        self,
        selector: Callable[[V], U],
        *,
        emit: Emit = "each",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[tuple[K, U]]: ...
    @overload
    def max(
        self,
        selector: Field,
        *,
        emit: Emit = "each",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[tuple[K, Any]]: ...
    @overload
    def max(
        self,
        selector: None = None,
        *,
        emit: Emit = "each",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[tuple[K, V]]: ...
    def max(
        self,
        selector: Selector = None,
        *,
        emit: Emit = "each",
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[Any]:
        """Emit ``(key, greatest)`` of a field, of what a function returns, or of the record."""
        return self._rolling(Max(emit, selector), name, parallelism)

    def process(
        self,
        process: KeyedProcess[V, U] | type[KeyedProcess[V, U]],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[U]:
        """Run the user's own step, which has state for each key."""
        return self._keyed(Process(process), self._inputs, name, parallelism)

    def _rolling(
        self, aggregate: Rolling, name: str | None, parallelism: int | None
    ) -> Stream[Any]:
        if aggregate.emit == "each" or not aggregate.is_combinable:
            return self._keyed(aggregate, self._inputs, name, parallelism)
        own = self._drawing.name_of(aggregate, name)
        check_name(own, "name", length_max=NAME_LENGTH_MAX - len(_COMBINE))
        (keyed,) = self._inputs
        combine = self._drawing.add(
            Request(Combine(aggregate), (Input(keyed.step),), own + _COMBINE, follows_input=True)
        )
        inputs = (Input(combine, Partitioning.HASH),)
        return self._keyed(aggregate.merging(), inputs, own, parallelism)

    def _keyed(
        self,
        code: Operator,
        inputs: tuple[Input, ...],
        name: str | None,
        parallelism: int | None,
    ) -> Stream[Any]:
        request = Request(code, inputs, name, parallelism, is_keyed=True)
        return Stream(self._drawing, (Input(self._drawing.add(request)),))
