"""What a window keeps of its records, and what it computes of that when it fires.

``Incremental`` keeps accumulators alone. ``Buffered`` keeps the records: for functions that want to
see them all, and for evictors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from flowsnap.core.operator import MISSING, OperatorContext
from flowsnap.errors import ConfigError
from flowsnap.operators.window.aggregate import Aggregates
from flowsnap.operators.window.assigner import Window
from flowsnap.operators.window.evictor import Evictor, Timed
from flowsnap.operators.window.result import WindowResult

V = TypeVar("V")
R = TypeVar("R")

_ONE_VALUE = frozenset({str, bytes, dict})


class WindowProcess(Generic[V, R]):
    """What is done with all records of a window, for records of type ``V`` and outputs ``R``.

    An instance is a template: every subtask works on a shallow copy, made before ``open``.
    """

    def open(self, context: OperatorContext) -> None:
        """Make what changes; states of ``context`` are those of the key. Called once."""

    def process(self, key: Any, window: Window, records: list[V]) -> Iterable[R] | None:
        """Return the outputs for a window that fires, or yield them.

        ``records`` are in order of arrival; those of sessions that have merged follow each other.
        """
        raise NotImplementedError(f"{type(self).__name__}.process")

    def close(self) -> None:
        """Release what ``open`` took; called once, also after a failure."""


class CalledProcess(WindowProcess[V, R]):
    """A plain function in the place of a ``WindowProcess``."""

    def __init__(self, fn: Callable[[Any, Window, list[V]], Iterable[R] | None]) -> None:
        self.fn = fn

    def process(self, key: Any, window: Window, records: list[V]) -> Iterable[R] | None:
        return self.fn(key, window, records)


class AggregateProcess(WindowProcess[Any, Any]):
    """Aggregates over all records of the window: for evictors."""

    def __init__(self, aggregates: Aggregates) -> None:
        self.aggregates = aggregates

    def process(self, key: Any, window: Window, records: list[Any]) -> list[Any]:
        accumulator = self.aggregates.add_many(MISSING, records)
        return [WindowResult(key, *window, self.aggregates.result(accumulator))]


class Contents:
    """What a window keeps; everything here gets and returns the *contents* of one window."""

    is_ordered = True
    """Whether the order matters in which records were added."""

    def open(self, context: OperatorContext) -> Contents:
        """Return what a subtask works with."""
        return self

    def add(self, contents: Any, values: list[Any], times: Sequence[int | None]) -> Any:
        """Return contents with records in them; ``MISSING`` are empty ones."""
        raise NotImplementedError(f"{type(self).__name__}.add")

    def merge(self, one: Any, other: Any) -> Any:
        """Return the contents of two windows."""
        raise NotImplementedError(f"{type(self).__name__}.merge")

    def fire(self, key: Any, window: Window, contents: Any) -> tuple[Iterable[Any], Any]:
        """Return what comes out, and the contents that stay (the same object: unchanged)."""
        raise NotImplementedError(f"{type(self).__name__}.fire")

    def close(self) -> None:
        """Release what ``open`` took."""


class Incremental(Contents):
    """Keeps one accumulator for each aggregate."""

    def __init__(self, aggregates: Aggregates) -> None:
        self.aggregates = aggregates
        self.is_ordered = aggregates.is_ordered

    def add(self, contents: Any, values: list[Any], times: Sequence[int | None]) -> Any:
        return self.aggregates.add_many(contents, values)

    def merge(self, one: Any, other: Any) -> Any:
        return self.aggregates.merge(one, other)

    def fire(self, key: Any, window: Window, contents: Any) -> tuple[Iterable[Any], Any]:
        return [WindowResult(key, *window, self.aggregates.result(contents))], contents


class Buffered(Contents):
    """Keeps all records with their times, in order of arrival."""

    def __init__(self, process: WindowProcess[Any, Any], evictor: Evictor | None = None) -> None:
        self.template = process
        self.evictor = evictor

    def open(self, context: OperatorContext) -> Contents:
        opened = copy.copy(self)
        opened._context = context
        opened._process = copy.copy(self.template)
        opened._process.open(context)
        return opened

    _context: OperatorContext
    _process: WindowProcess[Any, Any]

    def add(self, contents: Any, values: list[Any], times: Sequence[int | None]) -> Any:
        records = zip(times, values, strict=True)
        if contents is MISSING:
            return list(records)
        contents.extend(records)
        return contents

    def merge(self, one: Any, other: Any) -> Any:
        return [*one, *other]

    def fire(self, key: Any, window: Window, contents: Any) -> tuple[Iterable[Any], Any]:
        records: list[Timed] = contents
        evictor = self.evictor
        if evictor is not None and not evictor.is_after:
            records = evictor.keep(records, window)
        if not records:
            return (), records
        self._context.key = key
        outputs = self._process.process(key, window, [value for _, value in records])
        if outputs.__class__ in _ONE_VALUE:
            raise _not_outputs(outputs)
        made = () if outputs is None else list(outputs)
        if evictor is not None and evictor.is_after:
            records = evictor.keep(records, window)
        return made, records

    def close(self) -> None:
        self._process.close()


def window_process(process: object) -> WindowProcess[Any, Any]:
    """Return what is to be run for each window: a ``WindowProcess`` or a function.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(process, type) and issubclass(process, WindowProcess):
        process = process()
    if isinstance(process, WindowProcess):
        return process
    if not callable(process) or isinstance(process, type):
        raise ConfigError(f"process: {process!r} is not a WindowProcess, nor a function").hint(
            "pass a subclass of WindowProcess, or a function of key, window and records"
        )
    return CalledProcess(process)


def _not_outputs(outputs: object) -> TypeError:
    error = TypeError(f"process returned a {type(outputs).__name__}, not an iterable of outputs")
    error.add_note("yield every output, or return them in a list")
    return error
