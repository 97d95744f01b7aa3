"""The receiving side of a task: channels with their credit, and the splits of a source."""

from __future__ import annotations

import copy
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from flowsnap.core.credit import CreditReceiver
from flowsnap.core.element import Barrier, Batch, Element
from flowsnap.core.event_time import SourceTime
from flowsnap.core.ids import ChannelId, CheckpointId, OperatorId
from flowsnap.core.manifest import SplitPosition
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.core.watermark import MIN_WATERMARK
from flowsnap.errors import ConfigError
from flowsnap.failpoint import failpoint
from flowsnap.runtime.chain import Stage, user_code
from flowsnap.runtime.channel_state import Recording
from flowsnap.runtime.spill import SpillQueue

IN_TURN_SPLITS_MAX = 256
"""How many files a source may have open at once, so that event time can be the least of all."""

HELD_BACK_MS = 20
"""How long a source that is ahead of its group waits before it looks again, at most."""


class InputChannel:
    """The receiving end of one channel: what has come and has not been processed.

    ``announced`` is a list of the task, which gets the barriers as they arrive. ``consumed`` counts
    the batches that were processed.
    """

    is_feedback = False
    __slots__ = (
        "_grant",
        "_recordings",
        "announced",
        "consumed",
        "credit",
        "id",
        "port",
        "queue",
    )

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
        self.queue: deque[Element] | SpillQueue = deque()
        self.consumed = 0
        self.announced: list[tuple[ChannelId, Barrier]] = []
        self._recordings: dict[CheckpointId, Recording] = {}
        self._grant = grant

    def receive(self, element: Element) -> None:
        """Take an element from the network or from a neighbour."""
        if isinstance(element, Batch):
            self.credit.receive()
            if self._recordings:
                for recording in self._recordings.values():
                    recording.add(self.id, element)
            self.queue.append(element)
            return
        if isinstance(element, Barrier):
            self._recordings.pop(element.checkpoint_id, None)
            self.announced.append((self.id, element))
        self.queue.append(element)

    def release(self) -> None:
        """Account for one batch that has been processed; credit goes back in lots."""
        self.consumed += 1
        self.credit.release()
        self.replenish()

    def split(self, batch: Batch, records: int) -> Batch:
        """Return the first ``records`` of a batch that was taken out; the rest is put back."""
        rest = batch.part(records, len(batch))
        rest.stamp = None  # It has been received.
        self.queue.appendleft(rest)
        return batch.part(0, records)

    def replenish(self) -> None:
        """Grant what is free, if it is worth a message."""
        credits = self.credit.next_grant()
        if credits:
            self._grant(self.id, credits)

    def record(self, checkpoint_id: CheckpointId, recording: Recording) -> None:
        """Record what waits here, and what still comes, up to the barrier of a checkpoint."""
        for element in self.queue:
            if isinstance(element, Barrier) and element.checkpoint_id == checkpoint_id:
                return
            if isinstance(element, Batch):
                recording.add(self.id, element)
        self._recordings[checkpoint_id] = recording

    def stop_recording(self, checkpoint_id: CheckpointId) -> None:
        """Record no more for a checkpoint that was given up."""
        self._recordings.pop(checkpoint_id, None)


class FeedbackChannel(InputChannel):
    """What is fed back into a loop: credit is given back for what has arrived, and it is kept.

    Once the loop has ended, what its operators put out as their last output goes nowhere.
    """

    is_feedback = True
    __slots__ = ("_is_closed", "dropped")

    def __init__(
        self,
        id: ChannelId,
        capacity: int,
        grant: Callable[[ChannelId, int], None],
        queue: SpillQueue,
    ) -> None:
        super().__init__(id, capacity, grant)
        self.queue = queue
        self.dropped = 0  # records
        self._is_closed = False

    def receive(self, element: Element) -> None:
        if self._is_closed and isinstance(element, Batch):
            self.credit.receive()
            self.dropped += len(element)
        else:
            super().receive(element)
        if isinstance(element, Batch):
            self.credit.release()
            self.replenish()

    def release(self) -> None:
        self.consumed += 1

    def close(self) -> None:
        """Let nothing more into the loop: its input has ended."""
        self._is_closed = True


class _OpenSplit:
    __slots__ = ("index", "is_finished", "position", "reader", "split")

    def __init__(self, index: int, restored: SplitPosition) -> None:
        self.index = index
        self.split = Split(restored.split, restored.payload, restored.size)
        self.position = restored.position
        self.is_finished = restored.is_finished
        self.reader: SplitReader | None = None


class SourceInput:
    """The splits of one source subtask, read one after the other; in turn if unbounded.

    In turn as well if they tell event time, which ``time`` then keeps; see ``core/event_time.py``.
    It begins at ``restored_ms``.
    """

    def __init__(
        self,
        source: Source,
        operator: OperatorId,
        subtask: int,
        splits: Sequence[SplitPosition],
        batch_records: int,
        restored_ms: int = MIN_WATERMARK,
    ) -> None:
        self.records_read = 0
        self.time: SourceTime | None = None
        self._source = source
        self._operator = operator
        self._subtask = subtask
        self._all = [_OpenSplit(index, split) for index, split in enumerate(splits)]
        self._open = deque(split for split in self._all if not split.is_finished)
        self._batch_records = batch_records
        self._retry_at_ms = 0
        self._recorded: dict[CheckpointId, tuple[SplitPosition, ...]] = {}
        self._is_draining = False
        self._stamp: Stage | None = None
        if source.event_time is not None:
            self._begin_time(splits, restored_ms)

    def _begin_time(self, splits: Sequence[SplitPosition], restored_ms: int) -> None:
        settings = self._source.event_time
        assert settings is not None
        self.time = SourceTime(settings, [split.watermark_ms for split in splits], restored_ms)
        if settings.stamp is not None:
            self._stamp = Stage([(self._operator, copy.copy(settings.stamp))], self._subtask)
        for split in self._all:
            if split.is_finished:
                self.time.finish(split.index)

    @property
    def is_exhausted(self) -> bool:
        """Whether every split has been read to its end."""
        return not self._open

    def next_read_ms(self) -> int:
        """Return when it is worth reading again."""
        return self._retry_at_ms

    def read(self, now_ms: int, records_max: int = sys.maxsize) -> Batch | None:
        """Return the next batch of some split, or None where there is none now."""
        while self._is_draining and self._open:
            self._finish(self._open[0])
        limit = min(self._batch_records, records_max)
        wait_ms = []
        for _ in range(len(self._open)):
            current = self._open[0]
            if self.time is not None and not self.time.may_read(current.index):
                wait_ms.append(HELD_BACK_MS)
                self._open.rotate(-1)
                continue
            with user_code(self._operator, self._subtask):
                batch = self._reader(current).read(limit)
            failpoint("src.read")
            if batch is None:
                self._finish(current)
            elif batch.values:
                return self._take(current, batch)
            else:
                wait_ms.append(self._pass_over(current, now_ms))
        self._retry_at_ms = now_ms + min(wait_ms, default=0)
        return None

    def align(self, group_ms: int | None) -> None:
        """Read on or wait, now that the group of this source has come to ``group_ms``."""
        if self.time is not None:
            self.time.align(group_ms)
            self._retry_at_ms = 0

    def _take(self, current: _OpenSplit, batch: Batch) -> Batch:
        self.records_read += len(batch)
        if self._is_in_turn():
            self._open.rotate(-1)
        if self.time is None:
            return batch
        if self._stamp is not None:
            batch = self._stamp.process(batch)
        if batch.timestamps is None:
            raise ConfigError(f"source {self._operator!r} gives its records no event times").hint(
                "say where they are: watermark=bounded(..., timestamp=...)"
            )
        with user_code(self._operator, self._subtask):
            self.time.found(current.index, batch.values, batch.timestamps)
        return batch

    def _pass_over(self, current: _OpenSplit, now_ms: int) -> int:
        with user_code(self._operator, self._subtask):
            wait_ms = self._reader(current).wait_ms()
        if self.time is not None:
            self.time.found_nothing(current.index, now_ms)
        self._open.rotate(-1)
        return wait_ms

    def _is_in_turn(self) -> bool:
        # One after the other, those not begun would hold event time at its beginning.
        is_timed = self.time is not None and len(self._open) <= IN_TURN_SPLITS_MAX
        return is_timed or not self._source.bounded

    def positions(self, checkpoint_id: CheckpointId | None = None) -> tuple[SplitPosition, ...]:
        """Return how far every split has been read; of a checkpoint, until it is complete."""
        with user_code(self._operator, self._subtask):
            found = tuple(self._position(split) for split in self._all)
        if checkpoint_id is not None and self._source.is_told_of_checkpoints:
            self._recorded[checkpoint_id] = found
        return found

    def complete(self, checkpoint_id: CheckpointId) -> None:
        """Tell the open readers that what a checkpoint holds will not be asked for again."""
        recorded = self._recorded.get(checkpoint_id)
        if recorded is None:
            return  # Nobody wants to know, or a later one has been complete before.
        self._recorded = {id_: at for id_, at in self._recorded.items() if id_ > checkpoint_id}
        with user_code(self._operator, self._subtask):
            for split, position in zip(self._all, recorded, strict=True):
                if split.reader is not None:
                    split.reader.committed(position.position)

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

    def drain(self) -> None:
        """Take the next read for the end of every split: nothing more is to be read."""
        self._is_draining = True

    def _finish(self, current: _OpenSplit) -> None:
        with user_code(self._operator, self._subtask):
            reader = self._reader(current)
            current.position = reader.position()
            reader.close()
        current.reader = None
        current.is_finished = True
        self._open.popleft()
        if self.time is not None:
            self.time.finish(current.index)

    def _position(self, current: _OpenSplit) -> SplitPosition:
        position = current.position if current.reader is None else current.reader.position()
        split = current.split
        mark = None if self.time is None else self.time.mark(current.index)
        return SplitPosition(
            split.id, split.payload, split.size, position, current.is_finished, mark
        )
