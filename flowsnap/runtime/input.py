"""The receiving side of a task: channels with their credit, and the splits of a source."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from flowsnap.core.credit import CreditReceiver
from flowsnap.core.element import Batch, Element
from flowsnap.core.ids import ChannelId, OperatorId
from flowsnap.core.manifest import SplitPosition
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.failpoint import failpoint
from flowsnap.runtime.chain import user_code


class InputChannel:
    """The receiving end of one channel: what has come and has not been processed."""

    __slots__ = ("_grant", "credit", "id", "port", "queue")

    def __init__(
        self,
        id: ChannelId,
        capacity: int,
        grant: Callable[[ChannelId, int], None],
        port: int = 0,
    ) -> None:
        self.id = id
        self.port = port
        self.credit = CreditReceiver(capacity)
        self.queue: deque[Element] = deque()
        self._grant = grant

    def receive(self, element: Element) -> None:
        """Take an element from the network or from a neighbour."""
        if isinstance(element, Batch):
            self.credit.receive()
        self.queue.append(element)

    def release(self) -> None:
        """Account for one batch that has been processed; credit goes back in lots."""
        self.credit.release()
        self.replenish()

    def replenish(self) -> None:
        """Grant what is free, if it is worth a message."""
        credits = self.credit.next_grant()
        if credits:
            self._grant(self.id, credits)


class _OpenSplit:
    __slots__ = ("is_finished", "position", "reader", "split")

    def __init__(self, restored: SplitPosition) -> None:
        self.split = Split(restored.split, restored.payload, restored.size)
        self.position = restored.position
        self.is_finished = restored.is_finished
        self.reader: SplitReader | None = None


class SourceInput:
    """The splits of one source subtask, read one after the other; in turn if unbounded."""

    def __init__(
        self,
        source: Source,
        operator: OperatorId,
        subtask: int,
        splits: Sequence[SplitPosition],
        batch_records: int,
    ) -> None:
        self.records_read = 0
        self._source = source
        self._operator = operator
        self._subtask = subtask
        self._all = [_OpenSplit(split) for split in splits]
        self._open = deque(split for split in self._all if not split.is_finished)
        self._batch_records = batch_records
        self._retry_at_ms = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether every split has been read to its end."""
        return not self._open

    def next_read_ms(self) -> int:
        """Return when it is worth reading again."""
        return self._retry_at_ms

    def read(self, now_ms: int) -> Batch | None:
        """Return the next batch of some split, or None where there is none now."""
        wait_ms = []
        for _ in range(len(self._open)):
            current = self._open[0]
            with user_code(self._operator, self._subtask):
                batch = self._reader(current).read(self._batch_records)
            failpoint("src.read")
            if batch is None:
                self._finish(current)
                continue
            if batch.values:
                self.records_read += len(batch)
                if not self._source.bounded:
                    self._open.rotate(-1)
                return batch
            with user_code(self._operator, self._subtask):
                wait_ms.append(self._reader(current).wait_ms())
            self._open.rotate(-1)
        self._retry_at_ms = now_ms + min(wait_ms, default=0)
        return None

    def positions(self) -> tuple[SplitPosition, ...]:
        """Return how far every split has been read."""
        with user_code(self._operator, self._subtask):
            return tuple(self._position(split) for split in self._all)

    def progress(self) -> tuple[int, int]:
        """Return how much has been read and how much there is; 0, 0 where no end is known."""
        if any(split.split.size is None for split in self._all):
            return 0, 0
        done = total = 0
        for split in self._all:
            size = split.split.size or 0
            total += size
            if split.is_finished:
                done += size
            elif split.reader is not None:
                with user_code(self._operator, self._subtask):
                    done += min(split.reader.progress() or 0, size)
        return done, total

    def close(self) -> None:
        """Close every reader, also when one of them fails at it."""
        with ExitStack() as stack:
            for split in reversed(self._all):
                if split.reader is not None:
                    stack.callback(self._close_reader, split.reader)
                    split.reader = None

    def _close_reader(self, reader: SplitReader) -> None:
        with user_code(self._operator, self._subtask):
            reader.close()

    def _reader(self, current: _OpenSplit) -> SplitReader:
        if current.reader is None:
            current.reader = self._source.open_split(current.split, current.position)
        return current.reader

    def _finish(self, current: _OpenSplit) -> None:
        with user_code(self._operator, self._subtask):
            reader = self._reader(current)
            current.position = reader.position()
            reader.close()
        current.reader = None
        current.is_finished = True
        self._open.popleft()

    def _position(self, current: _OpenSplit) -> SplitPosition:
        position = current.position if current.reader is None else current.reader.position()
        split = current.split
        return SplitPosition(split.id, split.payload, split.size, position, current.is_finished)
