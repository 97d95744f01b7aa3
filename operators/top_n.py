"""``top_n``: the greatest records of each key."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import islice, repeat
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.operator import MISSING
from flowsnap.errors import ConfigError
from flowsnap.operators.rolling import PAGE_RECORDS, Emit, Rolling
from flowsnap.operators.selector import Selector, selected

N_MAX = 10_000

Ranking = tuple[list[Any], list[Any]]
"""What is compared of the records, and the records: the last of them first, the best last."""


class TopN(Rolling):
    """Keeps the ``n`` records of each key that are greatest by ``by``; of equals the earlier ones.

    It emits ``(key, records)``, the greatest record first: with ``emit="each"`` whenever a record
    changes the list, with ``"batch"`` once per batch for each key whose list has changed, with
    ``"final"`` at the end of input.

    Source: Flink SQL, "Top-N".
    """

    state = "top_n"
    is_combinable = False

    def __init__(self, n: int, by: Selector = None, emit: Emit = "each") -> None:
        super().__init__(emit, by)
        if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= N_MAX:
            raise ConfigError(f"top_n: {n!r} is not an int from 1 to {N_MAX}").hint(
                "every key keeps n records in state: top_n(10, by=...)"
            )
        self.n = n

    def process(self, batch: Batch) -> Batch:
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        self.cursor = iter(batch.values)
        ranks = selected(self.selector, batch.values, self.cursor)
        if self.emit == "each":
            return self._each(batch, ranks)
        changed: dict[Any, None] = {}
        for key, rank, value in zip(batch.keys, ranks, batch.values, strict=True):
            if self._insert(key, rank, value):
                changed[key] = None
        if self.emit == "final":
            return Batch([])
        return Batch([self._output(key, self.table.young[key]) for key in changed])

    def end_input(self) -> Iterator[Batch]:
        if self.emit == "final":
            items = self.table.items()
            while page := list(islice(items, PAGE_RECORDS)):
                yield Batch([self._output(key, ranking) for key, ranking in page])

    def _each(self, batch: Batch, ranks: Iterator[Any]) -> Batch:
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        outputs: list[Any] = []
        times: list[int] = []
        all_times: Iterable[Any] = repeat(None) if batch.timestamps is None else batch.timestamps
        records = zip(batch.keys, ranks, batch.values, all_times, strict=False)
        for key, rank, value, at in records:
            if self._insert(key, rank, value):
                outputs.append(self._output(key, self.table.young[key]))
                times.append(at)
        return Batch(outputs, None if batch.timestamps is None else times)

    def _insert(self, key: Any, rank: Any, value: Any) -> bool:
        """Put a record where it belongs; return whether it is among the first ``n``."""
        ranking = self.table.young.get(key, MISSING)
        if ranking is MISSING and (ranking := self.table.load(key)) is MISSING:
            ranking = ([], [])
        ranks, records = ranking
        place = bisect_left(ranks, rank)
        is_full = len(ranks) >= self.n
        if is_full and place == 0:
            return False
        ranks.insert(place, rank)
        records.insert(place, value)
        surplus = max(0, len(ranks) - self.n)  # More than one, if n was greater in a former life.
        del ranks[:surplus], records[:surplus]
        self.table.young[key] = ranking
        return True

    def _output(self, key: Any, ranking: Ranking) -> tuple[Any, list[Any]]:
        return key, ranking[1][: -self.n - 1 : -1]
