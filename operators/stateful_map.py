"""``stateful_map``: one record out for one record in, by a function of it and its key's state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.operator import MISSING, KeyedTable, Operator, OperatorContext
from flowsnap.errors import ConfigError


class StatefulMap(Operator):
    """Replaces every record by the output of ``fn(state, record)``, which returns state and output.

    ``initial`` is the state of a new key: an immutable value, or a function without arguments that
    makes one (``list``); only in the second case may ``fn`` change the state in place. Then it must
    not emit the state itself, which later records change.
    """

    def __init__(self, fn: Callable[[Any, Any], tuple[Any, Any]], initial: Any = None) -> None:
        if not callable(fn):
            raise ConfigError(f"stateful_map: {fn!r} is not a function").hint(
                "pass a function of the state and a record, which returns (state, output)"
            )
        _check_initial(initial)
        self.fn = fn
        self.initial = initial
        self._table: KeyedTable | None = None

    def open(self, context: OperatorContext) -> None:
        self._table = context.table("stateful_map")

    def process(self, batch: Batch) -> Batch:
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        assert self._table is not None, "process before open"
        young, load, fn, initial = self._table.young, self._table.load, self.fn, self.initial
        makes = callable(initial)
        get = young.get
        outputs: list[Any] = []
        emit = outputs.append
        self.cursor = iter(batch.values)
        for key, value in zip(batch.keys, self.cursor, strict=True):
            state = get(key, MISSING)
            if state is MISSING and (state := load(key)) is MISSING:
                state = initial() if makes else initial
            result = fn(state, value)
            if not isinstance(result, tuple) or len(result) != 2:
                raise _no_pair(result)
            young[key], output = result
            emit(output)
        return Batch(outputs, batch.timestamps)


def _check_initial(initial: Any) -> None:
    if callable(initial):
        return
    try:
        hash(initial)
    except TypeError as error:
        name = type(initial).__name__
        raise ConfigError(
            f"stateful_map: the initial state, a {name}, can be changed in place"
        ).hint(
            f"every key needs one of its own: pass a function that makes it, such as {name}"
        ) from error


def _no_pair(result: object) -> TypeError:
    error = TypeError(f"stateful_map: the function returned a {type(result).__name__}")
    error.add_note("return a pair: the new state, and the output")
    return error
