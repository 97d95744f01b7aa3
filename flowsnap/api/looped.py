"""Loops: streams that come round again."""

from __future__ import annotations

from typing import Any, TypeVar

from flowsnap.api.drawing import Drawing, Input, Request
from flowsnap.api.keyed import KeyedStream
from flowsnap.api.stream import Steps, Stream
from flowsnap.core.graph import OperatorKind, Partitioning
from flowsnap.errors import ConfigError
from flowsnap.operators.loop import Loop as LoopOperator

T = TypeVar("T")
K = TypeVar("K")


class Loop(Stream[T]):
    """What is fed back, as a stream: read from it first, and feed it afterwards.

    ::

        loop = pipeline.loop("steps")
        steps = numbers.union(loop).map(collatz)
        loop.feed(steps.filter(lambda step: step.value != 1))

    What is fed back comes in no order with what else is read, and tells no event time of its own. A
    bounded job ends when its input has ended and nothing goes round any more. What an operator
    inside puts out only at its end, as a window that is still open does, does not go round again.
    """

    def __init__(self, drawing: Drawing, name: str, parallelism: int | None) -> None:
        request = Request(LoopOperator(), (), name, parallelism, OperatorKind.LOOP)
        self._step = drawing.add(request)
        super().__init__(drawing, (Input(self._step),))

    def feed(self, *streams: Stream[T]) -> None:
        """Feed ``streams`` back: their records come out of this loop again.

        Raises:
            ConfigError: it is not a stream of this pipeline.
        """
        for stream in streams:
            _feed(self, self._step, stream, "stream")


class KeyedLoop(KeyedStream[K, T]):
    """What is fed back to the owners of its keys, as a keyed stream; see ``Loop``."""

    def __init__(self, drawing: Drawing, name: str, parallelism: int | None) -> None:
        request = Request(LoopOperator(), (), name, parallelism, OperatorKind.LOOP)
        self._step = drawing.add(request)
        super().__init__(drawing, (Input(self._step, Partitioning.HASH),))

    def feed(self, *streams: KeyedStream[K, T]) -> None:
        """Feed keyed ``streams`` back: their records come out of this loop again, with their keys.

        Raises:
            ConfigError: it is not a keyed stream of this pipeline.
        """
        for stream in streams:
            _feed(self, self._step, stream, "keyed stream")


def _feed(loop: Steps[Any], step: Any, stream: object, what: str) -> None:
    is_keyed = isinstance(stream, KeyedStream)
    if not isinstance(stream, Steps) or is_keyed is not (what == "keyed stream"):
        raise ConfigError(f"loop {step.name!r}: {stream!r} is not a {what}").hint(
            "a plain loop takes plain streams, pipeline.keyed_loop() keyed ones"
        )
    if stream._drawing is not loop._drawing:
        raise ConfigError(f"loop {step.name!r}: what it is fed belongs to another pipeline")
    loop._drawing.feed(step, stream._inputs)
