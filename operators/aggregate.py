"""Rolling aggregates, which emit ``(key, value)``: count, sum, min, max and fold."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any

from flowsnap.core.operator import MISSING
from flowsnap.errors import ConfigError
from flowsnap.operators.rolling import Emit, Rolling


class Count(Rolling):
    """Counts the records of each key."""

    state = "count"
    merge = staticmethod(operator.add)

    def lift(self, values: list[Any], cursor: Iterator[Any]) -> Iterable[Any]:
        return repeat(1, len(values))

    def new_partials(self) -> dict[Any, Any]:
        return Counter()

    def fold_into(self, partials: dict[Any, Any], keys: list[Any], values: Iterable[Any]) -> None:
        """Count the keys, in C; the values are all 1."""
        partials.update(keys)  # that of Counter, which adds


class Sum(Rolling):
    """Adds up what is selected from the records of each key.

    With ``emit="batch"`` or ``"final"`` the records are added up before the shuffle as well. That
    changes the order of the additions, and with it the last digits of a sum of floats, as the
    two-phase aggregation of Flink does; sums of int, Decimal and Fraction are exact.
    """

    state = "sum"
    merge = staticmethod(operator.add)

    def start(self, value: Any) -> Any:
        """Return the sum of one value; that of one bool is an int, as that of two is."""
        return int(value) if isinstance(value, bool) else value

    def fold_into(self, partials: dict[Any, Any], keys: list[Any], values: Iterable[Any]) -> None:
        get = partials.get
        for key, value in zip(keys, values, strict=True):
            old = get(key, MISSING)
            partials[key] = value if old is MISSING else old + value


class Min(Rolling):
    """Keeps the least of what is selected from the records of each key; of equals the first."""

    state = "min"

    @staticmethod
    def merge(old: Any, value: Any) -> Any:
        """Return the lesser."""
        return value if value < old else old


class Max(Rolling):
    """Keeps the greatest of what is selected from the records of each key; of equals the first."""

    state = "max"

    @staticmethod
    def merge(old: Any, value: Any) -> Any:
        """Return the greater."""
        return value if value > old else old


class Fold(Rolling):
    """Keeps ``fn(value, record)`` for each key, beginning with ``initial``.

    ``initial`` is an immutable value, or a function without arguments that makes one (``list``);
    only in the second case may ``fn`` change the value in place, and it must return it. What is
    then emitted is a copy, unless the input has ended. Records are not combined before the
    shuffle.
    """

    state = "fold"
    is_combinable = False

    def __init__(self, initial: Any, fn: Callable[[Any, Any], Any], emit: Emit = "each") -> None:
        super().__init__(emit)
        if callable(initial):
            self.detach = copy.deepcopy
        else:
            _check_immutable(initial)
        self.initial = initial
        self.merge = fn

    def start(self, value: Any) -> Any:
        initial = self.initial() if callable(self.initial) else self.initial
        return self.merge(initial, value)


def _check_immutable(initial: Any) -> None:
    try:
        hash(initial)
    except TypeError as error:
        name = type(initial).__name__
        raise ConfigError(f"fold: the initial value, a {name}, can be changed in place").hint(
            f"every key needs one of its own: pass a function that makes it, such as {name}"
        ) from error
