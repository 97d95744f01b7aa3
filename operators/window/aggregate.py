"""What is computed of the records of a window (or of anything else): one class, one aggregate.

An aggregate keeps an *accumulator*: ``create`` makes an empty one, ``add_many`` puts a whole list
of values in, ``merge`` makes one of two, ``result`` says what comes out. The aggregate itself holds
nothing that changes.

Many keys at once are a *column*: a dict from key to accumulator. ``fold_into``, ``merge_into`` and
``results`` work on whole columns, so that the loops over records stay in C where they can.

Source: Flink's ``AggregateFunction``. Deviation: lists of values, and columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import reduce
from heapq import nlargest
from itertools import repeat
from operator import add
from typing import Any

from flowsnap.core.operator import MISSING
from flowsnap.errors import ConfigError
from flowsnap.operators.selector import Selector, check_selector, resolve, selected

Column = dict[Any, Any]

_FIELDS = frozenset({"key", "start", "end", "value"})


class Aggregate:
    """Base of all aggregates; ``selector`` says which part of a record is aggregated."""

    is_ordered: bool = False
    """Whether the result depends on the order of the records: these are not shared between windows
    that overlap, whose parts would be put together in another order."""

    def __init__(self, selector: Selector = None) -> None:
        check_selector(selector, type(self).__name__.lower())
        self.selector = selector

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'' if self.selector is None else repr(self.selector)})"

    def create(self) -> Any:
        """Return an empty accumulator."""
        raise NotImplementedError(f"{type(self).__name__}.create")

    def add_many(self, accumulator: Any, values: Sequence[Any]) -> Any:
        """Return ``accumulator`` with ``values`` in it; it may be changed in place."""
        raise NotImplementedError(f"{type(self).__name__}.add_many")

    merge: Callable[[Any, Any], Any]
    """``merge(one, other)`` returns an accumulator with all that is in two; neither is changed. An
    attribute, so that C functions stay in C."""

    def absorb(self, accumulator: Any, other: Any) -> Any:
        """Return ``accumulator`` with all of ``other`` in it; it may be changed in place."""
        return self.merge(accumulator, other)

    def result(self, accumulator: Any) -> Any:
        """Return the result; later changes of the accumulator do not change it."""
        return accumulator

    def lift(self, records: list[Any]) -> list[Any]:
        """Return what is to be aggregated of each record."""
        if self.selector is None:
            return records
        return list(selected(self.selector, records, iter(records)))

    def column(self) -> Column:
        """Return an empty column."""
        return {}

    def fold_into(self, column: Column, keys: Sequence[Any], values: Sequence[Any]) -> None:
        """Put ``values``, one for each of ``keys``, into the accumulators of a column."""
        groups: dict[Any, list[Any]] = {}
        for key, value in zip(keys, values, strict=True):
            try:
                groups[key].append(value)
            except KeyError:
                groups[key] = [value]
        for key, group in groups.items():
            old = column.get(key, MISSING)
            column[key] = self.add_many(self.create() if old is MISSING else old, group)

    def merge_into(
        self, column: Column, keys: Collection[Any], accumulators: Iterable[Any]
    ) -> None:
        """Merge ``accumulators``, one for each of ``keys``, into those of a column."""
        get, merge = column.get, self.merge
        for key, accumulator in zip(keys, accumulators, strict=True):
            old = get(key, MISSING)
            column[key] = accumulator if old is MISSING else merge(old, accumulator)

    def results(self, accumulators: Iterable[Any]) -> list[Any]:
        """Return the result of each accumulator."""
        return list(map(self.result, accumulators))


class _Folded(Aggregate):
    """An aggregate whose accumulator is itself a value, into which others are folded."""

    def create(self) -> Any:
        return MISSING

    def add_many(self, accumulator: Any, values: Sequence[Any]) -> Any:
        whole = self.whole(values)
        return whole if accumulator is MISSING else self.merge(accumulator, whole)

    def whole(self, values: Sequence[Any]) -> Any:
        """Return the fold of values, of which there is one at least."""
        raise NotImplementedError(f"{type(self).__name__}.whole")

    def fold_into(self, column: Column, keys: Sequence[Any], values: Sequence[Any]) -> None:
        self.merge_into(column, keys, values)

    def results(self, accumulators: Iterable[Any]) -> list[Any]:
        return list(accumulators)


class Sum(_Folded):
    """The sum; of bools an int. Of floats, the last digits depend on the order of the additions."""

    merge = staticmethod(add)

    def results(self, accumulators: Iterable[Any]) -> list[Any]:
        sums = list(accumulators)
        return list(map(add, sums, repeat(0))) if bool in set(map(type, sums)) else sums

    def whole(self, values: Sequence[Any]) -> Any:
        return reduce(add, values)

    def merge_into(
        self, column: Column, keys: Collection[Any], accumulators: Iterable[Any]
    ) -> None:
        get = column.get
        for key, value in zip(keys, accumulators, strict=True):
            old = get(key, MISSING)
            column[key] = value if old is MISSING else old + value


class Count(Aggregate):
    """The number of records."""

    merge = staticmethod(add)

    def __init__(self) -> None:
        super().__init__()

    def create(self) -> int:
        return 0

    def add_many(self, accumulator: Any, values: Sequence[Any]) -> Any:
        return accumulator + len(values)

    def column(self) -> Column:
        return Counter()

    def fold_into(self, column: Column, keys: Sequence[Any], values: Sequence[Any]) -> None:
        column.update(keys)  # That of Counter, which counts, in C.

    def results(self, accumulators: Iterable[Any]) -> list[Any]:
        return list(accumulators)


class Min(_Folded):
    """The least value; of equals the first."""

    def whole(self, values: Sequence[Any]) -> Any:
        return min(values)

    @staticmethod
    def merge(one: Any, other: Any) -> Any:
        """Return the lesser."""
        return other if other < one else one


class Max(_Folded):
    """The greatest value; of equals the first."""

    def whole(self, values: Sequence[Any]) -> Any:
        return max(values)

    @staticmethod
    def merge(one: Any, other: Any) -> Any:
        """Return the greater."""
        return other if other > one else one


class Reduce(_Folded):
    """``fn(one, other)`` over all records, in order of arrival; ``fn`` is associative, and pure.

    ``commutative``: the order does not matter either.

    Raises:
        ConfigError: ``fn`` is not a function.
    """

    def __init__(self, fn: Callable[[Any, Any], Any], *, commutative: bool = False) -> None:
        super().__init__()
        if not callable(fn):
            raise ConfigError(f"reduce: {fn!r} is not a function")
        self.merge = fn
        self.is_ordered = not commutative

    def whole(self, values: Sequence[Any]) -> Any:
        folded, merge = values[0], self.merge
        for value in values[1:]:
            folded = merge(folded, value)
        return folded


class Mean(Aggregate):
    """The arithmetic mean."""

    def create(self) -> tuple[Any, int]:
        return (0, 0)

    def add_many(self, accumulator: Any, values: Sequence[Any]) -> Any:
        total, count = accumulator
        return (reduce(add, values, total), count + len(values))

    def merge(self, one: Any, other: Any) -> Any:
        return (one[0] + other[0], one[1] + other[1])

    def result(self, accumulator: Any) -> Any:
        return accumulator[0] / accumulator[1]

    def fold_into(self, column: Column, keys: Sequence[Any], values: Sequence[Any]) -> None:
        self.merge_into(column, keys, zip(values, repeat(1, len(values)), strict=True))


class First(Aggregate):
    """What came first: in order of arrival, and with sessions that merge, in the earlier one."""

    is_ordered = True

    def create(self) -> tuple[Any, ...]:
        return ()

    def add_many(self, accumulator: Any, values: Sequence[Any]) -> Any:
        return accumulator or (values[0],)

    def merge(self, one: Any, other: Any) -> Any:
        return one or other

    def result(self, accumulator: Any) -> Any:
        return accumulator[0]


class Last(First):
    """What came last: in order of arrival, and with sessions that merge, in the later one."""

    def add_many(self, accumulator: Any, values: Sequence[Any]) -> Any:
        return (values[-1],)

    def merge(self, one: Any, other: Any) -> Any:
        return other or one


class CollectList(Aggregate):
    """All values in a list, in order of arrival."""

    is_ordered = True

    def create(self) -> list[Any]:
        return []

    def add_many(self, accumulator: Any, values: Sequence[Any]) -> Any:
        accumulator.extend(values)
        return accumulator

    def merge(self, one: Any, other: Any) -> Any:
        return [*one, *other]

    def absorb(self, accumulator: Any, other: Any) -> Any:
        return self.add_many(accumulator, other)

    def result(self, accumulator: Any) -> Any:
        return list(accumulator)


class TopK(Aggregate):
    """The ``k`` greatest values, greatest first; ``by`` selects what they are compared by.

    Of values that compare equal, which ones stay depends on the order in which they are merged.

    Raises:
        ConfigError: ``k`` is no positive int.
    """

    def __init__(self, k: int, selector: Selector = None, *, by: Selector = None) -> None:
        super().__init__(selector)
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ConfigError(f"topk: {k!r} is not a positive int")
        check_selector(by, "topk by")
        self.k = k
        self.by = by

    def create(self) -> tuple[Any, ...]:
        return ()

    def add_many(self, accumulator: Any, values: Sequence[Any]) -> Any:
        by = None if self.by is None else resolve(self.by, values[0])
        return tuple(nlargest(self.k, (*accumulator, *values), key=by))

    def merge(self, one: Any, other: Any) -> Any:
        return self.add_many(one, other) if other else one

    def result(self, accumulator: Any) -> Any:
        return list(accumulator)


class DistinctCount(Aggregate):
    """The number of different values, exactly; the accumulator holds all of them."""

    def create(self) -> set[Any]:
        return set()

    def add_many(self, accumulator: Any, values: Sequence[Any]) -> Any:
        accumulator.update(values)
        return accumulator

    def merge(self, one: Any, other: Any) -> Any:
        return one | other

    def absorb(self, accumulator: Any, other: Any) -> Any:
        return self.add_many(accumulator, other)

    def result(self, accumulator: Any) -> Any:
        return len(accumulator)


class Aggregates:
    """One aggregate, or several by name; an accumulator is a tuple with one for each.

    Raises:
        ConfigError: there is none, or one is no aggregate.
    """

    def __init__(
        self, single: Aggregate | None = None, named: Mapping[str, Aggregate] | None = None
    ) -> None:
        named = named or {}
        if (single is None) == (not named):
            raise ConfigError("aggregate: pass one aggregate, or several by name").hint(
                'for example aggregate(total=Sum("amount"), n=Count())'
            )
        self.parts = (single,) if single is not None else tuple(named.values())
        self.names = None if single is not None else tuple(named)
        for part in self.parts:
            if not isinstance(part, Aggregate):
                raise ConfigError(f"aggregate: {part!r} is not an aggregate").hint(
                    "the aggregates of windows are in flowsnap.operators.window"
                )
        taken = sorted(_FIELDS.intersection(named))
        if taken:
            raise ConfigError(f"aggregate: {taken[0]!r} is a field of every window result").hint(
                "give it another name"
            )

    @property
    def is_ordered(self) -> bool:
        """Whether one of them depends on the order of the records."""
        return any(part.is_ordered for part in self.parts)

    def columns(self) -> list[Column]:
        """Return an empty column of each."""
        return [part.column() for part in self.parts]

    def fold_into(self, columns: list[Column], keys: Sequence[Any], records: list[Any]) -> None:
        """Put records, one for each of ``keys``, into the columns."""
        for part, column in zip(self.parts, columns, strict=True):
            part.fold_into(column, keys, part.lift(records))

    def merge_into(
        self, columns: list[Column], keys: Collection[Any], others: Iterable[Iterable[Any]]
    ) -> None:
        """Merge accumulators, for each aggregate one for each of ``keys``, into the columns."""
        is_new = columns[0].keys().isdisjoint(keys) and len(set(keys)) == len(keys)
        for part, column, accumulators in zip(self.parts, columns, others, strict=True):
            if is_new:
                dict.update(column, zip(keys, accumulators, strict=True))
            else:
                part.merge_into(column, keys, accumulators)

    def values(self, columns: Sequence[Iterable[Any]]) -> list[Any]:
        """Return the results of columns of accumulators: values, or dicts by name."""
        results = [part.results(column) for part, column in zip(self.parts, columns, strict=True)]
        if self.names is None:
            return results[0]
        return _named(self.names, results)

    def add_many(self, accumulator: Any, records: list[Any]) -> tuple[Any, ...]:
        """Return ``accumulator`` with records in it; ``MISSING`` is an empty one."""
        parts = self.parts
        if accumulator is MISSING:
            accumulator = [part.create() for part in parts]
        return tuple(
            [
                part.add_many(own, part.lift(records))
                for part, own in zip(parts, accumulator, strict=True)
            ]
        )

    def merge(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return an accumulator with all that is in two; neither is changed."""
        return tuple([part.merge(a, b) for part, a, b in zip(self.parts, one, other, strict=True)])

    def result(self, accumulator: tuple[Any, ...]) -> Any:
        """Return the result of one accumulator."""
        return self.values([(own,) for own in accumulator])[0]


def _named(names: tuple[str, ...], results: list[list[Any]]) -> list[Any]:
    """Return a dict by name for each row of ``results``."""
    rows = zip(*results, strict=True)
    if len(names) == 2:  # The usual case, at a third of the price.
        first, second = names
        return [{first: one, second: other} for one, other in rows]
    return list(map(dict, map(zip, repeat(names), rows)))
