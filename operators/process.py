"""``process``: the user's own code, record by record, with state of the record's key."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import chain, repeat
from typing import Any, Generic, TypeVar

from flowsnap.core.element import Batch
from flowsnap.core.operator import Operator, OperatorContext
from flowsnap.errors import ConfigError

V = TypeVar("V")
R = TypeVar("R")

_ONE_VALUE = frozenset({str, bytes, dict})


class KeyedProcess(Generic[V, R]):
    """A step of the user's own, for records of type ``V`` and outputs of type ``R``.

    An instance is a template: every subtask works on a shallow copy, made before ``open``. So
    make in ``open`` whatever changes, and ask there for the states::

        class RunningTotal(KeyedProcess[Payment, tuple[str, int]]):
            def open(self, context):
                self.total = context.value_state("total", default=0)

            def process(self, payment, context):
                self.total.update(self.total.value() + payment.amount)
                yield context.key, self.total.value()
    """

    def open(self, context: OperatorContext) -> None:
        """Ask ``context`` for the states; called once, before all else."""

    def process(self, value: V, context: OperatorContext) -> Iterable[R] | None:
        """Take one record and return its outputs, or yield them.

        ``context.key`` is the key of the record, and every state is that of this key.
        """
        raise NotImplementedError(f"{type(self).__name__}.process")

    def close(self) -> None:
        """Release what ``open`` took; called once, also after a failure."""


class Process(Operator):
    """Runs a ``KeyedProcess``; the outputs have the event time of their record."""

    def __init__(self, template: KeyedProcess[Any, Any] | type[KeyedProcess[Any, Any]]) -> None:
        if isinstance(template, type) and issubclass(template, KeyedProcess):
            template = template()
        if not isinstance(template, KeyedProcess):
            raise ConfigError(f"process: {template!r} is not a KeyedProcess").hint(
                "subclass flowsnap.KeyedProcess, and pass the class or an instance"
            )
        self.template = template
        self._user: KeyedProcess[Any, Any] | None = None

    def open(self, context: OperatorContext) -> None:
        self._context = context
        user = copy.copy(self.template)
        self._user = user
        user.open(context)

    def process(self, batch: Batch) -> Batch:
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        assert self._user is not None, "process before open"
        process, context = self._user.process, self._context
        outputs: list[Any] = []
        lengths: list[int] = []
        self.cursor = iter(batch.values)
        for key, value in zip(batch.keys, self.cursor, strict=True):
            context.key = key
            result = process(value, context)
            if result is not None:
                if result.__class__ in _ONE_VALUE:
                    raise _not_outputs(result)
                outputs += result
            lengths.append(len(outputs))
        return Batch(outputs, _times(batch.timestamps, lengths))

    def close(self) -> None:
        if self._user is not None:
            self._user.close()


def _times(timestamps: list[int] | None, lengths: list[int]) -> list[int] | None:
    """Return a time for each output; ``lengths`` says how many there were after each record."""
    if timestamps is None:
        return None
    counts = map(int.__sub__, lengths, chain((0,), lengths))
    return list(chain.from_iterable(map(repeat, timestamps, counts)))


def _not_outputs(result: object) -> TypeError:
    error = TypeError(f"process returned a {type(result).__name__}, not an iterable of outputs")
    error.add_note("yield every output, or return them in a list")
    return error
