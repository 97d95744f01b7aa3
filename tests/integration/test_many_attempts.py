"""A job that fails again and again holds no more at its last attempt than at its first.

FLINK-35159, FLINK-19401: there what each attempt had left behind ended its job manager.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from flowsnap import Pipeline, Restart
from flowsnap.connectors import Collect

ATTEMPTS = 16


def failing(times: int, seen: list[tuple[int, int]]) -> Callable[[int], int]:
    """Return a function that fails so often, and counts threads and open files each time."""

    def fail(value: int) -> int:
        seen.append((threading.active_count(), len(os.listdir("/dev/fd"))))
        if len(seen) < times:
            raise ValueError("again")
        return value

    return fail


def test_neither_threads_nor_files_grow_with_the_attempts(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pipeline, sink = Pipeline("again"), Collect()
    pipeline.from_iterable([1]).map(failing(ATTEMPTS, seen)).key_by().count().sink(sink)

    result = pipeline.run(
        state_dir=tmp_path,
        quiet=True,
        restart=Restart(strategy="fixed", delay_ms=0, attempts_max=ATTEMPTS),
    )

    assert (result.state, result.attempts) == ("finished", ATTEMPTS)
    assert sink.values == [(1, 1)]
    grown = [last - second for last, second in zip(seen[-1], seen[1], strict=True)]
    assert max(grown) < ATTEMPTS // 2
