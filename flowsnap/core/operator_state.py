"""Non-keyed state over a restore: which subtask gets which values, and which event time.

A value belongs to nobody in particular, so a rescale deals the values of all old subtasks out in
turn (``list``), gives all of them to everyone (``union``), or everyone those of one subtask,
because they are the same in all (``broadcast``). With the same number of subtasks a ``list`` keeps
its place: what a subtask had, it gets.

Event time is kept for each operator, because a pipeline may be chained differently after a restart.
An operator goes on at the least of what its old subtasks had reached. A subtask whose input is
dealt out by key, to as many as before, has the same keys again: it goes on at its own. One that had
ended has no say: nothing that it is to get can be late.

Source: Flink, "Working with State", operator state and its redistribution schemes; FLINK-5601 for
the watermark.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowsnap.core.graph import ChainSpec, ExecutionGraph, Partitioning, TaskSpec
from flowsnap.core.ids import OperatorId
from flowsnap.core.manifest import OperatorStateValues, TaskSnapshot


def deal(
    old: Sequence[TaskSnapshot], chain: ChainSpec, subtask: int
) -> tuple[OperatorStateValues, ...]:
    """Return the operator states that one subtask of ``chain`` starts from."""
    found: dict[tuple[OperatorId, str], list[tuple[int, OperatorStateValues]]] = {}
    for task in sorted(old, key=lambda task: task.subtask):
        for state in task.operator_states:
            if state.operator in chain.operators:
                found.setdefault((state.operator, state.name), []).append((task.subtask, state))
    return tuple(_dealt(parts, chain.parallelism, subtask) for parts in found.values())


def watermarks(
    old: Sequence[TaskSnapshot], graph: ExecutionGraph, task: TaskSpec
) -> dict[OperatorId, int]:
    """Return the event time that each operator of a task goes on from, where it has one."""
    chain = graph.chains[task.chain]
    inputs = [edge.partitioning for edge in graph.edges if edge.target == chain.id]
    is_owner = bool(inputs) and set(inputs) == {Partitioning.HASH}
    found = {
        name: _reached(old, name, chain, task if is_owner else None) for name in chain.operators
    }
    return {name: mark for name, mark in found.items() if mark is not None}


def _reached(
    old: Sequence[TaskSnapshot], operator: OperatorId, chain: ChainSpec, owner: TaskSpec | None
) -> int | None:
    """Return what an operator had reached: its own subtask, where it had these very keys."""
    parts = {task.subtask: task for task in old if operator in task.operators}
    if owner is not None and len(parts) == chain.parallelism and owner.subtask in parts:
        return parts[owner.subtask].watermarks.get(operator)
    marks = [task.watermarks.get(operator) for task in parts.values() if not task.is_ended]
    known = [mark for mark in marks if mark is not None]
    return min(known) if known and len(known) == len(marks) else None


def _dealt(
    parts: list[tuple[int, OperatorStateValues]], parallelism: int, subtask: int
) -> OperatorStateValues:
    state = parts[0][1]
    if state.kind == "broadcast":
        values = state.values
    elif state.kind == "union":
        values = tuple(value for _, part in parts for value in part.values)
    elif len(parts) == parallelism and dict(parts).keys() == set(range(parallelism)):
        values = dict(parts)[subtask].values
    else:
        values = tuple(value for _, part in parts for value in part.values)[subtask::parallelism]
    return OperatorStateValues(state.operator, state.name, state.kind, values)
