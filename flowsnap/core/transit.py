"""What was in transit over a restore: which task is to process it?

A snapshot that has recorded channels is a cut through messages that were under way: sent, and not
received. After a restore they are received first, before anything that is sent anew, and then it is
as if the cut had never been. There may be other subtasks now, and other channels, so that what was
in transit to a subtask goes to whoever has its work: of a channel that is partitioned by key, each
record to the owner of its key group; of any other, everything to one subtask, in order. What the
receiver has recorded of a channel comes before what its sender has. Where operators that had a
channel between them are one chain now, the last ones come first: what was on its way to them had
left the others.

Source: Chandy and Lamport 1985, section 3.2, the state of a channel; FLIP-76, FLINK-19801 for other
parallelisms. Deviation: Flink gives the sender's part back to the sender; a batch that has been
sent has left, so here all of it is the receiver's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from flowsnap.core.graph import (
    ChainSpec,
    ChannelSpec,
    ExecutionGraph,
    JobGraph,
    Partitioning,
    TaskSpec,
)
from flowsnap.core.ids import OperatorId, TaskId
from flowsnap.core.manifest import ChannelState, TaskSnapshot
from flowsnap.core.message import TransitAssignment
from flowsnap.core.partition import key_group_range


def assign(
    old: Sequence[TaskSnapshot], graph: ExecutionGraph, task: TaskSpec
) -> tuple[TransitAssignment, ...]:
    """Return what was in transit to a task, in the order in which it is to be processed."""
    chain = graph.chains[task.chain]
    widths = _widths(old)
    ended = _ended(old)
    found = []
    for operator, is_sent in product(reversed(chain.operators), (False, True)):
        for snapshot in old:
            own = tuple(
                channel
                for channel in snapshot.channels
                if channel.is_sent is is_sent
                and channel.target == operator
                and (operator, channel.target_subtask) not in ended
                and _is_for(channel, widths[operator], chain, task, graph.max_parallelism)
            )
            if own and snapshot.channel_file is not None:
                found.append(TransitAssignment(snapshot.channel_file, own))
    return tuple(found)


def channel_state(graph: ExecutionGraph, channel: ChannelSpec, *, is_sent: bool) -> ChannelState:
    """Return the identity of a channel, by which it is found in whatever graph comes later."""
    edge = graph.edges[channel.edge]
    operator, _, tag = edge.tag.partition("/")
    source, target = graph.chains[edge.source], graph.chains[edge.target]
    return ChannelState(
        index=0,
        source=OperatorId(operator) if tag else source.operators[-1],
        source_subtask=_subtask(channel.source),
        target=target.operators[0],
        target_subtask=_subtask(channel.target),
        partitioning=edge.partitioning,
        port=edge.port,
        tag=tag,
        is_sent=is_sent,
    )


def targets(tasks: Sequence[TaskSnapshot]) -> set[OperatorId]:
    """Return the operators to which something was in transit."""
    return {channel.target for task in tasks for channel in task.channels}


def misdirected(tasks: Sequence[TaskSnapshot], graph: JobGraph) -> list[OperatorId]:
    """Return the operators that are partitioned by key now and were not, or the other way round.

    What was in transit to them cannot be given to them: it has no keys, or those of another step.
    """
    ports = {(e.target, e.port, e.partitioning is Partitioning.HASH) for e in graph.edges}
    names = {operator.name for operator in graph.operators}
    wrong = {
        channel.target
        for task in tasks
        for channel in task.channels
        if channel.target in names
        and (channel.target, channel.port, channel.partitioning is Partitioning.HASH) not in ports
    }
    return sorted(wrong)


def _subtask(task: TaskId) -> int:
    return int(task.rpartition("/")[2])


def _ended(old: Sequence[TaskSnapshot]) -> set[tuple[OperatorId, int]]:
    """Return the subtasks that had ended: what was still fed back into such a loop goes nowhere."""
    return {
        (name, task.subtask)
        for task in old
        for name in (task.operators if task.is_ended else task.ended)
    }


def _widths(old: Sequence[TaskSnapshot]) -> dict[OperatorId, int]:
    widths: dict[OperatorId, int] = {}
    for task in old:
        for name in task.operators:
            widths[name] = widths.get(name, 0) + 1
    return widths


def _is_for(
    channel: ChannelState, width: int, chain: ChainSpec, task: TaskSpec, max_parallelism: int
) -> bool:
    if channel.partitioning is not Partitioning.HASH:
        return channel.target_subtask % chain.parallelism == task.subtask
    start, end = key_group_range(channel.target_subtask, width, max_parallelism)
    return max(start, task.key_groups[0]) < min(end, task.key_groups[1])
