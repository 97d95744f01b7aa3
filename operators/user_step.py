"""What all steps with the user's own code have in common: the copy that runs, outputs, timers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from typing import Any, ClassVar

from flowsnap.core.context import Timers
from flowsnap.core.element import Batch
from flowsnap.core.operator import Operator, OperatorContext
from flowsnap.errors import ConfigError
from flowsnap.operators.process_context import ProcessContext, ProcessTimers, TimerKind

PAGE_RECORDS = 4_096
_ONE_VALUE = frozenset({str, bytes, dict})

Each = Callable[[Any, Any], Iterable[Any] | None]
"""What the user's code does with one record and the context."""


class UserCode:
    """The life of the user's own code; see the subclasses.

    An instance is a template: every subtask works on a shallow copy, made before ``open``. So make
    in ``open`` whatever changes, and ask there for the states.
    """

    def open(self, context: ProcessContext) -> None:
        """Ask ``context`` for the states; called once, before all else."""

    def close(self) -> None:
        """Release what ``open`` took; called once, also after a failure."""


class TimedCode(UserCode):
    """The user's own code where there are timers, if there is a key."""

    def on_timer(self, timestamp: int, context: Any) -> Iterable[Any] | None:
        """Take one timer whose time has come, and return outputs, or yield them.

        ``context`` is what ``process`` is handed: ``context.key`` is the key that the timer was set
        for, ``context.kind`` is "event" or "processing", ``context.timer_name`` its name. Outputs
        of an event timer have its time.
        """
        raise NotImplementedError(f"{type(self).__name__}.on_timer")


class UserStep(Operator):
    """Runs a copy of the user's code, an instance of ``base`` or a class of that kind.

    Event timers come in the order of their times, when event time has passed them; at the end of
    input all that are left do. Processing timers come when the wall clock has reached them; those
    that are left at the end of input never do.
    """

    base: ClassVar[type[UserCode]]
    uses_processing_time = True

    def __init__(self, template: Any, *, is_keyed: bool = True) -> None:
        if isinstance(template, type) and issubclass(template, self.base):
            template = template()
        if not isinstance(template, self.base):
            name = self.base.__name__
            raise ConfigError(f"process: {template!r} is not a {name}").hint(
                f"subclass flowsnap.{name}, and pass the class or an instance"
            )
        self.template: Any = template
        self.is_keyed = is_keyed
        self._user: Any = None

    def open(self, context: OperatorContext) -> None:
        user = copy.copy(self.template)
        has_timers = self.is_keyed and _has_timers(user)
        self._timers = ProcessTimers(context) if has_timers else None
        self._context = self._make_context(context)
        self._inner = context
        self._user = user
        user.open(self._context)

    def _make_context(self, context: OperatorContext) -> ProcessContext:
        return ProcessContext(context, self._timers)

    def advance(self, watermark_ms: int) -> Iterable[Batch]:
        if self._timers is None:
            return ()
        return self._fire(self._timers.event, watermark_ms, "event")

    def next_processing_time_ms(self) -> int | None:
        return None if self._timers is None else self._timers.processing.next_ms()

    def on_processing_time(self, now_ms: int) -> Iterable[Batch]:
        if self._timers is None:
            return ()
        return self._fire(self._timers.processing, now_ms, "processing")

    def close(self) -> None:
        if self._user is not None:
            self._user.close()

    def _each(self, each: Each, batch: Batch) -> Batch:
        """Return what the user's code makes of a batch, record by record."""
        context, inner = self._context, self._inner
        context.kind = context.timer_name = None
        outputs: list[Any] = []
        lengths: list[int] = []
        times: Iterable[int | None] = repeat(None)
        if batch.timestamps is not None:
            times = batch.timestamps
        keys = repeat(None) if batch.keys is None else batch.keys
        self.cursor = iter(batch.values)
        # The cursor comes first: its end is the end, and nothing is taken of the others by then.
        for value, key, context.timestamp in zip(self.cursor, keys, times, strict=False):
            inner.key = context.key = key
            result = each(value, context)
            if result is not None:
                if result.__class__ in _ONE_VALUE:
                    raise _not_outputs(result)
                outputs += result
            lengths.append(len(outputs))
        return Batch(outputs, _times(batch.timestamps, lengths))

    def _fire(self, timers: Timers, until_ms: int, kind: TimerKind) -> Iterator[Batch]:
        """Yield what the user's code makes of the timers that are due, in pages."""
        context, inner = self._context, self._inner
        on_timer = self._user.on_timer
        outputs: list[Any] = []
        times: list[int] = []
        for timestamp_ms, key, name in timers.due(until_ms):
            inner.key = context.key = key
            context.timestamp = timestamp_ms
            context.timer_name, context.kind = name, kind
            result = on_timer(timestamp_ms, context)
            if result is not None:
                if result.__class__ in _ONE_VALUE:
                    raise _not_outputs(result)
                outputs += result
                times += repeat(timestamp_ms, len(outputs) - len(times))
            if len(outputs) >= PAGE_RECORDS:
                yield Batch(outputs, times if kind == "event" else None)
                outputs, times = [], []
        if outputs:
            yield Batch(outputs, times if kind == "event" else None)


def _has_timers(user: object) -> bool:
    return getattr(type(user), "on_timer", TimedCode.on_timer) is not TimedCode.on_timer


def _times(timestamps: list[int] | None, lengths: list[int]) -> list[int] | None:
    """Return a time for each output; ``lengths`` says how many there were after each record."""
    if timestamps is None:
        return None
    counts = map(int.__sub__, lengths, chain((0,), lengths))
    return list(chain.from_iterable(map(repeat, timestamps, counts)))


def _not_outputs(result: object) -> TypeError:
    error = TypeError(f"process returned a {type(result).__name__}, not an iterable of outputs")
    error.add_note("yield every output, or return them in a list")
    return error
