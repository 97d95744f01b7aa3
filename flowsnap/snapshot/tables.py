"""A snapshot as tables: one for each state, and those of what is not state.

A table is rows of named columns. ``columns_of`` makes columns of it, and takes apart what has
fields: a value that is a dict or an object gives a column for each field, a key or namespace (such
as a window) one for each field beside its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowsnap.snapshot import parts
from flowsnap.snapshot.plain import fields_of, to_text

if TYPE_CHECKING:
    from flowsnap.snapshot.content import StateInfo
    from flowsnap.snapshot.snapshot import Snapshot

FIELDS_MAX = 64
"""A dict of more fields over all rows is no record, but a map, and stays one column of JSON."""

_ALL: Any = object()
"""In the place of a key, which may be None."""

Columns = dict[str, list[Any]]
Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of named columns; ``structured`` are those that ``columns_of`` may take apart."""

    name: str
    columns: tuple[str, ...]
    rows: Callable[[], Iterator[Values]]
    structured: tuple[str, ...] = ()


def table_names(snapshot: Snapshot) -> list[str]:
    """Return the names of all tables: those of the states, then the others."""
    return [*(f"{info.operator}.{info.name}" for info in snapshot.states), *_OTHERS]


def table(snapshot: Snapshot, name: str) -> Table:
    """Return the table of that name.

    Raises:
        ConfigError: there is none.
    """
    for info in snapshot.states:
        if name == f"{info.operator}.{info.name}":
            return _keyed(snapshot, info) if info.is_keyed else _values(snapshot, info)
    parts.check_known(
        "table", name, table_names(snapshot), f"the snapshot of checkpoint {snapshot.checkpoint_id}"
    )
    return _OTHERS[name](snapshot)


def table_of_key(snapshot: Snapshot, info: StateInfo, key: Any) -> Table:
    """Return the rows of one key of a keyed state."""
    return _keyed(snapshot, info, key)


def columns_of(table: Table) -> Columns:
    """Return the columns of a table, what has fields taken apart."""
    whole = list(map(list, zip(*table.rows(), strict=True))) or [[] for _ in table.columns]
    found: Columns = {}
    for name, values in zip(table.columns, whole, strict=True):
        own = _taken_apart(name, values) if name in table.structured else {name: values}
        for field, content in own.items():
            is_taken = field in found or (field in table.columns and field != name)
            found[f"{name}_{field}" if is_taken else field] = content
    return found


def _taken_apart(name: str, values: list[Any]) -> Columns:
    """Return a column as several: of a value its fields, of a key its text and its fields."""
    fields = _fields(values)
    if fields is None:
        return {name: values}
    if name == "value":
        return {field if field.isidentifier() else f"value_{field}": c for field, c in fields}
    text = [None if value is None else to_text(value) for value in values]
    return {name: text} | {f"{name}_{field}": column for field, column in fields}


def _fields(values: list[Any]) -> list[tuple[str, list[Any]]] | None:
    """Return the fields that all values are made of, each as a column; None where they have none.

    The elements of tuples of one length are fields by their number.
    """
    rows: list[Mapping[str, Any]] = []
    for value in values:
        record = {} if value is None else _record(value)
        if record is None:
            return None
        rows.append(record)
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not 0 < len(names) <= FIELDS_MAX:
        return None
    if "0" in names and any(row and len(row) != len(names) for row in rows):
        return None  # Tuples that differ in length are lists.
    return [(name, [row.get(name) for row in rows]) for name in names]


def _record(value: Any) -> Mapping[str, Any] | None:
    found = fields_of(value)
    if found is None and isinstance(value, tuple):
        return {str(number): element for number, element in enumerate(value)}
    return found


# --- the tables ------------------------------------------------------------------------------


def _keyed(snapshot: Snapshot, info: StateInfo, key: Any = _ALL) -> Table:
    state = snapshot.state(info.operator, info.name)
    is_map = info.kind == "map"
    columns = ["key", *(["namespace"] if is_map else []), "value"]
    columns += ["expires_ms"] if info.expires else []

    def rows() -> Iterator[Values]:
        if len(columns) == 2 and key is _ALL:
            return state.items()
        found = state.rows() if key is _ALL else state.rows_of(key)
        return (tuple(getattr(row, column) for column in columns) for row in found)

    name = f"{info.operator}.{info.name}"
    return Table(name, tuple(columns), rows, ("key", "namespace", "value"))


def _values(snapshot: Snapshot, info: StateInfo) -> Table:
    def rows() -> Iterator[Values]:
        for part in snapshot.operator_state(info.operator, info.name):
            for number, value in enumerate(part.values):
                yield part.subtask, number, value

    name = f"{info.operator}.{info.name}"
    return Table(name, ("subtask", "number", "value"), rows, ("value",))


def _channels(snapshot: Snapshot) -> Table:
    def rows() -> Iterator[Values]:
        for channel in snapshot.channels():
            own = (channel.source, channel.source_subtask, channel.target, channel.target_subtask)
            ends = (*own, channel.port, channel.tag)
            sent = (batch.is_sent for batch in channel.batches for _ in batch.values)
            content = (channel.timestamps, channel.keys, channel.values)
            yield from (
                (*ends, is_sent, number, *record)
                for number, (is_sent, *record) in enumerate(zip(sent, *content, strict=True))
            )

    columns = (
        *("source", "source_subtask", "target", "target_subtask", "port", "tag", "is_sent"),
        *("number", "timestamp_ms", "key", "value"),
    )
    return Table("channels", columns, rows, ("key", "value"))


def _structs(
    name: str, columns: Sequence[str], read: Callable[[Snapshot], Iterator[Values]]
) -> Callable[[Snapshot], Table]:
    return lambda snapshot: Table(name, tuple(columns), lambda: read(snapshot))


def _positions(snapshot: Snapshot) -> Iterator[Values]:
    for at in snapshot.positions():
        yield at.source, at.subtask, at.split, at.position, at.size, at.is_finished, at.watermark_ms


def _commits(snapshot: Snapshot) -> Iterator[Values]:
    for commit in snapshot.commits():
        yield commit.sink, commit.subtask, commit.checkpoint_id, commit.committable


def _watermarks(snapshot: Snapshot) -> Iterator[Values]:
    for operator, marks in snapshot.watermarks().items():
        for subtask, mark_ms in marks.items():
            yield operator, subtask, mark_ms


def _tasks(snapshot: Snapshot) -> Iterator[Values]:
    for task in snapshot.tasks:
        start, end = task.key_groups or (None, None)
        times = task.times
        yield (
            *(task.task, " ".join(task.operators), task.subtask, task.is_ended, start, end),
            *(task.state_bytes, task.channel_bytes, times.alignment_ms, times.synchronous_ms),
            *(times.recording_ms, times.durable_ms),
        )


_OTHERS: dict[str, Callable[[Snapshot], Table]] = {
    "channels": _channels,
    "positions": _structs(
        "positions",
        ("source", "subtask", "split", "position", "size", "is_finished", "watermark_ms"),
        _positions,
    ),
    "timers": lambda snapshot: Table(
        "timers",
        ("operator", "domain", "queue", "key", "timestamp_ms", "name"),
        snapshot.timers,
        ("key",),
    ),
    "commits": _structs("commits", ("sink", "subtask", "checkpoint_id", "committable"), _commits),
    "watermarks": _structs("watermarks", ("operator", "subtask", "watermark_ms"), _watermarks),
    "tasks": _structs(
        "tasks",
        (
            *("task", "operators", "subtask", "is_ended", "key_group_start", "key_group_end"),
            *("state_bytes", "channel_bytes", "alignment_ms", "synchronous_ms"),
            *("recording_ms", "durable_ms"),
        ),
        _tasks,
    ),
}

__all__ = ["Columns", "Table", "columns_of", "table", "table_names", "table_of_key"]
