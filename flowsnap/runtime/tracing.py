"""Vector clocks, so that a snapshot can be shown to be a consistent cut.

With ``trace=True`` every batch carries the vector clock of the task that sent it, and a snapshot
holds the clock of its task and how much had been sent and received in each channel. The cut is
consistent if no task had heard more of another than that one had recorded of itself, and a
channel's state is right if it is exactly what had been sent and not received. This is for looking
at runs, not for production: a stamp is as long as the job has tasks.

Source: Mattern, "Virtual Time and Global States of Distributed Systems" (1989), theorem 3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from flowsnap.core.element import Batch, Element
from flowsnap.core.ids import ChannelId, OperatorId
from flowsnap.core.manifest import ChannelCount, TaskTrace
from flowsnap.runtime.output import OutputChannel


class Tracer:
    """The vector clock of one task, number ``place`` of ``size``."""

    def __init__(self, place: int, size: int) -> None:
        self._place = place
        self._clock = [0] * size
        self._sent: dict[ChannelId, int] = {}
        self._received: dict[ChannelId, int] = {}

    def send(self, channel: ChannelId, records: int) -> tuple[int, ...]:
        """Take note of a batch that is sent; return its stamp."""
        self._clock[self._place] += 1
        self._sent[channel] = self._sent.get(channel, 0) + records
        return tuple(self._clock)

    def hear(self, stamp: tuple[int, ...]) -> None:
        """Take over what the sender of a batch knew."""
        self._clock = [max(own, other) for own, other in zip(self._clock, stamp, strict=True)]
        self._clock[self._place] += 1

    def receive(self, channel: ChannelId, records: int) -> None:
        """Take note of records that are received; fewer than none: they are put back."""
        self._received[channel] = self._received.get(channel, 0) + records

    def trace(self) -> TaskTrace:
        """Return what a snapshot that is taken now holds of it."""
        return TaskTrace(
            place=self._place,
            clock=tuple(self._clock),
            sent=tuple(ChannelCount(id_, count) for id_, count in self._sent.items()),
            received=tuple(ChannelCount(id_, count) for id_, count in self._received.items()),
        )


class TracedOutput(OutputChannel):
    """An output channel that stamps what is sent, whether it leaves at once or waits."""

    __slots__ = ("_tracer",)

    def __init__(
        self,
        id: ChannelId,
        target: OperatorId,
        deliver: Callable[[ChannelId, Element], int],
        batch_bytes: int,
        tracer: Tracer,
    ) -> None:
        super().__init__(id, target, deliver, batch_bytes)
        self._tracer = tracer

    def send(self, element: Element) -> None:
        if isinstance(element, Batch):
            stamped = Batch(element.values, element.timestamps, element.keys)
            stamped.stamp = self._tracer.send(self.id, len(element))
            element = stamped
        super().send(element)


class TracedQueue(deque[Element]):
    """The queue of an input channel; records count as received when they are taken out."""

    def __init__(self, channel: ChannelId, tracer: Tracer) -> None:
        super().__init__()
        self._channel = channel
        self._tracer = tracer

    def popleft(self) -> Element:
        element = super().popleft()
        if isinstance(element, Batch):
            self._tracer.receive(self._channel, len(element))
            if element.stamp is not None:
                self._tracer.hear(element.stamp)
        return element

    def appendleft(self, element: Element) -> None:
        super().appendleft(element)
        if isinstance(element, Batch):
            self._tracer.receive(self._channel, -len(element))
