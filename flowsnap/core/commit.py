"""What must every sink commit, and when has all of it been committed?

A sink that commits hands over a *committable* at every barrier: output that is durable but
invisible. It may become visible only when a checkpoint that holds it is complete, and then it must,
whatever gets lost on the way. Two machines see to that:

- ``SinkCommits``, in each sink task, remembers what is not known to be committed. All of it goes
  into every snapshot, also what earlier checkpoints prepared, because a notification may be lost
  and a checkpoint may be aborted: the next complete one then stands for all before it.
- ``CommitRound``, in the job manager, waits until every sink task has committed a checkpoint. The
  job may say that it has finished only after that.

Invariant: a committable leaves ``pending`` only after the sink has said that it is committed; a
commit that raises, or whose answer is lost, leaves it there, and it is tried again. So a commit may
happen twice, and a sink must bear that.

A subtask that had nothing to write prepares nothing (None), but it takes part in everything else:
it reports its commits like the others, so that nobody waits for it.

Source: Carbone et al. 2017, section 4.2 (exactly-once output); Flink FLIP-143, FLIP-147.

>>> from flowsnap.core.ids import CheckpointId
>>> commits = SinkCommits()
>>> commits.add(CheckpointId(1), "a"), commits.add(CheckpointId(2), "b")
(None, None)
>>> [output.committable for output in commits.due(CheckpointId(2))]
['a', 'b']
>>> commits.committed(CheckpointId(2)); commits.pending()
()
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from flowsnap.core.ids import CheckpointId, TaskId
from flowsnap.core.manifest import PreparedOutput
from flowsnap.errors import LocalProtocolError


class SinkCommits:
    """Which output of one sink task is prepared, but not known to be committed?

    Made anew for every attempt: what the restored checkpoint holds is committed by ``Sink.recover``
    before the first ``add``, so that there is nothing to take over.
    """

    def __init__(self) -> None:
        self._pending: list[PreparedOutput] = []  # oldest first
        self._prepared = CheckpointId(0)

    def add(self, checkpoint_id: CheckpointId, committable: Any) -> None:
        """Take what the sink prepared for a checkpoint; None when it had nothing to prepare.

        Raises:
            LocalProtocolError: output for this checkpoint, or for a later one, was taken before.
        """
        if checkpoint_id <= self._prepared:
            raise LocalProtocolError(
                f"output for checkpoint {checkpoint_id} was prepared after {self._prepared}"
            )
        self._prepared = checkpoint_id
        if committable is not None:
            self._pending.append(PreparedOutput(checkpoint_id, committable))

    def pending(self) -> tuple[PreparedOutput, ...]:
        """Return all that is not known to be committed, oldest first: it goes into the snapshot."""
        return tuple(self._pending)

    def due(self, checkpoint_id: CheckpointId) -> tuple[PreparedOutput, ...]:
        """Return what must be committed now that ``checkpoint_id`` is complete, oldest first.

        Nothing is due for a notification that a later one has overtaken, or that was meant for an
        attempt before this one. Call ``committed`` once the sink has committed it.
        """
        return tuple(output for output in self._pending if output.checkpoint_id <= checkpoint_id)

    def committed(self, checkpoint_id: CheckpointId) -> None:
        """Forget what was due for ``checkpoint_id``; a repeat changes nothing."""
        self._pending = [out for out in self._pending if out.checkpoint_id > checkpoint_id]


class CommitRound:
    """Has every sink task committed the checkpoint that is waited for? One per attempt."""

    def __init__(self, sink_tasks: Collection[TaskId]) -> None:
        self._committed = dict.fromkeys(sorted(sink_tasks), CheckpointId(0))
        self._expected: CheckpointId | None = None

    def expect(self, checkpoint_id: CheckpointId) -> None:
        """Wait for ``checkpoint_id``; reports that came before count.

        Raises:
            LocalProtocolError: a later checkpoint is waited for already.
        """
        if self._expected is not None and checkpoint_id < self._expected:
            raise LocalProtocolError(
                f"commits of checkpoint {checkpoint_id} are expected after {self._expected}"
            )
        self._expected = checkpoint_id

    def committed(self, task: TaskId, checkpoint_id: CheckpointId) -> bool:
        """Take the report that a task has committed everything up to ``checkpoint_id``.

        Returns ``is_done``. Reports may come late or twice: the highest counts.

        Raises:
            LocalProtocolError: ``task`` is no sink task.
        """
        if task not in self._committed:
            raise LocalProtocolError(f"task {task}, which is no sink, committed {checkpoint_id}")
        self._committed[task] = max(self._committed[task], checkpoint_id)
        return self.is_done

    @property
    def is_done(self) -> bool:
        """Whether a checkpoint is waited for and every sink task has committed it."""
        return self._expected is not None and not self.missing

    @property
    def missing(self) -> tuple[TaskId, ...]:
        """The sink tasks that have not committed what is waited for, by name."""
        expected = self._expected or CheckpointId(0)
        return tuple(task for task, done in self._committed.items() if done < expected)
