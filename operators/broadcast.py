"""``connect(rules.broadcast()).process``: records meet rules that every subtask has.

The rules are a dict, the same in every subtask: all subtasks are given all records of the second
input, and only these may change it. The snapshot holds it as operator state, of which every
subtask gets a copy after a restore, whatever the parallelism then.

Source: Flink, "The Broadcast State Pattern". Deviation: one dict, instead of several named ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Generic, NoReturn, TypeVar

from flowsnap.core.element import Batch
from flowsnap.core.operator import OperatorContext
from flowsnap.operators.process_context import ProcessContext
from flowsnap.operators.user_step import TimedCode, UserStep

T = TypeVar("T")
B = TypeVar("B")
O = TypeVar("O")  # noqa: E741 - output

STATE = "broadcast"


class BroadcastContext(ProcessContext):
    """A ``ProcessContext`` with the broadcast state.

    ``broadcast`` may be changed in ``process_broadcast`` alone; elsewhere it is a view.
    """

    broadcast: Any


class BroadcastProcess(TimedCode, Generic[T, B, O]):
    """A step of the user's own, whose second input goes to every subtask.

    ``process_broadcast`` must change ``context.broadcast`` in the same way in every subtask: by the
    record alone, and never by its time, its place, or what ``process`` has seen. Records of several
    subtasks may come in another order in each subtask: let a later one replace an earlier one only
    where that does not matter, or broadcast from a step of parallelism 1.
    """

    def process(self, value: T, context: BroadcastContext) -> Iterable[O] | None:
        """Take one record of the first input; ``context.broadcast`` is to be read."""
        raise NotImplementedError(f"{type(self).__name__}.process")

    def process_broadcast(self, value: B, context: BroadcastContext) -> Iterable[O] | None:
        """Take one record of the second input, as all subtasks do, and change the state.

        There is no key here: keyed state and timers cannot be used. What is returned is emitted by
        every subtask.
        """
        raise NotImplementedError(f"{type(self).__name__}.process_broadcast")


class ProcessWithBroadcast(UserStep):
    """Runs a ``BroadcastProcess``; its second input is the broadcast one."""

    base = BroadcastProcess

    def open(self, context: OperatorContext) -> None:
        self._cell = context.operator_state(STATE, "broadcast")
        self._rules: dict[Any, Any] = dict(self._cell.get())
        self._view: Mapping[Any, Any] = MappingProxyType(self._rules)
        super().open(context)

    def _make_context(self, context: OperatorContext) -> BroadcastContext:
        made = BroadcastContext(context, self._timers)
        made.broadcast = self._view
        return made

    def process(self, batch: Batch) -> Batch:
        return self._each(self._user.process, batch)

    def process_port(self, batch: Batch, port: int) -> Batch:
        if port == 0:
            return self.process(batch)
        context: Any = self._context
        context.broadcast = self._rules
        try:
            return self._each(self._user.process_broadcast, _without_key(batch))
        finally:
            context.broadcast = self._view

    def before_barrier(self) -> Iterable[Batch]:
        self._cell.update(self._rules.items())
        return ()


class _NoKey:
    """Stands where the key would be: no state can be found by it."""

    def __hash__(self) -> NoReturn:
        raise TypeError("there is no key in process_broadcast: keyed state cannot be used")


_NO_KEY = _NoKey()


def _without_key(batch: Batch) -> Batch:
    return Batch(batch.values, batch.timestamps, [_NO_KEY] * len(batch))
