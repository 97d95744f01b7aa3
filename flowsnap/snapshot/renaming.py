"""An operator under another name, in everything that a manifest says of it.

State belongs to the name of its operator, so a step that was renamed in the pipeline needs its
state to be renamed, too.

Source: Flink's State Processor API, ``changeOperatorIdentifier``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from flowsnap.core.graph import JobGraph
from flowsnap.core.ids import OperatorId, task_id
from flowsnap.core.manifest import CheckpointManifest, TaskSnapshot

Names = Mapping[str, str]
"""New names by old ones; who is not in there keeps its own."""


def renamed(manifest: CheckpointManifest, names: Names) -> CheckpointManifest:
    """Return a manifest in which operators have other names; the files stay what they are."""
    tasks = tuple(_task(task, names) for task in manifest.tasks)
    return msgspec.structs.replace(manifest, graph=_graph(manifest.graph, names), tasks=tasks)


def _graph(graph: JobGraph, names: Names) -> JobGraph:
    return msgspec.structs.replace(
        graph,
        operators=tuple(_with(spec, names, "name") for spec in graph.operators),
        edges=tuple(_with(edge, names, "source", "target") for edge in graph.edges),
    )


def _task(task: TaskSnapshot, names: Names) -> TaskSnapshot:
    operators = tuple(_new(name, names) for name in task.operators)
    state = task.state
    if state is not None:
        tables = tuple(_with(table, names, "operator") for table in state.tables)
        state = msgspec.structs.replace(state, tables=tables)
    return msgspec.structs.replace(
        task,
        task=task_id(operators[0], task.subtask),
        operators=operators,
        state=state,
        operator_states=tuple(_with(own, names, "operator") for own in task.operator_states),
        watermarks={_new(name, names): mark for name, mark in task.watermarks.items()},
        channels=tuple(_with(channel, names, "source", "target") for channel in task.channels),
    )


def _with(struct: Any, names: Names, *fields: str) -> Any:
    changes = {field: _new(getattr(struct, field), names) for field in fields}
    return msgspec.structs.replace(struct, **changes)


def _new(name: OperatorId, names: Names) -> OperatorId:
    return OperatorId(names.get(name, name))
