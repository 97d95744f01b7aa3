"""What an operator knows of where it runs, and its keyed states."""

from __future__ import annotations

from dataclasses import dataclass

from flowsnap.core.ids import AttemptId, OperatorId
from flowsnap.core.operator import KeyedTable
from flowsnap.errors import ConfigError
from flowsnap.state.keyed import KeyedStates, MapTable, Tables


@dataclass(frozen=True, slots=True)
class Place:
    """Where an operator runs."""

    job: str
    subtask: int
    parallelism: int
    attempt: AttemptId


class TaskContext(KeyedStates):
    """Where an operator runs, and its states; ``key`` is set for every record."""

    def __init__(self, tables: Tables, operator: OperatorId, place: Place) -> None:
        super().__init__(tables, operator)
        self.operator = operator
        self.job = place.job
        self.subtask = place.subtask
        self.parallelism = place.parallelism
        self.attempt = place.attempt


class NoTables:
    """What an operator gets that is not keyed."""

    def value_table(self, operator: OperatorId, name: str, kind: str) -> KeyedTable:
        """Refuse."""
        raise _refusal(operator, name)

    def map_table(self, operator: OperatorId, name: str) -> MapTable:
        """Refuse."""
        raise _refusal(operator, name)


def _refusal(operator: OperatorId, name: str) -> ConfigError:
    return ConfigError(f"operator {operator!r} asks for state {name!r} but is not keyed").hint(
        "keyed state is there behind key_by"
    )
