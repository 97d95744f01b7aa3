"""How far has event time come in the splits of a source, and in a group of sources?

A *strategy* says, batch by batch, what a reader may promise: no later record at or before t. It may
be asked per subtask, behind the source, or per split, in it. Per split is exact where splits are in
order by themselves: what is read from one does not make the records of another late. The watermark
of a source subtask is then the minimum over its splits, as for the channels of a task: an idle one
is left out, one read to its end counts as infinity.

*Alignment* keeps sources together, so that a join or a window behind them has little to keep: every
subtask of a group reports the least of its watermarks, the job manager tells everybody the group's,
and a split that is ahead of it by more than ``max_drift_ms`` is not read. The group's minimum may
be old, but it only rises while the same splits take part, so that nobody runs further ahead than
was asked for, but for the batch that took it there.

Whoever has nothing to report holds nobody back: a subtask without splits, one that has read its
last, an idle one. So does a split in which nothing has been found for ``SILENT_MS``: there is
nothing in it that could catch up. A split that is held back is not idle, however long it takes.

Source: Flink, "Generating Watermarks" (watermark alignment, idleness); FLIP-182 and FLIP-217;
FLINK-32414 for the subtask without splits. Deviations: before the group's minimum is known, a
split is read up to its first batch only; a silent split need not be declared idle for the group.

>>> time = SourceTime(EventTime(Bounded(delay_ms=5)), [None, None])
>>> time.found(0, [], [100, 130])
>>> time.merger.current == MIN_WATERMARK  # nothing is known of the other split
True
>>> time.found(1, [], [90])
>>> time.merger.current
84
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from flowsnap.core.ids import ChannelId, TaskId, WorkerId
from flowsnap.core.watermark import MAX_WATERMARK, MIN_WATERMARK, WatermarkMerger

if TYPE_CHECKING:
    from flowsnap.core.operator import Operator

SILENT_MS = 1_000
"""After how long without a record a split holds its group back no longer."""

EVENT_TIME_MAX = 2**62
"""Event times are within plus and minus this, so that no delay takes them out of 64 bits."""


class WatermarkStrategy(Protocol):
    """What may be promised after each batch; one of your own needs nothing but ``on_batch``.

    Every subtask, or every split, works on a shallow copy. Nothing of it survives a restart but the
    watermark it has come to, so it should not depend on more than the batch.
    """

    def on_batch(self, timestamps: list[int]) -> int | None:
        """Return t, if no record at or before t is to follow these, or None.

        ``timestamps``: the event times of a batch, at least one, in ms since the epoch. A t below
        an earlier one changes nothing.
        """
        ...


@dataclass(frozen=True, slots=True)
class Bounded:
    """Records are at most ``delay_ms`` late; 0: they are in order (equal times included)."""

    delay_ms: int = 0

    def on_batch(self, timestamps: list[int]) -> int | None:
        """Return the watermark that the latest record implies."""
        return max(timestamps) - self.delay_ms - 1


class RecordStrategy(Protocol):
    """A strategy that looks at the records as well."""

    def on_records(self, values: list[Any], timestamps: list[int]) -> int | None:
        """Return t, if no record at or before t is to follow these, or None."""
        ...


Strategy = WatermarkStrategy | RecordStrategy


@dataclass(frozen=True, slots=True)
class EventTime:
    """What a source is told of event time.

    ``stamp`` gives the records their event times; None: the source has done so. ``idle_ms``: a
    split without a record for so long does not count. ``group``: see the module.
    """

    strategy: Strategy
    stamp: Operator | None = None
    idle_ms: int | None = None
    group: str = ""
    max_drift_ms: int = 0


class WatermarkReport(msgspec.Struct, frozen=True):
    """How far one source subtask has come; None: it holds nobody back."""

    task: TaskId
    group: str
    watermark_ms: int | None


def promised(strategy: Strategy, values: list[Any], timestamps: list[int]) -> int | None:
    """Return what a strategy says of one batch.

    Raises:
        TypeError: it is neither a point in event time nor None.
    """
    on_records = getattr(strategy, "on_records", None)
    if on_records is not None:
        watermark_ms = on_records(values, timestamps)
    else:
        watermark_ms = strategy.on_batch(timestamps)  # type: ignore[union-attr]
    if watermark_ms is None:
        return None
    if type(watermark_ms) is not int or not MIN_WATERMARK < watermark_ms < MAX_WATERMARK:
        name = type(strategy).__name__
        raise TypeError(f"watermark strategy {name} returned {watermark_ms!r}, not ms or None")
    return watermark_ms


class _SplitTime:
    __slots__ = ("empty_since_ms", "is_finished", "is_idle", "strategy", "watermark_ms")

    def __init__(self, strategy: Strategy, watermark_ms: int | None) -> None:
        self.strategy = strategy
        self.watermark_ms = watermark_ms
        self.empty_since_ms: int | None = None
        self.is_idle = False
        self.is_finished = False


class SourceTime:
    """The event time of one source subtask; ``merger.current`` is its watermark.

    Splits are known by their index in ``restored``, which has the watermark of each at the restored
    cut, or None. Times ``now_ms`` are monotonic.
    """

    def __init__(
        self,
        settings: EventTime,
        restored: Sequence[int | None],
        restored_ms: int = MIN_WATERMARK,
    ) -> None:
        self.settings = settings
        self.merger = WatermarkMerger([ChannelId(index) for index in range(len(restored))])
        self.merger.current = restored_ms
        self._splits = [_SplitTime(copy.copy(settings.strategy), mark) for mark in restored]
        self._group_ms: int | None = MIN_WATERMARK
        for index, mark in enumerate(restored):
            if mark is not None:
                self.merger.receive(ChannelId(index), mark)

    def mark(self, split: int) -> int | None:
        """Return the watermark of one split."""
        return self._splits[split].watermark_ms

    def found(self, split: int, values: list[Any], timestamps: list[int]) -> None:
        """Take note of a batch that was read."""
        time = self._splits[split]
        time.empty_since_ms = None
        if time.is_idle:
            time.is_idle = False
            self.merger.active(ChannelId(split))
        watermark_ms = promised(time.strategy, values, timestamps)
        reached = MIN_WATERMARK if time.watermark_ms is None else time.watermark_ms
        if watermark_ms is not None and watermark_ms > reached:
            time.watermark_ms = watermark_ms
            self.merger.receive(ChannelId(split), watermark_ms)

    def found_nothing(self, split: int, now_ms: int) -> None:
        """Take note that a split had nothing to read."""
        time, idle_ms = self._splits[split], self.settings.idle_ms
        if time.empty_since_ms is None:
            # Counted from here and not from the last record: while downstream held us back, or the
            # group did, nobody looked whether there was one.
            time.empty_since_ms = now_ms
        if idle_ms is not None and not time.is_idle and now_ms - time.empty_since_ms >= idle_ms:
            time.is_idle = True
            self.merger.idle(ChannelId(split))

    def finish(self, split: int) -> None:
        """Take note that a split has been read to its end."""
        self._splits[split].is_finished = True
        self.merger.end(ChannelId(split))

    # --- alignment ----------------------------------------------------------------------------

    def may_read(self, split: int) -> bool:
        """Return whether a split is not too far ahead of its group."""
        if not self.settings.group or self._group_ms is None:
            return True
        mark = self._splits[split].watermark_ms
        return mark is None or mark <= self._group_ms + self.settings.max_drift_ms

    def align(self, group_ms: int | None) -> None:
        """Take the group's minimum; None: nobody holds the group back."""
        self._group_ms = group_ms

    def holds_at_ms(self, now_ms: int) -> int | None:
        """Return the watermark at which this subtask holds its group, or None."""
        holding = [
            MIN_WATERMARK if time.watermark_ms is None else time.watermark_ms
            for time in self._splits
            if not (time.is_finished or time.is_idle or _is_silent(time, now_ms))
        ]
        return min(holding, default=None)


def _is_silent(time: _SplitTime, now_ms: int) -> bool:
    return time.empty_since_ms is not None and now_ms - time.empty_since_ms >= SILENT_MS


class GroupAlignment:
    """How far has each group of sources come? One for each attempt, in the job manager.

    ``workers``: those with tasks. A minimum is known only when all of them have reported once.
    """

    def __init__(self, workers: Iterable[WorkerId]) -> None:
        self._unheard = set(workers)
        self._reports: dict[TaskId, WatermarkReport] = {}
        self._told: dict[str, int] | None = None

    def report(
        self, worker: WorkerId, reports: Iterable[WatermarkReport]
    ) -> Mapping[str, int] | None:
        """Take what one worker's subtasks say; return what everybody is to be told, if it is new.

        That is the minimum of every group that somebody holds back.
        """
        self._unheard.discard(worker)
        self._reports.update({report.task: report for report in reports})
        if self._unheard or not self._reports:
            return None
        minimums: dict[str, int] = {}
        for report in self._reports.values():
            if report.watermark_ms is not None:
                least = minimums.get(report.group, MAX_WATERMARK)
                minimums[report.group] = min(least, report.watermark_ms)
        if minimums == self._told:
            return None
        self._told = minimums
        return minimums
