"""What the tasks of an attempt have done so far, summed up by operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from flowsnap.core.graph import JobGraph
from flowsnap.core.ids import OperatorId, TaskId
from flowsnap.core.message import TaskMetrics
from flowsnap.runtime.status import OperatorStatus

WINDOW_MS = 1_000


class _Sum:
    __slots__ = (
        "backpressured_ms",
        "busy_ms",
        "counters",
        "done",
        "records_in",
        "records_out",
        "tasks",
        "total",
    )

    def __init__(self) -> None:
        self.records_in = self.records_out = self.done = self.total = self.tasks = 0
        self.busy_ms = self.backpressured_ms = 0.0
        self.counters: Counter[str] = Counter()


class AttemptProgress:
    """Keeps the newest metrics of every task, and those of about a second before, for the rates."""

    def __init__(self, graph: JobGraph) -> None:
        self._graph = graph
        self._latest: dict[TaskId, TaskMetrics] = {}
        self._before: dict[OperatorId, _Sum] = {}
        self._before_ms = 0
        self._rates: dict[OperatorId, tuple[float, float, float, float]] = {}

    def update(self, tasks: Iterable[TaskMetrics]) -> None:
        """Take what one worker's tasks have done."""
        for task in tasks:
            self._latest[task.task] = task

    def records_read(self) -> int:
        """Return how many records the sources have read in this attempt."""
        sources = {spec.name for spec in self._graph.operators if spec.kind == "source"}
        return sum(
            operator.records_out
            for task in self._latest.values()
            for operator in task.operators
            if operator.operator in sources
        )

    def operators(self, now_ms: int) -> tuple[OperatorStatus, ...]:
        """Return the status of every operator, in the order they were drawn."""
        sums = self._sums()
        elapsed_ms = now_ms - self._before_ms
        if elapsed_ms >= WINDOW_MS:
            for name, current in sums.items():
                self._rates[name] = _rates(self._before.get(name, _Sum()), current, elapsed_ms)
            self._before, self._before_ms = sums, now_ms
        waits = {
            operator.operator: task.waits_for
            for task in self._latest.values()
            for operator in task.operators
            if task.waits_for
        }
        return tuple(
            self._status(spec.name, spec.type, spec.parallelism, sums.get(spec.name), waits)
            for spec in self._graph.operators
        )

    def _status(
        self,
        name: OperatorId,
        type_: str,
        parallelism: int,
        current: _Sum | None,
        waits: dict[OperatorId, str],
    ) -> OperatorStatus:
        current = current or _Sum()
        rate_in, rate_out, busy, backpressured = self._rates.get(name, (0.0, 0.0, 0.0, 0.0))
        return OperatorStatus(
            name=name,
            type=type_,
            parallelism=parallelism,
            records_in=current.records_in,
            records_out=current.records_out,
            records_in_per_s=rate_in,
            records_out_per_s=rate_out,
            busy_share=busy,
            backpressured_share=backpressured,
            progress_done=current.done,
            progress_total=current.total,
            waits_for=waits.get(name, ""),
            counters=dict(current.counters),
        )

    def _sums(self) -> dict[OperatorId, _Sum]:
        sums: dict[OperatorId, _Sum] = {}
        for task in self._latest.values():
            for index, operator in enumerate(task.operators):
                total = sums.setdefault(operator.operator, _Sum())
                total.tasks += 1
                total.records_in += operator.records_in
                total.records_out += operator.records_out
                total.counters.update(operator.counters)
                total.busy_ms += task.busy_ms
                total.backpressured_ms += task.backpressured_ms
                if index == 0:
                    total.done += task.progress_done
                    total.total += task.progress_total
        return sums


def _rates(before: _Sum, now: _Sum, elapsed_ms: int) -> tuple[float, float, float, float]:
    seconds, tasks = elapsed_ms / 1000, max(1, now.tasks)
    return (
        max(0.0, (now.records_in - before.records_in) / seconds),
        max(0.0, (now.records_out - before.records_out) / seconds),
        _share(now.busy_ms - before.busy_ms, elapsed_ms * tasks),
        _share(now.backpressured_ms - before.backpressured_ms, elapsed_ms * tasks),
    )


def _share(part_ms: float, whole_ms: float) -> float:
    return min(1.0, max(0.0, part_ms / whole_ms))
