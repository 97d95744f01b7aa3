"""Whole jobs that look for patterns: what is found depends on nothing but the records."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from flowsnap import ConfigError, KeyedStream, Pattern, Pipeline, Skip, Tumbling
from flowsnap.config import Restart
from flowsnap.connectors import Collect, Generator
from flowsnap.operators.window import Count
from tests.integration.jobs import QUICK, Held, once_after_a_checkpoint

COUNT = 600
KEYS = 7
TWICE = Restart(strategy="fixed", delay_ms=1, attempts_max=2)

Event = tuple[Any, int, str]
"""Key, event time in ms, letter."""


def event(number: int) -> Event:
    return number % KEYS, 10 * number - number * 7_919 % 50, "abcab"[number * number % 5]


def is_(letter: str) -> Callable[[Event], bool]:
    return lambda one: one[2] == letter


PATTERN = (
    Pattern.begin("a", is_("a")).followed_by("b", is_("b")).one_or_more().next("end", is_("a"))
).within("1s")


def same(number: int) -> int:
    return number


def keyed(job: Pipeline, source: Any, parse: Callable[[int], int]) -> KeyedStream[int, Event]:
    return (
        job.source(source, name="numbers", parallelism=1)
        .map(parse, name="parsed")
        .map(event, name="made")
        .assign_timestamps(1, "50ms", idle=None, name="timed")
        .key_by(0, name="keyed")
    )


def times(match: dict[str, list[Event]]) -> tuple[Any, list[int]]:
    return match["a"][0][0], [one[1] for events in match.values() for one in events]


def expected() -> list[Any]:
    """Return the matches by looking at each key's events in the order of their times."""
    found = []
    for key in range(KEYS):
        own = sorted((event(n) for n in range(key, COUNT, KEYS)), key=lambda one: one[1])
        for start, first in enumerate(own):
            if first[2] != "a":
                continue
            taken = [first[1]]
            for before, one in pairwise(own[start:]):
                if one[1] - first[1] >= 1000:
                    break
                if one[2] == "b":
                    taken.append(one[1])
                elif one[2] == "a" and before[2] == "b":
                    found.append((key, [*taken, one[1]]))
    return sorted(found)


def found(
    source: Any, parse: Callable[[int], int] = same, workers: int = 0, **settings: Any
) -> list[Any]:
    job, out = Pipeline("patterns"), Collect()
    keyed(job, source, parse).pattern(PATTERN).select(times, name="found").sink(out, name="out")
    if workers:
        job.start(workers=workers, **settings).wait(60)
    else:
        job.run(quiet=True, **settings)
    return sorted(out.values)


def test_matches_are_found_in_the_order_of_event_time() -> None:
    assert found(Generator(int, COUNT)) == expected()
    assert len(expected()) > 50


def test_two_workers_find_what_one_does() -> None:
    assert found(Generator(int, COUNT), workers=2) == expected()


def test_a_crash_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"

    def fail() -> None:
        raise OSError("once")

    parse = once_after_a_checkpoint(state, fail)
    held = Held(COUNT, state, completed=2, splits=1)

    assert found(held, parse, state_dir=state, restart=TWICE, **QUICK) == expected()


def test_what_timed_out_leaves_beside() -> None:
    job, out, gone = Pipeline("patterns"), Collect(), Collect()
    events: list[Event] = [
        ("k", 1_000, "a"),
        ("k", 9_000, "a"),
        ("k", 2_000, "b"),
        ("k", 9_500, "b"),
    ]
    timed = job.from_iterable(events).assign_timestamps(1)
    matches = timed.key_by(0).pattern(PATTERN, timed_out="gone").select(times)

    matches.sink(out)
    matches.side_output("gone").sink(gone)
    job.run(quiet=True)

    assert out.values == []
    assert gone.values == [{"a": [events[0]]}, {"a": [events[1]], "b": [events[3]]}]


def straggling(number: int) -> Event:
    return 0, 0 if number == 500 else 100 * number, "a"


def test_late_records_leave_beside(tmp_path: Path) -> None:
    job, out, late = Pipeline("patterns"), Collect(), Collect()
    numbers = job.source(Held(COUNT, tmp_path, completed=0, splits=1), parallelism=1)
    timed = numbers.map(straggling).assign_timestamps(1)
    matches = timed.key_by(0).pattern(Pattern.begin("a")).select(times)

    matches.sink(out)
    matches.side_output("late").sink(late)
    job.run(quiet=True)

    assert late.values == [straggling(500)]
    assert len(out.values) == COUNT - 1


def test_matches_can_be_put_into_windows() -> None:
    job, out = Pipeline("patterns"), Collect()
    held_back = Pattern.begin("a", is_("a")).one_or_more().greedy()
    (
        keyed(job, Generator(int, COUNT), same)
        .pattern(held_back, skip=Skip.PAST_LAST)
        .flat_select(lambda match: match["a"])
        .key_by(lambda one: None)
        .window(Tumbling("1s"))
        .aggregate(n=Count())
        .sink(out)
    )
    job.run(quiet=True)

    letters = [event(number)[2] for number in range(COUNT)]
    assert sum(one.value["n"] for one in out.values) == letters.count("a")


def test_wrong_pattern_is_refused_before_anything_runs() -> None:
    job = Pipeline("patterns")
    stream = job.from_iterable([1]).key_by()

    with pytest.raises(ConfigError, match="nothing ends the wait"):
        stream.pattern(Pattern.begin("a").not_followed_by("b"))
    with pytest.raises(ConfigError, match="5 is not a function"):
        stream.pattern(Pattern.begin("a")).select(5)  # type: ignore[arg-type]
