"""Where does a checkpoint begin?

Ordinarily at every source, and at every loop, which has to send its barrier before what is fed back
can bring one. But any process may initiate a snapshot, and several may at once: whoever hears of it
first takes its part, and the barriers do the rest. That reaches everybody whom a path of channels
leads to. So beside the tasks that are named, those are told to begin that no barrier would come to:
sources, and then loops, as few as will do.

With an aligned checkpoint that is not enough: a task waits for the barriers of all its inputs
before it passes one on, so that a loop must not wait for its own. There, all sources and loops
begin.

Source: Chandy and Lamport 1985, section 3.3, "termination of the algorithm": it suffices that every
process is reached from one that initiates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from flowsnap.core.graph import ExecutionGraph, Index, Partitioning
from flowsnap.core.ids import OperatorId, TaskId


def initiating_tasks(
    graph: ExecutionGraph, initiators: Collection[OperatorId], *, is_unaligned: bool
) -> frozenset[TaskId]:
    """Return the tasks at which a checkpoint is to begin; ``initiators`` are among them."""
    index = Index.of(graph)
    heads = (*index.source_tasks, *index.loop_tasks)
    chains = {c.id for c in graph.chains if not set(initiators).isdisjoint(c.operators)}
    named = [task.id for task in graph.tasks if task.chain in chains]
    if not named or not is_unaligned or _has_broadcast(graph):
        return frozenset((*heads, *named))
    begun = list(named)
    reached = _reached(index, begun)
    for head in heads:
        if head not in reached:
            begun.append(head)
            reached |= _reached(index, [head])
    return frozenset(begun)


def _has_broadcast(graph: ExecutionGraph) -> bool:
    return any(edge.partitioning is Partitioning.BROADCAST for edge in graph.edges)


def _reached(index: Index, tasks: Iterable[TaskId]) -> set[TaskId]:
    found, waiting = set(tasks), list(tasks)
    while waiting:
        for channel in index.outputs(waiting.pop()):
            if channel.target not in found:
                found.add(channel.target)
                waiting.append(channel.target)
    return found
