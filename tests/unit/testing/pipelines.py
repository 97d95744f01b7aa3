"""Small pipelines that the tests of the kit run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flowsnap import KeyedProcess, Pipeline, ProcessContext, Tumbling, bounded
from flowsnap.connectors import Collect, FromIterable


def totals() -> Pipeline:
    """Sum the amounts of each user; every sum comes out."""
    pipeline = Pipeline("totals")
    (
        pipeline.source(FromIterable([]), name="orders")
        .key_by("user", name="by-user")
        .sum("amount", name="totals")
        .sink(Collect(), name="out")
    )
    return pipeline


def order(user: str, amount: int) -> dict[str, Any]:
    return {"user": user, "amount": amount}


class Reminder(KeyedProcess[str, str]):
    """Counts the records of a key, and repeats the last one 5 s later."""

    def open(self, context: ProcessContext) -> None:
        self.count = context.value_state("count", default=0)
        self.last = context.value_state("last")
        self.seen = context.map_state("seen")

    def process(self, value: str, context: ProcessContext) -> Iterator[str]:
        if value == "boom":
            raise ValueError("boom is not accepted")
        self.count.update(self.count.value() + 1)
        self.last.update(value)
        self.seen.put(value, True)
        context.register_processing_timer(context.processing_time_ms() + 5_000)
        yield value

    def on_timer(self, timestamp: int, context: ProcessContext) -> Iterator[str]:
        yield f"{self.last.value()} again at {context.processing_time_ms()}"


class Alarm(KeyedProcess[int, tuple[str, int]]):
    """Goes off at the event time that the record says."""

    def process(self, value: int, context: ProcessContext) -> None:
        context.register_event_timer(value)

    def on_timer(self, timestamp: int, context: ProcessContext) -> Iterator[tuple[str, int]]:
        yield "alarm", timestamp


def reminders() -> Pipeline:
    """Repeat records after a while, for each first letter."""
    pipeline = Pipeline("reminders")
    (
        pipeline.source(FromIterable([]), name="words")
        .key_by(lambda word: word[0], name="by-letter")
        .process(Reminder, name="remind")
        .sink(Collect(), name="out")
    )
    return pipeline


def windows(event_time: str) -> Pipeline:
    """Count in windows of 10 s; event time is made at the "source", or "behind" it."""
    pipeline = Pipeline("windows")
    source = FromIterable(list[Any]())
    if event_time == "source":
        strategy = bounded("1s", timestamp=lambda click: click["at"])
        stream = pipeline.source(source, watermark=strategy, name="clicks")
    else:
        stream = pipeline.source(source, name="clicks")
        stream = stream.assign_timestamps("at", out_of_orderness="1s", name="times")
    (
        stream.key_by("user", name="by-user")
        .window(Tumbling("10s"))
        .count(name="counts")
        .map(lambda result: (result.key, result.start, result.value), name="rows")
        .sink(Collect(), name="out")
    )
    return pipeline


def click(user: str, at_ms: int) -> dict[str, Any]:
    return {"user": user, "at": at_ms}
