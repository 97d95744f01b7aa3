"""Mutants: output that is committed too early, too late, twice or never."""

from __future__ import annotations

from typing import Any

from flowsnap.core import restore
from flowsnap.core.commit import CommitRound, SinkCommits
from flowsnap.core.job import JobMachine
from flowsnap.runtime.sink_output import SinkOutput
from flowsnap.testing.mutants import Patch, mutant
from flowsnap.testing.plan import LOOPS
from flowsnap.testing.sink import Transaction, TransactionalSink


@mutant("C4")
def commit_at_prepare(patch: Patch) -> None:
    """Output is committed when it is prepared, and not when its checkpoint is complete."""
    original = TransactionalSink.prepare

    def prepare(self: TransactionalSink, checkpoint_id: Any) -> Any:
        committable = original(self, checkpoint_id)
        if committable is not None:
            self._commit([committable])
        return committable

    patch.set(TransactionalSink, "prepare", prepare)


@mutant("C3", "C4")
def prepared_output_that_is_not_in_the_snapshot(patch: Patch) -> None:
    """The checkpoint does not say what it promises to commit."""
    patch.set(SinkCommits, "pending", lambda self: ())


@mutant("C3", "C4")
def notification_that_does_not_subsume(patch: Patch) -> None:
    """A notification commits its own checkpoint, and not older ones whose own was lost."""

    def due(self: SinkCommits, checkpoint_id: Any) -> Any:
        return tuple(one for one in self._pending if one.checkpoint_id == checkpoint_id)

    patch.set(SinkCommits, "due", due)


@mutant("C3", "C4")
def restored_output_that_is_not_committed(patch: Patch) -> None:
    """What the restored checkpoint promised to commit is given up instead."""
    patch.set(restore, "_recovered", lambda old, chain, task: ())


@mutant("C12")
def empty_commit_that_is_not_reported(patch: Patch) -> None:
    """A sink that had nothing to commit does not say so, and is waited for."""

    def commit(self: SinkOutput) -> None:
        due = self._commits.due(self._completed[0])
        if due:
            original(self)
        else:
            self._completed.popleft()

    original = SinkOutput._commit
    patch.set(SinkOutput, "_commit", commit)


@mutant("C4")
def last_output_that_nobody_waits_for(patch: Patch) -> None:
    """The job has finished when its last checkpoint is complete, and not when it is committed."""
    patch.set(CommitRound, "is_done", property(lambda self: self._expected is not None))


@mutant("C3", "C4")
def empty_prepare_that_is_not_in_the_snapshot(patch: Patch) -> None:
    """A sink that had nothing to prepare leaves out what it has promised before."""
    add, pending = SinkCommits.add, SinkCommits.pending

    def remember(self: Any, checkpoint_id: Any, committable: Any) -> None:
        self._is_empty = committable is None
        add(self, checkpoint_id, committable)

    def promised(self: Any) -> Any:
        return () if getattr(self, "_is_empty", False) else pending(self)

    patch.set(SinkCommits, "add", remember)
    patch.set(SinkCommits, "pending", promised)


@mutant("C4", needs=LOOPS)
def stop_that_is_taken_for_the_end(patch: Patch) -> None:
    """A job that was stopped has finished if all tasks have ended before its last commit."""
    original = JobMachine._finish
    patch.set(JobMachine, "_finish", lambda self, is_whole: original(self, True))


@mutant("C4")
def transaction_that_is_used_again(patch: Patch) -> None:
    """The id of a transaction does not tell one checkpoint from the next."""

    def prepare(self: TransactionalSink, checkpoint_id: Any) -> Any:
        if not self._written:
            return None
        assert self._actor is not None
        place = self._context
        records, self._written = tuple(self._written), []
        id = f"{place.operator}.{place.subtask}@{place.attempt}"
        self._system.prepare(self._actor, Transaction(id, place.operator, place.attempt, records))
        return {"id": id}

    patch.set(TransactionalSink, "prepare", prepare)


@mutant("C4")
def prepared_output_that_is_left_behind(patch: Patch) -> None:
    """Nobody aborts what an older attempt has prepared for a checkpoint that came to nothing."""
    patch.set(TransactionalSink, "recover", lambda self, committables: self._commit(committables))
