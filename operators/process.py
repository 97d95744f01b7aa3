"""``process``: the user's own code, record by record, with state and timers of the record's key."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from flowsnap.core.element import Batch
from flowsnap.errors import ConfigError
from flowsnap.operators.process_context import ProcessContext
from flowsnap.operators.user_step import TimedCode, UserCode, UserStep

V = TypeVar("V")
R = TypeVar("R")


class KeyedProcess(TimedCode, Generic[V, R]):
    """A step of the user's own, for records of type ``V`` and outputs of type ``R``.

    An instance is a template: every subtask works on a shallow copy, made before ``open``. So
    make in ``open`` whatever changes, and ask there for the states::

        class RunningTotal(KeyedProcess[Payment, tuple[str, int]]):
            def open(self, context):
                self.total = context.value_state("total", default=0)

            def process(self, payment, context):
                self.total.update(self.total.value() + payment.amount)
                context.register_event_timer(payment.day_end_ms)

            def on_timer(self, timestamp, context):
                yield context.key, self.total.value()
    """

    def process(self, value: V, context: ProcessContext) -> Iterable[R] | None:
        """Take one record and return its outputs, or yield them.

        ``context.key`` is the key of the record, and every state is that of this key.
        """
        raise NotImplementedError(f"{type(self).__name__}.process")


class ProcessFunction(UserCode, Generic[V, R]):
    """A step of the user's own without a key: any number of outputs, side outputs too.

    An instance is a template, as that of a ``KeyedProcess``. It has neither keyed state nor timers;
    what it keeps over a restart stands in ``context.operator_state(name)``.
    """

    def process(self, value: V, context: ProcessContext) -> Iterable[R] | None:
        """Take one record and return its outputs, or yield them."""
        raise NotImplementedError(f"{type(self).__name__}.process")


class Process(UserStep):
    """Runs a ``KeyedProcess``; the outputs have the event time of their record or timer."""

    base = KeyedProcess

    def process(self, batch: Batch) -> Batch:
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        return self._each(self._user.process, batch)


class ProcessEach(UserStep):
    """Runs a ``ProcessFunction``, or a function of a record and the context."""

    base = ProcessFunction

    def __init__(
        self,
        template: ProcessFunction[Any, Any]
        | type[ProcessFunction[Any, Any]]
        | Callable[[Any, ProcessContext], Iterable[Any] | None],
    ) -> None:
        if isinstance(template, KeyedProcess) or (
            isinstance(template, type) and issubclass(template, KeyedProcess)
        ):
            raise ConfigError(f"process: {template!r} needs a key").hint("write key_by before it")
        if callable(template) and not isinstance(template, type | ProcessFunction):
            template = _Function(template)
        super().__init__(template, is_keyed=False)

    def process(self, batch: Batch) -> Batch:
        return self._each(self._user.process, batch)


class _Function(ProcessFunction[Any, Any]):
    """A plain function in the place of a class."""

    def __init__(self, fn: Callable[[Any, ProcessContext], Iterable[Any] | None]) -> None:
        self.fn = fn

    def process(self, value: Any, context: ProcessContext) -> Iterable[Any] | None:
        return self.fn(value, context)
