"""Is the cut consistent? Counts what passes through the channels of one attempt.

With aligned barriers nothing is recorded of a channel, so at every snapshot what was sent before
the barrier must be what was processed before it, on every channel. That is the cut of Chandy and
Lamport with empty channels. The counts are taken at the two ends, so that a loss between them, a
record that overtakes a barrier and one that is read from a blocked channel all show.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from flowsnap.core.element import Barrier, Batch, Element, EndOfInput
from flowsnap.core.ids import ChannelId, CheckpointId
from flowsnap.runtime.task import TaskRunner
from flowsnap.testing.world import World


class _Channel:
    __slots__ = ("has_ended_in", "has_ended_out", "read", "read_at", "sent", "sent_at")

    def __init__(self) -> None:
        self.sent = self.read = 0
        self.sent_at: dict[CheckpointId, int] = {}
        self.read_at: dict[CheckpointId, int] = {}
        self.has_ended_out = self.has_ended_in = False


class Flow:
    """The channels of one attempt."""

    def __init__(self, world: World, channels: Iterable[ChannelId], capacity: int) -> None:
        self.capacity = capacity
        self.world = world
        self._channels = {channel: _Channel() for channel in channels}

    def sent(self, channel: ChannelId, element: Element) -> None:
        """An element leaves its task."""
        one = self._channels[channel]
        if one.has_ended_out and not isinstance(element, Barrier):
            self.world.fail(f"C9: {element} was sent in channel {channel} behind the end of input")
        if isinstance(element, Batch):
            one.sent += 1
        elif isinstance(element, Barrier):
            if element.checkpoint_id in one.sent_at:
                self.world.fail(f"C9: a second {element} was sent in channel {channel}")
            one.sent_at[element.checkpoint_id] = one.sent
        elif isinstance(element, EndOfInput):
            one.has_ended_out = True

    def read(self, channel: ChannelId, element: Element) -> None:
        """An element is taken by its task."""
        one = self._channels[channel]
        if isinstance(element, Batch):
            one.read += 1
        elif isinstance(element, Barrier):
            if element.checkpoint_id in one.read_at:
                self.world.fail(f"C9: a second {element} was read from channel {channel}")
            one.read_at[element.checkpoint_id] = one.read
            if one.has_ended_in:
                self.world.trace.reached("barrier behind the end of input")
        elif isinstance(element, EndOfInput):
            one.has_ended_in = True

    def has_read(self, channel: ChannelId, checkpoint_id: CheckpointId) -> bool:
        """Whether a barrier has been taken from a channel."""
        return checkpoint_id in self._channels[channel].read_at

    def snapshot(self, task: TaskRunner, checkpoint_id: CheckpointId) -> None:
        """A task has taken a snapshot."""
        for id, channel in task.inputs.items():
            one = self._channels[id]
            where = f"checkpoint {checkpoint_id} of {task.id}, channel {id}"
            if checkpoint_id not in one.read_at:
                self.world.fail(f"C9: {where}: snapshot without a barrier")
                continue
            if one.read != one.read_at[checkpoint_id]:
                self.world.fail(f"C9: {where}: a batch was processed behind the barrier")
            if one.read != one.sent_at.get(checkpoint_id):
                self.world.fail(
                    f"C1: {where}: {one.sent_at.get(checkpoint_id)} batches were sent before the "
                    f"cut, {one.read} processed"
                )
            if any(isinstance(element, Batch) for element in channel.queue):
                self.world.trace.reached("alignment blocks a channel with data")


class WatchedQueue(deque[Element]):
    """The queue of an input channel, which tells the flow what is taken out."""

    def __init__(self, flow: Flow, channel: ChannelId, task: TaskRunner, worker: AbortsOf) -> None:
        super().__init__()
        self._flow = flow
        self._channel = channel
        self._task = task
        self._worker = worker
        self._batches = 0

    def append(self, element: Element) -> None:
        super().append(element)
        if isinstance(element, Batch):
            self._batches += 1
            if self._batches > self._flow.capacity:
                self._flow.world.fail(f"C11: channel {self._channel} holds {self._batches} batches")

    def popleft(self) -> Element:
        element = super().popleft()
        if isinstance(element, Batch):
            self._batches -= 1
        reached = self._flow.world.trace.reached
        if isinstance(element, EndOfInput) and self._task._blocked:
            reached("end of input during alignment")
        if isinstance(element, Barrier) and element.checkpoint_id in self._worker.aborted:
            reached("late barrier after an abort")
        self._flow.read(self._channel, element)
        return element


class AbortsOf:
    """The checkpoints that a worker has been told to give up."""

    def __init__(self) -> None:
        self.aborted: set[CheckpointId] = set()
