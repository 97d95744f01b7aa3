"""When may one subtask snapshot?

A task with several inputs gets the barrier of a checkpoint from each of them, at different moments.
Its snapshot must hold the effect of every record before the barriers and of none after them: only
then do the snapshots of all tasks together form a consistent cut, a state the whole job could have
been in at one moment.

So the aligner waits: a channel whose barrier has come is *blocked*, and what follows in it stays
unread, until the barriers of all other channels have come. Then the snapshot is taken, the barrier
is forwarded, and the channels are readable again. The cut needs no channel state: at the moment of
the snapshot nothing that belongs to it is in transit to this task.

In the mode "at-least-once" nothing is blocked: the snapshot is taken at the last barrier and holds
the effect of records that came after the others; a restore processes those again.

Invariants: at most one checkpoint is in alignment, and it is the newest that any channel has
brought; a checkpoint is snapshot or declined at most once; while nothing is in alignment, nothing
is blocked.

The end of input is no special case. ``EndOfInput`` does not close a channel, barriers keep coming
in it until the job has finished, so alignment always waits for every channel. A task without
inputs, a source, has no aligner: its barrier comes from the job manager.

Source: Carbone et al., "Lightweight Asynchronous Snapshots for Distributed Dataflows" (2015),
section 4.2, which blocks channels where Chandy and Lamport, "Distributed Snapshots: Determining
Global States of Distributed Systems" (ACM TOCS, 1985), section 3, record what is in them. Both rest
on channels that are FIFO and lose nothing. Deviation: Flink's at-least-once tracker counts several
checkpoints at once; here a newer one always overtakes, because a job has one pending checkpoint at
a time.

Example:
    >>> a, b = ChannelId(0), ChannelId(1)
    >>> aligner = Aligner([a, b], mode="exactly-once")
    >>> aligner.receive_barrier(a, CheckpointId(1), now_ms=0)
    []
    >>> aligner.blocked
    {0}
    >>> aligner.receive_barrier(b, CheckpointId(1), now_ms=7)
    [Snapshot(checkpoint_id=1, alignment_ms=7), Unblock()]
    >>> aligner.blocked
    set()
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from flowsnap.core.ids import ChannelId, CheckpointId
from flowsnap.errors import LocalProtocolError


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every barrier has come: take the snapshot, forward the barrier, and only then read on.

    ``alignment_ms`` is the time from the first barrier to the last.
    """

    checkpoint_id: CheckpointId
    alignment_ms: int


@dataclass(frozen=True, slots=True)
class Unblock:
    """All channels are readable again: what waited in them can be processed."""


@dataclass(frozen=True, slots=True)
class Decline:
    """This task can take no part in the checkpoint: tell the job manager."""

    checkpoint_id: CheckpointId
    reason: str


Action = Snapshot | Unblock | Decline


class Aligner:
    """The barriers of one task's inputs.

    ``blocked`` is one set for the whole life of the aligner: ask ``channel in aligner.blocked``
    once per batch, and read nothing from such a channel.
    """

    def __init__(
        self, channels: Collection[ChannelId], *, mode: Literal["exactly-once", "at-least-once"]
    ) -> None:
        if not channels:
            raise LocalProtocolError("a task without inputs has nothing to align")
        self.blocked: set[ChannelId] = set()
        self._blocks = mode == "exactly-once"
        self._latest = dict.fromkeys(channels, CheckpointId(0))
        self._newest = CheckpointId(0)
        self._current: CheckpointId | None = None
        self._arrived: set[ChannelId] = set()
        self._first_barrier_ms = 0
        self._aborted: set[CheckpointId] = set()

    def receive_barrier(
        self, channel: ChannelId, checkpoint_id: CheckpointId, now_ms: int
    ) -> list[Action]:
        """Take the barrier of a checkpoint from one channel; ``now_ms`` is monotonic.

        The actions are to be carried out in order, at once. A newer checkpoint overtakes the one in
        alignment, which is declined. The barrier of an older or aborted one is ignored.

        Raises:
            LocalProtocolError: the channel is unknown, or blocked and so must not be read, or its
                barriers do not increase.
        """
        self._admit(channel, checkpoint_id)
        actions: list[Action] = []
        if checkpoint_id > self._newest:
            actions = self._begin(checkpoint_id, now_ms)
        if checkpoint_id != self._current:
            # Older than what another channel has already brought: its alignment was declined then.
            # Or aborted: the barriers of an aborted checkpoint are still on their way, for the
            # abort came from the job manager directly and overtook them.
            return actions
        self._arrived.add(channel)
        if len(self._arrived) == len(self._latest):
            actions.append(Snapshot(checkpoint_id, now_ms - self._first_barrier_ms))
            actions += self._end()
        elif self._blocks:
            self.blocked.add(channel)
        return actions

    def abort(self, checkpoint_id: CheckpointId) -> list[Action]:
        """Give a checkpoint up because the job manager says so; repeats change nothing.

        It may come before the first barrier of the checkpoint: the barriers are then ignored when
        they come. It may come after the snapshot: that is no longer the aligner's concern.
        """
        if checkpoint_id == self._current:
            return self._end()
        if checkpoint_id > self._newest:
            self._aborted.add(checkpoint_id)
        return []

    def check(self) -> None:
        """Assert the invariants of this machine."""
        channels = self._latest.keys()
        assert self._current in (None, self._newest)
        assert self._current is not None or not self._arrived
        assert self._arrived < channels
        assert self.blocked == (self._arrived if self._blocks else set())
        assert all(self._latest[channel] == self._current for channel in self._arrived)
        assert self._newest == max(self._latest.values())
        assert all(checkpoint_id > self._newest for checkpoint_id in self._aborted)

    def _admit(self, channel: ChannelId, checkpoint_id: CheckpointId) -> None:
        latest = self._latest.get(channel)
        if latest is None:
            raise LocalProtocolError(f"barrier {checkpoint_id} came in unknown channel {channel}")
        if channel in self.blocked:
            raise LocalProtocolError(
                f"barrier {checkpoint_id} was read from channel {channel}, which is blocked"
            )
        if checkpoint_id <= latest:
            raise LocalProtocolError(
                f"barrier {checkpoint_id} came after barrier {latest} in channel {channel}"
            )
        self._latest[channel] = checkpoint_id

    def _begin(self, checkpoint_id: CheckpointId, now_ms: int) -> list[Action]:
        actions: list[Action] = []
        if self._current is not None:
            # A FIFO channel that has brought a newer barrier will never bring the older one.
            actions.append(Decline(self._current, f"overtaken by checkpoint {checkpoint_id}"))
            actions += self._end()
        self._newest = checkpoint_id
        if checkpoint_id not in self._aborted:
            self._current = checkpoint_id
            self._first_barrier_ms = now_ms
        self._aborted = {aborted for aborted in self._aborted if aborted > checkpoint_id}
        return actions

    def _end(self) -> list[Action]:
        self._current = None
        self._arrived.clear()
        if not self.blocked:
            return []
        self.blocked.clear()
        return [Unblock()]
