"""Which workers are silent, or alive without getting on? Life is one thing, progress another."""

from __future__ import annotations

from dataclasses import dataclass

from flowsnap.config import JobConfig
from flowsnap.core.ids import WorkerId


@dataclass(slots=True)
class _Seen:
    beat_ms: int
    steps: int
    steps_ms: int


class Watch:
    """Keeps the last sign of life of every worker that has registered."""

    def __init__(self, config: JobConfig) -> None:
        self._timeout_ms = config.heartbeat_timeout_ms
        self._stall_ms = config.stall_timeout_ms
        self._seen: dict[WorkerId, _Seen] = {}

    def begin(self, worker: WorkerId, now_ms: int) -> None:
        """A worker has registered: from now on it must be heard."""
        self._seen[worker] = _Seen(now_ms, -1, now_ms)

    def beat(self, worker: WorkerId, steps: int, now_ms: int) -> None:
        """A heartbeat has come; ``steps`` counts the rounds of the worker's loop."""
        seen = self._seen.get(worker)
        if seen is None:
            return  # Of a worker that has been given up meanwhile.
        seen.beat_ms = now_ms
        if steps != seen.steps:
            seen.steps, seen.steps_ms = steps, now_ms

    def forget(self, worker: WorkerId) -> None:
        """A worker is gone: nothing is expected of it."""
        self._seen.pop(worker, None)

    def overdue(self, now_ms: int) -> list[tuple[WorkerId, str]]:
        """Return the workers that are to be given up, each with why, and forget them."""
        overdue = []
        for worker, seen in list(self._seen.items()):
            if now_ms - seen.beat_ms > self._timeout_ms:
                overdue.append((worker, f"silent for {self._timeout_ms} ms"))
            elif now_ms - seen.steps_ms > self._stall_ms:
                overdue.append((worker, f"stuck in one step for {self._stall_ms} ms"))
        for worker, _ in overdue:
            del self._seen[worker]
        return overdue
