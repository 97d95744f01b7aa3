"""Crash at k: one small job, and a crash before and after each of its effects in turn.

Source: SQLite's counter loop ("How SQLite Is Tested", section 3).
"""

from __future__ import annotations

from collections.abc import Iterator

from flowsnap.testing.simulate import Outcome, run_seed
from flowsnap.testing.trouble import EVERYBODY, MANAGER, Fault

WORKERS = (0, 1)


def crashes(seed: int, *, stride: int = 1, first: int = 0) -> Iterator[Fault]:
    """Yield every crash of a job: at each effect, of each process or all, before it or after.

    Only each ``stride``-th of them, beginning with ``first``.
    """
    effects = run_seed(seed, []).effects
    number = 0
    for at in range(1, effects + 1):
        for who in (MANAGER, *WORKERS, EVERYBODY):
            for is_after in (False, True):
                if number % stride == first:
                    yield Fault("crash", at, who, 0, is_after)
                number += 1


def sweep(seed: int, *, stride: int = 1, first: int = 0) -> Iterator[Outcome]:
    """Run a job with each of its crashes, one at a time, and yield what became of it."""
    for crash in crashes(seed, stride=stride, first=first):
        yield run_seed(seed, [crash])
