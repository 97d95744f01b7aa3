"""Is the cut consistent? Follows what passes through the channels of one attempt.

Every batch carries the vector clock of its sender. When a task snapshots, its clock is its cut, and
nobody's cut may know more of a task than that task's own. That is the cut of Chandy and Lamport.
What was sent before the sender's cut and not processed before the receiver's is the state of the
channel, and must be what the snapshot has recorded: nothing, where barriers are waited for. Batches
are followed from one end to the other, so that a loss between them, a record that overtakes a
barrier and one that is read from a blocked channel all show.

Source: Chandy and Lamport (1985), section 2; vector clocks: Mattern, "Virtual Time and Global
States of Distributed Systems" (1989).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Mapping

from flowsnap.core.element import Barrier, Batch, Element, EndOfInput, Marker, Watermark
from flowsnap.core.graph import ExecutionGraph
from flowsnap.core.ids import ChannelId, CheckpointId, TaskId
from flowsnap.core.watermark import MAX_WATERMARK
from flowsnap.runtime.channel_state import Recording
from flowsnap.runtime.input import SourceInput
from flowsnap.runtime.output import OutputChannel
from flowsnap.runtime.spill import SpillQueue
from flowsnap.runtime.task import TaskRunner
from flowsnap.testing.world import World

SPILL_BATCHES = 3
"""How much of what is fed back stays in memory: so little that some of it does not."""


class _Channel:
    __slots__ = (
        "batches", "cut_at", "has_ended_in", "has_ended_out", "is_feedback", "processed_at", "read",
        "read_at", "recorded", "source", "stamps", "watermark_ms",
    )  # fmt: skip

    def __init__(self, source: int, watermark_ms: int | None, *, is_feedback: bool) -> None:
        self.source = source
        self.is_feedback = is_feedback
        self.stamps: list[tuple[int, ...]] = []  # of what was sent
        self.batches: list[Batch] = []
        self.read = 0
        self.cut_at: dict[CheckpointId, int] = {}
        self.read_at: dict[CheckpointId, int] = {}
        self.processed_at: dict[CheckpointId, int] = {}
        self.recorded: dict[CheckpointId, tuple[list[Batch], list[Batch]]] = {}  # received, sent
        self.watermark_ms = watermark_ms
        self.has_ended_out = self.has_ended_in = False


class Flow:
    """The channels of one attempt; ``restored_ms``: the least watermark that each task may send."""

    def __init__(
        self,
        world: World,
        graph: ExecutionGraph,
        capacity: int,
        restored_ms: Mapping[TaskId, int] | None = None,
    ) -> None:
        self.capacity = capacity
        self.world = world
        known = restored_ms or {}
        self._tasks = {task.id: index for index, task in enumerate(graph.tasks)}
        self._clocks = [[0] * len(self._tasks) for _ in self._tasks]
        self._cuts: dict[CheckpointId, dict[int, tuple[int, ...]]] = {}
        self.told_ms: dict[CheckpointId, dict[TaskId, int]] = {}
        """The event time that each task had sent when it was cut, where it was one."""
        self._channels = {
            channel.id: _Channel(
                self._tasks[channel.source],
                known.get(channel.source),
                is_feedback=graph.edges[channel.edge].is_feedback,
            )
            for channel in graph.channels
        }

    # --- what passes --------------------------------------------------------------------------

    def sent(self, channel: ChannelId, element: Element) -> None:
        """A task gives an element away; it may have to wait for credit."""
        one = self._channels[channel]
        if one.has_ended_out and not isinstance(element, Barrier | Marker):
            self.world.fail(f"C9: {element} was sent in channel {channel} behind the end of input")
        match element:
            case Batch():
                clock = self._clocks[one.source]
                clock[one.source] += 1
                one.stamps.append(tuple(clock))
                one.batches.append(element)
            case Barrier():
                self._sent_barrier(channel, element)
            case Watermark(timestamp_ms):
                self._sent_watermark(channel, timestamp_ms)
            case EndOfInput():
                one.has_ended_out = True
            case _:
                pass

    def _sent_barrier(self, channel: ChannelId, barrier: Barrier) -> None:
        one = self._channels[channel]
        if barrier.checkpoint_id in one.cut_at:
            self.world.fail(f"C9: a second {barrier} was sent in channel {channel}")
        one.cut_at[barrier.checkpoint_id] = len(one.stamps)

    def _sent_watermark(self, channel: ChannelId, watermark_ms: int) -> None:
        one = self._channels[channel]
        if one.watermark_ms is not None and watermark_ms < one.watermark_ms:
            self.world.fail(
                f"C10: watermark {watermark_ms} was sent in channel {channel} after "
                f"{one.watermark_ms}, here or before the restart"
            )
        one.watermark_ms = watermark_ms

    def read(self, channel: ChannelId, element: Element, task: TaskId) -> None:
        """An element is taken by its task."""
        one = self._channels[channel]
        if isinstance(element, Batch):
            if one.read < len(one.stamps):
                self._learn(self._tasks[task], one.stamps[one.read])
            one.read += 1
        elif isinstance(element, Barrier):
            if element.checkpoint_id in one.read_at:
                self.world.fail(f"C9: a second {element} was read from channel {channel}")
            one.read_at[element.checkpoint_id] = one.read
            if one.has_ended_in:
                self.world.trace.reached("barrier behind the end of input")
        elif isinstance(element, EndOfInput):
            one.has_ended_in = True

    def _learn(self, task: int, stamp: tuple[int, ...]) -> None:
        clock = self._clocks[task] = list(map(max, self._clocks[task], stamp))
        clock[task] += 1

    def has_read(self, channel: ChannelId, checkpoint_id: CheckpointId) -> bool:
        """Whether a barrier has been taken from a channel."""
        return checkpoint_id in self._channels[channel].read_at

    # --- what is cut --------------------------------------------------------------------------

    def overtaken(self, channel: ChannelId, checkpoint_id: CheckpointId) -> None:
        """A barrier leaves ahead of what waits; it may have been waiting as well."""
        one = self._channels[channel]
        one.cut_at.setdefault(checkpoint_id, len(one.stamps))
        self.world.trace.reached("barrier overtakes batches")

    def snapshot(self, task: TaskRunner, checkpoint_id: CheckpointId, *, is_recorded: bool) -> None:
        """A task has taken a snapshot; ``is_recorded``: what is in transit becomes part of it."""
        self._check_cut(task.id, checkpoint_id)
        for id, channel in task.inputs.items():
            one = self._channels[id]
            one.processed_at[checkpoint_id] = one.read
            if not is_recorded:
                self._check_aligned(one, checkpoint_id, f"checkpoint {checkpoint_id} of {task.id}")
            if any(isinstance(element, Batch) for element in channel.queue):
                self.world.trace.reached("alignment blocks a channel with data")
        sent_ms = [self._channels[output.id].watermark_ms for output in task.outputs]
        known_ms = [one for one in sent_ms if one is not None and one < MAX_WATERMARK]
        if known_ms:
            self.told_ms.setdefault(checkpoint_id, {})[task.id] = max(known_ms)

    def recorded(
        self, channel: ChannelId, checkpoint_id: CheckpointId, batch: Batch, *, is_sent: bool
    ) -> None:
        """One end of a channel has recorded a batch that is in transit."""
        ends = self._channels[channel].recorded.setdefault(checkpoint_id, ([], []))
        ends[is_sent].append(batch)

    def completed(self, checkpoint_id: CheckpointId) -> None:
        """C2: what was sent before the one cut and not processed before the other is recorded."""
        for id, one in self._channels.items():
            received, sent = one.recorded.get(checkpoint_id, ([], []))
            first, end = one.processed_at[checkpoint_id], one.cut_at.get(checkpoint_id, 0)
            found, in_transit = received + sent, one.batches[first:end]
            if found:
                self.world.trace.reached("checkpoint with channel state")
                if one.is_feedback:
                    self.world.trace.reached("barrier inside a loop")
            if first > end or found != in_transit:
                self.world.fail(
                    f"C2: checkpoint {checkpoint_id}, channel {id}: {end} batches were sent, "
                    f"{first} processed, and {len(found)} recorded, or not those"
                )

    def _check_cut(self, task: TaskId, checkpoint_id: CheckpointId) -> None:
        """C1: nobody's cut knows more of a task than its own."""
        me, cuts = self._tasks[task], self._cuts.setdefault(checkpoint_id, {})
        mine = tuple(self._clocks[me])
        for other, theirs in cuts.items():
            if mine[other] > theirs[other] or theirs[me] > mine[me]:
                names = {index: id for id, index in self._tasks.items()}
                self.world.fail(
                    f"C1: checkpoint {checkpoint_id}: the cuts of {task} and {names[other]} are "
                    f"not consistent: one knows what the other did behind its own"
                )
        cuts[me] = mine

    def _check_aligned(self, one: _Channel, checkpoint_id: CheckpointId, where: str) -> None:
        if checkpoint_id not in one.read_at:
            self.world.fail(f"C9: {where}: snapshot without a barrier")
        elif one.read != one.read_at[checkpoint_id]:
            self.world.fail(f"C9: {where}: a batch was processed behind the barrier")
        elif one.read != one.cut_at.get(checkpoint_id):
            self.world.fail(
                f"C2: {where}: {one.cut_at.get(checkpoint_id)} batches were sent before the "
                f"barrier, {one.read} processed, and none recorded"
            )


class Watch:
    """Tells the flow what is taken out of one channel."""

    def __init__(self, flow: Flow, channel: ChannelId, task: TaskRunner, worker: AbortsOf) -> None:
        self.flow = flow
        self.channel = channel
        self._task = task
        self._worker = worker

    def taken(self, element: Element) -> None:
        """An element has been taken out."""
        world = self.flow.world
        if isinstance(element, Batch):
            check_room(self.flow, self._task)
        if self.channel in self._task._blocked:
            world.fail(f"C9: {element} was taken from the blocked channel {self.channel}")
        if isinstance(element, EndOfInput) and self._task._blocked:
            world.trace.reached("end of input during alignment")
        if isinstance(element, Barrier) and element.checkpoint_id in self._worker.aborted:
            world.trace.reached("late barrier after an abort")
        self.flow.read(self.channel, element, self._task.id)


class WatchedQueue(deque[Element]):
    """The queue of an input channel: bounded, and watched."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch
        self._batches = 0

    def append(self, element: Element) -> None:
        super().append(element)
        if isinstance(element, Batch):
            self._batches += 1
            flow = self._watch.flow
            if self._batches > flow.capacity:
                flow.world.fail(f"C11: channel {self._watch.channel} holds {self._batches} batches")

    def popleft(self) -> Element:
        element = super().popleft()
        if isinstance(element, Batch):
            self._batches -= 1
        self._watch.taken(element)
        return element


class WatchedSpill(SpillQueue):
    """The queue of a feedback channel: without bound, so it uses its file early; and watched."""

    watch: Watch

    def append(self, element: Element) -> None:
        super().append(element)
        flow = self.watch.flow
        if isinstance(element, Batch) and len(self) > flow.capacity:
            flow.world.trace.reached("feedback beyond the capacity of a channel")
        if self.spilled:
            flow.world.trace.reached("feedback on disk")

    def popleft(self) -> Element:
        element = super().popleft()
        self.watch.taken(element)
        return element

    def __del__(self) -> None:
        if self._file is not None:  # Its process was killed, and closes nothing any more.
            self._file.close()


class WatchedOutput(OutputChannel):
    """The sending end of a channel, which tells the flow what a task gives away.

    An ``OutputChannel`` becomes one by its class alone, so it has no fields of its own.
    """

    __slots__ = ()

    def send(self, element: Element) -> None:
        flow_of(self).sent(self.id, element)
        super().send(element)

    def overtake(self, barrier: Barrier) -> list[Batch]:
        flow_of(self).overtaken(self.id, barrier.checkpoint_id)
        return super().overtake(barrier)


class WatchedRecording(Recording):
    """What is in transit to and from one task, which tells the flow what is recorded."""

    flow: Flow
    checkpoint_id: CheckpointId
    outputs: frozenset[ChannelId]

    def add(self, channel: ChannelId, batch: Batch) -> None:
        is_sent = channel in self.outputs
        self.flow.recorded(channel, self.checkpoint_id, batch, is_sent=is_sent)
        super().add(channel, batch)

    def __del__(self) -> None:
        self.close()  # as the system does for a process that was killed


def flow_of(channel: OutputChannel) -> Flow:
    """Return the flow of the worker that a channel belongs to."""
    worker = getattr(channel._deliver, "__self__", None)
    flow = getattr(worker, "flow", None)
    assert isinstance(flow, Flow), "the channel of an unwatched worker"
    return flow


def watch(flow: Flow, tasks: Iterable[TaskRunner], worker: AbortsOf) -> None:
    """Have the flow told of everything that the tasks of a worker send and take."""
    for task in tasks:
        for output in task.outputs:
            output.__class__ = WatchedOutput
        for channel in task.inputs.values():
            channel.queue = _watched(channel.queue, Watch(flow, channel.id, task, worker))
        _watch_recordings(flow, task)
        if task.source is not None:
            _watch_source(flow, task, task.source)


def check_room(flow: Flow, task: TaskRunner) -> None:
    """C11: a task whose output waits for credit takes nothing more."""
    for output in task.outputs:
        if output.backlog:
            flow.world.fail(f"C11: {task.id} goes on although channel {output.id} has no credit")


def _watch_source(flow: Flow, task: TaskRunner, source: SourceInput) -> None:
    original = source.read

    def read(now_ms: int, records_max: int = sys.maxsize) -> Batch | None:
        check_room(flow, task)
        return original(now_ms, records_max)

    source.read = read  # type: ignore[method-assign]


def _watched(queue: deque[Element] | SpillQueue, watch: Watch) -> deque[Element] | SpillQueue:
    if not isinstance(queue, SpillQueue):
        return WatchedQueue(watch)
    queue.__class__ = WatchedSpill
    assert isinstance(queue, WatchedSpill)
    queue.watch, queue._batches_max = watch, SPILL_BATCHES
    return queue


def _watch_recordings(flow: Flow, task: TaskRunner) -> None:
    checkpoints = task._checkpoints
    original, outputs = checkpoints._new_recording, frozenset(one.id for one in task.outputs)

    def new_recording(checkpoint_id: CheckpointId) -> Recording:
        recording = original(checkpoint_id)
        recording.__class__ = WatchedRecording
        assert isinstance(recording, WatchedRecording)
        recording.flow, recording.checkpoint_id = flow, checkpoint_id
        recording.outputs = outputs
        return recording

    checkpoints._new_recording = new_recording


class AbortsOf:
    """The checkpoints that a worker has been told to give up."""

    def __init__(self) -> None:
        self.aborted: set[CheckpointId] = set()
