"""Which number stands for which named state in the rows of one task?"""

from __future__ import annotations

from collections.abc import Iterable

from flowsnap.core.ids import OperatorId
from flowsnap.core.manifest import TableSpec
from flowsnap.errors import StateError, StateIncompatible

STATE_IDS_MAX = 65_536


class TableRegistry:
    """The states of one task, found by operator and name, whatever the order of declaration."""

    def __init__(self) -> None:
        self._specs: dict[tuple[OperatorId, str], TableSpec] = {}
        self._restored: dict[tuple[OperatorId, str], TableSpec] = {}
        self._declared: set[tuple[OperatorId, str]] = set()

    @property
    def tables(self) -> tuple[TableSpec, ...]:
        """All states with a number, restored ones that nobody has declared included."""
        return tuple(sorted(self._specs.values(), key=lambda spec: spec.state_id))

    def adopt(self, specs: Iterable[TableSpec]) -> None:
        """Take over restored states with their numbers."""
        for spec in specs:
            self._specs[spec.operator, spec.name] = self._restored[spec.operator, spec.name] = spec

    def merge(self, spec: TableSpec) -> TableSpec:
        """Take over one of several restored states under a number of our own.

        Raises:
            StateIncompatible: another restored part has the same state with another kind.
        """
        known = self._restored.get((spec.operator, spec.name))
        if known is None:
            known = self._number(spec.operator, spec.name, spec.kind)
            self._restored[spec.operator, spec.name] = known
        _check_kind(spec.kind, known, "another part of the checkpoint")
        return known

    def declare(self, operator: OperatorId, name: str, kind: str) -> TableSpec:
        """Return the state of an operator, which gets a number if it is new.

        Raises:
            StateIncompatible: the checkpoint, or the operator itself, has it with another kind.
        """
        identity = operator, name
        known = self._specs.get(identity)
        if known is None:
            known = self._number(operator, name, kind)
        is_restored = identity in self._restored and identity not in self._declared
        _check_kind(kind, known, "the checkpoint" if is_restored else "an earlier declaration")
        self._declared.add(identity)
        return known

    def is_restored(self, spec: TableSpec) -> bool:
        """Return whether rows of this state may have been restored."""
        return (spec.operator, spec.name) in self._restored

    def check_declared(self) -> None:
        """Check that every restored state has been declared; called once all operators are open.

        Raises:
            StateIncompatible: the checkpoint holds a state that no operator declares.
        """
        for identity in sorted(self._restored.keys() - self._declared):
            operator, name = identity
            new = sorted(
                other.name
                for key, other in self._specs.items()
                if key[0] == operator and key not in self._restored
            )
            declared = ", ".join(map(repr, new)) or "no new state"
            raise StateIncompatible(
                f"the checkpoint holds state {name!r} of operator {operator!r}, "
                f"which declares it no more (it declares {declared})"
            ).hint(f"name it {name!r} again, or start fresh to drop it")

    def _number(self, operator: OperatorId, name: str, kind: str) -> TableSpec:
        state_id = max((spec.state_id for spec in self._specs.values()), default=-1) + 1
        if state_id >= STATE_IDS_MAX:
            raise StateError(f"operator {operator!r} has too many states, {name!r} among them")
        spec = self._specs[operator, name] = TableSpec(state_id, operator, name, kind)
        return spec


def _check_kind(kind: str, known: TableSpec, whose: str) -> None:
    if kind != known.kind:
        raise StateIncompatible(
            f"state {known.name!r} of operator {known.operator!r} is declared as {kind} state, "
            f"but {whose} has it as {known.kind} state"
        ).hint("give the new state another name, or start fresh")
