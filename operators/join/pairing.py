"""What the joins have in common: what comes out for records that belong together, and when."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any, Literal, get_args

import msgspec

from flowsnap.core.element import Batch
from flowsnap.core.operator import OperatorContext
from flowsnap.errors import ConfigError
from flowsnap.operators.window.lateness import LateRecords

How = Literal["inner", "left", "right", "full"]
"""Whose records come out without a partner: nobody's, those of one side, or those of both."""

PAGE_RECORDS = 8192
"""How many records a batch holds about, when much comes out at once."""

SIDES_LATE = ("late-left", "late-right")
"""The side outputs of what is too late, by port."""

_SIDES = ("left", "right")
_ONE_VALUE = frozenset({str, bytes, dict})


def late_records(context: OperatorContext) -> tuple[LateRecords, ...]:
    """Return what takes the late records of each input, by port."""
    return tuple(LateRecords(context, tag) for tag in SIDES_LATE)


class Pairing:
    """What comes out for records that belong together.

    ``fn`` makes the output; None: the tuple of them. ``is_flat``: it returns or yields any number
    of outputs, or None for none.
    """

    def __init__(self, fn: Callable[..., Any] | None = None, *, is_flat: bool = False) -> None:
        self.fn = fn
        self.is_flat = is_flat


class Rows:
    """The outputs of a join, until they leave as a batch."""

    __slots__ = ("_fn", "_is_flat", "times", "values")

    def __init__(self, pairing: Pairing) -> None:
        self._fn = pairing.fn
        self._is_flat = pairing.is_flat
        self.values: list[Any] = []
        self.times: list[Any] = []

    def add(self, times: Iterable[int | None], *columns: Iterable[Any]) -> None:
        """Add what comes out for each row of ``columns``, with its event time from ``times``.

        Columns may be endless but for one; ``times`` is as long as that one.
        """
        if self._fn is None:
            self.values += zip(*columns)  # noqa: B905 - a column may be endless
            self.times += times
        elif self._is_flat:
            self._add_flat(times, map(self._fn, *columns))
        else:
            self.values += map(self._fn, *columns)
            self.times += times

    def is_full(self) -> bool:
        """Return whether it is time to send a batch."""
        return len(self.values) >= PAGE_RECORDS

    def take(self) -> Batch:
        """Return what has been added since the last call; no times, if any has none."""
        values, times = self.values, self.times
        self.values, self.times = [], []
        return Batch(values, None if None in times else times)

    def _add_flat(self, times: Iterable[int | None], results: Iterable[Any]) -> None:
        values = self.values
        for time, result in zip(times, results, strict=False):
            if result is None:
                continue
            if result.__class__ in _ONE_VALUE:
                raise _not_outputs(result)
            before = len(values)
            values += result
            self.times += repeat(time, len(values) - before)


class Timeline(msgspec.Struct):
    """Records of one key by event time; of one time, in the order in which they came."""

    times: list[int] = []
    values: list[Any] = []

    def insert(self, time: int, value: Any) -> None:
        """Put a record behind all that are not later."""
        times = self.times
        if not times or time >= times[-1]:
            times.append(time)
            self.values.append(value)
        else:
            index = bisect_right(times, time)
            times.insert(index, time)
            self.values.insert(index, value)

    def between(self, first: int, last: int) -> slice:
        """Return where the records of the times ``first`` to ``last``, both included, are."""
        return slice(bisect_left(self.times, first), bisect_right(self.times, last))

    def drop(self, count: int) -> None:
        """Forget the first ``count`` records."""
        del self.times[:count]
        del self.values[:count]


def check_how(how: object, allowed: tuple[str, ...] = get_args(How)) -> None:
    """Check how a join treats records without a partner.

    Raises:
        ConfigError: ``how`` is none of ``allowed``.
    """
    if how not in allowed:
        raise ConfigError(f"how: {how!r} is not {' or '.join(map(repr, allowed))}")


def event_times(batch: Batch, port: int, what: str) -> list[int]:
    """Return the event times of a batch of input ``port``.

    Raises:
        ConfigError: it has none.
    """
    if batch.timestamps is None:
        raise ConfigError(
            f"{what}: the records of the {_SIDES[port]} input have no event time"
        ).hint("call assign_timestamps(...) on both streams, before key_by")
    return batch.timestamps


def _not_outputs(result: object) -> TypeError:
    kind = type(result).__name__
    error = TypeError(f"the function of a join returned a {kind}, not an iterable of outputs")
    error.add_note("yield every output or return them in a list; for one output, use apply")
    return error
