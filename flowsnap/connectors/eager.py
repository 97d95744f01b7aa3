"""Rows applied as they come: at once instead of exactly once, for stores where a repeat is no harm.

They are kept in the epoch as well until they are applied, so that a checkpoint holds what was not;
a recovery applies it again. In one order throughout: what is applied is always a beginning of what
came, or a former beginning once more after a restart, until the new rows have caught up.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from flowsnap.connectors.committer import Committer


class EagerRows:
    """Hands rows to the thread of the commits, all that have come at a time."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._waiting: list[Any] = []
        self._added = 0
        self._applied = 0
        self._under_way = 0
        self._marks: deque[tuple[int, int]] = deque()  # checkpoint, how many rows came before it

    def add(self, rows: list[Any]) -> None:
        """Have rows applied as soon as those before them are."""
        self._waiting += rows
        self._added += len(rows)
        self._pump()

    def mark(self, checkpoint_id: int) -> None:
        """Take note that all that has come belongs to a checkpoint or to one before it."""
        self._marks.append((checkpoint_id, self._added))

    def has_applied(self, checkpoint_id: int) -> bool:
        """Return whether all that came before a checkpoint is applied.

        Raises:
            StoreUnavailable: the store has been away for too long.
            OutputRefused: it refuses rows for good.
        """
        self._pump()
        while self._marks and self._marks[0][1] <= self._applied:
            self._marks.popleft()
        return not any(known <= checkpoint_id for known, _ in self._marks)

    def _pump(self) -> None:
        if self._under_way:
            if not self._committer.is_done():
                return
            self._applied += self._under_way
            self._under_way = 0
        if self._waiting:
            rows, self._waiting = self._waiting, []
            self._under_way = len(rows)
            self._committer.begin([rows])
