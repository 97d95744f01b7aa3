"""A network of tasks that do nothing but send numbered batches, under the real checkpoint driver.

Channels, aligners and recordings are the real ones; who steps next, and what is delivered when, is
for the test to choose. What a channel's state must be is known by the definition: the batches that
were sent before the sender's cut and had not been taken before the receiver's.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flowsnap.core.aligner import Aligner, Mode, Snapshot
from flowsnap.core.element import Barrier, Batch, Element
from flowsnap.core.graph import Partitioning
from flowsnap.core.ids import ChannelId, CheckpointId, OperatorId
from flowsnap.core.manifest import ChannelState
from flowsnap.runtime.channel_state import Recording, read_batches
from flowsnap.runtime.checkpoints import TaskCheckpoints
from flowsnap.runtime.input import FeedbackChannel, InputChannel
from flowsnap.runtime.output import OutputChannel
from flowsnap.runtime.spill import SpillQueue

CAPACITY = 4


@dataclass(frozen=True)
class Wire:
    """A channel of the network: from which task to which, and of what kind."""

    id: ChannelId
    source: int
    target: int
    is_feedback: bool = False
    is_broadcast: bool = False


@dataclass
class Cut:
    """What one task's snapshot says: how much it had sent and taken, and what was in transit."""

    sent: dict[ChannelId, int]
    taken: dict[ChannelId, int]
    recording: Recording | None = None


@dataclass
class Node:
    """One task: its ends of channels, its cuts, and how far it is in each channel."""

    number: int
    inputs: dict[ChannelId, InputChannel] = field(default_factory=dict)
    outputs: dict[ChannelId, OutputChannel] = field(default_factory=dict)
    sent: dict[ChannelId, int] = field(default_factory=dict)
    taken: dict[ChannelId, int] = field(default_factory=dict)
    cuts: dict[CheckpointId, Cut] = field(default_factory=dict)
    declined: list[CheckpointId] = field(default_factory=list)
    blocked: set[ChannelId] = field(default_factory=set)
    checkpoints: TaskCheckpoints = field(init=False)

    def take_snapshot(self, cut: Snapshot) -> None:
        assert cut.checkpoint_id not in self.cuts, "a checkpoint is snapshot at most once"
        mine = self.cuts[cut.checkpoint_id] = Cut(dict(self.sent), dict(self.taken))
        mine.recording = self.checkpoints.cut(cut)

    def decline(self, checkpoint_id: CheckpointId, reason: str) -> None:
        self.declined.append(checkpoint_id)


class Network:
    """The tasks and what is under way between them."""

    def __init__(self, wires: list[Wire], directory: Path, mode: Mode) -> None:
        self.wires = {wire.id: wire for wire in wires}
        self.under_way: dict[ChannelId, deque[Element]] = {wire.id: deque() for wire in wires}
        self.credits: dict[ChannelId, int] = dict.fromkeys(self.under_way, 0)
        self.now_ms = 0
        count = 1 + max(max(wire.source, wire.target) for wire in wires)
        self.nodes = [Node(number) for number in range(count)]
        for wire in wires:
            self._connect(wire, directory)
        for node in self.nodes:
            self._equip(node, directory, mode)

    def _connect(self, wire: Wire, directory: Path) -> None:
        made: InputChannel
        if wire.is_feedback:
            queue = SpillQueue(directory / f"feedback-{wire.id}", batches_max=2)
            made = FeedbackChannel(wire.id, CAPACITY, self._grant, queue)
        else:
            made = InputChannel(wire.id, CAPACITY, self._grant)
        output = OutputChannel(wire.id, OperatorId("next"), self._deliver, 65_536)
        output.can_overtake = not wire.is_broadcast
        self.nodes[wire.target].inputs[wire.id] = made
        self.nodes[wire.target].taken[wire.id] = 0
        self.nodes[wire.source].outputs[wire.id] = output
        self.nodes[wire.source].sent[wire.id] = 0

    def _equip(self, node: Node, directory: Path, mode: Mode) -> None:
        aligner = None
        if node.inputs:
            own = [self.wires[id_] for id_ in node.inputs]
            aligner = Aligner(
                node.inputs,
                mode=mode,
                feedback=[wire.id for wire in own if wire.is_feedback],
                broadcast=[wire.id for wire in own if wire.is_broadcast],
            )
            node.blocked = aligner.blocked
        states = {id_: state(id_) for id_ in (*node.inputs, *node.outputs)}
        node.checkpoints = TaskCheckpoints(
            aligner,
            node.inputs,
            list(node.outputs.values()),
            lambda id_: Recording(directory / f"{node.number}-{id_}", states),
            node,
        )
        for channel in node.inputs.values():
            channel.replenish()

    def _deliver(self, channel: ChannelId, element: Element) -> int:
        self.under_way[channel].append(element)
        return 0

    def _grant(self, channel: ChannelId, credits: int) -> None:
        self.credits[channel] += credits

    # --- what may happen next

    def arrive(self, channel: ChannelId) -> None:
        """Let the next element of a channel arrive, and the credits that are under way."""
        credits, self.credits[channel] = self.credits[channel], 0
        if credits:
            self.nodes[self.wires[channel].source].outputs[channel].grant(credits)
        if self.under_way[channel]:
            element = self.under_way[channel].popleft()
            self.nodes[self.wires[channel].target].inputs[channel].receive(element)

    def send(self, channel: ChannelId) -> None:
        """Have the source of a channel send one batch, unless it is held back."""
        node = self.nodes[self.wires[channel].source]
        if any(output.backlog for output in node.outputs.values()):
            return
        self.force(channel)

    def force(self, channel: ChannelId) -> None:
        """Have the source of a channel send one batch; what has no credit waits."""
        node = self.nodes[self.wires[channel].source]
        node.sent[channel] += 1
        node.outputs[channel].send(Batch([node.sent[channel]]))

    def step(self, number: int) -> None:
        """Have a task look at its barriers."""
        node = self.nodes[number]
        node.checkpoints.push_out(self.now_ms)
        node.checkpoints.step(self.now_ms)

    def take(self, channel: ChannelId) -> None:
        """Have the target of a channel take its next element, if it may."""
        node = self.nodes[self.wires[channel].target]
        self.step(node.number)
        queue = node.inputs[channel].queue
        if not queue or channel in node.blocked:
            return
        element = queue.popleft()
        if isinstance(element, Barrier):
            node.checkpoints.receive(channel, element, self.now_ms)
            return
        assert isinstance(element, Batch)
        node.taken[channel] += 1
        assert element.values == [node.taken[channel]], "a channel is FIFO and loses nothing"
        node.inputs[channel].release()

    def trigger(
        self, checkpoint_id: CheckpointId, timeout_ms: int | None, initiators: set[int]
    ) -> None:
        """Begin a checkpoint at every source and loop, and wherever else it is to begin."""
        for node in self.nodes:
            is_head = all(self.wires[id_].is_feedback for id_ in node.inputs)
            if is_head or node.number in initiators:
                node.checkpoints.trigger(checkpoint_id, timeout_ms)

    def settle(self) -> None:
        """Let everything happen that still can, but for new batches."""
        for _ in range(10_000):
            before = self._stand()
            for number in range(len(self.nodes)):
                self.step(number)
            for channel in self.wires:
                self.arrive(channel)
                self.take(channel)
            self.now_ms += 1
            if self._stand() == before and self.now_ms % 50 == 0:
                return
        raise AssertionError("the network does not come to rest")

    def close(self) -> None:
        """Close every file."""
        for node in self.nodes:
            node.checkpoints.close()
            for channel in node.inputs.values():
                if isinstance(channel.queue, SpillQueue):
                    channel.queue.close()

    def _stand(self) -> object:
        return [
            (dict(node.taken), len(node.cuts), [len(c.queue) for c in node.inputs.values()])
            for node in self.nodes
        ], {id_: len(under_way) for id_, under_way in self.under_way.items()}

    def recorded(self, checkpoint_id: CheckpointId, channel: ChannelId) -> list[int]:
        """Return the numbers of the batches that the snapshot has of a channel, in order."""
        wire, found = self.wires[channel], list[int]()
        for node in (self.nodes[wire.target], self.nodes[wire.source]):
            recording = node.cuts[checkpoint_id].recording
            if recording is None or (node.number == wire.source == wire.target and found):
                continue
            assert recording.is_complete
            index = {one.target: one.index for one in recording.states()}.get(name(channel))
            if index is not None:
                batches = read_batches(recording.path)
                found += [value for at, b in batches if at == index for value in b.values]
        return found


@contextmanager
def network_of(wires: list[Wire], mode: Mode = "exactly-once") -> Iterator[Network]:
    """Make a network whose files go with it."""
    with tempfile.TemporaryDirectory() as directory:
        network = Network(wires, Path(directory), mode)
        try:
            yield network
        finally:
            network.close()


def state(channel: ChannelId) -> ChannelState:
    return ChannelState(
        index=0,
        source=OperatorId("x"),
        source_subtask=0,
        target=name(channel),
        target_subtask=0,
        partitioning=Partitioning.FORWARD,
    )


def name(channel: ChannelId) -> OperatorId:
    return OperatorId(f"channel-{channel}")
