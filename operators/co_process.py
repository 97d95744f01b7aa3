"""``connect(...).process``: the user's own code with two inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from flowsnap.core.element import Batch
from flowsnap.operators.process_context import ProcessContext
from flowsnap.operators.user_step import TimedCode, UserStep

L = TypeVar("L")
R = TypeVar("R")
O = TypeVar("O")  # noqa: E741 - output


class CoProcess(TimedCode, Generic[L, R, O]):
    """A step of the user's own with two inputs, both keyed or both not.

    Keyed, the records of a key meet in one subtask, whichever input they come from, and share its
    state and timers. Between the inputs there is no order: what must wait for the other input waits
    in state. An instance is a template, as that of a ``KeyedProcess``.
    """

    def process_left(self, value: L, context: ProcessContext) -> Iterable[O] | None:
        """Take one record of the first input and return its outputs, or yield them."""
        raise NotImplementedError(f"{type(self).__name__}.process_left")

    def process_right(self, value: R, context: ProcessContext) -> Iterable[O] | None:
        """Take one record of the second input and return its outputs, or yield them."""
        raise NotImplementedError(f"{type(self).__name__}.process_right")


class ProcessBoth(UserStep):
    """Runs a ``CoProcess``; event time is the lesser of its inputs'."""

    base = CoProcess

    def process(self, batch: Batch) -> Batch:
        return self._each(self._user.process_left, batch)

    def process_port(self, batch: Batch, port: int) -> Batch:
        each = self._user.process_right if port else self._user.process_left
        return self._each(each, batch)


AnyCoProcess = CoProcess[Any, Any, Any] | type[CoProcess[Any, Any, Any]]
"""A template, as an instance or a class."""
