"""How far has event time come on all channels?

A watermark t in a channel promises that no record at or before t follows in it. A task with several
inputs can promise only what all of them do: the minimum. Two kinds of channel are left out of it:
an *idle* one, which has nothing to say for now and must not hold the others back, and one that has
*ended*, which counts as plus infinity.

If no channel is left to ask, because each is idle or has ended, event time stands still: an idle
channel may wake up with records that a jump would have made late. Only when all have ended does
event time go to ``MAX_WATERMARK``.

Invariants: the merged watermark never goes back, and so never do those of the channels: an older
watermark is ignored. A channel that becomes active again behind the merged watermark holds it where
it is until the channel has caught up.

Source: Akidau et al., "The Dataflow Model" (VLDB 2015), section 2.3; Flink's StatusWatermarkValve.
Deviations: Flink leaves a reactivated channel out until it has caught up, and jumps to the highest
watermark when all become idle; either makes records late that need not be.

Example:
    >>> a, b = ChannelId(0), ChannelId(1)
    >>> merger = WatermarkMerger([a, b])
    >>> merger.receive(a, 10)  # b has not said anything yet
    >>> merger.receive(b, 7)
    7
    >>> merger.idle(b)
    10
"""

from __future__ import annotations

from collections.abc import Collection

from flowsnap.core.ids import ChannelId
from flowsnap.errors import LocalProtocolError

MIN_WATERMARK = -(2**63)
"""The watermark before the first one."""

MAX_WATERMARK = 2**63 - 1
"""The watermark of an input that has ended: no record follows at all."""


class WatermarkMerger:
    """The event time of one task. ``current`` is the merged watermark, in ms since the epoch.

    Without channels, in a source, it stays where it is.
    """

    def __init__(self, channels: Collection[ChannelId], restored_ms: int = MIN_WATERMARK) -> None:
        self.current = restored_ms
        self._watermarks = dict.fromkeys(channels, MIN_WATERMARK)
        self._idle: set[ChannelId] = set()

    @property
    def is_idle(self) -> bool:
        """Whether there are inputs that have not ended, and all of them are idle."""
        open_channels = [
            channel for channel, mark in self._watermarks.items() if mark != MAX_WATERMARK
        ]
        return bool(open_channels) and self._idle.issuperset(open_channels)

    def receive(self, channel: ChannelId, timestamp_ms: int) -> int | None:
        """Take a watermark; return the merged one if it rose. ``MAX_WATERMARK`` ends the channel.

        Raises:
            LocalProtocolError: the channel is unknown (so do the other methods).
        """
        self._admit(channel)
        if timestamp_ms <= self._watermarks[channel]:
            return None  # Older: a restored source may repeat what it had promised already.
        self._watermarks[channel] = timestamp_ms
        return self._advance()

    def idle(self, channel: ChannelId) -> int | None:
        """Leave a channel out until it is active; return the merged watermark if it rose."""
        self._admit(channel)
        self._idle.add(channel)
        return self._advance()

    def active(self, channel: ChannelId) -> int | None:
        """Take a channel in again; return the merged watermark if it rose."""
        self._admit(channel)
        self._idle.discard(channel)
        return self._advance()

    def end(self, channel: ChannelId) -> int | None:
        """Note that a channel's input has ended; return the merged watermark if it rose."""
        return self.receive(channel, MAX_WATERMARK)

    def check(self) -> None:
        """Assert the invariants of this machine."""
        marks = self._watermarks
        assert self._idle <= marks.keys()
        assert self.current >= MIN_WATERMARK
        assert all(MIN_WATERMARK <= mark <= MAX_WATERMARK for mark in marks.values())

    def _admit(self, channel: ChannelId) -> None:
        if channel not in self._watermarks:
            raise LocalProtocolError(f"event time came in unknown channel {channel}")

    def _advance(self) -> int | None:
        if not self._idle:
            merged = min(self._watermarks.values())
        elif self.is_idle:
            return None
        else:
            merged = min(
                mark
                for channel, mark in self._watermarks.items()
                if mark == MAX_WATERMARK or channel not in self._idle
            )
        if merged <= self.current:
            return None
        self.current = merged
        return merged
