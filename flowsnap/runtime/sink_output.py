"""What one sink task wrote: prepared at a barrier, committed once its checkpoint is complete.

A sink may take its time over a commit: as long as it answers False it is asked again, with the same
committables, in every step of its task. Completed checkpoints wait for their turn meanwhile, oldest
first, and whatever is not committed goes into every snapshot, so nothing is lost if it comes to
nothing. What must be committed when is decided by ``core/commit.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from flowsnap.core.commit import SinkCommits
from flowsnap.core.ids import CheckpointId, OperatorId
from flowsnap.core.operator import Sink
from flowsnap.failpoint import failpoint
from flowsnap.runtime.chain import user_code
from flowsnap.runtime.parts import TaskEvents, TaskParts


class SinkOutput:
    """Drives the sink of one task through its commits; ``told`` hears of each that is done."""

    told: Callable[[CheckpointId], None]

    def __init__(
        self, sink: Sink, operator: OperatorId, subtask: int, commits: SinkCommits
    ) -> None:
        self._sink = sink
        self._user_code = user_code(operator, subtask)
        self._commits = commits
        self._completed: deque[CheckpointId] = deque()

    @property
    def is_committing(self) -> bool:
        """Whether a commit is under way, so that ``step`` is worth calling."""
        return bool(self._completed)

    def prepare(self, checkpoint_id: CheckpointId) -> None:
        """Have the sink make durable what it was given since the last checkpoint."""
        with self._user_code:
            self._commits.add(checkpoint_id, self._sink.prepare(checkpoint_id))

    def complete(self, checkpoint_id: CheckpointId) -> None:
        """Commit what was prepared up to a completed checkpoint, now or when it is its turn."""
        failpoint("sink.notify_recv")
        self._completed.append(checkpoint_id)
        if len(self._completed) == 1:
            self._commit()

    def step(self) -> bool:
        """Go on with a commit that is under way; return whether the sink may be given more."""
        if self._completed:
            self._commit()
        return self.can_accept()

    def can_accept(self) -> bool:
        """Return whether the sink may be given more, now that ``step`` has gone on as it could."""
        if not self._completed:
            return True
        with self._user_code:
            return self._sink.can_accept()

    def _commit(self) -> None:
        while self._completed:
            checkpoint_id = self._completed[0]
            due = self._commits.due(checkpoint_id)
            if due:
                with self._user_code:
                    answer = self._sink.commit([output.committable for output in due])
                if answer is False:
                    return
            self._commits.committed(checkpoint_id)
            self._completed.popleft()
            self.told(checkpoint_id)


def sink_output(parts: TaskParts, events: TaskEvents) -> SinkOutput | None:
    """Return what drives the sink of a task, if it has one."""
    sink, spec = parts.chain.sink, parts.spec
    if sink is None:
        return None
    output = SinkOutput(sink, parts.chain_spec.operators[-1], spec.subtask, parts.commits)
    output.told = partial(events.committed, spec.id)
    return output
