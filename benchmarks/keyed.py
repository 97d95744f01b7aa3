"""What does keyed state cost when every single update leaves the operator?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

from benchmarks.engine import measured_run
from benchmarks.harness import Row, per_second, rounds
from flowsnap import Pipeline
from flowsnap.connectors import Discard, FromIterable

KEYS = 100_000


class Tuples(Sequence[tuple[str, int]]):
    """(key, number) tuples, keys at random; made anew wherever it is unpickled, and not sent."""

    def __init__(self, count: int) -> None:
        chance = random.Random(11)
        names = [f"user-{number:06d}" for number in range(KEYS)]
        self._tuples = [(chance.choice(names), number) for number in range(count)]

    def __reduce__(self) -> tuple[Any, ...]:
        return (Tuples, (len(self),))

    def __len__(self) -> int:
        return len(self._tuples)

    @overload
    def __getitem__(self, index: int) -> tuple[str, int]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, int]]: ...

    def __getitem__(self, index: int | slice) -> Any:
        return self._tuples[index]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._tuples)


def add(old: tuple[str, int], new: tuple[str, int]) -> tuple[str, int]:
    """Return the two added up: the user's function, the same in every case."""
    return (old[0], old[1] + new[1])


def run(quick: bool) -> list[Row]:
    """Measure 4 M tuples (quick: 400,000), reduced, every update to a sink that drops it."""
    tuples = Tuples(400_000 if quick else 4_000_000)
    cases: dict[str, Callable[[], float]] = {
        "hand loop": lambda: per_second(len(tuples), lambda: hand_loop(tuples)),
        "in process": lambda: engine(tuples, workers=0),
        "2 workers": lambda: engine(tuples, workers=2),
    }
    return rounds(1 if quick else 5, cases, warm_up=not quick).rows(
        baseline="hand loop",
        notes={
            "hand loop": "one thread, one dict, one call of the same function; keeps nothing",
            "in process": "a checkpoint each second",
            "2 workers": "half of the records cross ZeroMQ; a checkpoint each second",
        },
    )


def hand_loop(tuples: Tuples) -> None:
    """Reduce the tuples as one would by hand."""
    sums: dict[str, tuple[str, int]] = {}
    for record in tuples:
        key = record[0]
        old = sums.get(key)
        sums[key] = record if old is None else add(old, record)


def engine(tuples: Tuples, *, workers: int) -> float:
    """Return the tuples per second of the pipeline."""
    pipeline = Pipeline("keyed")
    (
        pipeline.source(FromIterable(tuples), name="tuples")
        .key_by(lambda record: record[0])
        .reduce(add, name="sums")
        .sink(Discard(), name="out")
    )
    result = measured_run(pipeline, workers=workers, checkpoint_interval="1s")
    return len(tuples) / result.running_s
