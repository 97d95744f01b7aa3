"""The job that most faults strike: numbers counted by their last digit on two workers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowsnap import Pipeline
from flowsnap.config import Restart
from flowsnap.connectors import Collect
from flowsnap.runtime.status import JobResult
from tests.integration.jobs import QUICK, Held, same

COUNT = 2_000
TWICE = Restart(strategy="fixed", delay_ms=1, attempts_max=2)
OFTEN = Restart(strategy="fixed", delay_ms=1, attempts_max=20)
NEVER_AGAIN = Restart(strategy="none")


def digits(
    state: Path, completed: int = 0, act: Callable[[int], Any] = same
) -> tuple[Pipeline, Collect]:
    """Return the job; half of its input waits for so many checkpoints."""
    pipeline, sink = Pipeline("digits"), Collect()
    (
        pipeline.source(Held(COUNT, state, completed, splits=4), name="numbers")
        .map(act, name="act")
        .key_by(lambda n: n % 10, name="by-digit")
        .count(name="counts")
        .sink(sink, name="out")
    )
    return pipeline, sink


def run(
    state: Path, completed: int = 2, act: Callable[[int], Any] = same, **more: Any
) -> JobResult:
    """Run the job on two workers to its end, and hold its output to the input."""
    pipeline, sink = digits(state, completed, act)
    settings = {"restart": TWICE, **QUICK, **more}
    result = pipeline.run(workers=2, state_dir=state, quiet=True, **settings)
    assert_exactly_once(sink)
    return result


def assert_exactly_once(sink: Collect) -> None:
    """Hold every digit's counts to 1, 2, 3, ...: nothing lost, doubled or out of order (O1, O3)."""
    found: dict[int, list[int]] = defaultdict(list)
    for digit, count in sink.values:
        found[digit].append(count)
    assert dict(found) == {digit: list(range(1, COUNT // 10 + 1)) for digit in range(10)}
