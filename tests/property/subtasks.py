"""The keyed state of one operator in any number of subtasks, checkpointed, restored, rescaled."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from flowsnap.core.ids import OperatorId
from flowsnap.core.key import encode_key, key_group
from flowsnap.core.partition import key_group_range, owner
from flowsnap.state.restore import RestoredState

OPERATOR = OperatorId("op")
GROUPS = 16


class Subtasks:
    """One backend for each subtask; ``restart`` goes on from a checkpoint with another number."""

    def __init__(self, class_: Callable[..., Any], root: Path) -> None:
        self._class = class_
        self._root = root / f"{getattr(class_, '__name__', 'backend')}"
        self._numbers = count()
        self.backends = [self._open(0, 1, [])]

    def owner(self, key: Any) -> int:
        """Return the subtask that ``key`` belongs to."""
        return owner(key_group(encode_key(key), GROUPS), len(self.backends), GROUPS)

    def restart(self, width: int) -> None:
        """Take a checkpoint of all subtasks, and go on from it with ``width`` of them."""
        before = len(self.backends)
        stored = [self._stored(backend, at, before) for at, backend in enumerate(self.backends)]
        self.close()
        self.backends = [self._open(at, width, stored) for at in range(width)]

    def close(self) -> None:
        """Release all."""
        for backend in self.backends:
            backend.close()

    def _stored(self, backend: Any, subtask: int, width: int) -> RestoredState:
        persist = backend.freeze()
        while not persist.step():
            pass
        target = self._root / f"stored-{next(self._numbers)}"
        target.mkdir(parents=True)
        for file in persist.files:
            shutil.copy(file.path, target / file.name)
        persist.release()
        return RestoredState(target, persist.tables, key_group_range(subtask, width, GROUPS))

    def _open(self, subtask: int, width: int, stored: list[RestoredState]) -> Any:
        start, end = key_group_range(subtask, width, GROUPS)
        ours = [one for one in stored if one.key_groups[0] < end and start < one.key_groups[1]]
        return self._class(
            self._root / f"life-{next(self._numbers)}",
            key_groups=(start, end),
            max_parallelism=GROUPS,
            memory_bytes=16 << 20,
            restored=[self._copied(one) for one in ours],
        )

    def _copied(self, stored: RestoredState) -> RestoredState:
        """Return a copy for one subtask alone: a backend takes over or removes what it is given."""
        target = self._root / f"restored-{next(self._numbers)}"
        shutil.copytree(stored.directory, target)
        return RestoredState(target, stored.tables, stored.key_groups)
