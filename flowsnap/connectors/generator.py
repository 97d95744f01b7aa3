"""Generator: records made by a function of their number."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.errors import ConfigError

BURST_S = 0.1
"""How much a reader may catch up at once after it was held back."""

Clock = Callable[[], float]
"""Monotonic time in seconds."""


class Generator(Source):
    """The records ``fn(0)``, ``fn(1)``, ... up to ``count`` of them, or without end.

    ``fn`` must return the same record for the same number, because records are made again after a
    failure. Split k of n makes the records k, k + n, k + 2n, ...; ``splits`` is n, and by default
    one per subtask when the job first starts. ``rate`` is in records per second, over all splits;
    ``clock`` is monotonic, in seconds.

    Raises:
        ConfigError: an argument is out of its range.
    """

    discovers = False

    def __init__(
        self,
        fn: Callable[[int], Any],
        count: int | None = None,
        *,
        rate: float | None = None,
        splits: int | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        if not callable(fn):
            raise ConfigError(f"{fn!r} is not a function of the record's number").hint(
                "for values that exist already, use FromIterable"
            )
        if count is not None and count < 0:
            raise ConfigError(f"count: {count} is less than 0")
        if rate is not None and not (rate > 0 and math.isfinite(rate)):
            raise ConfigError(f"rate: {rate} is not a number of records per second above 0")
        if splits is not None and splits < 1:
            raise ConfigError(f"splits: {splits} is less than 1")
        self.fn = fn
        self.count = count
        self.rate = rate
        self.split_count = splits
        self.bounded = count is not None
        self._clock = clock

    def splits(self, parallelism: int) -> list[Split]:
        """Return one split per stride; those that would be empty are left out."""
        strides = self.split_count or parallelism
        return [
            Split(
                f"{first}/{strides}",
                {"first": first, "strides": strides},
                self._size(first, strides),
            )
            for first in range(strides)
            if self.count is None or first < max(self.count, 1)
        ]

    def open_split(self, split: Split, position: int | None) -> GeneratorReader:
        first, strides = split.payload["first"], split.payload["strides"]
        numbers = Stride(first, strides, self.count)
        bucket = None if self.rate is None else TokenBucket(self.rate / strides, self._clock)
        return GeneratorReader(self.fn, numbers, first if position is None else position, bucket)

    def _size(self, first: int, strides: int) -> int | None:
        return None if self.count is None else len(range(first, self.count, strides))


class Stride:
    """The numbers ``first``, ``first + step``, ... below ``stop``, if there is one."""

    def __init__(self, first: int, step: int, stop: int | None) -> None:
        self.first = first
        self.step = step
        self.stop = stop

    def following(self, start: int, count: int) -> range:
        """Return ``count`` numbers from ``start`` on, or as many as there are."""
        stop = start + count * self.step
        return range(start, stop if self.stop is None else min(stop, self.stop), self.step)


class TokenBucket:
    """How many records may be made now, at ``rate`` per second? Begins with one token."""

    def __init__(self, rate: float, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._capacity = max(1.0, rate * BURST_S)
        self._tokens = 1.0
        self._filled_at_s = clock()

    def take(self, wanted: int) -> int:
        """Spend up to ``wanted`` whole tokens and return how many."""
        now_s = self._clock()
        self._tokens += (now_s - self._filled_at_s) * self._rate
        self._tokens = min(self._tokens, self._capacity)
        self._filled_at_s = now_s
        taken = min(wanted, int(self._tokens))
        self._tokens -= taken
        return taken

    def wait_ms(self) -> int:
        """Return in how many ms, rounded up, there is a whole token."""
        return max(1, math.ceil((1.0 - self._tokens) / self._rate * 1000))


class GeneratorReader(SplitReader):
    """Makes the records of one split; a position is the number of the next record."""

    def __init__(
        self,
        fn: Callable[[int], Any],
        numbers: Stride,
        position: int,
        bucket: TokenBucket | None,
    ) -> None:
        self._fn = fn
        self._numbers = numbers
        self._next = position
        self._bucket = bucket

    def read(self, limit: int) -> Batch | None:
        numbers = self._numbers.following(self._next, limit)
        if not numbers:
            return None
        if self._bucket is not None:
            numbers = numbers[: self._bucket.take(len(numbers))]
        values = list(map(self._fn, numbers))
        self._next += len(values) * self._numbers.step
        return Batch(values)

    def position(self) -> int:
        return self._next

    def progress(self) -> int:
        return (self._next - self._numbers.first) // self._numbers.step

    def wait_ms(self) -> int:
        return 0 if self._bucket is None else self._bucket.wait_ms()
