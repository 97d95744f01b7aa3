"""Which windows does a record belong to?

A window is ``[start, end)``: a record at ``end`` belongs to the next one. Tumbling and sliding
windows are aligned: where they begin depends on the epoch and an offset alone, so all keys share
them. A session belongs to one key, and grows with its records. Count windows are all of time, cut
by a trigger.

Source: Flink, "Window Assigners"; slices: Krishnamurthy et al., "On-the-fly Sharing for Streamed
Aggregation" (SIGMOD 2006), section 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import repeat
from math import gcd
from operator import add
from typing import Any, NamedTuple

from flowsnap.config import Duration, duration_ms
from flowsnap.core.watermark import MAX_WATERMARK, MIN_WATERMARK
from flowsnap.errors import ConfigError

_NEGATIVE = re.compile(r"\s*-\s*(.*)", re.DOTALL)
_LONGEST_MS = 2**62


class Window(NamedTuple):
    """A span of event time, ``[start, end)``, in ms since the epoch."""

    start: int
    end: int

    @property
    def last_ms(self) -> int:
        """The last instant that belongs to the window."""
        return self.end - 1


ALL_TIME = Window(MIN_WATERMARK, MAX_WATERMARK)
"""The window of ``Global`` and of count windows."""


class Assigner:
    """Says which windows records belong to; immutable."""

    is_aligned = False
    """Whether windows are the same for all keys, and never change."""

    is_merging = False
    """Whether windows of a key that touch become one."""

    is_processing_time = False
    """Whether a record belongs to the windows of the moment in which it is processed."""

    def windows(self, timestamp_ms: int, value: Any) -> Sequence[Window]:
        """Return the windows of one record, earliest first; none: it is dropped."""
        raise NotImplementedError(f"{type(self).__name__}.windows")


class Sliding(Assigner):
    """Windows of ``size``, of which one begins ``every`` so often; they overlap or leave gaps.

    ``offset`` moves their beginnings away from the epoch, in either direction ("-8h"), by less than
    ``every``. A record in a gap (where ``every`` is longer than ``size``) belongs to no window.

    Raises:
        ConfigError: a length is not positive, or the offset is not below ``every``.

    Example:
        >>> Sliding("10s", "5s").windows(-1, None)
        [Window(start=-10000, end=0), Window(start=-5000, end=5000)]
    """

    is_aligned = True

    def __init__(self, size: Duration, every: Duration, offset: Duration = "0s") -> None:
        self.size_ms = _length_ms(size, "window size")
        self.every_ms = _length_ms(every, "window every")
        self.offset_ms = _offset_ms(offset)
        if abs(self.offset_ms) >= self.every_ms:
            raise ConfigError(
                f"window offset: {offset!r} is not below {self.every_ms} ms, "
                "after which the next window begins"
            ).hint("an offset moves the beginning of windows, by less than their distance")
        self.slice_ms = gcd(self.size_ms, self.every_ms)
        """The longest span that lies in or out of every window as a whole; windows are made of
        whole slices, the first of which begins at the offset."""

    def __repr__(self) -> str:
        return f"Sliding({self.size_ms} ms, every {self.every_ms} ms)"

    @property
    def slices_per_window(self) -> int:
        """Of how many slices a window is made."""
        return self.size_ms // self.slice_ms

    def windows(self, timestamp_ms: int, value: Any) -> Sequence[Window]:
        return [Window(start, start + self.size_ms) for start in self.starts(timestamp_ms)]

    def starts(self, timestamp_ms: int) -> range:
        """Return where the windows begin that ``timestamp_ms`` belongs to, earliest first."""
        every = self.every_ms
        last = timestamp_ms - (timestamp_ms - self.offset_ms) % every
        count = (last - timestamp_ms + self.size_ms + every - 1) // every
        return range(last - (count - 1) * every, last + 1, every)

    def slices(self, timestamps: Sequence[int]) -> list[int]:
        """Return where the slice begins that each of ``timestamps`` lies in."""
        offset, width = self.offset_ms, self.slice_ms
        return [at - (at - offset) % width for at in timestamps]

    def first_end(self, slice_start: int) -> int:
        """Return the end of the first window that a slice belongs to."""
        end = slice_start + self.slice_ms
        return end + (self.offset_ms + self.size_ms - end) % self.every_ms

    def first_kept_ms(self, watermark_ms: int, lateness_ms: int) -> int:
        """Return the time below which every window is beyond its lateness at ``watermark_ms``."""
        over = watermark_ms - lateness_ms - self.size_ms + 1  # windows beginning here are over
        return over - (over - self.offset_ms) % self.every_ms + self.every_ms

    def in_gap(self, timestamps: Sequence[int]) -> list[bool]:
        """Return of each of ``timestamps`` whether it lies between two windows."""
        offset, every, size = self.offset_ms, self.every_ms, self.size_ms
        return [(at - offset) % every >= size for at in timestamps]


class Tumbling(Sliding):
    """Windows of ``size``, each beginning where the one before ends.

    Raises:
        ConfigError: the size is not positive, or the offset is not below it.

    Example:
        >>> Tumbling("10s", offset="2s").windows(1_999, None)
        [Window(start=-8000, end=2000)]
    """

    def __init__(self, size: Duration, offset: Duration = "0s") -> None:
        super().__init__(size, size, offset)

    def __repr__(self) -> str:
        return f"Tumbling({self.size_ms} ms)"


class Session(Assigner):
    """Windows of activity: one ends when its key has had no record for ``gap``.

    ``gap`` is a duration, or a function that returns that of a record: a duration, or an int in ms.
    Sessions that touch (whose records are exactly a gap apart) are one.

    Raises:
        ConfigError: the gap is not positive.
    """

    is_merging = True

    def __init__(self, gap: Duration | Callable[[Any], Duration | int]) -> None:
        self.gap = gap if callable(gap) else None
        self.gap_ms = 0 if callable(gap) else _length_ms(gap, "session gap")

    def __repr__(self) -> str:
        return f"Session({self.gap or f'{self.gap_ms} ms'})"

    def windows(self, timestamp_ms: int, value: Any) -> Sequence[Window]:
        gap_ms = self.gap_ms if self.gap is None else _gap_ms(self.gap(value))
        return (Window(timestamp_ms, timestamp_ms + gap_ms),)

    def ends(self, timestamps: Sequence[int], values: Sequence[Any]) -> list[int]:
        """Return where the window of each record ends."""
        if self.gap is None:
            return list(map(add, timestamps, repeat(self.gap_ms)))
        return list(map(add, timestamps, map(_gap_ms, map(self.gap, values))))


class TumblingProcessingTime(Tumbling):
    """``Tumbling``, by the wall clock; records need no event time, and their own is ignored."""

    is_processing_time = True

    def __repr__(self) -> str:
        return f"TumblingProcessingTime({self.size_ms} ms)"


class SlidingProcessingTime(Sliding):
    """``Sliding``, by the wall clock; records need no event time, and their own is ignored."""

    is_processing_time = True

    def __repr__(self) -> str:
        return f"SlidingProcessingTime({self.size_ms} ms, every {self.every_ms} ms)"


class SessionProcessingTime(Session):
    """``Session``, by the wall clock; records need no event time, and their own is ignored."""

    is_processing_time = True

    def __repr__(self) -> str:
        return f"SessionProcessingTime({self.gap or f'{self.gap_ms} ms'})"


class Global(Assigner):
    """One window for all of time; a trigger says when its result comes out.

    Without one, that is when the input has ended.
    """

    is_aligned = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def windows(self, timestamp_ms: int, value: Any) -> Sequence[Window]:
        return (ALL_TIME,)


class TumblingCount(Global):
    """Windows of ``n`` records of a key, each; one that is not full when input ends is dropped.

    Raises:
        ConfigError: ``n`` is no positive int.
    """

    def __init__(self, n: int) -> None:
        self.n = check_count(n, "count window size")


class SlidingCount(Global):
    """The last ``n`` records of a key, after ``every`` so many of them.

    Raises:
        ConfigError: ``n`` or ``every`` is no positive int.
    """

    def __init__(self, n: int, every: int) -> None:
        self.n = check_count(n, "count window size")
        self.every = check_count(every, "count window every")


def check_count(count: object, what: str) -> int:
    """Return ``count``, a positive number of records.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ConfigError(f"{what}: {count!r} is not a positive int")
    return count


def _length_ms(length: Duration, what: str) -> int:
    return duration_ms(length, what, at_least_ms=1)


def _offset_ms(offset: Duration) -> int:
    negative = _NEGATIVE.fullmatch(offset) if isinstance(offset, str) else None
    if negative is not None:
        return -duration_ms(negative[1], "window offset")
    return duration_ms(offset, "window offset", at_least_ms=-_LONGEST_MS)


def _gap_ms(gap: Duration | int) -> int:
    if isinstance(gap, int):
        if gap < 1:
            raise ConfigError(f"session gap: {gap} is not a positive number of ms")
        return gap
    return _length_ms(gap, "session gap")
