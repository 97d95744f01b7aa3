"""Is anything lost or doubled inside of a checkpoint? Reads the keyed state and the channel state.

Every record that has reached a counting step is a token in its state: the counts of all subtasks
together are the records that the step has been given, key by key. And each key is in one place: in
the subtask whose key groups it belongs to, once. In a loop the hops that were counted, and those
that the records in its channels have still before them, are together as many as they will ever be.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from flowsnap import serialize
from flowsnap.core.key import decode_key, key_group
from flowsnap.core.manifest import CheckpointManifest, StateHandle, TableSpec, TaskSnapshot
from flowsnap.state.codec import decode_value
from flowsnap.testing.state import SUFFIX

_HEAD = struct.Struct("!II")
_COUNTS = (("count-", "count"), ("mover-", "hops"), ("nested-", "hops"))
"""Which tables count what they are given, and those of which operators."""

Contents = Callable[[str], bytes | None]
"""Returns the content of a stored file by its path, or None: there is none."""


class Row(NamedTuple):
    """One row of keyed state, as a checkpoint holds it."""

    table: TableSpec
    key: bytes
    entry: bytes | None
    value: bytes


def rows(state: StateHandle, contents: Contents) -> Iterator[Row]:
    """Yield the rows of one task."""
    tables = {table.state_id: table for table in state.tables}
    for file in state.files:
        content = contents(file.path) if file.name.endswith(SUFFIX) else None
        for state_id, key, entry, value in () if content is None else decode_value(content):
            yield Row(tables[state_id], key, entry, value)


def in_transit(task: TaskSnapshot, contents: Contents) -> Iterator[tuple[str, Any]]:
    """Yield what was in transit to or from one task, each record with the operator it was for."""
    content = None if task.channel_file is None else contents(task.channel_file.path)
    targets, at = {channel.index: str(channel.target) for channel in task.channels}, 0
    while content is not None and at < len(content):
        index, length = _HEAD.unpack_from(content, at)
        at += _HEAD.size + length
        values, _, _ = serialize.load(content[at - length : at])
        yield from ((targets[index], value) for value in values)


class Stored:
    """What a checkpoint holds: ``misplaced`` is the first mistake of place, or empty."""

    def __init__(self, manifest: CheckpointManifest, contents: Contents) -> None:
        self.misplaced = ""
        self.counts: dict[str, Counter[Any]] = {}
        self.has_timers = False
        seen: set[tuple[str, str, bytes, bytes | None]] = set()
        for task in manifest.tasks:
            if task.state is None:
                continue
            first, end = task.state.key_groups
            for row in rows(task.state, contents):
                place = (row.table.operator, row.table.name, row.key, row.entry)
                group = key_group(row.key, manifest.graph.max_parallelism)
                if place in seen or not first <= group < end:
                    why = "a second time" if place in seen else f"outside of [{first}, {end})"
                    self.misplaced = f"{task.task} holds {place} of key group {group} {why}"
                seen.add(place)
                self._take(row)

    def _take(self, row: Row) -> None:
        self.has_timers = self.has_timers or row.table.name.startswith("event-timers")
        if any(row.table.operator.startswith(o) and row.table.name == t for o, t in _COUNTS):
            counts = self.counts.setdefault(row.table.operator, Counter())
            counts[decode_key(row.key)] += decode_value(row.value)
