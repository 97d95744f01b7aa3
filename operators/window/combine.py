"""Pre-aggregation of windows before the shuffle.

``CombineWindows`` stands in the task before the shuffle. It keeps one row ``(slice, accumulator,
...)`` for each key and slice, outside state, until one of these:

- event time reaches the end of a window that the slice belongs to: the rows leave before it, so
  none of them is late behind the shuffle that was not late before;
- a record comes for a window whose end has passed: its row leaves at once. Whether it is too late
  is decided behind the shuffle, where event time may be further behind;
- a barrier, or the end of input: all rows leave;
- there are too many: then they leave a page with each further batch.

Source: Flink's local window aggregation ("Window TVF Aggregation", with slices).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.operator import Operator, OperatorContext
from flowsnap.operators.rolling import PAGE_RECORDS
from flowsnap.operators.window.aggregate import Aggregates
from flowsnap.operators.window.assigner import Sliding
from flowsnap.operators.window.lateness import outside_gaps, timestamps_of
from flowsnap.operators.window.partials import Partials

KEYS_MAX = 200_000


class CombineWindows(Operator):
    """Folds records into rows, which an ``AlignedWindows`` that ``is_merging`` takes."""

    def __init__(
        self, assigner: Sliding, aggregates: Aggregates, *, keys_max: int = KEYS_MAX
    ) -> None:
        self.assigner = assigner
        self.aggregates = aggregates
        self.keys_max = keys_max

    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._partials = Partials(self.aggregates)
        self._keys: list[Any] = []
        self._rows: list[tuple[Any, ...]] = []

    def process(self, batch: Batch) -> Batch:
        batch = outside_gaps(self.assigner, batch)
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        starts = self.assigner.slices(timestamps_of(batch))
        self._partials.fold(starts, batch.keys, batch.values)
        self._release_due(self._context.watermark_ms)
        if len(self._partials) > self.keys_max:
            self._release_all()
        # At least as many leave as can have come: what is leaving never piles up.
        return self._page(max(PAGE_RECORDS, len(batch)))

    def advance(self, watermark_ms: int) -> Iterator[Batch]:
        self._release_due(watermark_ms)
        return self._pages()

    def before_barrier(self) -> Iterator[Batch]:
        self._release_all()
        return self._pages()

    def end_input(self) -> Iterator[Batch]:
        return self.before_barrier()

    def _release_due(self, watermark_ms: int) -> None:
        first_end = self.assigner.first_end
        due = [at for at in self._partials.slices if first_end(at) - 1 <= watermark_ms]
        for start in due:
            self._release(start)

    def _release_all(self) -> None:
        for start in list(self._partials.slices):
            self._release(start)

    def _release(self, start: int) -> None:
        keys, rows = self._partials.take(start)
        self._keys += keys
        self._rows += rows

    def _pages(self) -> Iterator[Batch]:
        while self._keys:
            yield self._page(PAGE_RECORDS)

    def _page(self, limit: int) -> Batch:
        keys, rows = self._keys[:limit], self._rows[:limit]
        del self._keys[:limit], self._rows[:limit]
        return Batch(rows, None, keys)
