"""The keyed states of one operator over several lives, on either backend, under a clock of ours."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from flowsnap.core.ids import OperatorId
from flowsnap.state.backend import RestoredState
from flowsnap.state.keyed import KeyedStates

OPERATOR = OperatorId("op")
GROUPS = (0, 16)


class Lives:
    """``states`` are those of the current life; ``restart`` begins the next from a checkpoint.

    ``declare`` asks for a state, as an operator does when it is opened; it returns what it got.
    """

    def __init__(self, class_: Callable[..., Any], root: Path) -> None:
        self.now_ms = 0
        self._class = class_
        self._root = root
        self._numbers = count()
        self._open(())

    def _open(self, restored: tuple[RestoredState, ...], groups: tuple[int, int] = GROUPS) -> None:
        self.backend = self._class(
            self._root / f"life-{next(self._numbers)}",
            key_groups=groups,
            max_parallelism=GROUPS[1],
            memory_bytes=64 << 20,
            restored=restored,
        )
        self.states = KeyedStates(self.backend, OPERATOR)
        self.states.processing_time_ms = lambda: self.now_ms

    def restart(self) -> None:
        """Take a checkpoint, and begin a new life from it."""
        state = self.checkpoint()
        self.backend.close()
        self._open((state,))

    def merge(self, other: Lives) -> None:
        """Begin a new life from the checkpoints of both, as a scale-in does."""
        states = (self.checkpoint(), other.checkpoint())
        self.backend.close()
        other.backend.close()
        self._open(states)

    def checkpoint(self) -> RestoredState:
        """Take a checkpoint."""
        self.persist = self.backend.freeze()
        while not self.persist.step():
            pass
        target = self._root / f"stored-{next(self._numbers)}"
        target.mkdir()
        for file in self.persist.files:
            shutil.copy(file.path, target / file.name)
        self.persist.release()
        return RestoredState(target, self.persist.tables, GROUPS)

    def sweep(self, until_ms: int) -> None:
        """Let the clock go on, and whatever sweeps are due run to their end."""
        while (due := self.states.next_sweep_ms()) is not None and due <= until_ms:
            self.now_ms = max(self.now_ms, due)
            self.states.sweep(self.now_ms)
        self.now_ms = until_ms

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield all that is in state, whatever the table."""
        tables = getattr(self.backend, "_tables", None)
        if tables is None:
            tables = {**self.backend._values, **self.backend._maps}
        for table in tables.values():
            yield from table.all_items() if hasattr(table, "all_items") else table.items()
