"""Records that do not parse: they fail the job, or leave beside the others as dead letters.

A source that is told ``on_error="dead-letter"`` gives a DeadLetter in the place of a record that it
cannot make, in order with the others, so that its position moves past it with them. Behind such a
source stands a step that tells the two apart, in the same task. So a dead letter is as much a part
of a checkpoint as a record is, and comes exactly once. For those of sinks see ``fitting.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import msgspec

from flowsnap.core.element import Batch
from flowsnap.core.event_time import EVENT_TIME_MAX, EventTime, Strategy, promised
from flowsnap.core.operator import Operator, OperatorContext, select
from flowsnap.errors import ConfigError

DEAD_LETTER = "dead-letter"
"""The side output that dead letters leave by, and what is written to ask for it."""

OnError = Literal["fail", "dead-letter"]


class DeadLetter(msgspec.Struct, frozen=True):
    r"""What was to become a record and did not: what it is, why, and where it was found.

    ``raw`` is its text; bytes that are not UTF-8 are written as ``\xff``. It is left out of the
    representation, which may come into a log: it can hold anything.

    Of a record that its sink could not take, ``raw`` is the record as JSON, ``source`` the sink and
    its subtask, and ``offset`` how many records had come there before.
    """

    raw: str
    reason: str
    source: str
    offset: int

    def __repr__(self) -> str:
        return f"<DeadLetter of {self.source} at {self.offset}: {self.reason}>"


def dead_letter(raw: bytes, reason: object, source: str, offset: int) -> DeadLetter:
    """Return the dead letter of some bytes."""
    return DeadLetter(raw.decode("utf-8", "backslashreplace"), str(reason), source, offset)


def check_on_error(on_error: object) -> OnError:
    """Return what is to be done with what does not parse.

    Raises:
        ConfigError: it is not known.
    """
    known: tuple[OnError, ...] = get_args(OnError)
    for choice in known:
        if on_error == choice:
            return choice
    raise ConfigError(f"on_error: {on_error!r} is not known").hint('write "fail" or "dead-letter"')


class DeadLetters(Operator):
    """Lets records pass; dead letters leave beside."""

    COUNTER: ClassVar[str] = "dead letters"

    def open(self, context: OperatorContext) -> None:
        self._beside = context.side_output(DEAD_LETTER)
        self._count = context.counter(self.COUNTER)

    def process(self, batch: Batch) -> Batch:
        is_dead = [type(value) is DeadLetter for value in batch.values]
        if not any(is_dead):
            return batch
        dead = select(batch, is_dead)
        self._count.increase(len(dead))
        self._beside.add_all(dead.values, dead.timestamps)
        return select(batch, [not one for one in is_dead])


def timed_around(time: EventTime) -> EventTime:
    """Return how a source tells event time whose batches have dead letters among the records."""
    stamp = None if time.stamp is None else _StampRecords(time.stamp)
    return EventTime(
        _RecordsOnly(time.strategy), stamp, time.idle_ms, time.group, time.max_drift_ms
    )


class _StampRecords(Operator):
    """Gives records their event times, and a dead letter that of the record before it."""

    def __init__(self, stamp: Operator) -> None:
        self.stamp = stamp

    def __copy__(self) -> _StampRecords:
        return _StampRecords(copy.copy(self.stamp))

    def process(self, batch: Batch) -> Batch:
        self.cursor = None  # A record of a batch with dead letters is not told by its index.
        is_record = [type(value) is not DeadLetter for value in batch.values]
        stamped = self.stamp.process(select(batch, is_record)).timestamps
        times = iter(stamped or ())
        time_ms = stamped[0] if stamped else -EVENT_TIME_MAX
        found = []
        for one in is_record:
            time_ms = next(times) if one else time_ms
            found.append(time_ms)
        return Batch(batch.values, found, batch.keys)


class _RecordsOnly:
    """A strategy that is not shown any dead letter."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy

    def __copy__(self) -> _RecordsOnly:
        return _RecordsOnly(copy.copy(self._strategy))

    def on_records(self, values: list[Any], timestamps: list[int]) -> int | None:
        """Return what the strategy promises of the records; nothing where there is none."""
        kept: Sequence[tuple[Any, int]] = [
            (value, at)
            for value, at in zip(values, timestamps, strict=True)
            if type(value) is not DeadLetter
        ]
        if not kept:
            return None
        return promised(self._strategy, [one for one, _ in kept], [at for _, at in kept])
