"""What the manifest says of operators, states, positions, commits and tasks, put in order."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from flowsnap.core.ids import OperatorId
from flowsnap.core.manifest import CheckpointManifest, TableSpec, TaskSnapshot
from flowsnap.errors import ConfigError
from flowsnap.snapshot.content import (
    OperatorPart,
    PendingCommit,
    Position,
    StateInfo,
    TaskPart,
)
from flowsnap.state.registry import EXPIRING, is_expiring

TIMER_PREFIXES: Final[dict[str, Literal["event", "processing"]]] = {
    "event-timers.": "event",
    "processing-timers.": "processing",
}
"""How the tables are named that timers lie in; see ``TaskContext.event_timers``."""


def operators(manifest: CheckpointManifest) -> dict[str, OperatorPart]:
    """Return what there is of each operator, in the order of the graph."""
    infos = states(manifest)
    return {
        spec.name: OperatorPart(
            spec.name,
            str(spec.kind),
            spec.type,
            spec.parallelism,
            tuple(info for info in infos if info.operator == spec.name),
            _least(manifest.tasks, spec.name),
        )
        for spec in manifest.graph.operators
    }


def states(manifest: CheckpointManifest) -> list[StateInfo]:
    """Return all states, keyed and not, but no timers; by operator and name."""
    found: dict[tuple[str, str], StateInfo] = {}
    for task in manifest.tasks:
        for operator, name in _state_names(task):
            if not is_timer_table(name):
                found[operator, name] = keyed_info(manifest.tasks, operator, name)
        for state in task.operator_states:
            kind = f"operator-{state.kind}"
            found[state.operator, state.name] = StateInfo(state.operator, state.name, kind)
    return [found[identity] for identity in sorted(found)]


def timer_queues(manifest: CheckpointManifest) -> list[StateInfo]:
    """Return the tables that hold timers."""
    names = {identity for task in manifest.tasks for identity in _state_names(task)}
    return [
        keyed_info(manifest.tasks, operator, name)
        for operator, name in sorted(names)
        if is_timer_table(name)
    ]


def keyed_info(tasks: Sequence[TaskSnapshot], operator: OperatorId, name: str) -> StateInfo:
    """Return what is known of a keyed state, over all of its layouts."""
    tables = [table for task in tasks for table in layouts(task, operator, name)]
    return StateInfo(
        operator,
        name,
        tables[0].kind.removesuffix(EXPIRING),
        tuple(sorted({table.version for table in tables}, reverse=True)),
        any(map(is_expiring, tables)),
    )


def layouts(task: TaskSnapshot, operator: str, name: str) -> tuple[TableSpec, ...]:
    """Return the tables of one state in one task, the newest first."""
    tables = () if task.state is None else task.state.tables
    own = [table for table in tables if (table.operator, table.name) == (operator, name)]
    return tuple(sorted(own, key=lambda table: (table.version, table.state_id), reverse=True))


def is_timer_table(name: str) -> bool:
    """Return whether a table holds timers."""
    return name.startswith(tuple(TIMER_PREFIXES))


def positions(manifest: CheckpointManifest) -> list[Position]:
    """Return how far each split has been read, by source, subtask and split."""
    return [
        Position(
            task.operators[0],
            task.subtask,
            split.split,
            split.position,
            split.is_finished,
            split.size,
            split.payload,
            split.watermark_ms,
        )
        for task in _ordered(manifest.tasks)
        for split in sorted(task.splits, key=lambda split: split.split)
    ]


def commits(manifest: CheckpointManifest) -> list[PendingCommit]:
    """Return the output that sinks have prepared."""
    return [
        PendingCommit(task.operators[-1], task.subtask, output.checkpoint_id, output.committable)
        for task in _ordered(manifest.tasks)
        for output in task.prepared
    ]


def watermarks(manifest: CheckpointManifest) -> dict[str, dict[int, int]]:
    """Return the event time that each operator had reached, by subtask."""
    found: dict[str, dict[int, int]] = {}
    for task in _ordered(manifest.tasks):
        for operator, mark_ms in task.watermarks.items():
            found.setdefault(operator, {})[task.subtask] = mark_ms
    return found


def tasks(manifest: CheckpointManifest) -> list[TaskPart]:
    """Return the tasks' parts, in the order of the manifest."""
    return [
        TaskPart(
            task.task,
            task.operators,
            task.subtask,
            task.is_ended,
            None if task.state is None else task.state.key_groups,
            0 if task.state is None else sum(file.size_bytes for file in task.state.files),
            0 if task.channel_file is None else task.channel_file.size_bytes,
            task.times,
        )
        for task in manifest.tasks
    ]


def check_known(what: str, name: str, known: Iterable[str], where: str) -> None:
    """Check that ``name`` is among the known ones.

    Raises:
        ConfigError: it is not; the hint has what it may have been meant to be.
    """
    names = sorted(known)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    listed = f"{what}s: {', '.join(names) or 'none'}"
    raise ConfigError(f"{where} has no {what} {name!r}").hint(
        f"did you mean {near[0]!r}? {listed}" if near else listed
    )


def _state_names(task: TaskSnapshot) -> set[tuple[OperatorId, str]]:
    return {(table.operator, table.name) for table in (task.state.tables if task.state else ())}


def _least(tasks: Sequence[TaskSnapshot], operator: OperatorId) -> int | None:
    marks = [task.watermarks.get(operator) for task in tasks if operator in task.operators]
    known = [mark for mark in marks if mark is not None]
    return min(known) if known and len(known) == len(marks) else None


def _ordered(tasks: Sequence[TaskSnapshot]) -> list[TaskSnapshot]:
    return sorted(tasks, key=lambda task: (task.operators[0], task.subtask))
