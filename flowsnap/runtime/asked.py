"""Checkpoints that somebody in this process has asked for, and waits for."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future

from flowsnap.core.coordinator import Wish
from flowsnap.core.ids import CheckpointId
from flowsnap.errors import CheckpointError


class AskedCheckpoints:
    """Every wish ends with the id of a complete checkpoint, or with why there is none.

    ``ask`` may be called from any thread; the rest belongs to the job manager's.
    """

    def __init__(self) -> None:
        self._asked: deque[tuple[Wish, Future[CheckpointId]]] = deque()
        self._waiting: list[tuple[Wish, Future[CheckpointId]]] = []
        self._pending: dict[CheckpointId, list[tuple[Wish, Future[CheckpointId]]]] = {}

    def ask(self, wish: Wish) -> Future[CheckpointId]:
        """Ask for a checkpoint that begins after this call."""
        future: Future[CheckpointId] = Future()
        self._asked.append((wish, future))
        return future

    def take(self) -> list[Wish]:
        """Return what has been asked for since the last call."""
        taken = []
        while self._asked:
            self._waiting.append(self._asked.popleft())
            taken.append(self._waiting[-1][0])
        return taken

    def triggered(self, checkpoint_id: CheckpointId, wish: Wish) -> None:
        """A checkpoint has been triggered: it serves all who have wished for one like it."""
        self._pending[checkpoint_id] = [entry for entry in self._waiting if entry[0] == wish]
        self._waiting = [entry for entry in self._waiting if entry[0] != wish]

    def completed(self, checkpoint_id: CheckpointId, *, is_final: bool = False) -> None:
        """A checkpoint is complete; the final one serves everybody, for no other comes after it."""
        done = self._pending.pop(checkpoint_id, [])
        if is_final:
            self.take()
            done += self._left()
        for _, future in done:
            future.set_result(checkpoint_id)

    def aborted(self, checkpoint_id: CheckpointId, reason: str) -> None:
        """A checkpoint was given up."""
        for _, future in self._pending.pop(checkpoint_id, ()):
            message = f"checkpoint {checkpoint_id} was given up: {reason}"
            future.set_exception(CheckpointError(message))

    def start(self) -> None:
        """An attempt begins: it is asked for what the one before has not brought."""
        self._asked.extendleft(reversed(self._left()))

    def fail(self, reason: str) -> None:
        """Nothing comes of what is asked for."""
        self.take()
        for _, future in self._left():
            future.set_exception(CheckpointError(f"the checkpoint was not taken: {reason}"))

    def _left(self) -> list[tuple[Wish, Future[CheckpointId]]]:
        left = [*(entry for some in self._pending.values() for entry in some), *self._waiting]
        self._waiting, self._pending = [], {}
        return left
