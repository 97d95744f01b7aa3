"""Windows in general: any assigner, trigger, evictor and function.

The records of a batch are grouped by key and window, and each group is added at once. Windows whose
results depend on the order of arrival (sessions with triggers, with records kept, or with records
that come late) are fed record by record instead, so that it does not matter how the input is cut
into batches.

Where the trigger is the default one, it is not asked: a window fires when the schedule says so, at
its last instant, and at once for each group of records that comes within its lateness. A window's
state is cleared at its last instant plus the allowed lateness.

Source: Flink's ``WindowOperator``, and its ``MergingWindowSet`` for sessions. Deviation: a late
group fires once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.operator import MISSING, OperatorContext, select
from flowsnap.operators.rolling import PAGE_RECORDS
from flowsnap.operators.window.asking import Asked
from flowsnap.operators.window.assigner import ALL_TIME, Assigner, Global, Window
from flowsnap.operators.window.function import Contents
from flowsnap.operators.window.lateness import LateRecords, timestamps_of
from flowsnap.operators.window.live import Live, LiveWindows
from flowsnap.operators.window.merging import spans_of
from flowsnap.operators.window.scheduled import ScheduledWindows
from flowsnap.operators.window.trigger import EventTimeTrigger, Trigger, TriggerResult

Times = Sequence[int | None]


class WindowOperator(ScheduledWindows):
    """Runs windows of any kind; ``late`` is the tag of the side output for late records."""

    def __init__(
        self,
        assigner: Assigner,
        contents: Contents,
        *,
        trigger: Trigger | None = None,
        lateness_ms: int = 0,
        late: str | None = None,
    ) -> None:
        self.assigner = assigner
        self.contents = contents
        self.trigger = trigger or EventTimeTrigger()
        self.lateness_ms = lateness_ms
        self.late = late
        self.needs_event_time = not isinstance(assigner, Global)
        self._opened: Contents | None = None

    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._is_default = isinstance(self.trigger, EventTimeTrigger) and self.trigger.is_plain
        self._contents = self._opened = self.contents.open(context)
        self._asked = Asked(context)
        self._live = LiveWindows(context, self._instants, has_memory=not self._is_default)
        self.late_records = LateRecords(context, self.late)
        self._values: list[Any] = []
        self._times: list[int | None] = []

    def process(self, batch: Batch) -> Batch:
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        times: Times = batch.timestamps or [None] * len(batch)
        if not isinstance(self.assigner, Global):
            times = timestamps_of(batch)
        late = self._assign(batch.keys, batch.values, times)
        if late:
            chosen = set(late)
            self.late_records.take(select(batch, [at in chosen for at in range(len(batch))]))
        return self._taken()

    def advance(self, watermark_ms: int) -> Iterator[Batch]:
        if not self._is_default:
            for at_ms, key, window in self._asked.due(watermark_ms):
                self._on_timer(key, Window(*window), at_ms, is_clock=False)
                yield from self._pages()
        for at_ms, key, window in self._live.due(watermark_ms):
            live = self._live.find(key, window)
            if live is None:
                continue  # It has grown, or is gone.
            self._context.key = key
            if self._is_default and at_ms == window.last_ms:
                self._fire(key, live, None)
            if at_ms == window.last_ms + self.lateness_ms:
                self._clear(key, live)
            yield from self._pages()
        if self._values:
            yield self._taken()

    def on_processing_time(self, now_ms: int) -> Iterator[Batch]:
        for at_ms, key, window in self._asked.due_by_clock(now_ms):
            self._on_timer(key, Window(*window), at_ms, is_clock=True)
            yield from self._pages()
        if self._values:
            yield self._taken()

    def next_processing_time_ms(self) -> int | None:
        return self._asked.next_by_clock_ms()

    def next_ms(self) -> int | None:
        times = (self._live.next_ms(), self._asked.next_ms())
        return min((at_ms for at_ms in times if at_ms is not None), default=None)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    # --- which windows ------------------------------------------------------------------------

    def _assign(self, keys: list[Any], values: list[Any], times: Times) -> list[int]:
        """Add records to their windows; return the indices of those that are late."""
        late: list[int] = []
        if self.assigner.is_merging:
            for key, indices in _groups(keys).items():
                own = [(at, times[at], values[at]) for at in indices]
                late += self._add_to_sessions(key, own)
            return late
        groups: dict[tuple[Any, Window], list[int]] = {}
        known: dict[int | None, Sequence[Window]] = {}
        for at, (key, when, value) in enumerate(zip(keys, times, values, strict=True)):
            windows = known.get(when)
            if windows is None:
                windows = self.assigner.windows(when or 0, value)
                if self.assigner.is_aligned:
                    known[when] = windows
            open_windows = [window for window in windows if not self._is_late(window)]
            if windows and not open_windows:
                late.append(at)
            for window in open_windows:
                groups.setdefault((key, window), []).append(at)
        for (key, window), indices in groups.items():
            self._context.key = key
            live = self._live.find(key, window) or self._live.add(key, window)
            own_values = list(map(values.__getitem__, indices))
            self._feed(key, live, own_values, list(map(times.__getitem__, indices)))
        return late

    def _add_to_sessions(self, key: Any, records: list[tuple[int, Any, Any]]) -> list[int]:
        self._context.key = key
        assigner, watermark_ms = self.assigner, self._context.watermark_ms
        windows = [assigner.windows(when, value)[0] for _, when, value in records]
        is_early = min(window.last_ms for window in windows) > watermark_ms
        if is_early and len(records) == 1:
            ((_, when, value),) = records
            self._feed(key, self._session(key, windows[0]), [value], [when])
            return []
        if is_early and self._is_default and not self._contents.is_ordered:
            for span, indices in spans_of(windows):
                live = self._session(key, span)
                _, times, values = zip(*[records[at] for at in indices], strict=True)
                self._feed(key, live, list(values), times)
            return []
        late = []
        for (at, when, value), window in zip(records, windows, strict=True):
            if self._is_late(window) and not self._touching(key, window):
                late.append(at)
            else:
                self._feed(key, self._session(key, window), [value], [when])
        return late

    def _session(self, key: Any, window: Window) -> Live:
        """Return the session of a key that ``window`` is part of, made one of all it touches."""
        touching = self._touching(key, window)
        if not touching:
            return self._live.add(key, window)
        whole = Window(
            min(window.start, touching[0].window.start),
            max(window.end, *(live.window.end for live in touching)),
        )
        if len(touching) == 1 and whole == touching[0].window:
            return touching[0]
        grown = Live(whole, touching[0].id)
        self._merge(key, touching, grown)
        return grown

    def _touching(self, key: Any, window: Window) -> list[Live]:
        start, end = window
        return sorted(
            [live for live in self._live.of(key) if live[0][0] <= end and start <= live[0][1]]
        )

    def _merge(self, key: Any, touching: list[Live], grown: Live) -> None:
        """Make one window of several, or let one grow: its contents, its timers, its trigger."""
        merged = MISSING
        for live in touching if len(touching) > 1 else ():
            own = self._live.contents(live)
            if own is not MISSING:
                merged = own if merged is MISSING else self._contents.merge(merged, own)
        if not self._is_default:
            self._merge_triggers(key, touching, grown)
        for live in touching[1:]:
            self._live.remove(key, live)
        if len(touching) > 1:
            self._live.put(grown, merged)
        self._live.replace(key, touching, grown)

    def _merge_triggers(self, key: Any, touching: list[Live], grown: Live) -> None:
        others = [self._live.remembered(live) for live in touching]
        asked = self._asked.about(key, grown.window, {}, self._last_use_ms(grown.window))
        asked.others = others
        self.trigger.on_merge(grown.window, asked)
        values = asked.values
        for live, own_values in zip(touching, others, strict=True):
            self.trigger.clear(live.window, self._asked.about(key, live.window, own_values, None))
        self._live.remember(grown, values)

    def _is_late(self, window: Window) -> bool:
        return window.last_ms + self.lateness_ms <= self._context.watermark_ms

    def _instants(self, window: Window) -> Iterable[int]:
        """Return when the schedule has something to do for a window."""
        if not self._is_default:
            return () if window == ALL_TIME else (window.last_ms + self.lateness_ms,)
        if self.lateness_ms and window.last_ms > self._context.watermark_ms:
            return (window.last_ms, window.last_ms + self.lateness_ms)
        return (window.last_ms + self.lateness_ms,)

    def _last_use_ms(self, window: Window) -> int | None:
        return None if window == ALL_TIME else window.last_ms + self.lateness_ms

    # --- contents and triggers ----------------------------------------------------------------

    def _feed(self, key: Any, live: Live, values: list[Any], times: Times) -> None:
        """Add records of one key to one window, and do what its trigger says."""
        if self._is_default:
            self._add(live, values, times)
            if live.window.last_ms <= self._context.watermark_ms:
                self._fire(key, live, None)
            return
        done = 0
        while done < len(values):
            asked = self._ask(key, live)
            reach = self.trigger.reach(live.window, asked) or len(values)
            own, own_times = values[done : done + reach], times[done : done + reach]
            done += len(own)
            self._add(live, own, own_times)
            result = self.trigger.on_records(own, own_times, live.window, asked)
            self._act(key, live, result, own_times[-1])
            if done < len(values) and self._live.find(key, live.window) is None:
                live = self._live.add(key, live.window)

    def _add(self, live: Live, values: list[Any], times: Times) -> None:
        contents = self._live.contents(live)
        self._live.put(live, self._contents.add(contents, values, times))

    def _on_timer(self, key: Any, window: Window, at_ms: int, *, is_clock: bool) -> None:
        live = self._live.find(key, window)
        if live is None:
            return  # Its window is gone: a trigger of the user's own did not delete the timer.
        self._context.key = key
        asked = self._ask(key, live)
        on_time = self.trigger.on_processing_time if is_clock else self.trigger.on_event_time
        self._act(key, live, on_time(at_ms, window, asked), at_ms)

    def _ask(self, key: Any, live: Live) -> Asked:
        values = self._live.remembered(live)
        return self._asked.about(key, live.window, values, self._last_use_ms(live.window))

    def _act(self, key: Any, live: Live, result: TriggerResult, at_ms: int | None) -> None:
        values = self._asked.values
        if result.is_fire:
            self._fire(key, live, at_ms)
        if result.is_purge:
            self._live.put(live, MISSING)
            if live.window == ALL_TIME and not values:
                self._clear(key, live)  # Event time would never do so.
                return
        self._live.remember(live, values)

    def _fire(self, key: Any, live: Live, at_ms: int | None) -> None:
        contents = self._live.contents(live)
        if contents is MISSING:
            return
        outputs, rest = self._contents.fire(key, live.window, contents)
        before = len(self._values)
        self._values += outputs
        time_ms = at_ms if live.window == ALL_TIME else live.window.last_ms
        self._times += [time_ms] * (len(self._values) - before)
        if rest is not contents:
            self._live.put(live, rest or MISSING)

    def _clear(self, key: Any, live: Live) -> None:
        if not self._is_default:
            self.trigger.clear(live.window, self._ask(key, live))
        self._live.remove(key, live)

    # --- output -------------------------------------------------------------------------------

    def _pages(self) -> Iterator[Batch]:
        if len(self._values) >= PAGE_RECORDS:
            yield self._taken()

    def _taken(self) -> Batch:
        """Return what has come out, with times if all have one, and begin anew."""
        values, times = self._values, self._times
        self._values, self._times = [], []
        known = [at for at in times if at is not None]
        return Batch(values, known if len(known) == len(times) else None)


class ClockedWindowOperator(WindowOperator):
    """Windows whose trigger looks at the wall clock."""

    uses_processing_time = True


def _groups(keys: list[Any]) -> dict[Any, list[int]]:
    groups: dict[Any, list[int]] = {}
    for at, key in enumerate(keys):
        groups.setdefault(key, []).append(at)
    return groups
