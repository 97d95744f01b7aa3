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


class Initiation:
    """Where the checkpoints of a graph begin; what does not depend on who asks is found once."""

    def __init__(self, graph: ExecutionGraph) -> None:
        self._graph = graph
        self._index = Index.of(graph)
        self._heads = (*self._index.source_tasks, *self._index.loop_tasks)
        self._has_broadcast = any(
            edge.partitioning is Partitioning.BROADCAST for edge in graph.edges
        )

    def tasks(self, initiators: Collection[OperatorId], *, is_unaligned: bool) -> frozenset[TaskId]:
        """Return the tasks at which a checkpoint is to begin; ``initiators`` are among them."""
        chains = {c.id for c in self._graph.chains if not set(initiators).isdisjoint(c.operators)}
        named = [task.id for task in self._graph.tasks if task.chain in chains]
        if not named or not is_unaligned or self._has_broadcast:
            return frozenset((*self._heads, *named))
        begun, reached = list(named), self._reached(named)
        for head in self._heads:
            if head not in reached:
                begun.append(head)
                reached |= self._reached([head])
        return frozenset(begun)

    def _reached(self, tasks: Iterable[TaskId]) -> set[TaskId]:
        found, waiting = set(tasks), list(tasks)
        while waiting:
            for channel in self._index.outputs(waiting.pop()):
                if channel.target not in found:
                    found.add(channel.target)
                    waiting.append(channel.target)
        return found
