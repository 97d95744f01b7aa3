"""Looks into the tasks of a running job: keyed state, timers, operator state, event time.

What is returned is a copy: to change it changes nothing in the job.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from flowsnap.core.manifest import TableSpec
from flowsnap.core.watermark import MIN_WATERMARK
from flowsnap.runtime.context import TaskContext
from flowsnap.runtime.task import TaskRunner
from flowsnap.state.registry import is_expiring

EVENT, PROCESSING = "event-timers.", "processing-timers."


class Timer(NamedTuple):
    """A timer that waits: when, of which key, in which time, and what tells it apart."""

    timestamp_ms: int
    key: Any
    kind: str
    name: Any = None


def keyed_states(tasks: Sequence[TaskRunner], operator: str) -> dict[str, dict[Any, Any]]:
    """Return every keyed state of an operator: name, then key, then value.

    The value of a map state is a dict. What has expired is left out.
    """
    found: dict[str, dict[Any, Any]] = {}
    for task in tasks:
        for spec, table in _tables(task, operator):
            if not spec.name.startswith((EVENT, PROCESSING)):
                states = found.setdefault(spec.name, {})
                _read(task, spec, table, states)
    return found


def timers(tasks: Sequence[TaskRunner], operator: str) -> list[Timer]:
    """Return the timers of an operator, the earliest first."""
    found = []
    for task in tasks:
        for spec, table in _tables(task, operator):
            for prefix, kind in ((EVENT, "event"), (PROCESSING, "processing")):
                if spec.name.startswith(prefix):
                    found += [
                        Timer(timestamp_ms, copy.deepcopy(key), kind, name)
                        for key, (timestamp_ms, name), _ in table.all_items()
                    ]
    return sorted(found, key=lambda timer: (timer.timestamp_ms, repr(timer[1:])))


def operator_states(tasks: Sequence[TaskRunner], operator: str) -> dict[str, list[Any]]:
    """Return every non-keyed state of an operator, the values of its subtasks one after another."""
    found: dict[str, list[Any]] = {}
    for task in tasks:
        for name, cell in _context(task, operator)._cells.items():
            found.setdefault(name, []).extend(copy.deepcopy(cell.get()))
    return found


def event_time_ms(tasks: Sequence[TaskRunner], operator: str) -> int | None:
    """Return the event time that an operator has reached in all subtasks; None: none yet."""
    reached = min(_context(task, operator).watermark_ms for task in tasks)
    return None if reached == MIN_WATERMARK else reached


def _context(task: TaskRunner, operator: str) -> TaskContext:
    return next(one for one in task._chain._contexts if one.operator == operator)


def _tables(task: TaskRunner, operator: str) -> Iterator[tuple[TableSpec, Any]]:
    backend = task._parts.state
    if backend is None:
        return
    for spec in backend._registry.tables:
        if spec.operator == operator:
            is_map = spec.kind.startswith("map")
            make = backend.map_table if is_map else backend.value_table
            yield spec, make(spec.operator, spec.name, spec.kind, spec.version)


def _read(task: TaskRunner, spec: TableSpec, table: Any, states: dict[Any, Any]) -> None:
    wall_ms = task._parts.wall_ms()
    rows = table.all_items() if spec.kind.startswith("map") else table.items()
    for key, *entry, stored in rows:
        expires_ms, value = stored if is_expiring(spec) else (None, stored)
        if expires_ms is not None and expires_ms <= wall_ms:
            continue
        if entry:
            states.setdefault(key, {})[entry[0]] = copy.deepcopy(value)
        elif not (spec.kind.startswith("list") and not value):  # An empty list is not kept.
            states[key] = copy.deepcopy(value)
