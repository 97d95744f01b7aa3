"""Non-keyed state over a restore: which subtask gets which values, and which event time.

A value belongs to nobody in particular, so a rescale deals the values of all old subtasks out in
turn (``list``), gives all of them to everyone (``union``), or everyone those of one subtask,
because they are the same in all (``broadcast``). With the same number of subtasks a ``list`` keeps
its place: what a subtask had, it gets.

Event time never goes back: a task begins at the watermark it had at the cut. After a rescale that
is the least of its predecessors', because its keys come from all of them.

Source: Flink, "Working with State", operator state and its redistribution schemes; FLINK-5601 for
the watermark.
"""

from __future__ import annotations

from collections.abc import Sequence

from flowsnap.core.graph import ChainSpec
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


def watermark(old: Sequence[TaskSnapshot], chain: ChainSpec, subtask: int) -> int | None:
    """Return the event time that one subtask of ``chain`` had reached, or None: none yet."""
    first = chain.operators[0]
    reached = {task.subtask: task.watermark_ms for task in old if task.operators[0] == first}
    if len(reached) == chain.parallelism:
        return reached.get(subtask)
    known = [mark for mark in reached.values() if mark is not None]
    return min(known) if known and len(known) == len(reached) else None


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
