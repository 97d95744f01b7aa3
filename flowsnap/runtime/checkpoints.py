"""A task's part in checkpoints: barriers come in, a snapshot is taken, barriers go out.

Whether a snapshot may be taken is the aligner's decision; here it is carried out on the channels:
what is in transit is recorded, on the side of the receiver as it comes, on the side of the sender
where the barrier overtakes what waits for credit. An aligned barrier with a timeout that is stuck
behind such batches overtakes them when its time is over; until it has left, the snapshot is not
whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flowsnap.core.aligner import Action, Aligner, Decline, Recorded, Snapshot, Unblock
from flowsnap.core.element import Barrier
from flowsnap.core.ids import ChannelId, CheckpointId
from flowsnap.failpoint import failpoint
from flowsnap.runtime.channel_state import Recording
from flowsnap.runtime.input import InputChannel
from flowsnap.runtime.output import OutputChannel


class Host(Protocol):
    """The task that is to be snapshot."""

    def take_snapshot(self, cut: Snapshot) -> None:
        """Take the synchronous part of a snapshot; calls ``TaskCheckpoints.cut`` in the middle."""

    def decline(self, checkpoint_id: CheckpointId, reason: str) -> None:
        """Tell the job manager that this checkpoint cannot be had from this task."""


@dataclass(slots=True)
class _Open:
    """A snapshot of which something is still in transit."""

    recording: Recording
    begun_ms: int
    is_input_recorded: bool
    leaving: list[OutputChannel]  # where the barrier waits behind something
    due_ms: int = 0  # when it overtakes that


class TaskCheckpoints:
    """The checkpoints of one task, from barrier to barrier.

    ``aligner`` is None for a source. ``new_recording`` returns where a checkpoint's channel state
    is to be put.
    """

    def __init__(
        self,
        aligner: Aligner | None,
        inputs: Mapping[ChannelId, InputChannel],
        outputs: Sequence[OutputChannel],
        new_recording: Callable[[CheckpointId], Recording],
        host: Host,
    ) -> None:
        self._aligner = aligner
        self._inputs = inputs
        self._outputs = outputs
        self._new_recording = new_recording
        self._host = host
        self._triggers: deque[tuple[CheckpointId, int | None]] = deque()
        self._announced: list[tuple[ChannelId, Barrier]] = []
        self._open: dict[CheckpointId, _Open] = {}
        self._now_ms = 0
        for channel in inputs.values():
            channel.announced = self._announced

    # --- what comes in ------------------------------------------------------------------------

    def trigger(self, checkpoint_id: CheckpointId, timeout_ms: int | None) -> None:
        """Begin a checkpoint here, at the next step."""
        self._triggers.append((checkpoint_id, timeout_ms))

    def is_called(self, now_ms: int) -> bool:
        """Whether ``step`` has anything to do."""
        return bool(self._announced or self._triggers) or self._is_overdue(now_ms)

    def step(self, now_ms: int) -> bool:
        """Take what has been triggered or announced; return whether anything came of it.

        Not to be called while the last output leaves, nor before what was restored in transit has
        been processed: no snapshot could say how far that is.
        """
        self._now_ms = now_ms
        has_acted = False
        while self._announced:
            channel, barrier = self._announced.pop(0)
            has_acted |= self._hear(channel, barrier, now_ms)
        if self._triggers:
            has_acted |= self._begin(*self._triggers.popleft(), now_ms)
        if self._aligner is not None and self._is_overdue(now_ms):
            has_acted |= self._carry_out(self._aligner.time_passed(now_ms))
        return has_acted

    def receive(self, channel: ChannelId, barrier: Barrier, now_ms: int) -> None:
        """Take a barrier in its turn: everything before it in its channel has been processed."""
        failpoint("ch.barrier_recv_first")
        assert self._aligner is not None, "a source has no input channel"
        self._now_ms = now_ms
        id_, timeout_ms = barrier.checkpoint_id, barrier.timeout_ms
        self._carry_out(self._aligner.receive_barrier(channel, id_, now_ms, timeout_ms))

    def abort(self, checkpoint_id: CheckpointId) -> None:
        """Give a checkpoint up, whether its barriers have come or not."""
        self._triggers = deque(one for one in self._triggers if one[0] != checkpoint_id)
        if self._aligner is not None:
            self._carry_out(self._aligner.abort(checkpoint_id))
        self._drop(checkpoint_id)

    def next_deadline_ms(self, *, may_cut: bool = True) -> int | None:
        """Return when ``step`` and ``push_out`` are wanted; None: only another event matters.

        ``may_cut``: ``step`` may be called now, so that it is worth being in time for it.
        """
        due = [one.due_ms for one in self._open.values() if one.leaving]
        at_ms = None if self._aligner is None else self._aligner.next_deadline_ms()
        if may_cut and at_ms is not None:
            due.append(at_ms)
        return min(due, default=None)

    # --- what is in transit -------------------------------------------------------------------

    def cut(self, snapshot: Snapshot) -> Recording | None:
        """Record what is in transit, and send the barrier; None: nothing can be."""
        id_, timeout_ms, now_ms = snapshot.checkpoint_id, snapshot.timeout_ms, self._now_ms
        if timeout_ms is None and not snapshot.recording:
            for channel in self._outputs:
                channel.send(Barrier(id_))
            return None
        failpoint("uc.channel_state_open")
        recording = self._new_recording(id_)
        for one in snapshot.recording:
            self._inputs[one].record(id_, recording)
        leaving = self._send(Barrier(id_, timeout_ms), recording)
        due_ms = now_ms + (timeout_ms or 0)
        self._open[id_] = _Open(recording, now_ms, not snapshot.recording, leaving, due_ms)
        self._settle(id_, now_ms)
        return recording

    def push_out(self, now_ms: int) -> bool:
        """Have barriers that have waited for long enough overtake what is in their way.

        Returns whether one did: who gets it may be a neighbour that has nothing else to wake it.
        """
        has_acted = False
        for id_, one in list(self._open.items()):
            one.leaving = [channel for channel in one.leaving if channel.holds(id_)]
            if now_ms >= one.due_ms:
                has_acted |= bool(one.leaving)
                for channel in one.leaving:
                    self._overtake(channel, Barrier(id_, 0), one.recording)
                one.leaving = []
            self._settle(id_, now_ms)
        return has_acted

    @property
    def has_open(self) -> bool:
        """Whether a snapshot is not whole yet, so that ``push_out`` is worth calling."""
        return bool(self._open)

    def close(self) -> None:
        """Drop what is being recorded."""
        for id_ in list(self._open):
            self._drop(id_)

    def _send(self, barrier: Barrier, recording: Recording) -> list[OutputChannel]:
        leaving = []
        for channel in self._outputs:
            if barrier.timeout_ms == 0 and channel.can_overtake:
                self._overtake(channel, barrier, recording)
                continue
            channel.send(barrier)
            if barrier.timeout_ms and channel.can_overtake and channel.holds(barrier.checkpoint_id):
                leaving.append(channel)
        return leaving

    def _overtake(self, channel: OutputChannel, barrier: Barrier, recording: Recording) -> None:
        for batch in channel.overtake(barrier):
            recording.add(channel.id, batch)

    def _settle(self, checkpoint_id: CheckpointId, now_ms: int) -> None:
        one = self._open[checkpoint_id]
        if one.is_input_recorded and not one.leaving:
            del self._open[checkpoint_id]
            one.recording.recording_ms = now_ms - one.begun_ms
            one.recording.finish()
            failpoint("uc.channel_state_sealed")

    def _drop(self, checkpoint_id: CheckpointId) -> None:
        one = self._open.pop(checkpoint_id, None)
        if one is None:
            return
        for channel in self._inputs.values():
            channel.stop_recording(checkpoint_id)
        one.recording.drop()

    # --- what the aligner wants ---------------------------------------------------------------

    def _is_overdue(self, now_ms: int) -> bool:
        deadline_ms = None if self._aligner is None else self._aligner.next_deadline_ms()
        return deadline_ms is not None and now_ms >= deadline_ms

    def _hear(self, channel: ChannelId, barrier: Barrier, now_ms: int) -> bool:
        assert self._aligner is not None, "a source has no input channel"
        id_, timeout_ms = barrier.checkpoint_id, barrier.timeout_ms
        return self._carry_out(self._aligner.announce(channel, id_, now_ms, timeout_ms))

    def _begin(self, checkpoint_id: CheckpointId, timeout_ms: int | None, now_ms: int) -> bool:
        if self._aligner is None:
            self._host.take_snapshot(Snapshot(checkpoint_id, 0, timeout_ms))
            return True
        return self._carry_out(self._aligner.initiate(checkpoint_id, now_ms, timeout_ms))

    def _carry_out(self, actions: Sequence[Action]) -> bool:
        for action in actions:
            match action:
                case Snapshot():
                    failpoint("ch.aligned")
                    self._host.take_snapshot(action)
                case Recorded(checkpoint_id) if checkpoint_id in self._open:
                    self._open[checkpoint_id].is_input_recorded = True
                    self._settle(checkpoint_id, self._now_ms)
                case Decline(checkpoint_id, reason):
                    self._drop(checkpoint_id)
                    self._host.decline(checkpoint_id, reason)
                case Unblock() | Recorded():
                    pass  # ``blocked`` is the aligner's own set, which it has emptied.
        return bool(actions)
