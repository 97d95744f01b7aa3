"""Event time, and steps with more than one input or output: what streams offer of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from flowsnap.api.drawing import Drawing, Input, Request
from flowsnap.config import Duration, duration_ms
from flowsnap.core.event_time import Bounded, EventTime, Strategy
from flowsnap.core.graph import Partitioning
from flowsnap.core.operator import LazyOperator, Operator, Sink, Source
from flowsnap.errors import ConfigError
from flowsnap.operators.broadcast import BroadcastProcess, ProcessWithBroadcast
from flowsnap.operators.co_process import CoProcess, ProcessBoth
from flowsnap.operators.key_by import KeyBy
from flowsnap.operators.process import ProcessEach, ProcessFunction
from flowsnap.operators.process_context import ProcessContext
from flowsnap.operators.selector import Selector
from flowsnap.operators.side_output import REST, OutputTag, SplitBy, tag_name
from flowsnap.operators.watermarks import AssignTimestamps, event_time_of, strategy_of

if TYPE_CHECKING:
    from flowsnap.api.keyed import KeyedStream
    from flowsnap.api.stream import Stream

T = TypeVar("T")
U = TypeVar("U")
B = TypeVar("B")
V = TypeVar("V")
DEFAULT_DELAY = "5s"


class TimedSteps(Generic[T]):
    """What a plain stream offers of event time, side outputs and second inputs."""

    _drawing: Drawing
    _inputs: tuple[Input, ...]

    def assign_timestamps(
        self,
        timestamp: Selector,
        out_of_orderness: Duration | None = None,
        *,
        watermarks: EventTime | Strategy | None = None,
        idle: Duration | None = "30s",
        max_future: Duration | None = None,
        name: str | None = None,
    ) -> Stream[T]:
        """Give every record an event time, and let event time begin here.

        ``timestamp`` selects it: an int of ms since the epoch, or an aware datetime. A record may
        come up to ``out_of_orderness`` (5 s) after later ones and is not late; instead,
        ``watermarks`` may be a strategy: ``monotonous()``, ``punctuated(fn)``, or your own. A
        subtask without a record for ``idle`` holds event time back no longer; None: it always
        does. With ``max_future``, no record pushes event time further ahead of the wall clock.
        """
        code = AssignTimestamps(
            timestamp,
            _strategy(out_of_orderness, watermarks),
            idle_ms=None if idle is None else duration_ms(idle, "idle", at_least_ms=1),
            max_future_ms=None if max_future is None else duration_ms(max_future, "max_future"),
        )
        return self._beside(code, name)

    def process(
        self,
        process: ProcessFunction[T, U]
        | type[ProcessFunction[T, U]]
        | Callable[[T, ProcessContext], Iterable[U] | None],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[U]:
        """Run the user's own step, which may emit to side outputs: ``context.output(tag, value)``.

        A function ``fn(record, context)`` will do. For state and timers, write ``key_by`` before.
        """
        request = Request(ProcessEach(process), self._inputs, name, parallelism)
        return _stream(self._drawing, (Input(self._drawing.add(request)),))

    @overload
    def side_output(self, tag: OutputTag[U]) -> Stream[U]: ...
    @overload
    def side_output(self, tag: str) -> Stream[Any]: ...
    def side_output(self, tag: OutputTag[Any] | str) -> Stream[Any]:
        """Return what the step that made this stream has emitted to a side output."""
        name = tag_name(tag)
        if len(self._inputs) != 1 or self._inputs[0].tag:
            raise ConfigError(f"side_output: {name!r} is not an output of one step").hint(
                "ask the stream that the step returned"
            )
        step = self._inputs[0].step
        if isinstance(step.request.code, Source | Sink | LazyOperator | KeyBy):
            raise ConfigError(f"side_output: {step.name!r} ({step.type}) has no side outputs").hint(
                "a step with your own code has: process(...)"
            )
        return _stream(self._drawing, (Input(step, tag=name),))

    def split(
        self,
        predicate: Callable[[T], object],
        *,
        name: str | None = None,
    ) -> tuple[Stream[T], Stream[T]]:
        """Return the records for which ``predicate(record)`` is true, and the others."""
        if not callable(predicate):
            raise ConfigError(f"split: {predicate!r} is not a function")
        yes: Stream[T] = self._beside(SplitBy(predicate), name)
        return yes, yes.side_output(REST)

    def broadcast(self) -> BroadcastStream[T]:
        """Return this stream for ``connect``, where every subtask gets every record of it."""
        return BroadcastStream(self._drawing, self._inputs)

    @overload
    def connect(self, other: BroadcastStream[B]) -> ConnectedBroadcast[T, B]: ...
    @overload
    def connect(self, other: Stream[U]) -> ConnectedStreams[T, U]: ...
    def connect(
        self, other: BroadcastStream[B] | Stream[U]
    ) -> ConnectedBroadcast[T, B] | ConnectedStreams[T, U]:
        """Have one step process this stream and ``other``: ``connect(other).process(...)``."""
        return _connected(self._drawing, self._inputs, other, is_keyed=False)

    def _beside(self, code: Operator, name: str | None) -> Stream[Any]:
        """Return what a step puts out that is as wide as this stream, so that order is kept."""
        request = Request(code, self._inputs, name, follows_input=True)
        return _stream(self._drawing, (Input(self._drawing.add(request)),))


class TimedKeyedSteps(Generic[T]):
    """What a keyed stream offers of second inputs."""

    _drawing: Drawing
    _inputs: tuple[Input, ...]

    @overload
    def connect(self, other: BroadcastStream[B]) -> ConnectedBroadcast[T, B]: ...
    @overload
    def connect(self, other: KeyedStream[Any, U]) -> ConnectedStreams[T, U]: ...
    def connect(
        self, other: BroadcastStream[B] | KeyedStream[Any, U]
    ) -> ConnectedBroadcast[T, B] | ConnectedStreams[T, U]:
        """Have one step process this stream and ``other``: ``connect(other).process(...)``.

        Records of equal keys meet in one subtask, whichever stream they come from.
        """
        return _connected(self._drawing, self._inputs, other, is_keyed=True)


class BroadcastStream(Generic[T]):
    """A stream of which every subtask of the next step gets every record."""

    def __init__(self, drawing: Drawing, inputs: tuple[Input, ...]) -> None:
        self._drawing = drawing
        self._inputs = tuple(one._replace(partitioning=Partitioning.BROADCAST) for one in inputs)


class _Connected:
    def __init__(self, drawing: Drawing, inputs: tuple[Input, ...], is_keyed: bool) -> None:
        self._drawing = drawing
        self._inputs = inputs
        self._is_keyed = is_keyed

    def _process(self, code: Operator, name: str | None, parallelism: int | None) -> Stream[Any]:
        request = Request(code, self._inputs, name, parallelism, is_keyed=self._is_keyed)
        return _stream(self._drawing, (Input(self._drawing.add(request)),))


class ConnectedStreams(_Connected, Generic[T, U]):
    """Two streams on their way into one step, both keyed or both not."""

    def process(
        self,
        process: CoProcess[T, U, V] | type[CoProcess[T, U, V]],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[V]:
        """Run the user's own step on both."""
        return self._process(ProcessBoth(process, is_keyed=self._is_keyed), name, parallelism)


class ConnectedBroadcast(_Connected, Generic[T, B]):
    """A stream and a broadcast one on their way into one step."""

    def process(
        self,
        process: BroadcastProcess[T, B, V] | type[BroadcastProcess[T, B, V]],
        *,
        name: str | None = None,
        parallelism: int | None = None,
    ) -> Stream[V]:
        """Run the user's own step on both; the broadcast one makes the state that all share."""
        code = ProcessWithBroadcast(process, is_keyed=self._is_keyed)
        return self._process(code, name, parallelism)


def split(
    stream: Stream[T], predicate: Callable[[T], object], *, name: str | None = None
) -> tuple[Stream[T], Stream[T]]:
    """Return the records of ``stream`` for which ``predicate(record)`` is true, and the others."""
    return stream.split(predicate, name=name)


def timed_source(source: Source, watermark: EventTime | Strategy) -> Source:
    """Return a copy of ``source`` whose splits tell event time.

    Raises:
        ConfigError: ``watermark`` is no strategy.
    """
    timed = copy.copy(source)
    timed.event_time = event_time_of(watermark)
    if source.has_dead_letters:
        from flowsnap.connectors.dead_letters import timed_around  # noqa: PLC0415 - few have them

        timed.event_time = timed_around(timed.event_time)
    return timed


def _strategy(
    out_of_orderness: Duration | None, watermarks: EventTime | Strategy | None
) -> Strategy:
    if watermarks is None:
        delay = DEFAULT_DELAY if out_of_orderness is None else out_of_orderness
        return Bounded(duration_ms(delay, "out_of_orderness"))
    if out_of_orderness is not None:
        raise ConfigError("assign_timestamps: both out_of_orderness and watermarks are given").hint(
            "watermarks=bounded(out_of_orderness) is the same as out_of_orderness alone"
        )
    return strategy_of(watermarks)


def _connected(
    drawing: Drawing, inputs: tuple[Input, ...], other: Any, *, is_keyed: bool
) -> ConnectedBroadcast[Any, Any] | ConnectedStreams[Any, Any]:
    from flowsnap.api.keyed import KeyedStream  # noqa: PLC0415 - each makes the other
    from flowsnap.api.stream import Stream  # noqa: PLC0415

    if not isinstance(other, BroadcastStream | KeyedStream | Stream):
        raise ConfigError(f"connect: {other!r} is not a stream")
    if other._drawing is not drawing:
        raise ConfigError("connect: the streams belong to different pipelines")
    ports = inputs + tuple(one._replace(port=1) for one in other._inputs)
    if isinstance(other, BroadcastStream):
        return ConnectedBroadcast(drawing, ports, is_keyed)
    if isinstance(other, KeyedStream) is not is_keyed:
        raise ConfigError("connect: one stream has keys and the other has none").hint(
            "write key_by for both, or for neither"
        )
    return ConnectedStreams(drawing, ports, is_keyed)


def _stream(drawing: Drawing, inputs: tuple[Input, ...]) -> Stream[Any]:
    from flowsnap.api.stream import Stream  # noqa: PLC0415 - it is made of what is here

    return Stream(drawing, inputs)
