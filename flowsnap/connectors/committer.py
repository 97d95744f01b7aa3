"""A thread that commits for one sink, so that a slow or absent store does not hold up its task.

One commit at a time; ``commit`` starts it, and answers False until it has come to its end. While
the store is away it is tried again, after 20 ms first, then twice as long each time up to 2 s, and
given up after ``retry_timeout_ms`` without an answer. The attempt fails then; the job's restart
strategy says how often it is begun again, and ``Sink.recover`` commits what the checkpoint holds.

Whoever is stopped long enough (SIGSTOP, a frozen machine) may go on with a commit when another
attempt has begun: that does no harm as long as a repeated commit changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from typing import Any

from flowsnap.errors import StoreUnavailable

RETRY_MS = 20
RETRY_MS_MAX = 2_000

AT_ONCE_S = 0.005
"""How long the first call waits, so that a small commit needs no second one."""

RECOVERY_MS_MAX = 10_000
"""How long a recovery tries, which does hold up its worker, before the restart strategy does."""

CLOSE_S = 1.0

Commit = Callable[[Any], None]


class Committer:
    """Commits one committable after the other with ``commit_one``, on a thread of its own.

    ``release`` closes the connection, on that thread too, after each failure and in the end.
    ``interrupt`` is called on the thread of the task, and makes a call to the store return.
    """

    def __init__(
        self,
        name: str,
        commit_one: Commit,
        *,
        release: Callable[[], None],
        interrupt: Callable[[], None],
        retry_timeout_ms: int,
    ) -> None:
        self._commit_one = commit_one
        self._release = release
        self._interrupt = interrupt
        self._retry_timeout_ms = retry_timeout_ms
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"flowsnap-commit-{name}")
        self._stopping = threading.Event()
        self._commit: Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a commit has begun and its outcome has not been asked for."""
        return self._commit is not None

    def commit(self, committables: Sequence[Any]) -> bool:
        """Begin to commit, or go on; return whether all of them are committed.

        Raises:
            StoreUnavailable: the store has been away for ``retry_timeout_ms``.
            OutputRefused: it refuses a committable for good; those before it are committed.
        """
        if self._commit is None:
            self.begin(committables)
            assert self._commit is not None
            wait([self._commit], AT_ONCE_S)
        return self.is_done()

    def begin(self, committables: Sequence[Any]) -> None:
        """Begin to commit; ask ``is_done`` until it is."""
        self._commit = self._submit(committables, self._retry_timeout_ms)

    def is_done(self) -> bool:
        """Return whether what was begun has come to its end; raises what ``commit`` raises."""
        if self._commit is None or not self._commit.done():
            return self._commit is None
        commit, self._commit = self._commit, None
        commit.result()
        return True

    def recover(self, committables: Sequence[Any], after: Callable[[], None]) -> None:
        """Commit and wait for it; ``after`` is called behind it, on the thread of the commits."""
        patience_ms = min(self._retry_timeout_ms, RECOVERY_MS_MAX)
        self._submit(committables, patience_ms).result()
        self._executor.submit(self._try_until, after, patience_ms).result()

    def close(self) -> None:
        """Give up what is under way; a call that does not return ends by itself, later."""
        self._stopping.set()
        if self._commit is not None and not self._commit.done():
            self._interrupt()
        released = self._executor.submit(self._release)
        wait([released], CLOSE_S)
        self._executor.shutdown(wait=released.done())

    def _submit(self, committables: Sequence[Any], patience_ms: int) -> Future[None]:
        return self._executor.submit(self._commit_each, list(committables), patience_ms)

    def _commit_each(self, committables: list[Any], patience_ms: int) -> None:
        for committable in committables:
            self._try_until(partial(self._commit_one, committable), patience_ms)

    def _try_until(self, action: Callable[[], None], patience_ms: int) -> None:
        deadline_s, delay_ms = time.monotonic() + patience_ms / 1000, RETRY_MS
        while True:
            try:
                return action()
            except StoreUnavailable:
                # The next try gets a connection of its own: this one may be half dead.
                with suppress(StoreUnavailable):
                    self._release()
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or self._stopping.wait(min(delay_ms / 1000, left_s)):
                    raise
                delay_ms = min(2 * delay_ms, RETRY_MS_MAX)
