"""What do windows in event time cost, against a dict of windows by hand?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

from benchmarks.engine import measured_run
from benchmarks.harness import Row, per_second, rounds
from flowsnap import Pipeline
from flowsnap.connectors import Discard, FromIterable
from flowsnap.operators.window import Count, Sum, Tumbling, WindowResult

USERS = 100_000
WINDOW_MS = 10_000
DISORDER_MS = 2_000
EVENTS_PER_MS = 20

Event = tuple[str, int, int]
"""User, event time in ms, amount."""


class Events(Sequence[Event]):
    """Events in the order of their times but for 2 s of disorder, 200,000 to a window.

    Made anew wherever it is unpickled, and not sent.
    """

    def __init__(self, count: int) -> None:
        chance = random.Random(11)
        names = [f"user-{number:06d}" for number in range(USERS)]
        self._events = [
            (
                names[int(chance.random() * USERS)],
                number // EVENTS_PER_MS + int(chance.random() * DISORDER_MS),
                number & 1023,
            )
            for number in range(count)
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        return (Events, (len(self),))

    def __len__(self) -> int:
        return len(self._events)

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...

    def __getitem__(self, index: int | slice) -> Any:
        return self._events[index]

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)


def run(quick: bool) -> list[Row]:
    """Measure 2 M events (quick: 400,000), 10 s windows of a sum and a count for each user."""
    events = Events(400_000 if quick else 2_000_000)
    cases: dict[str, Callable[[], float]] = {
        "hand loop": lambda: per_second(len(events), lambda: hand_loop(events)),
        "in process": lambda: engine(events, workers=0),
        "2 workers": lambda: engine(events, workers=2),
    }
    return rounds(1 if quick else 5, cases, warm_up=not quick).rows(
        baseline="hand loop",
        notes={
            "hand loop": "one thread, a dict by user and window; the same results, kept nowhere",
            "in process": "a checkpoint each second",
            "2 workers": "combined before the shuffle; a checkpoint each second",
        },
    )


def hand_loop(events: Events) -> None:
    """Sum and count as one would by hand, and put windows out as event time passes their end."""
    totals: dict[tuple[str, int], list[int]] = {}
    newest, next_end = 0, WINDOW_MS
    for user, at, amount in events:
        window = user, at - at % WINDOW_MS
        total = totals.get(window)
        if total is None:
            totals[window] = [amount, 1]
        else:
            total[0] += amount
            total[1] += 1
        if at > newest:
            newest = at
            if newest - DISORDER_MS >= next_end:
                put_out(totals, next_end)
                next_end += WINDOW_MS
    put_out(totals, newest + WINDOW_MS)


def put_out(totals: dict[tuple[str, int], list[int]], until: int) -> list[Any]:
    """Return and forget the windows that end by ``until``."""
    over = [window for window in totals if window[1] + WINDOW_MS <= until]
    out = []
    for window in over:
        user, start = window
        total, count = totals.pop(window)
        value = {"total": total, "n": count}
        out.append(WindowResult(user, start, start + WINDOW_MS, value))
    return out


def time_of(event: Event) -> int:
    """Return the event time: the user's function."""
    return event[1]


def engine(events: Events, *, workers: int) -> float:
    """Return the events per second of the pipeline."""
    pipeline = Pipeline("windows")
    (
        pipeline.source(FromIterable(events), name="events")
        .assign_timestamps(time_of, f"{DISORDER_MS}ms", name="time")
        .key_by(0, name="by_user")
        .window(Tumbling(f"{WINDOW_MS}ms"))
        .aggregate(total=Sum(2), n=Count(), name="totals")
        .sink(Discard(), name="out")
    )
    result = measured_run(pipeline, workers=workers, checkpoint_interval="1s")
    return len(events) / result.running_s
