"""Joins of every kind, stopped twice in the middle and gone on with another parallelism each time.

What a join does in one go is compared with brute force in ``test_joins``; here with that.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowsnap import KeyedStream, Pipeline, Session, Sliding, Stream, Tumbling
from flowsnap.connectors import Collect, Generator
from flowsnap.core.operator import Source
from tests.integration.jobs import NEVER, QUICK, Held

pytestmark = pytest.mark.slow

COUNT = 200

Row = tuple[int, int, str]
"""Key, event time in ms, id."""

Draw = Callable[[KeyedStream[int, Row], KeyedStream[int, Row]], Stream[Any]]


def order(number: int) -> Row:
    return number % 11, 10 * number - number * 7_919 % 50, f"o{number}"


def payment(number: int) -> Row:
    return number % 13, 9 * number - number * 104_729 % 50, f"p{number}"


def keyed(job: Pipeline, source: Source, make: Callable[[int], Row]) -> KeyedStream[int, Row]:
    name = make.__name__
    return (
        job.source(source, name=f"{name}s", parallelism=1)
        .map(make, name=f"{name}-made", parallelism=1)
        .assign_timestamps(1, "50ms", idle=None, name=f"{name}-timed")
        .key_by(0, name=f"{name}-keyed")
    )


def pair(left: Row | None, right: Row | None) -> tuple[Any, Any]:
    return left and left[2], right and right[2]


def group(key: int, lefts: list[Row], rights: list[Row]) -> tuple[Any, ...]:
    return key, sorted(one[2] for one in lefts), sorted(one[2] for one in rights)


def kinds(parallelism: int | None = None) -> dict[str, Draw]:
    """Return a join of every kind."""
    settings: Any = {"name": "joined", "parallelism": parallelism}
    near: Any = {"lower": "-100ms", "upper": "200ms", "upper_inclusive": False}
    hows: Any = ("inner", "left", "right", "full")

    def windowed(how: Any) -> Draw:
        return lambda a, b: a.join(b, window=Tumbling("40ms"), how=how).apply(pair, **settings)

    def regular(how: Any) -> Draw:
        return lambda a, b: a.join(b, how=how).apply(pair, **settings)

    return {
        "interval": lambda a, b: a.interval_join(b, **near).apply(pair, **settings),
        **{f"window-{how}": windowed(how) for how in hows},
        "window-session": lambda a, b: a.join(b, window=Session("40ms"), how="full").apply(
            pair, **settings
        ),
        "co-group-sliding": lambda a, b: a.co_group(b, window=Sliding("100ms", "50ms")).apply(
            group, **settings
        ),
        "co-group-session": lambda a, b: a.co_group(b, window=Session("60ms")).apply(
            group, **settings
        ),
        **{f"regular-{how}": regular(how) for how in hows},
        "regular-ttl": lambda a, b: a.join(b, how="full", ttl="1d").apply(pair, **settings),
        "as-of": lambda a, b: a.as_of_join(b, how="left").apply(pair, **settings),
    }


def drawn(draw: Draw, left: Source, right: Source) -> tuple[Pipeline, Collect]:
    job, out = Pipeline("joins"), Collect()
    draw(keyed(job, left, order), keyed(job, right, payment)).sink(out, name="out")
    return job, out


def in_one_go(kind: str) -> list[Any]:
    job, out = drawn(kinds()[kind], Generator(int, COUNT), Generator(int, COUNT))
    job.run(quiet=True)
    return sorted(out.values, key=str)


def stopped_and_resumed(kind: str, state: Path, runs: list[tuple[int, int | None]]) -> list[Any]:
    """Return what comes out if all but the last of the runs are stopped in the middle.

    A run has a number of workers, and a parallelism of the join.
    """
    *stopped, (workers, parallelism) = runs
    for number, own in stopped:
        held = Held(COUNT, state, NEVER, splits=1)
        job, _ = drawn(kinds(own)[kind], held, held)
        handle = job.start(state_dir=state, workers=number, **QUICK)
        handle.stop()
        assert handle.wait(60).state == "stopped"
    free = Held(COUNT, state, splits=1)
    job, out = drawn(kinds(parallelism)[kind], free, free)
    result = job.start(state_dir=state, workers=workers, **QUICK).wait(60)
    assert result.restored_from is not None
    return sorted(out.values, key=str)


@pytest.mark.parametrize("kind", kinds())
def test_join_puts_out_the_same_at_any_parallelism_it_goes_on_with(kind: str, state: Path) -> None:
    found = stopped_and_resumed(kind, state, [(0, 1), (0, 3), (0, 2)])

    assert found == in_one_go(kind)
    assert len(found) > 10


@pytest.mark.parametrize(
    "kind",
    [
        "window-full",
        pytest.param("interval", marks=pytest.mark.slow),
        pytest.param("regular-full", marks=pytest.mark.slow),
        pytest.param("as-of", marks=pytest.mark.slow),
    ],
)
def test_join_goes_on_with_another_number_of_workers(kind: str, state: Path) -> None:
    assert stopped_and_resumed(kind, state, [(2, None), (3, None)]) == in_one_go(kind)
