"""What a harness puts in the place of a source: records and watermarks as the test gives them.

A ``Feed`` keeps all that was ever pushed, and a position is an index into it, so it can be read
again from any checkpoint, as a log can. It belongs to the harness and outlives every crash.

Event times are the user's: the settings of the replaced source stay in force. A watermark that the
test gives stands among the records and is told when the reader comes to it. A source without event
times gets settings that promise nothing; its records pass through ``Untime``, which takes the times
away again that such settings demand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.event_time import EVENT_TIME_MAX, EventTime, SourceTime
from flowsnap.core.ids import ChannelId
from flowsnap.core.operator import Operator, Source, Split, SplitReader
from flowsnap.core.watermark import MIN_WATERMARK
from flowsnap.runtime.input import SourceInput
from flowsnap.testing.sources import Timed, timed_batch

UNTIMED_MS = -EVENT_TIME_MAX
"""The event time of a record that has none."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A watermark among the records."""

    timestamp_ms: int


@dataclass(slots=True)
class _Partition:
    entries: list[Any] = field(default_factory=list)
    starts: set[int] = field(default_factory=set)  # where each push begins
    is_ended: bool = False


class Feed:
    """All that was pushed into one source, by partition."""

    def __init__(self, name: str, partitions: int, event_time: EventTime | None) -> None:
        self.name = name
        self.event_time = event_time
        self.partitions = [_Partition() for _ in range(partitions)]

    @property
    def is_ended(self) -> bool:
        """Whether nothing more can be pushed."""
        return all(one.is_ended for one in self.partitions)

    def push(self, values: Sequence[Any], partition: int) -> None:
        """Append values, which are read as one batch."""
        one = self.partitions[partition]
        one.starts.add(len(one.entries))
        one.entries.extend(values)

    def mark(self, timestamp_ms: int, partitions: Iterable[int]) -> None:
        """Append a watermark."""
        for partition in partitions:
            self.partitions[partition].entries.append(Mark(timestamp_ms))

    def end(self) -> None:
        """Let nothing follow."""
        for one in self.partitions:
            one.is_ended = True


class FeedSource(Source):
    """The source that reads a feed, with the event times of the one it stands for."""

    bounded = False
    discovers = False

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._input: SourceInput | None = None
        self.event_time = feed.event_time or EventTime(_NoPromise(), _Stamp())

    def bind(self, input: SourceInput) -> None:
        """Have the watermarks of the feed told to the task that reads it."""
        self._input = input

    def splits(self, parallelism: int) -> list[Split]:
        count = len(self._feed.partitions)
        return [Split(f"partition-{number}", {"number": number}) for number in range(count)]

    def open_split(self, split: Split, position: int | None) -> SplitReader:
        return _Reader(self, split, self._feed.partitions[split.payload["number"]], position or 0)

    def advance(self, split: Split, timestamp_ms: int) -> None:
        """Let the event time of a split reach ``timestamp_ms``, if it has not yet."""
        assert self._input is not None, "the harness binds every feed before it is read"
        assert self._input.time is not None
        index = next(one.index for one in self._input._all if one.split.id == split.id)
        _advance(self._input.time, index, timestamp_ms)


def _advance(time: SourceTime, index: int, timestamp_ms: int) -> None:
    split = time._splits[index]
    split.empty_since_ms = None
    if split.is_idle:
        split.is_idle = False
        time.merger.active(ChannelId(index))
    reached = MIN_WATERMARK if split.watermark_ms is None else split.watermark_ms
    if timestamp_ms > reached:
        split.watermark_ms = timestamp_ms
        time.merger.receive(ChannelId(index), timestamp_ms)


class _Reader(SplitReader):
    def __init__(
        self, source: FeedSource, split: Split, partition: _Partition, position: int
    ) -> None:
        self._source = source
        self._split = split
        self._partition = partition
        self._next = position

    def read(self, limit: int) -> Batch | None:
        partition = self._partition
        ahead = partition.entries[self._next : self._next + limit]
        if not ahead:
            return None if partition.is_ended else Batch([])
        if isinstance(ahead[0], Mark):
            for mark in takewhile(lambda one: isinstance(one, Mark), ahead):
                self._source.advance(self._split, mark.timestamp_ms)
                self._next += 1
            return Batch([])  # What follows the watermark is read once that has been told.
        is_timed = isinstance(ahead[0], Timed)
        count = 1
        for entry in ahead[1:]:
            is_other = isinstance(entry, Mark) or isinstance(entry, Timed) is not is_timed
            if is_other or self._next + count in partition.starts:
                break
            count += 1
        self._next += count
        return timed_batch(ahead[:count])

    def position(self) -> int:
        return self._next


class _NoPromise:
    """A strategy that leaves event time where it is."""

    def on_batch(self, timestamps: list[int]) -> int | None:
        """Return None."""
        return None


class _Stamp(Operator):
    """Gives records without an event time one that ``Untime`` knows."""

    def process(self, batch: Batch) -> Batch:
        if batch.timestamps is not None:
            return batch
        return Batch(batch.values, [UNTIMED_MS] * len(batch))


class Untime(Operator):
    """Takes the event times away again that ``_Stamp`` has given."""

    def process(self, batch: Batch) -> Batch:
        if batch.timestamps and batch.timestamps[0] == UNTIMED_MS:
            return Batch(batch.values, None, batch.keys)
        return batch
