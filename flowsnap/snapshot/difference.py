"""What has changed from one snapshot to another: state by state, key by key.

The rows of both are walked side by side in the order of their keys' bytes, so nothing is held in
memory. Rows whose bytes are equal are equal; others are compared as values, since a pickle of the
same value need not have the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from flowsnap.core.ids import OperatorId
from flowsnap.errors import ConfigError
from flowsnap.snapshot.content import Row, StateInfo
from flowsnap.snapshot.keyed import KeyedState, Raw
from flowsnap.snapshot.snapshot import Snapshot

EXAMPLES = 5

Place = tuple[int, bytes]
Pair = tuple[Place, Raw | None, Raw | None]


class Change(msgspec.Struct, frozen=True):
    """One row that is different; ``namespace`` is the entry of a map state."""

    kind: Literal["added", "removed", "changed"]
    key: Any
    namespace: Any = None
    before: Any = None
    after: Any = None


class StateDifference(msgspec.Struct, frozen=True):
    """What has changed in one state; rows are counted: of a map its entries."""

    operator: OperatorId
    name: str
    added: int = 0
    removed: int = 0
    changed: int = 0
    same: int = 0
    examples: tuple[Change, ...] = ()

    @property
    def is_same(self) -> bool:
        """Whether nothing has changed."""
        return not (self.added or self.removed or self.changed)


class SnapshotDifference(msgspec.Struct, frozen=True):
    """What has changed from one snapshot to another.

    ``states``: of every keyed state in either. ``positions``: of each split whose position is
    another, what it was and is. ``transit``: the number of records in transit, before and after;
    ``is_transit_same``: they are the same ones.
    """

    states: tuple[StateDifference, ...]
    operators_added: tuple[str, ...]
    operators_removed: tuple[str, ...]
    positions: dict[str, tuple[Any, Any]]
    operator_states: tuple[str, ...]
    watermarks: dict[str, tuple[int | None, int | None]]
    transit: tuple[int, int]
    is_transit_same: bool = True

    @property
    def is_same(self) -> bool:
        """Whether nothing has changed that a job would go on from."""
        changed = (self.operators_added, self.operators_removed, self.operator_states)
        moved = (self.positions, self.watermarks)
        states = all(state.is_same for state in self.states)
        return states and self.is_transit_same and not any((*changed, *moved))


def diff(before: Snapshot, after: Snapshot, *, examples: int = EXAMPLES) -> SnapshotDifference:
    """Return what has changed; of each state up to ``examples`` changes.

    The parallelism may have changed in between, and the number of key groups as well.

    Raises:
        ConfigError: a state has another kind in one than in the other.
        ManifestCorrupt: a file is damaged.
    """
    old, new = before.operators.keys(), after.operators.keys()
    return SnapshotDifference(
        states=tuple(_states(before, after, examples)),
        operators_added=tuple(name for name in new if name not in old),
        operators_removed=tuple(name for name in old if name not in new),
        positions=_moved(_positions(before), _positions(after)),
        operator_states=tuple(_operator_states(before, after)),
        watermarks=_moved(_watermarks(before), _watermarks(after)),
        transit=_in_transit(before, after),
        is_transit_same=before.channels() == after.channels(),
    )


def _states(before: Snapshot, after: Snapshot, examples: int) -> Iterator[StateDifference]:
    old = {(s.operator, s.name): s for s in before.states if s.is_keyed}
    new = {(s.operator, s.name): s for s in after.states if s.is_keyed}
    for operator, name in sorted(old | new):
        one, other = old.get((operator, name)), new.get((operator, name))
        _check_kind(one, other)
        yield compare(
            before.state(operator, name) if one else None,
            after.state(operator, name) if other else None,
            examples=examples,
        )


def compare(
    before: KeyedState | None, after: KeyedState | None, *, examples: int = EXAMPLES
) -> StateDifference:
    """Return what has changed in one state; None is a state that is not there."""
    known = after if before is None else before  # One that is empty is there.
    assert known is not None  # there is nothing to compare
    return _Comparison(before, after, examples).result(known.info)


def _check_kind(one: StateInfo | None, other: StateInfo | None) -> None:
    if one and other and one.kind != other.kind:
        raise ConfigError(
            f"state {one.name!r} of operator {one.operator!r} is {one.kind} state in one snapshot "
            f"and {other.kind} state in the other"
        )


class _Comparison:
    """Counts the changes of one state, and keeps some."""

    def __init__(self, before: KeyedState | None, after: KeyedState | None, examples: int) -> None:
        self._before = before
        self._after = after
        self._limit = examples
        self._examples: list[Change] = []
        self._counts = {"added": 0, "removed": 0, "changed": 0, "same": 0}

    def result(self, info: StateInfo) -> StateDifference:
        """Walk both and return what has changed."""
        groups = {s.max_parallelism for s in (self._before, self._after) if s is not None}
        by_key = len(groups) > 1  # Then the same key lies in other groups.
        left = iter(()) if self._before is None else self._before.raw_rows(by_key=by_key)
        right = iter(()) if self._after is None else self._after.raw_rows(by_key=by_key)
        for place, old, new in _side_by_side(left, right):
            self._compare(place[0], old, new)
        examples = tuple(self._examples)
        return StateDifference(info.operator, info.name, **self._counts, examples=examples)

    def _compare(self, group: int, old: Raw | None, new: Raw | None) -> None:
        if old is not None and new is not None:
            if old[1] == new[1] and old[2].kind == new[2].kind:
                self._counts["same"] += 1
                return
            one, other = _row(self._before, group, old), _row(self._after, group, new)
            if one.value == other.value:
                self._counts["same"] += 1
                return
            self._note(Change("changed", one.key, one.namespace, one.value, other.value))
        elif old is not None:
            one = _row(self._before, group, old)
            self._note(Change("removed", one.key, one.namespace, before=one.value))
        elif new is not None:
            one = _row(self._after, group, new)
            self._note(Change("added", one.key, one.namespace, after=one.value))

    def _note(self, change: Change) -> None:
        self._counts[change.kind] += 1
        if len(self._examples) < self._limit:
            self._examples.append(change)


def _row(state: KeyedState | None, group: int, raw: Raw) -> Row:
    assert state is not None  # the row came from it
    return state.decode(group, raw)


def _side_by_side(
    left: Iterator[tuple[Place, Raw]], right: Iterator[tuple[Place, Raw]]
) -> Iterator[Pair]:
    """Yield the rows of two sorted streams, those of one place together."""
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None
            yield one[0], one[1], None
            one = next(left, None)
        elif one is None or other[0] < one[0]:
            yield other[0], None, other[1]
            other = next(right, None)
        else:
            yield one[0], one[1], other[1]
            one, other = next(left, None), next(right, None)


def _positions(snapshot: Snapshot) -> dict[str, Any]:
    return {f"{at.source}: {at.split}": at.position for at in snapshot.positions()}


def _watermarks(snapshot: Snapshot) -> dict[str, Any]:
    return {
        f"{operator}/{subtask}": mark_ms
        for operator, marks in snapshot.watermarks().items()
        for subtask, mark_ms in marks.items()
    }


def _operator_states(before: Snapshot, after: Snapshot) -> Iterator[str]:
    old, new = _all_values(before), _all_values(after)
    for identity in sorted(old | new):
        if old.get(identity) != new.get(identity):
            yield ".".join(identity)


def _all_values(snapshot: Snapshot) -> dict[tuple[str, str], Any]:
    return {
        (state.operator, state.name): snapshot.operator_state(state.operator, state.name)
        for state in snapshot.states
        if not state.is_keyed
    }


def _moved(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted(before | after)
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _in_transit(before: Snapshot, after: Snapshot) -> tuple[int, int]:
    counts = [
        sum(channel.records for task in snapshot.manifest.tasks for channel in task.channels)
        for snapshot in (before, after)
    ]
    return counts[0], counts[1]
