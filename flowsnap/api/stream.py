"""Streams: what the steps of a pipeline are chained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from flowsnap.api.drawing import Drawing, Input, Request
from flowsnap.api.joined import Lookups
from flowsnap.api.steps import FunctionSteps, PlainSteps
from flowsnap.api.timed import TimedSteps
from flowsnap.api.windowed import Windows
from flowsnap.core.graph import OperatorKind, Partitioning
from flowsnap.core.operator import Operator, Sink
from flowsnap.errors import ConfigError
from flowsnap.operators.filter import Filter
from flowsnap.operators.flat_map import FlatMap
from flowsnap.operators.key_by import KeyBy
from flowsnap.operators.map import Map
from flowsnap.operators.selector import Selector

if TYPE_CHECKING:
    from flowsnap.api.keyed import KeyedStream
    from flowsnap.connectors.dead_letters import DeadLetter

T = TypeVar("T")
U = TypeVar("U")
K = TypeVar("K")


class Steps(FunctionSteps[T], Lookups[T], Generic[T]):
    """The steps that plain and keyed streams have in common; each returns a new, plain stream.

    ``name`` is the identity of a step, and of its state: it is found again by its name after a
    restart. ``parallelism`` is the number of its subtasks; the default is one per worker.
    """

    def __init__(self, drawing: Drawing, inputs: tuple[Input, ...]) -> None:
        self._drawing = drawing
        self._inputs = inputs

    def map(
        self, fn: Callable[[T], U], *, name: str | None = None, parallelism: int | None = None
    ) -> Stream[U]:
        """Replace every record by ``fn(record)``."""
        return self._then(Map(check_function(fn, "map")), name, parallelism)

    def filter(
        self, fn: Callable[[T], object], *, name: str | None = None, parallelism: int | None = None
    ) -> Stream[T]:
        """Keep the records for which ``fn(record)`` is true."""
        return self._then(Filter(check_function(fn, "filter")), name, parallelism)

    def flat_map(
        self,
        fn: Callable[[T], Iterable[U]],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[U]:
        """Replace every record by the records of the iterable ``fn(record)``."""
        return self._then(FlatMap(check_function(fn, "flat_map")), name, parallelism)

    def _then(self, code: Operator, name: str | None, parallelism: int | None) -> Stream[Any]:
        request = Request(code, self._inputs, name=name, parallelism=parallelism)
        return Stream(self._drawing, (Input(self._drawing.add(request)),))


class Stream(Steps[T], PlainSteps[T], TimedSteps[T], Windows[T]):
    """Records of type ``T``; made by ``Pipeline.source`` and by the steps of other streams."""

    @overload
    def key_by(
        self,
        selector: Callable[[T], K],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> KeyedStream[K, T]: ...
    @overload
    def key_by(
        self,
        selector: str | int | tuple[Any, ...],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> KeyedStream[Any, T]: ...
    @overload
    def key_by(
        self,
        selector: None = None,
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> KeyedStream[T, T]: ...
    def key_by(
        self,
        selector: Selector = None,
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> KeyedStream[Any, T]:
        """Give every record a key: records of equal keys meet in one subtask of the next step.

        ``selector`` is a function, the name or index of a field, a tuple of those, or None: the
        record is its own key.
        """
        from flowsnap.api.keyed import KeyedStream  # noqa: PLC0415 - each makes the other

        request = Request(
            KeyBy(selector), self._inputs, name=name, parallelism=parallelism, follows_input=True
        )
        step = self._drawing.add(request)
        return KeyedStream(self._drawing, (Input(step, Partitioning.HASH),))

    def union(self, *others: Stream[T]) -> Stream[T]:
        """Return the records of this stream and of ``others``, in no order between them."""
        inputs = self._inputs
        for other in others:
            if not isinstance(other, Stream):
                raise ConfigError(f"union: {other!r} is not a stream")
            if other._drawing is not self._drawing:
                raise ConfigError("union: the streams belong to different pipelines")
            inputs += other._inputs
        outputs = [(above.step.name, above.tag) for above in inputs]
        twice = sorted({name for name, tag in outputs if outputs.count((name, tag)) > 1})
        if twice:
            raise ConfigError(f"union: the output of {twice[0]!r} would come in twice").hint(
                "to have every record twice, use flat_map"
            )
        return Stream(self._drawing, inputs)

    def rebalance(self) -> Stream[T]:
        """Have the next step's subtasks take the batches in turn, whoever made them."""
        inputs = tuple(
            above._replace(partitioning=Partitioning.REBALANCE) for above in self._inputs
        )
        return Stream(self._drawing, inputs)

    def sink(
        self,
        sink: Sink,
        *,
        name: str | None = None,
        parallelism: int | None = None,
        dead_letters: Sink | Callable[[Stream[DeadLetter]], object] | None = None,
    ) -> None:
        """End the stream: its records go to ``sink``. A stream may have several sinks.

        A record that the sink cannot take fails the job, or, with ``dead_letters``, becomes a
        DeadLetter: for another sink, or for a function that is given the stream of them.
        """
        request = Request(
            check_sink(sink, "sink"), self._inputs, name, parallelism, OperatorKind.SINK
        )
        if dead_letters is None:
            self._drawing.add(request)
            return
        if not callable(dead_letters):
            check_sink(dead_letters, "dead_letters")
        letters = self._drawing.add_fitted(request)
        if callable(dead_letters):
            dead_letters(Stream(self._drawing, (letters,)))
        else:
            self._drawing.add_letters_sink(dead_letters, letters)


def check_sink(sink: Any, what: str) -> Sink:
    """Return ``sink``, which was given for ``what``.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(sink, Sink):
        return sink
    raise ConfigError(f"{what}: {sink!r} is not a sink").hint(
        "to look at the records while you write a pipeline, use Collect()"
    )


def check_function(fn: T, what: str) -> T:
    """Return ``fn``, which was given for ``what``.

    Raises:
        ConfigError: it cannot be called.
    """
    if not callable(fn):
        raise ConfigError(f"{what}: {fn!r} is not a function")
    return fn
