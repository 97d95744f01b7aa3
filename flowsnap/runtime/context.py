"""What an operator knows of where it runs, and its state, timers and side outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice, repeat
from typing import Any, Literal, cast

from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, OperatorId
from flowsnap.core.manifest import OperatorStateValues, TableSpec
from flowsnap.core.operator import KeyedTable
from flowsnap.core.watermark import MIN_WATERMARK
from flowsnap.errors import ConfigError, StateIncompatible
from flowsnap.serialize import dump, load
from flowsnap.state.keyed import KeyedStates, MapTable, Tables
from flowsnap.state.timers import TimerQueue


@dataclass(frozen=True, slots=True)
class Place:
    """Where an operator runs, and what it had in operator state. ``wall_ms`` is the wall clock."""

    job: str
    subtask: int
    parallelism: int
    attempt: AttemptId
    wall_ms: Callable[[], int]
    restored: Sequence[OperatorStateValues] = field(default=())


class SideBuffer:
    """Records of one side output on their way out of the task; some may have no event time."""

    __slots__ = ("timestamps", "values")

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.timestamps: list[int | None] = []

    def add(self, value: Any, timestamp_ms: int | None = None) -> None:
        """Emit one record."""
        self.values.append(value)
        self.timestamps.append(timestamp_ms)

    def add_all(self, values: Iterable[Any], timestamps: Iterable[int] | None = None) -> None:
        """Emit several records."""
        before = len(self.values)
        self.values.extend(values)
        if timestamps is None:
            self.timestamps.extend(repeat(None, len(self.values) - before))
        else:
            self.timestamps.extend(timestamps)

    def take(self) -> list[Batch]:
        """Return what has been emitted, in order, and begin anew.

        A batch ends where records with an event time and records without meet.
        """
        values, timestamps = self.values, self.timestamps
        self.values, self.timestamps = [], []
        if None not in timestamps:
            return [Batch(values, cast(list[int], timestamps))] if values else []
        batches, rest = [], iter(values)
        for is_timed, times in groupby(timestamps, key=lambda at: at is not None):
            run = list(times)
            own = list(islice(rest, len(run)))
            batches.append(Batch(own, cast(list[int], run) if is_timed else None))
        return batches


class NamedCounter:
    """One number that an operator counts."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def increase(self, by: int = 1) -> None:
        """Count ``by`` more."""
        self.value += by


class StateCell:
    """One operator state of one subtask."""

    def __init__(self, kind: str, values: list[Any]) -> None:
        self.kind = kind
        self._values = values

    def get(self) -> list[Any]:
        """Return the values."""
        return list(self._values)

    def update(self, values: Iterable[Any]) -> None:
        """Replace the values."""
        self._values = list(values)


class TaskContext(KeyedStates):
    """Where an operator runs, and its states; ``key`` is set for every record."""

    def __init__(self, tables: Tables, operator: OperatorId, place: Place) -> None:
        super().__init__(tables, operator)
        self.operator = operator
        self.job = place.job
        self.subtask = place.subtask
        self.parallelism = place.parallelism
        self.attempt = place.attempt
        self.watermark_ms = MIN_WATERMARK
        self.side_outputs: dict[str, SideBuffer] = {}
        self.counters: dict[str, NamedCounter] = {}
        self.processing_time_ms = place.wall_ms
        self._cells: dict[str, StateCell] = {}
        self._restored = {s.name: s for s in place.restored if s.operator == operator}

    def event_timers(self, name: str) -> TimerQueue:
        """Return the timers in event time that this operator keeps under ``name``."""
        return TimerQueue(self._tables.map_table(self.operator, f"event-timers.{name}"))

    def processing_timers(self, name: str) -> TimerQueue:
        """Return the timers in processing time that this operator keeps under ``name``."""
        return TimerQueue(self._tables.map_table(self.operator, f"processing-timers.{name}"))

    def side_output(self, tag: str) -> SideBuffer:
        """Return the side output ``tag`` of this operator."""
        return self.side_outputs.setdefault(tag, SideBuffer())

    def counter(self, name: str) -> NamedCounter:
        """Return the counter ``name`` of this operator."""
        return self.counters.setdefault(name, NamedCounter())

    def operator_state(
        self, name: str, kind: Literal["list", "union", "broadcast"] = "list"
    ) -> StateCell:
        """Return the non-keyed state ``name`` of this operator.

        Raises:
            StateIncompatible: the checkpoint has this name with another kind.
        """
        if name not in self._cells:
            restored = self._restored.get(name)
            if restored is not None and restored.kind != kind:
                raise StateIncompatible(
                    f"operator {self.operator!r} declares state {name!r} as {kind}, but the "
                    f"checkpoint has it as {restored.kind}"
                )
            values = [] if restored is None else [load(value) for value in restored.values]
            self._cells[name] = StateCell(kind, values)
        return self._cells[name]

    def operator_states(self) -> tuple[OperatorStateValues, ...]:
        """Return all operator states as they are now, serialised."""
        return tuple(
            OperatorStateValues(self.operator, name, cell.kind, tuple(map(dump, cell.get())))
            for name, cell in self._cells.items()
        )


class NoTables:
    """What an operator gets that is not keyed."""

    def value_table(
        self, operator: OperatorId, name: str, kind: str, version: int = 1
    ) -> KeyedTable:
        """Refuse."""
        raise _refusal(operator, name)

    def map_table(
        self, operator: OperatorId, name: str, kind: str = "map", version: int = 1
    ) -> MapTable:
        """Refuse."""
        raise _refusal(operator, name)

    def legacy_tables(self, operator: OperatorId, name: str) -> list[tuple[TableSpec, Any]]:
        """Refuse."""
        raise _refusal(operator, name)

    def rows(self, table: Any) -> Iterator[tuple[Any, ...]]:
        """Return none: there is no table."""
        return iter(())

    def relieve(self) -> None:
        """Do nothing: there is no table."""


def _refusal(operator: OperatorId, name: str) -> ConfigError:
    return ConfigError(f"operator {operator!r} asks for state {name!r} but is not keyed").hint(
        "keyed state is there behind key_by"
    )
