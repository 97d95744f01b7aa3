"""``deduplicate``: the first record of each key."""

from __future__ import annotations

from flowsnap.config import Duration
from flowsnap.core.element import Batch
from flowsnap.core.expiry import TTL
from flowsnap.core.operator import MISSING, Operator, OperatorContext, select


class Deduplicate(Operator):
    """Lets the first record of each key pass, and drops the others.

    With ``ttl`` a key is forgotten that long after its first record, in processing time, so that
    state does not grow for ever; the next record of the key is a first one again.
    """

    def __init__(self, ttl: Duration | None = None) -> None:
        self.ttl = None if ttl is None else TTL(ttl)

    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._duplicates = context.counter("duplicates")
        if self.ttl is None:
            self._table = context.table("seen")
        else:
            self._seen = context.value_state("seen", ttl=self.ttl)

    def process(self, batch: Batch) -> Batch:
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        chosen = select(batch, self._firsts(batch.keys))
        self._duplicates.increase(len(batch) - len(chosen))
        return Batch(chosen.values, chosen.timestamps)

    def _firsts(self, keys: list[object]) -> list[bool]:
        if self.ttl is not None:
            return list(map(self._is_first, keys))
        young, load = self._table.young, self._table.load
        firsts = []
        for key in keys:
            is_first = key not in young and load(key) is MISSING
            if is_first:
                young[key] = True
            firsts.append(is_first)
        return firsts

    def _is_first(self, key: object) -> bool:
        self._context.key = key
        if self._seen.value() is not None:
            return False
        self._seen.update(True)
        return True
