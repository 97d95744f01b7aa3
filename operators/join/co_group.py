"""Windows over two inputs: the records of a key and window from both sides come together.

Each window of each key is one entry of map state with the records of both sides. It has a timer at
its last ms, where it fires, and one ``allowed_lateness`` later, where it is forgotten; a record
that comes in between fires it again, once for a batch. A record is late if all its windows are
forgotten, as in Flink: ``end - 1 + allowed_lateness <= watermark``.

Windows that merge (sessions) are listed per key. A batch is first merged in memory, in order of
arrival and starting from the list in state, so that state moves once for each window touched and
not once for each record; whether a record is late is asked of the window that it has been merged
into, as in Flink.

Source: Flink, "Window Join" and "CoGroup" of the DataStream API; WindowOperator, MergingWindowSet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.operator import MISSING, KeyedTable, Operator, OperatorContext
from flowsnap.errors import ConfigError
from flowsnap.operators.join.pairing import Pairing, Rows, event_times, late_records
from flowsnap.operators.window.assigner import Assigner, Sliding, SlidingCount, TumblingCount

Window = tuple[int, int]
"""``[start_ms, end_ms)``."""

Contents = tuple[list[Any], list[Any]]
"""The records of both sides."""

Placed = dict[tuple[Any, Window], list[Any]]
"""New records by key and window."""


class Session:
    """A window that has been merged: ``parts`` are the windows in state that went into it."""

    __slots__ = ("end", "parts", "start", "values")

    def __init__(self, window: Window, parts: list[Window], values: list[Any]) -> None:
        self.start, self.end = window
        self.parts = parts
        self.values = values

    def take(self, other: Session) -> None:
        """Become one with another session."""
        self.start, self.end = min(self.start, other.start), max(self.end, other.end)
        self.parts += other.parts
        self.values += other.values


class CoGroup(Operator):
    """Gives ``fn(key, lefts, rights)`` all records of a key in a window, whichever side has some.

    The output has the last ms of the window as its time. Late records go to the side outputs
    "late-left" and "late-right".
    """

    what = "co_group"
    needs_event_time = True

    def __init__(self, pairing: Pairing, assigner: Assigner, allowed_lateness_ms: int = 0) -> None:
        is_counted = isinstance(assigner, SlidingCount | TumblingCount)
        if is_counted or not isinstance(assigner, Assigner) or assigner.is_processing_time:
            raise ConfigError(f"{self.what}: {assigner!r} is not a window in event time").hint(
                'pass Tumbling("1m"), Sliding("10m", "1m") or Session("30s")'
            )
        self.pairing = pairing
        self.assigner = assigner
        self.allowed_lateness_ms = allowed_lateness_ms

    def open(self, context: OperatorContext) -> None:
        self._context = context
        self._late = late_records(context)
        self._windows = context.map_state("windows")
        self._sessions: KeyedTable | None = None
        if self.assigner.is_merging:
            self._sessions = context.table("sessions")
        self._timers = context.event_timers("windows")

    def process(self, batch: Batch) -> Batch:
        return self.process_port(batch, 0)

    def process_port(self, batch: Batch, port: int) -> Batch:
        """Put the records into their windows; what comes out is of windows that had fired already.

        Raises:
            ConfigError: the records have no event time.
        """
        times = event_times(batch, port, self.what)
        assert batch.keys is not None, "a keyed operator was given a batch without keys"
        if self._sessions is None:
            placed = self._place(batch, times, port)
        else:
            placed = self._merge(self._sessions, batch, times, port)
        rows = Rows(self.pairing)
        watermark_ms = self._context.watermark_ms
        for (key, window), values in placed.items():
            contents = self._contents(key, window)
            contents[port].extend(values)
            if window[1] - 1 <= watermark_ms:
                for _ in self.fire(rows, key, window, contents):
                    pass  # Only as many pages as one batch brings: they leave as one.
        return rows.take()

    def advance(self, watermark_ms: int) -> Iterator[Batch]:
        """Yield what comes out of the windows that end at or before the watermark."""
        rows = Rows(self.pairing)
        context, windows, lateness_ms = self._context, self._windows, self.allowed_lateness_ms
        for at_ms, key, window in self._timers.due(watermark_ms):
            context.key = key
            if at_ms == window[1] - 1:
                contents = windows.get(window)
                assert contents is not None, "a window without contents"
                for _ in self.fire(rows, key, window, contents):
                    yield rows.take()
            if at_ms == window[1] - 1 + lateness_ms:
                self._forget(key, window)
        if rows.values:
            yield rows.take()

    def fire(self, rows: Rows, key: Any, window: Window, contents: Contents) -> Iterator[None]:
        """Put out a window; yields when a page is full."""
        # Copies: what the user does with them must not change what a late record will find.
        rows.add((window[1] - 1,), (key,), (list(contents[0]),), (list(contents[1]),))
        if rows.is_full():
            yield

    def _assigned(self, times: list[int], values: list[Any]) -> list[Sequence[Window]]:
        """Return the windows of every record; aligned ones are asked for once for each slice."""
        assigner = self.assigner
        if not isinstance(assigner, Sliding):
            return list(map(assigner.windows, times, values))
        slices = assigner.slices(times)
        windows = {start: assigner.windows(start, None) for start in set(slices)}
        return list(map(windows.__getitem__, slices))

    def _place(self, batch: Batch, times: list[int], port: int) -> Placed:
        """Group the records by key and window, without the late ones."""
        assert batch.keys is not None, "checked by the caller"
        placed: Placed = {}
        open_ms = self._context.watermark_ms + 1 - self.allowed_lateness_ms
        for key, time, value, windows in zip(
            batch.keys, times, batch.values, self._assigned(times, batch.values), strict=True
        ):
            is_late = bool(windows)  # One in a gap between windows is not late, and goes nowhere.
            for window in windows:
                if window[1] > open_ms:
                    is_late = False
                    try:
                        placed[key, window].append(value)
                    except KeyError:
                        placed[key, window] = [value]
            if is_late:
                self._late[port].add(value, time)
        return placed

    def _merge(
        self,
        table: KeyedTable,
        batch: Batch,
        times: list[int],
        port: int,
    ) -> Placed:
        """Group the records by key and merged window, without the late ones."""
        assert batch.keys is not None, "checked by the caller"
        sessions: dict[Any, list[Session]] = {}
        for key, time, value, windows in zip(
            batch.keys, times, batch.values, self._assigned(times, batch.values), strict=True
        ):
            if key not in sessions:
                known = table.get(key)
                sessions[key] = [] if known is MISSING else [Session(w, [w], []) for w in known]
            (window,) = windows
            if not self._join_session(sessions[key], window, value):
                self._late[port].add(value, time)
        placed: Placed = {}
        for key, of_key in sessions.items():
            self._store(table, key, of_key, placed)
        return placed

    def _join_session(self, sessions: list[Session], window: Window, value: Any) -> bool:
        """Put a record into the session that it makes with those it touches; False: it is late."""
        start, end = window
        touching = [one for one in sessions if one.start <= end and start <= one.end]
        new = Session(window, [], [value])
        if touching:
            first, *others = touching
            for other in others:
                first.take(other)
                sessions.remove(other)
            first.take(new)
            return True
        if end - 1 + self.allowed_lateness_ms <= self._context.watermark_ms:
            return False
        sessions.append(new)
        return True

    def _store(self, table: KeyedTable, key: Any, sessions: list[Session], placed: Placed) -> None:
        """Write the sessions of a key that have new records, and note these in ``placed``."""
        has_changed = False
        for session in sessions:
            window = (session.start, session.end)
            if session.values:
                placed[key, window] = session.values
            if session.parts != [window]:
                has_changed = True
                self._move(key, session.parts, window)
        if has_changed:
            table.put(key, [(session.start, session.end) for session in sessions])

    def _move(self, key: Any, parts: list[Window], window: Window) -> None:
        """Put what is in ``parts`` together into ``window``."""
        windows = self._windows
        self._context.key = key
        merged: Contents = ([], [])
        for part in parts:
            contents = windows.get(part)
            assert contents is not None, "a session without contents"
            merged[0].extend(contents[0])
            merged[1].extend(contents[1])
            windows.remove(part)
            self._timers.delete(part[1] - 1, key, part)
            self._timers.delete(part[1] - 1 + self.allowed_lateness_ms, key, part)
        if parts:
            windows.put(window, merged)
            self._register(key, window)

    def _contents(self, key: Any, window: Window) -> Contents:
        self._context.key = key
        contents = self._windows.get(window)
        if contents is None:
            contents = ([], [])
            self._windows.put(window, contents)
            self._register(key, window)
        return contents

    def _register(self, key: Any, window: Window) -> None:
        last_ms = window[1] - 1
        if last_ms > self._context.watermark_ms:
            self._timers.register(last_ms, key, window)
        if self.allowed_lateness_ms:
            self._timers.register(last_ms + self.allowed_lateness_ms, key, window)

    def _forget(self, key: Any, window: Window) -> None:
        self._windows.remove(window)
        if self._sessions is not None:
            left = [other for other in self._sessions.get(key) if other != window]
            if left:
                self._sessions.put(key, left)
            else:
                self._sessions.delete(key)
