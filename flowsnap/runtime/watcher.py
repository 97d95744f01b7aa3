"""Has the user's invariants checked on every checkpoint, in a thread, before it is committed."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from flowsnap.core.manifest import CheckpointManifest
from flowsnap.errors import FlowsnapError
from flowsnap.storage.store import CheckpointStore

LOG = logging.getLogger("flowsnap")


class Verdict(NamedTuple):
    """Why an invariant does not hold of a checkpoint; ``is_fatal``: the job is to fail."""

    message: str
    is_fatal: bool


InvariantCheck = Callable[[CheckpointManifest, CheckpointStore], Iterable[Verdict]]
"""Returns what does not hold of a checkpoint whose manifest is not written yet."""


class InvariantWatch:
    """Checks one checkpoint after the other, in a thread of its own; without ``check`` none."""

    def __init__(self, check: InvariantCheck | None, store: CheckpointStore) -> None:
        self._check = check
        self._store = store
        self._pool: ThreadPoolExecutor | None = None
        self._running: deque[tuple[CheckpointManifest, Future[list[Verdict]]]] = deque()

    def submit(self, manifest: CheckpointManifest) -> bool:
        """Begin to check a checkpoint; return whether there is anything to wait for."""
        if self._check is None:
            return False
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="flowsnap-invariants")
        self._running.append((manifest, self._pool.submit(self._verdicts, manifest)))
        return True

    def checked(self) -> list[tuple[CheckpointManifest, str]]:
        """Return what has been checked, in order, each with why the job must fail, if it must."""
        done = []
        while self._running and self._running[0][1].done():
            manifest, future = self._running.popleft()
            fatal = [one.message for one in future.result() if one.is_fatal]
            for one in future.result():
                if not one.is_fatal:
                    LOG.error("checkpoint %d: %s", manifest.checkpoint_id, one.message)
            done.append((manifest, "; ".join(fatal)))
        return done

    @property
    def is_busy(self) -> bool:
        """Whether something is being checked, so that the loop should look again soon."""
        return bool(self._running)

    def close(self) -> None:
        """Give up what has not been begun, and wait for the rest."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _verdicts(self, manifest: CheckpointManifest) -> list[Verdict]:
        assert self._check is not None
        try:
            return list(self._check(manifest, self._store))
        except FlowsnapError as error:
            return [Verdict(f"the invariants could not be checked: {error}", is_fatal=False)]
