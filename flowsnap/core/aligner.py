"""When may one subtask snapshot, and what is then in transit to it?

A task with several inputs gets the barrier of a checkpoint from each of them, at different moments.
Its snapshot must hold the effect of every record before the barriers and of none after them: only
then do the snapshots of all tasks together form a consistent cut, a state the whole job could have
been in at one moment. There are two ways to see to that, and each channel goes one of them.

**Waiting** (Carbone et al.): a channel whose barrier has been reached is *blocked*, and what
follows in it stays unread, until every channel that is waited for has come so far. Nothing that
belongs to the cut is then in transit in such a channel.

**Recording** (Chandy and Lamport): the snapshot is taken without the barrier of this channel, and
what comes in it up to its barrier is *recorded*: it was sent before the sender's cut and received
after ours, so it is the state of the channel. After a restore it is processed first.

An aligned checkpoint waits for all channels but feedback, which comes round only after our own
barrier has left: waiting for it would be waiting for oneself. An unaligned one records all channels
but broadcast, whose state would be a different piece of the same stream in every subtask, and
snapshots as soon as it hears of a barrier. An aligned one with a timeout waits, and when the time
is over goes on as an unaligned one, with what it has. A task at which a checkpoint is *initiated*
records from that moment, and is not waiting for anybody.

A barrier is *announced* when it has arrived, perhaps behind batches that are not processed yet; it
is *received* when all before it have been. In the mode "at-least-once" nothing is blocked: the
snapshot is taken at the last barrier and holds the effect of records that came after the others; a
restore processes those again. Feedback is recorded all the same, for it must not be lost.

Invariants: at most one checkpoint is waited for, and it is the newest that has been begun; a
checkpoint is snapshot or declined at most once, from wherever it was initiated and however often;
while nothing is waited for, nothing is blocked; a snapshot whose channels are recorded ends in
exactly one ``Recorded``, or in ``Decline``, or is aborted.

The end of input is no special case. ``EndOfInput`` does not close a channel, barriers keep coming
in it until the job has finished. A task without inputs, a source, has no aligner: its barrier comes
from the job manager.

Source: Chandy and Lamport, "Distributed Snapshots: Determining Global States of Distributed
Systems" (ACM TOCS, 1985), section 3; Carbone et al., "Lightweight Asynchronous Snapshots for
Distributed Dataflows" (2015), sections 4.2 and 4.3; FLIP-76 "Unaligned Checkpoints" and FLIP-182
for the timeout. Both rest on channels that are FIFO and lose nothing. Deviation: Flink's
at-least-once tracker counts several checkpoints at once; here a newer one overtakes.

Example:
    >>> a, b = ChannelId(0), ChannelId(1)
    >>> aligner = Aligner([a, b], mode="exactly-once")
    >>> aligner.receive_barrier(a, CheckpointId(1), now_ms=0)
    []
    >>> aligner.blocked
    {0}
    >>> aligner.receive_barrier(b, CheckpointId(1), now_ms=7)
    [Snapshot(checkpoint_id=1, alignment_ms=7, timeout_ms=None, recording=()), Unblock()]
    >>> aligner.announce(a, CheckpointId(2), now_ms=8, timeout_ms=0)
    [Snapshot(checkpoint_id=2, alignment_ms=0, timeout_ms=0, recording=(0, 1))]
    >>> aligner.announce(b, CheckpointId(2), now_ms=9, timeout_ms=0)
    [Recorded(checkpoint_id=2)]
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from flowsnap.core.ids import ChannelId, CheckpointId
from flowsnap.errors import LocalProtocolError


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Take the snapshot, forward the barrier, and only then read on.

    ``alignment_ms`` is the time since the first barrier. ``timeout_ms`` goes with the barrier: None
    in an aligned checkpoint, 0 where it overtakes what waits for credit. ``recording``: the
    channels whose content up to the barrier belongs to the snapshot, what waits in them first.
    """

    checkpoint_id: CheckpointId
    alignment_ms: int
    timeout_ms: int | None = None
    recording: tuple[ChannelId, ...] = ()


@dataclass(frozen=True, slots=True)
class Recorded:
    """The barriers of all recorded channels have come: the channel state is complete."""

    checkpoint_id: CheckpointId


@dataclass(frozen=True, slots=True)
class Unblock:
    """All channels are readable again: what waited in them can be processed."""


@dataclass(frozen=True, slots=True)
class Decline:
    """This task can take no part in the checkpoint: tell the job manager."""

    checkpoint_id: CheckpointId
    reason: str


Action = Snapshot | Recorded | Unblock | Decline
Mode = Literal["exactly-once", "at-least-once"]


@dataclass(slots=True)
class _Waiting:
    """A checkpoint of which a barrier has come, and whose snapshot is not taken yet."""

    checkpoint_id: CheckpointId
    timeout_ms: int | None
    first_ms: int
    is_recording: bool  # rather than waiting, wherever that may be
    received: set[ChannelId] = field(default_factory=set)


class Aligner:
    """The barriers of one task's inputs.

    ``feedback`` channels are never waited for, ``broadcast`` ones never recorded. ``blocked`` is
    one set for the whole life of the aligner: ask ``channel in aligner.blocked`` once per batch,
    and read nothing from such a channel.
    """

    def __init__(
        self,
        channels: Collection[ChannelId],
        *,
        mode: Mode,
        feedback: Collection[ChannelId] = (),
        broadcast: Collection[ChannelId] = (),
    ) -> None:
        if not channels:
            raise LocalProtocolError("a task without inputs has nothing to align")
        if set(feedback) & set(broadcast):
            raise LocalProtocolError("what is broadcast cannot be recorded, and feedback must be")
        self.blocked: set[ChannelId] = set()
        self._blocks = mode == "exactly-once"
        self._awaited = frozenset(channels) - set(feedback)
        self._must_wait = frozenset(broadcast)
        self._announced = dict.fromkeys(channels, CheckpointId(0))
        self._received = dict.fromkeys(channels, CheckpointId(0))
        self._newest = CheckpointId(0)
        self._waiting: _Waiting | None = None
        self._recording: dict[CheckpointId, set[ChannelId]] = {}
        self._aborted: set[CheckpointId] = set()

    # --- events -------------------------------------------------------------------------------

    def announce(
        self,
        channel: ChannelId,
        checkpoint_id: CheckpointId,
        now_ms: int,
        timeout_ms: int | None = None,
    ) -> list[Action]:
        """Take note that a barrier has arrived in a channel, before what is ahead of it is read.

        ``now_ms`` is monotonic; ``timeout_ms`` is what the barrier says: None if the checkpoint is
        aligned, 0 if it is unaligned, else how long it may wait.

        Raises:
            LocalProtocolError: the channel is unknown, or its barriers do not increase.
        """
        self._admit(self._announced, channel, checkpoint_id)
        actions = self._skipped(channel, checkpoint_id)
        if checkpoint_id in self._recording:
            return actions + self._close(channel, checkpoint_id)
        is_urgent = timeout_ms is not None or channel not in self._awaited
        if checkpoint_id > self._newest and is_urgent:
            actions += self._begin(checkpoint_id, now_ms, timeout_ms)
        return actions + self._try(now_ms)

    def receive_barrier(
        self,
        channel: ChannelId,
        checkpoint_id: CheckpointId,
        now_ms: int,
        timeout_ms: int | None = None,
    ) -> list[Action]:
        """Take a barrier that all before it in its channel has been processed of.

        The actions are to be carried out in order, at once. A newer checkpoint overtakes the one
        that is waited for, which is declined. The barrier of an older or aborted one is ignored,
        and so is one whose channel has been recorded up to it.

        Raises:
            LocalProtocolError: the channel is unknown, or blocked and so must not be read, or its
                barriers do not increase.
        """
        if channel in self.blocked:
            raise LocalProtocolError(
                f"barrier {checkpoint_id} was read from channel {channel}, which is blocked"
            )
        self._admit(self._received, channel, checkpoint_id)
        actions: list[Action] = []
        if self._announced[channel] < checkpoint_id:
            actions += self.announce(channel, checkpoint_id, now_ms, timeout_ms)
        if checkpoint_id > self._newest:
            actions += self._begin(checkpoint_id, now_ms, timeout_ms)
        waiting = self._waiting
        if waiting is None or waiting.checkpoint_id != checkpoint_id:
            # Taken already, or older than what another channel has brought: declined then. Or
            # aborted: the barriers of an aborted checkpoint are still on their way, for the abort
            # came from the job manager directly and overtook them.
            return actions
        waiting.received.add(channel)
        actions += self._try(now_ms)
        if self._blocks and self._waiting is not None:
            self.blocked.add(channel)
        return actions

    def initiate(
        self, checkpoint_id: CheckpointId, now_ms: int, timeout_ms: int | None = None
    ) -> list[Action]:
        """Begin a checkpoint here; where its barrier has come before, this changes nothing more."""
        if checkpoint_id < self._newest or checkpoint_id in self._recording:
            return []
        actions: list[Action] = []
        if checkpoint_id > self._newest:
            actions = self._begin(checkpoint_id, now_ms, timeout_ms)
        if self._waiting is not None and self._waiting.checkpoint_id == checkpoint_id:
            self._waiting.is_recording = True
        return actions + self._try(now_ms)

    def time_passed(self, now_ms: int) -> list[Action]:
        """Go on without those that have kept an aligned checkpoint waiting for too long."""
        deadline_ms, waiting = self.next_deadline_ms(), self._waiting
        if deadline_ms is None or now_ms < deadline_ms or waiting is None:
            return []
        waiting.is_recording, waiting.timeout_ms = True, 0
        return self._try(now_ms)

    def next_deadline_ms(self) -> int | None:
        """Return when ``time_passed`` is wanted; None: only another event changes anything."""
        waiting = self._waiting
        if waiting is None or waiting.is_recording or waiting.timeout_ms is None:
            return None
        if not self._blocks:
            return None  # Nothing is held up, so nothing is gained.
        return waiting.first_ms + waiting.timeout_ms

    def abort(self, checkpoint_id: CheckpointId) -> list[Action]:
        """Give a checkpoint up because the job manager says so; repeats change nothing.

        It may come before the first barrier of the checkpoint: the barriers are then ignored when
        they come. After the snapshot, what is still being recorded for it can be dropped.
        """
        self._recording.pop(checkpoint_id, None)
        if self._waiting is not None and self._waiting.checkpoint_id == checkpoint_id:
            return self._stop_waiting()
        if checkpoint_id > self._newest:
            self._aborted.add(checkpoint_id)
        return []

    def check(self) -> None:
        """Assert the invariants of this machine."""
        waiting = self._waiting
        received = set() if waiting is None else waiting.received
        assert waiting is None or waiting.checkpoint_id == self._newest
        assert waiting is None or self._newest not in self._recording
        assert waiting is None or not self._wanted(waiting) <= received
        assert self.blocked == (received if self._blocks else set())
        assert all(self._received[channel] == self._newest for channel in received)
        assert all(0 < id_ <= self._newest and open_ for id_, open_ in self._recording.items())
        assert all(self._received[c] <= self._announced[c] for c in self._announced)
        assert all(checkpoint_id > self._newest for checkpoint_id in self._aborted)

    # --- steps --------------------------------------------------------------------------------

    def _admit(
        self, latest: dict[ChannelId, CheckpointId], channel: ChannelId, checkpoint_id: CheckpointId
    ) -> None:
        if channel not in latest:
            raise LocalProtocolError(f"barrier {checkpoint_id} came in unknown channel {channel}")
        if checkpoint_id <= latest[channel]:
            raise LocalProtocolError(
                f"barrier {checkpoint_id} came after barrier {latest[channel]} in channel {channel}"
            )
        latest[channel] = checkpoint_id

    def _skipped(self, channel: ChannelId, checkpoint_id: CheckpointId) -> list[Action]:
        """Decline what this channel is recorded for, and will never bring the barrier of."""
        lost = [
            id_
            for id_, open_ in self._recording.items()
            if id_ < checkpoint_id and channel in open_
        ]
        for id_ in lost:
            del self._recording[id_]
        return [Decline(id_, f"overtaken by checkpoint {checkpoint_id}") for id_ in lost]

    def _close(self, channel: ChannelId, checkpoint_id: CheckpointId) -> list[Action]:
        open_ = self._recording[checkpoint_id]
        open_.discard(channel)
        if open_:
            return []
        del self._recording[checkpoint_id]
        return [Recorded(checkpoint_id)]

    def _begin(
        self, checkpoint_id: CheckpointId, now_ms: int, timeout_ms: int | None
    ) -> list[Action]:
        actions: list[Action] = []
        if self._waiting is not None:
            # A FIFO channel that has brought a newer barrier will never bring the older one.
            reason = f"overtaken by checkpoint {checkpoint_id}"
            actions.append(Decline(self._waiting.checkpoint_id, reason))
            actions += self._stop_waiting()
        self._newest = checkpoint_id
        if checkpoint_id not in self._aborted:
            is_recording = timeout_ms == 0 and self._blocks
            self._waiting = _Waiting(checkpoint_id, timeout_ms, now_ms, is_recording)
        self._aborted = {aborted for aborted in self._aborted if aborted > checkpoint_id}
        return actions

    def _wanted(self, waiting: _Waiting) -> frozenset[ChannelId]:
        return self._must_wait if waiting.is_recording else self._awaited

    def _try(self, now_ms: int) -> list[Action]:
        """Take the snapshot if every channel that is waited for has come so far."""
        waiting = self._waiting
        if waiting is None or not self._wanted(waiting) <= waiting.received:
            return []
        checkpoint_id = waiting.checkpoint_id
        recording = tuple(c for c in self._announced if c not in waiting.received)
        actions: list[Action] = [
            Snapshot(checkpoint_id, now_ms - waiting.first_ms, waiting.timeout_ms, recording)
        ]
        actions += self._stop_waiting()
        open_ = {channel for channel in recording if self._announced[channel] < checkpoint_id}
        if open_:
            self._recording[checkpoint_id] = open_
        elif recording:
            actions.append(Recorded(checkpoint_id))
        return actions

    def _stop_waiting(self) -> list[Action]:
        self._waiting = None
        if not self.blocked:
            return []
        self.blocked.clear()
        return [Unblock()]
