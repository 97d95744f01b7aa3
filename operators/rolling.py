"""One value per key, into which its records are folded: the base of reduce and aggregates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, repeat
from typing import Any, ClassVar, Literal, Self, get_args

from flowsnap.core.element import Batch
from flowsnap.core.operator import MISSING, KeyedTable, Operator, OperatorContext
from flowsnap.errors import ConfigError
from flowsnap.operators.selector import Selector, check_selector, selected

Emit = Literal["each", "batch", "final"]
"""When a value comes out: for each record, per batch and touched key, or at the end of input."""

PAGE_RECORDS = 8192
"""How many records a batch holds at most that is made from state."""

Pair = tuple[Any, Any]


class Rolling(Operator):
    """Folds the records of each key into one value of keyed state.

    A subclass says how: ``start`` makes the value of a new key from its first record, ``merge``
    folds a further one in. What is folded is what ``lift`` makes of the records; after a
    ``Combine`` (``is_merging``) the records are partial values already. With ``emit="each"`` an
    output has the event time of its record, otherwise it has none.
    """

    state: ClassVar[str]
    """The name of the state; it differs between aggregates whose values mean different things."""

    is_combinable: ClassVar[bool] = True
    """Whether partial values can be merged, so that a ``Combine`` may go before the shuffle."""

    emits_pairs: ClassVar[bool] = True
    """Whether an output is ``(key, value)``, or the value alone."""

    merge: Callable[[Any, Any], Any]
    """``merge(old, value)`` returns the new value; an attribute, so that C functions stay in C."""

    detach: Callable[[Any], Any] | None = None
    """Makes what is emitted of a value that later records change in place; None: they never do."""

    table: KeyedTable

    def __init__(self, emit: Emit = "each", selector: Selector = None) -> None:
        if emit not in get_args(Emit):
            raise ConfigError(f'emit: {emit!r} is not "each", "batch" or "final"')
        check_selector(selector, type(self).__name__.lower())
        self.emit = emit
        self.selector = selector
        self.is_merging = False

    def merging(self) -> Self:
        """Return a copy that is fed with the partial values of a ``Combine`` of ``self``."""
        twin = copy.copy(self)
        twin.is_merging = True
        return twin

    def lift(self, values: list[Any], cursor: Iterator[Any]) -> Iterable[Any]:
        """Return what is to be folded, one for each of ``values``, which ``cursor`` walks."""
        return selected(self.selector, values, cursor)

    def start(self, value: Any) -> Any:
        """Return the value of a new key whose first record is ``value``."""
        return value

    def new_partials(self) -> dict[Any, Any]:
        """Return an empty mapping for ``fold_into``."""
        return {}

    def fold_into(self, partials: dict[Any, Any], keys: list[Any], values: Iterable[Any]) -> None:
        """Fold lifted values, one for each key, into partial values outside state."""
        get, merge = partials.get, self.merge
        for key, value in zip(keys, values, strict=True):
            old = get(key, MISSING)
            partials[key] = value if old is MISSING else merge(old, value)

    def open(self, context: OperatorContext) -> None:
        self.table = context.table(self.state)

    def process(self, batch: Batch) -> Batch:
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        self.cursor = cursor = iter(batch.values)
        values = cursor if self.is_merging else self.lift(batch.values, cursor)
        if self.emit == "each":
            return Batch(self._fold_each(batch.keys, values), batch.timestamps)
        self._fold(batch.keys, values)
        if self.emit == "final":
            return Batch([])
        return Batch(self._touched(batch.keys))

    def end_input(self) -> Iterator[Batch]:
        if self.emit == "final":
            items = self.table.items()
            while page := list(islice(items, PAGE_RECORDS)):
                yield Batch(page if self.emits_pairs else [value for _, value in page])

    def _fold(self, keys: list[Any], values: Iterable[Any]) -> None:
        if len(set(keys)) == len(keys):
            self._fold_distinct(keys, values)
            return
        young, load, merge = self.table.young, self.table.load, self.merge
        get = young.get
        for key, value in zip(keys, values, strict=True):
            old = get(key, MISSING)
            if old is MISSING and (old := load(key)) is MISSING:
                young[key] = self.start(value)
            else:
                young[key] = merge(old, value)

    def _fold_distinct(self, keys: list[Any], values: Iterable[Any]) -> None:
        """Fold in C what can be: so it is behind a ``Combine``, whose keys are distinct."""
        young, load = self.table.young, self.table.load
        olds = list(map(young.get, keys, repeat(MISSING)))
        for index, old in enumerate(olds):
            if old is MISSING:
                olds[index] = load(keys[index])
        if any(old is MISSING for old in olds):
            pairs = zip(olds, values, strict=True)
            start, merge = self.start, self.merge
            news = [start(new) if old is MISSING else merge(old, new) for old, new in pairs]
        else:
            news = list(map(self.merge, olds, values))
        young.update(zip(keys, news, strict=True))

    def _fold_each(self, keys: list[Any], values: Iterable[Any]) -> list[Any]:
        young, load, merge = self.table.young, self.table.load, self.merge
        get, detach = young.get, self.detach
        emitted: list[Any] = []
        emit = emitted.append
        for key, value in zip(keys, values, strict=True):
            old = get(key, MISSING)
            if old is MISSING and (old := load(key)) is MISSING:
                new = self.start(value)
            else:
                new = merge(old, value)
            young[key] = new
            emit(new if detach is None else detach(new))
        return self._outputs(keys, emitted)

    def _touched(self, keys: list[Any]) -> list[Any]:
        touched = list(dict.fromkeys(keys))
        values = list(map(self.table.young.__getitem__, touched))
        return self._outputs(touched, values if self.detach is None else map(self.detach, values))

    def _outputs(self, keys: list[Any], values: Iterable[Any]) -> list[Any]:
        return list(zip(keys, values, strict=True)) if self.emits_pairs else list(values)
