"""Which number stands for which named state in the rows of one task?

A state has one *layout* at a time: its kind, whether its values carry a time of expiry, and the
version of their schema. When a job declares another layout than its checkpoint has, the restored
table is kept beside the new one as a *legacy*, until all that it holds has moved. So values of two
layouts never mix in one table, and a value needs no mark that says which it has.
"""

from __future__ import annotations

from collections.abc import Iterable

from flowsnap.core.ids import OperatorId
from flowsnap.core.manifest import TableSpec
from flowsnap.errors import StateError, StateIncompatible

STATE_IDS_MAX = 65_536

EXPIRING = "+ttl"
"""What the kind of a table ends with whose values are ``(expires_ms, value)``."""

State = tuple[OperatorId, str]
Layout = tuple[OperatorId, str, str, int]


def is_expiring(spec: TableSpec) -> bool:
    """Return whether the values of a table carry the time at which they expire."""
    return spec.kind.endswith(EXPIRING)


class TableRegistry:
    """The states of one task, found by operator and name, whatever the order of declaration."""

    def __init__(self) -> None:
        self._specs: dict[Layout, TableSpec] = {}
        self._restored: dict[Layout, TableSpec] = {}
        self._declared: dict[State, TableSpec] = {}

    @property
    def tables(self) -> tuple[TableSpec, ...]:
        """All states with a number, restored ones that nobody has declared included."""
        return tuple(sorted(self._specs.values(), key=lambda spec: spec.state_id))

    def adopt(self, specs: Iterable[TableSpec]) -> None:
        """Take over restored states with their numbers."""
        for spec in specs:
            self._specs[_layout(spec)] = self._restored[_layout(spec)] = spec

    def merge(self, spec: TableSpec) -> TableSpec:
        """Take over one of several restored states under a number of our own.

        Raises:
            StateIncompatible: another restored part has the same state with another kind.
        """
        for other in self._restored_as(spec.operator, spec.name):
            _check_kind(spec.kind, other, "another part of the checkpoint")
        known = self._restored.get(_layout(spec))
        if known is None:
            known = self._number(*_layout(spec))
            self._restored[_layout(spec)] = known
        return known

    def declare(self, operator: OperatorId, name: str, kind: str, version: int = 1) -> TableSpec:
        """Return the state of an operator, which gets a number if it is new.

        Raises:
            StateIncompatible: the checkpoint, or the operator itself, has it with another kind;
                the checkpoint has a newer version.
        """
        declared = self._declared.get((operator, name))
        if declared is not None:
            _check_same(kind, version, declared)
            return declared
        for older in self._restored_as(operator, name):
            _check_kind(kind, older, "the checkpoint")
            if older.version > version:
                raise StateIncompatible(
                    f"state {name!r} of operator {operator!r} is declared with version {version}, "
                    f"but the checkpoint has version {older.version}"
                ).hint(f"run the version of the job that knows version {older.version} of it")
        layout = operator, name, kind, version
        spec = self._specs.get(layout) or self._number(*layout)
        self._declared[operator, name] = spec
        return spec

    def legacies(self, operator: OperatorId, name: str) -> list[TableSpec]:
        """Return the restored tables of a declared state with other layouts, newest first."""
        declared = self._declared[operator, name]
        older = [spec for spec in self._restored_as(operator, name) if spec != declared]
        return sorted(older, key=lambda spec: (spec.version, spec.state_id), reverse=True)

    def forget(self, spec: TableSpec) -> None:
        """Leave out a legacy that holds nothing."""
        del self._specs[_layout(spec)], self._restored[_layout(spec)]

    def is_restored(self, spec: TableSpec) -> bool:
        """Return whether rows of this state may have been restored."""
        return _layout(spec) in self._restored

    def check_declared(self) -> None:
        """Check that every restored state has been declared; called once all operators are open.

        Raises:
            StateIncompatible: the checkpoint holds a state that no operator declares.
        """
        restored = {(spec.operator, spec.name) for spec in self._restored.values()}
        for operator, name in sorted(restored - self._declared.keys()):
            new = sorted({s[1] for s in self._declared if s[0] == operator and s not in restored})
            declared = ", ".join(map(repr, new)) or "no new state"
            raise StateIncompatible(
                f"the checkpoint holds state {name!r} of operator {operator!r}, "
                f"which declares it no more (it declares {declared})"
            ).hint(f"name it {name!r} again, or start fresh to drop it")

    def _restored_as(self, operator: OperatorId, name: str) -> list[TableSpec]:
        return [
            spec
            for spec in self._restored.values()
            if spec.operator == operator and spec.name == name
        ]

    def _number(self, operator: OperatorId, name: str, kind: str, version: int) -> TableSpec:
        state_id = max((spec.state_id for spec in self._specs.values()), default=-1) + 1
        if state_id >= STATE_IDS_MAX:
            raise StateError(f"operator {operator!r} has too many states, {name!r} among them")
        spec = TableSpec(state_id, operator, name, kind, version)
        self._specs[_layout(spec)] = spec
        return spec


def _layout(spec: TableSpec) -> Layout:
    return spec.operator, spec.name, spec.kind, spec.version


def _check_kind(kind: str, known: TableSpec, whose: str) -> None:
    kind, other = kind.removesuffix(EXPIRING), known.kind.removesuffix(EXPIRING)
    if kind != other:
        raise StateIncompatible(
            f"state {known.name!r} of operator {known.operator!r} is declared as {kind} state, "
            f"but {whose} has it as {other} state"
        ).hint("give the new state another name, or start fresh")


def _check_same(kind: str, version: int, declared: TableSpec) -> None:
    _check_kind(kind, declared, "an earlier declaration")
    if (kind, version) != (declared.kind, declared.version):
        raise StateIncompatible(
            f"state {declared.name!r} of operator {declared.operator!r} is declared with version "
            f"{version}{_with_ttl(kind)}, but an earlier declaration has it with version "
            f"{declared.version}{_with_ttl(declared.kind)}"
        ).hint("declare a state once, or in the same way each time")


def _with_ttl(kind: str) -> str:
    return " and a ttl" if kind.endswith(EXPIRING) else " and no ttl"
