"""Is a snapshot a consistent cut, and does it hold what it says it holds?

A cut is consistent if every receive in it has its send in it. The tasks of a traced job tell each
other with every batch what they know of whom, and each part of a snapshot carries the vector clock
of its task. Entry ``t`` of a task's clock is the last event of task ``t`` that it can know of. So
the cut is consistent exactly if nobody knows more of a task than that one had done itself:
``clock[s][t] <= clock[t][t]`` for all s and t. And the state of a channel is right if it holds
exactly what had been sent and not been received.

Without clocks what can be checked is whether the channels fit the graph and their files.

Source: Mattern, "Virtual Time and Global States of Distributed Systems", 1989, theorem 3 (a cut is
consistent if and only if its global time is the supremum of its own clocks); Chandy and Lamport
1985, section 3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from flowsnap.core.graph import EdgeSpec, JobGraph, Partitioning, build_execution_graph
from flowsnap.core.ids import ChannelId, TaskId, task_id
from flowsnap.core.key import encode_key, key_group
from flowsnap.core.manifest import ChannelState, TaskSnapshot, TaskTrace
from flowsnap.core.partition import key_group_range
from flowsnap.core.transit import channel_state
from flowsnap.errors import StateError
from flowsnap.snapshot.content import ChannelContent
from flowsnap.snapshot.snapshot import Snapshot


class CutFinding(msgspec.Struct, frozen=True):
    """Something that cannot be so in a consistent cut.

    "orphan": ``task`` has heard of what another task had not done: a receive without its send.
    "clock": not all tasks have a clock, or not of one length. "transit": a channel's state is not
    what had been sent and not received. "channel": a channel that the graph does not have, or whose
    file does not hold what was counted. "key": a record in transit to a task that does not own its
    key.
    """

    kind: Literal["orphan", "clock", "transit", "channel", "key"]
    task: TaskId
    detail: str


def check_cut(snapshot: Snapshot) -> list[CutFinding]:
    """Return what speaks against the snapshot being a consistent cut; nothing: all is well.

    Records in transit that only their classes can read are not looked into, unless the snapshot
    was opened with ``trust=True``.

    Raises:
        ManifestCorrupt: a file is missing or damaged.
    """
    tasks = snapshot.manifest.tasks
    found = [
        *check_clocks(tasks),
        *_check_transit(tasks, snapshot.manifest.graph),
        *_check_ends(snapshot),
    ]
    try:
        channels = snapshot.channels()
    except StateError:
        return found
    return [
        *found,
        *_check_counts(snapshot),
        *(finding for channel in channels for finding in _check_keys(snapshot, channel)),
    ]


def check_clocks(tasks: Sequence[TaskSnapshot]) -> Iterator[CutFinding]:
    """Yield where the vector clocks of a cut tell of a receive without its send."""
    traced = [(task.task, task.trace) for task in tasks if task.trace is not None]
    own = {trace.place: (name, _own(trace)) for name, trace in traced}
    for task in tasks:
        if traced and (task.trace is None or len(task.trace.clock) != len(tasks)):
            yield CutFinding("clock", task.task, f"{task.task} has no clock of {len(tasks)} tasks")
    for name, trace in traced:
        for place, known in enumerate(trace.clock):
            other, done = own.get(place, (f"task number {place}", 0))
            if known > done:
                detail = f"{name} has heard of event {known} of {other}, whose cut is at {done}"
                yield CutFinding("orphan", name, detail)


def _own(trace: TaskTrace) -> int:
    return trace.clock[trace.place] if 0 <= trace.place < len(trace.clock) else 0


def _check_transit(tasks: Sequence[TaskSnapshot], graph: JobGraph) -> Iterator[CutFinding]:
    """Yield the channels whose state is not what had been sent and not received."""
    if any(task.trace is None for task in tasks):
        return
    sent: Counter[ChannelId] = Counter()
    received: Counter[ChannelId] = Counter()
    for trace in (task.trace for task in tasks if task.trace is not None):
        sent.update({count.channel: count.count for count in trace.sent})
        received.update({count.channel: count.count for count in trace.received})
    recorded: Counter[tuple[object, ...]] = Counter()
    for channel in (channel for task in tasks for channel in task.channels):
        recorded[_identity(channel)] += channel.records
    running = build_execution_graph(graph, 0)
    for spec in running.channels:
        channel = channel_state(running, spec, is_sent=False)
        expected, found = sent[spec.id] - received[spec.id], recorded[_identity(channel)]
        if expected != found:
            detail = (
                f"{_shown(channel)}: {sent[spec.id]} records were sent and {received[spec.id]} "
                f"received, but {found} are recorded"
            )
            yield CutFinding("transit", spec.target, detail)


def _check_ends(snapshot: Snapshot) -> Iterator[CutFinding]:
    """Yield the channels that the graph does not have."""
    graph = snapshot.manifest.graph
    widths = {spec.name: spec.parallelism for spec in graph.operators}
    edges = {_edge(edge) for edge in graph.edges}
    for task in snapshot.manifest.tasks:
        for channel in task.channels:
            ends = (
                (channel.source, channel.source_subtask),
                (channel.target, channel.target_subtask),
            )
            is_known = all(0 <= subtask < widths.get(name, 0) for name, subtask in ends)
            own = ends[0] if channel.is_sent else ends[1]
            if not is_known or _edge(channel) not in edges:
                detail = f"the graph has no channel {_shown(channel)}"
                yield CutFinding("channel", task.task, detail)
            elif own[0] not in task.operators or own[1] != task.subtask:
                detail = f"{task.task} is no end of the channel {_shown(channel)}"
                yield CutFinding("channel", task.task, detail)


def _edge(edge: EdgeSpec | ChannelState) -> tuple[str, str, int, str]:
    return edge.source, edge.target, edge.port, edge.tag


def _check_counts(snapshot: Snapshot) -> Iterator[CutFinding]:
    """Yield the channels whose file holds other than what was counted when it was recorded."""
    held: Counter[tuple[object, ...]] = Counter()
    for content in snapshot.channels():
        for batch in content.batches:
            held[(*_identity(content), batch.is_sent)] += len(batch.values)
    for task in snapshot.manifest.tasks:
        for channel in task.channels:
            found = held[(*_identity(channel), channel.is_sent)]
            if found != channel.records:
                detail = f"{_shown(channel)} holds {found} records, {channel.records} were counted"
                yield CutFinding("channel", task.task, detail)


def _check_keys(snapshot: Snapshot, channel: ChannelContent) -> Iterator[CutFinding]:
    """Yield the keys in transit that the receiver does not own."""
    graph = snapshot.manifest.graph
    width = next((s.parallelism for s in graph.operators if s.name == channel.target), 0)
    is_keyed = any(
        _edge(edge) == (channel.source, channel.target, channel.port, channel.tag)
        and edge.partitioning is Partitioning.HASH
        for edge in graph.edges
    )
    if not is_keyed or not 0 <= channel.target_subtask < width:
        return
    start, end = key_group_range(channel.target_subtask, width, graph.max_parallelism)
    for key in channel.keys:
        group = _group(key, graph.max_parallelism)
        if group is not None and not start <= group < end:
            task = task_id(channel.target, channel.target_subtask)
            detail = f"a record of key {key!r} is in transit to {task}, which does not own it"
            yield CutFinding("key", task, detail)


def _group(key: object, max_parallelism: int) -> int | None:
    try:
        return key_group(encode_key(key), max_parallelism)
    except StateError:
        return None  # Its class is not loaded: nobody can tell.


def _identity(channel: ChannelState | ChannelContent) -> tuple[object, ...]:
    ends = (channel.source, channel.source_subtask, channel.target, channel.target_subtask)
    return (*ends, channel.port, channel.tag)


def _shown(channel: ChannelState) -> str:
    tag = f" ({channel.tag})" if channel.tag else ""
    return (
        f"{channel.source}/{channel.source_subtask} to "
        f"{channel.target}/{channel.target_subtask} port {channel.port}{tag}"
    )
