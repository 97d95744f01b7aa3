"""Mutants: alignment, barriers, channels, credit, attempts and ids."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec

from flowsnap.core import restore, transit
from flowsnap.core.aligner import Aligner
from flowsnap.core.coordinator import CheckpointCoordinator
from flowsnap.core.element import Barrier, EndOfInput
from flowsnap.core.ids import AttemptId, CheckpointId
from flowsnap.core.task import TaskState
from flowsnap.runtime.input import InputChannel, SourceInput
from flowsnap.runtime.output import OutputChannel
from flowsnap.runtime.recovery import Recovery
from flowsnap.runtime.task import TaskRunner
from flowsnap.storage.job_store import JobStore
from flowsnap.storage.writer import CheckpointWriter
from flowsnap.testing.mutants import Patch, mutant
from flowsnap.transport.session import PeerSession

NEVER_MS = 10**12


@mutant("C9", "C1")
def alignment_that_blocks_nothing(patch: Patch) -> None:
    """A channel is read on behind its barrier while others are waited for."""
    original = Aligner.__init__

    def init(self: Aligner, channels: Any, mode: str, **settings: Any) -> None:
        original(self, channels, mode="at-least-once", **settings)

    patch.set(Aligner, "__init__", init)


@mutant("C9")
def end_of_input_that_is_not_aligned(patch: Patch) -> None:
    """The end of input is taken from a blocked channel, ahead of the snapshot."""
    original = TaskRunner._consume

    def consume(self: TaskRunner, now_ms: int) -> bool:
        for channel in self.inputs.values():
            first = next(iter(channel.queue), None) if channel.id in self._blocked else None
            if isinstance(first, EndOfInput):
                self._take(channel, channel.queue.popleft(), now_ms)
                return True
        return original(self, now_ms)

    patch.set(TaskRunner, "_consume", consume)


@mutant("C1", "C2", "C3", "C4")
def barrier_ahead_of_the_last_records(patch: Patch) -> None:
    """A barrier is sent while partial batches wait to be sent."""
    patch.set(TaskRunner, "_flush", lambda self: None)


@mutant("C3", "C4", "C5", "C11")
def barrier_ahead_of_the_snapshot(patch: Patch) -> None:
    """A source says how far it has read, and sends the last of it behind the barrier."""
    original = TaskRunner.take_snapshot

    def take_snapshot(self: TaskRunner, cut: Any) -> None:
        source, batch = self.source, None
        if source is not None and self.state is TaskState.RUNNING:
            batch = source.read(self._now_ms)
        original(self, cut)
        if batch is not None:
            self._process(batch)

    patch.set(TaskRunner, "take_snapshot", take_snapshot)


@mutant("C2")
def channel_state_without_what_waits(patch: Patch) -> None:
    """An unaligned snapshot records what still comes in a channel, and not what waits there."""
    original = InputChannel.record

    def record(self: InputChannel, checkpoint_id: CheckpointId, recording: Any) -> None:
        waiting = self.queue
        self.queue = type("Nothing", (deque,), {})(
            one for one in waiting if isinstance(one, Barrier)
        )
        try:
            original(self, checkpoint_id, recording)
        finally:
            self.queue = waiting

    patch.set(InputChannel, "record", record)


@mutant("C2")
def channel_state_without_what_was_overtaken(patch: Patch) -> None:
    """What a barrier overtakes at its sender is not recorded."""
    patch.set(OutputChannel, "overtake", _overtake_in_silence(OutputChannel.overtake))


def _overtake_in_silence(original: Any) -> Any:
    def overtake(self: OutputChannel, barrier: Barrier) -> list[Any]:
        original(self, barrier)
        return []

    return overtake


@mutant("C3", "C4", "C5")
def channel_state_that_is_not_restored(patch: Patch) -> None:
    """What was in transit is in the checkpoint, and nobody processes it after the restart."""
    patch.set(transit, "assign", lambda old, graph, task: ())


@mutant("C3", "C4", "C5", "C12")
def checkpoint_without_its_last_task(patch: Patch) -> None:
    """A checkpoint is complete when all tasks but one have acknowledged."""
    original = CheckpointCoordinator._acknowledge

    def acknowledge(self: Any, checkpoint_id: Any, snapshot: Any, now_ms: int) -> Any:
        pending = self._pending.get(checkpoint_id)
        if pending is not None and len(pending.missing) == 2 and snapshot.task in pending.missing:
            (last,) = set(pending.missing) - {snapshot.task}
            forged = msgspec.structs.replace(
                snapshot, task=last, splits=(), state=None, prepared=()
            )
            pending.missing.remove(last)
            pending.snapshots[last] = forged
        return original(self, checkpoint_id, snapshot, now_ms)

    patch.set(CheckpointCoordinator, "_acknowledge", acknowledge)


@mutant("C1", "C2", "C3", "C4", "C12")
def sequence_numbers_that_nobody_checks(patch: Patch) -> None:
    """A frame that was lost on the way is not missed."""
    patch.set(PeerSession, "accept", lambda self, header: None)


@mutant("C12")
def credit_that_is_not_returned(patch: Patch) -> None:
    """A batch that was processed gives no credit back."""
    original = InputChannel.replenish

    def replenish(self: InputChannel) -> None:
        if not self.consumed:
            original(self)

    patch.set(InputChannel, "replenish", replenish)


@mutant("C7")
def stale_files_that_are_stored(patch: Patch) -> None:
    """A worker that is no longer wanted stores files all the same."""
    patch.set(CheckpointWriter, "_check_fence", lambda self, checkpoint_id: None)


@mutant("C7", "C6")
def attempt_that_is_not_durable(patch: Patch) -> None:
    """An attempt begins before its number is durable, so a crash makes it begin again."""
    original = JobStore.begin_attempt

    def begin_attempt(self: JobStore) -> AttemptId:
        newest = self.newest_attempt() or AttemptId(0)
        if newest % 2:  # Each other attempt, so that some number is durable and comes back.
            return AttemptId(newest + 1)
        return original(self)

    patch.set(JobStore, "begin_attempt", begin_attempt)


@mutant("C6", "C12")
def ids_that_begin_again(patch: Patch) -> None:
    """A job that is started again counts its checkpoints from the newest that is complete."""

    def next_checkpoint_id(self: JobStore) -> CheckpointId:
        return CheckpointId(max(self.checkpoints(), default=0) + 1)

    patch.set(JobStore, "next_checkpoint_id", next_checkpoint_id)


@mutant("C6")
def older_checkpoint_that_is_restored(patch: Patch) -> None:
    """Where there are two checkpoints, the older one is taken."""
    original = Recovery.begin_attempt

    def begin_attempt(self: Recovery, graph: Any, config: Any) -> Any:
        found = self._directory.checkpoints()
        hidden: Callable[[], list[CheckpointId]] = lambda: found[:-1] or found  # noqa: E731
        self._directory.checkpoints = hidden  # type: ignore[method-assign]
        try:
            return original(self, graph, config)
        finally:
            del self._directory.checkpoints

    patch.set(Recovery, "begin_attempt", begin_attempt)


@mutant("C6")
def newer_checkpoints_that_are_kept(patch: Patch) -> None:
    """Who restores an older checkpoint finds the newest one restored after the next failure."""
    patch.set(JobStore, "go_back", lambda self, checkpoint_id, but=None: [])


@mutant("C3", "C4", "C5")
def positions_that_are_one_ahead(patch: Patch) -> None:
    """A source says that it has read the record which it will read next."""
    _shift_positions(patch, 1)


@mutant("C3", "C4", "C5")
def positions_that_are_one_behind(patch: Patch) -> None:
    """A source says that it has still to read the record which it has read last."""
    _shift_positions(patch, -1)


def _shift_positions(patch: Patch, by: int) -> None:
    original = SourceInput.positions

    def positions(self: SourceInput, *arguments: Any) -> Any:
        return tuple(
            one
            if one.is_finished
            else msgspec.structs.replace(one, position=max((one.position or 0) + by, 0))
            for one in original(self, *arguments)
        )

    patch.set(SourceInput, "positions", positions)


@mutant("C3", "C4")
def ends_that_are_not_restored(patch: Patch) -> None:
    """A task that had ended before the checkpoint ends again after it."""
    patch.set(restore, "_ended", lambda old, graph, dealt: set())


@mutant("C3", "C5", "C4")
def keys_that_are_hashed_anew(patch: Patch) -> None:
    """Each task has a hash function of its own, as Python's is in each process."""
    from flowsnap.runtime import output  # noqa: PLC0415

    original, salts = output.Hash.__init__, count()

    def init(self: Any, channels: Any, *arguments: Any) -> None:
        original(self, channels, *arguments)
        owners, salt = self._owners._owner_of_group, next(salts) % 3
        self._owners._owner_of_group = owners[salt:] + owners[:salt]

    patch.set(output.Hash, "__init__", init)


@mutant("C12")
def checkpoints_that_end_with_the_first_failure(patch: Patch) -> None:
    """After a checkpoint that has failed none is begun any more by itself."""
    original = CheckpointCoordinator._fail

    def fail(self: Any, *settings: Any) -> Any:
        actions = original(self, *settings)
        self._interval_ms = self._due_ms = NEVER_MS
        return actions

    patch.set(CheckpointCoordinator, "_fail", fail)


@mutant("C3", "C4", "C5", needs=("total",))
def end_that_comes_again(patch: Patch) -> None:
    """What has ended ends again in one task with what had not."""
    patch.set(restore, "_ended_before", lambda old, chain, graph, ended: ())
