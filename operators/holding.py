"""Operators whose outputs come later than their inputs: what they have in common.

Such an operator holds records across calls, so it must hold event time too: a watermark may not
overtake a record that came before it. It takes the watermarks from upstream and announces each once
everything before it has left. What it holds at a barrier is operator state of kind "list", in
order, and is taken up again after a restore. The watermark announced last is kept as well, since
event time must not go back.

Source: Flink's ``AsyncWaitOperator`` and its stream element queues.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby, repeat
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.operator import Operator, OperatorContext
from flowsnap.core.watermark import MAX_WATERMARK, MIN_WATERMARK

Held = tuple[Any, int | None]
"""A record, and its event time."""


class Holding(Operator):
    """Base of operators that hold records: a subclass takes, holds and releases them.

    Records are numbered as they come: ``_next`` is the number of the next one.
    """

    generates_watermarks = True
    delays_watermarks = True
    is_asynchronous = True

    _next = 0

    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._marks: deque[tuple[int, int]] = deque()
        self._records = context.operator_state("held")
        self._announced = context.operator_state("announced-watermark", "union")
        announced = self._announced.get()
        self.watermark_ms = None if not announced or None in announced else min(announced)
        self._start()
        held = self._records.get()
        if held:
            self._take([value for value, _ in held], [at for _, at in held], restored=True)
        self.is_idle = not held
        if context.watermark_ms > MIN_WATERMARK:
            self._mark(context.watermark_ms)

    def process(self, batch: Batch) -> Batch:
        times = repeat(None, len(batch)) if batch.timestamps is None else batch.timestamps
        self._take(batch.values, list(times))
        self.is_idle = False
        return Batch([])

    def advance(self, watermark_ms: int) -> Iterator[Batch]:
        """Hold the watermark until all before it has left; at the end of time, wait for that.

        The wait is for those behind in the same task, to whom event time goes on at once.
        """
        if watermark_ms == MAX_WATERMARK:
            yield from self.end_input()
        else:
            self._mark(watermark_ms)

    def poll(self) -> Iterator[Batch]:
        yield from self._batches(self._release())
        self.is_idle = self._oldest() == self._next

    def before_barrier(self) -> Iterator[Batch]:
        yield from self.poll()
        self._records.update(self._held())
        self._announced.update([self.watermark_ms])

    def end_input(self) -> Iterator[Batch]:
        while self._oldest() < self._next:
            # An empty batch lets the task go about its business until there is more.
            yield from list(self.poll()) or [Batch([])]

    def _start(self) -> None:
        """Make what changes while the operator runs."""
        raise NotImplementedError(f"{type(self).__name__}._start")

    def _take(
        self, values: list[Any], timestamps: list[int | None], *, restored: bool = False
    ) -> None:
        """Take records, the first of which has the number ``_next``."""
        raise NotImplementedError(f"{type(self).__name__}._take")

    def _release(self) -> list[Held]:
        """Return the outputs that may leave now."""
        raise NotImplementedError(f"{type(self).__name__}._release")

    def _held(self) -> Iterable[Held]:
        """Return the records that have been taken and not left, in order."""
        raise NotImplementedError(f"{type(self).__name__}._held")

    def _oldest(self) -> int:
        """Return the number of the oldest record held; ``_next``: there is none."""
        raise NotImplementedError(f"{type(self).__name__}._oldest")

    def _mark(self, watermark_ms: int) -> None:
        self._marks.append((self._next, watermark_ms))
        self._announce()

    def _announce(self) -> None:
        """Announce the watermarks that nothing holds back any more."""
        oldest = self._oldest()
        while self._marks and self._marks[0][0] <= oldest:
            watermark_ms = self._marks.popleft()[1]
            if self.watermark_ms is None or watermark_ms > self.watermark_ms:
                self.watermark_ms = watermark_ms

    @staticmethod
    def _batches(outputs: list[Held]) -> Iterator[Batch]:
        """Yield outputs as batches, in order; a batch has a time for every record, or for none."""
        for is_timed, group in groupby(outputs, lambda held: held[1] is not None):
            values, times = map(list, zip(*group, strict=True))
            yield Batch(values, times if is_timed else None)
