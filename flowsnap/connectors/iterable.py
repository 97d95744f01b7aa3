"""FromIterable: values that exist in the submitting program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from itertools import islice, pairwise
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.errors import ConfigError, StorageError

Values = Iterable[Any] | Callable[[], Iterable[Any]]


class FromIterable(Source):
    """The values of a list, a range, any other iterable, or a function that returns an iterable.

    After a failure the values are read again and those before the position are skipped, so they
    must come in the same order each time. A sequence is cut into one contiguous slice per subtask;
    anything else is read by one subtask. The values travel to the workers with the code: for large
    inputs give a function.

    Raises:
        ConfigError: it can be iterated only once, in no stable order, or not at all.
    """

    discovers = False

    def __init__(self, values: Values) -> None:
        self.values = _checked(values)

    def splits(self, parallelism: int) -> list[Split]:
        if not isinstance(self.values, Sequence):
            return [Split("all")]
        count = len(self.values)
        cuts = [index * count // parallelism for index in range(parallelism + 1)]
        slices = [(start, end) for start, end in pairwise(cuts) if start < end]
        return [
            Split(f"{start}:{end}", {"start": start, "end": end}, end - start)
            for start, end in slices or [(0, 0)]
        ]

    def open_split(self, split: Split, position: int | None) -> SplitReader:
        """Return a reader of one slice, or of everything.

        Raises:
            StorageError: there are fewer values now than were read before.
        """
        if isinstance(self.values, Sequence):
            return SequenceReader(self.values, split, position)
        values = self.values() if callable(self.values) else self.values
        return IterableReader(iter(values), position or 0)


class SequenceReader(SplitReader):
    """Reads a slice of a sequence; a position is the index of the next value in the whole."""

    def __init__(self, values: Sequence[Any], split: Split, position: int | None) -> None:
        self._values = values
        self._start: int = split.payload["start"]
        self._end: int = split.payload["end"]
        self._next = self._start if position is None else position
        if len(values) < self._end:
            raise _shrank(len(values), self._end)

    def read(self, limit: int) -> Batch | None:
        stop = min(self._next + limit, self._end)
        values = list(self._values[self._next : stop])
        if not values:
            return None
        self._next = stop
        return Batch(values)

    def position(self) -> int:
        return self._next

    def progress(self) -> int:
        return self._next - self._start


class IterableReader(SplitReader):
    """Reads an iterator that is at its beginning; a position is the number of values read."""

    def __init__(self, values: Iterator[Any], position: int) -> None:
        skipped = sum(1 for _ in islice(values, position))
        if skipped < position:
            raise _shrank(skipped, position)
        self._values = values
        self._next = position

    def read(self, limit: int) -> Batch | None:
        values = list(islice(self._values, limit))
        if not values:
            return None
        self._next += len(values)
        return Batch(values)

    def position(self) -> int:
        return self._next


def _checked(values: Values) -> Values:
    if isinstance(values, Sequence):
        return values if _can_be_sliced(values) else tuple(values)
    if isinstance(values, Set):
        raise ConfigError("a set has no order that is the same in every process").hint(
            "write sorted(values)"
        )
    if isinstance(values, Iterable):
        if iter(values) is values:
            raise ConfigError(
                f"a {type(values).__name__} can be read only once, not again after a failure"
            ).hint("give a list, or a function that returns a new iterator: lambda: read(path)")
        return values
    if not callable(values):
        raise ConfigError(f"{values!r} can't be iterated").hint(
            "give a list, a range, or a function that returns an iterator"
        )
    return values


def _can_be_sliced(values: Sequence[Any]) -> bool:
    try:
        values[:0]
    except TypeError:
        return False  # A deque, for one.
    return True


def _shrank(found: int, expected: int) -> StorageError:
    return StorageError(f"there are {found} values where {expected} were expected").hint(
        "the values must be the same each time the job is started again"
    )
