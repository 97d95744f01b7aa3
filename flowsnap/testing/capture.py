"""What a harness puts in the place of a sink: it keeps every record, and knows what is committed.

The protocol is followed to the letter (prepare at the barrier, commit when told, recover after a
restore), so what a test sees as committed is what a real transactional sink would show. A sink that
the test wants to run for real stands behind it, and is told the same.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import Sink, SinkContext, Submission


class Output(list[Any]):
    """Every record that a sink holds, in the order in which they were written: a list.

    ``committed`` are those that a complete checkpoint has made visible, ``pending`` the others,
    which a crash takes away. ``timestamps`` has the event time of each, or None.
    """

    def __init__(self, written: Sequence[Written]) -> None:
        super().__init__(one.value for one in written)
        self.committed = [one.value for one in written if one.is_committed]
        self.pending = [one.value for one in written if not one.is_committed]
        self.timestamps = [one.timestamp_ms for one in written]


@dataclass(slots=True, eq=False)
class Written:
    """One record in a sink; ``transaction`` is empty until it is prepared."""

    value: Any
    timestamp_ms: int | None
    subtask: int
    checkpoint_id: CheckpointId = field(default=CheckpointId(0))
    transaction: str = ""
    is_committed: bool = False


class Ledger:
    """What one sink holds, over all attempts."""

    def __init__(self) -> None:
        self.written: list[Written] = []
        self.taken: list[Written] = []

    def write(self, batch: Batch, subtask: int) -> None:
        """Take the records of a batch."""
        times = repeat(None) if batch.timestamps is None else batch.timestamps
        new = [Written(v, at, subtask) for v, at in zip(batch.values, times, strict=False)]
        self.written += new
        self.taken += new

    def prepare(self, transaction: str, checkpoint_id: CheckpointId, subtask: int) -> bool:
        """Put what a subtask has written into a transaction; return whether there was anything."""
        found = [one for one in self.written if one.subtask == subtask and not one.transaction]
        for one in found:
            one.transaction, one.checkpoint_id = transaction, checkpoint_id
        return bool(found)

    def commit(self, transactions: Sequence[str]) -> None:
        """Make transactions visible; a repeat changes nothing."""
        wanted = set(transactions)
        for one in self.written:
            if one.transaction in wanted:
                one.is_committed = True

    def drop(self, *, is_prepared_too: bool) -> None:
        """Forget what is not committed: what was only written, or what was prepared as well."""
        self.written = [
            one
            for one in self.written
            if one.is_committed or (one.transaction and not is_prepared_too)
        ]

    def go_back(self, restored_from: CheckpointId | None) -> None:
        """Forget what was committed after a checkpoint, or everything."""
        newest = CheckpointId(0) if restored_from is None else restored_from
        self.written = [one for one in self.written if 0 < one.checkpoint_id <= newest]

    def take(self) -> list[Any]:
        """Return the values written since the last call, repetitions after a crash included."""
        taken, self.taken = self.taken, []
        return [one.value for one in taken]


class CapturingSink(Sink):
    """Writes to a ledger; ``own`` is the sink behind it, if that is to run for real."""

    def __init__(self, ledger: Ledger, own: Sink | None = None) -> None:
        self._ledger = ledger
        self._own = own

    def on_submit(self, submission: Submission) -> None:
        if self._own is not None:
            self._own.on_submit(submission)
        self._ledger.go_back(submission.restored_from)

    def on_finish(self) -> None:
        if self._own is not None:
            self._own.on_finish()

    def open(self, context: SinkContext) -> None:
        self._context = context
        if self._own is not None:
            self._own = copy.copy(self._own)
            self._own.open(context)

    def write(self, batch: Batch) -> None:
        if self._own is not None:
            self._own.write(batch)
        self._ledger.write(batch, self._context.subtask)

    def prepare(self, checkpoint_id: CheckpointId) -> dict[str, Any] | None:
        own = None if self._own is None else self._own.prepare(checkpoint_id)
        place = self._context
        id = f"{place.operator}.{place.subtask}@{place.attempt}/{checkpoint_id}"
        is_any = self._ledger.prepare(id, checkpoint_id, place.subtask)
        return {"id": id, "own": own} if is_any or own is not None else None

    def can_accept(self) -> bool:
        return self._own is None or self._own.can_accept()

    def commit(self, committables: Sequence[dict[str, Any]]) -> bool | None:
        own = [one["own"] for one in committables if one["own"] is not None]
        if self._own is not None and own and self._own.commit(own) is False:
            return False
        self._ledger.commit([one["id"] for one in committables])
        return None

    def recover(self, committables: Sequence[dict[str, Any]]) -> None:
        if self._own is not None:
            self._own.recover([one["own"] for one in committables if one["own"] is not None])
        self._ledger.commit([one["id"] for one in committables])
        self._ledger.drop(is_prepared_too=True)

    def close(self) -> None:
        if self._own is not None:
            self._own.close()
