"""Pre-aggregation before the shuffle: the fewer records leave a task, the less is pickled and sent.

``Combine`` stands between ``key_by`` and an aggregate, in the task of the former. It keeps
partial values in a plain dict, outside state: before a barrier and at the end of input all of
them leave, so that nothing is lost that a checkpoint does not hold. Counting a batch this way is
one call into C.

It has no place before an aggregate that emits for each record, whose every intermediate value is
visible.

Source: Flink's local aggregation ("Local-Global Aggregation", Performance Tuning of the Table API).
Deviation: it is bounded by keys, and flushed by barriers instead of a mini-batch interval.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.operator import Operator, OperatorContext
from flowsnap.operators.rolling import PAGE_RECORDS, Rolling

KEYS_MAX = 200_000


class Combine(Operator):
    """Folds records of equal keys into partial values, which ``aggregate.merging()`` merges.

    With ``emit="batch"`` the partial values leave with their batch, so that none waits. With
    ``emit="final"`` they stay until a barrier, the end of input, or until there are more than
    ``keys_max`` of them; then they leave a page with every further batch.
    """

    def __init__(self, aggregate: Rolling, *, keys_max: int = KEYS_MAX) -> None:
        assert aggregate.is_combinable, f"{type(aggregate).__name__} cannot merge partial values"
        self.aggregate = aggregate
        self.keys_max = keys_max

    def open(self, context: OperatorContext) -> None:
        self._aggregate = copy.copy(self.aggregate)
        self._partials = self._aggregate.new_partials()
        self._keys: list[Any] = []
        self._values: list[Any] = []

    def process(self, batch: Batch) -> Batch:
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        self.cursor = cursor = iter(batch.values)
        lifted = self._aggregate.lift(batch.values, cursor)
        self._aggregate.fold_into(self._partials, batch.keys, lifted)
        if len(self._partials) > self.keys_max or self._aggregate.emit == "batch":
            self._release()
        # At least as many leave as can have come: what is leaving never piles up.
        return self._page(max(PAGE_RECORDS, len(batch)))

    def before_barrier(self) -> Iterator[Batch]:
        self._release()
        while self._keys:
            yield self._page(PAGE_RECORDS)

    def end_input(self) -> Iterator[Batch]:
        return self.before_barrier()

    def _release(self) -> None:
        self._keys += self._partials
        self._values += self._partials.values()
        self._partials = self._aggregate.new_partials()

    def _page(self, limit: int) -> Batch:
        keys, values = self._keys[:limit], self._values[:limit]
        del self._keys[:limit], self._values[:limit]
        return Batch(values, None, keys)
