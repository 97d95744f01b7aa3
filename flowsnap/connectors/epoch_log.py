"""The epoch log: exactly-once output into anything with transactions, without prepared ones.

What a sink was given between two barriers lies in the checkpoint (``connectors/epoch_stage.py``).
Once the checkpoint is complete it is applied to the store in one transaction, together with a
marker that says so; a repeat finds the marker and changes nothing. So a commit may be repeated
after a lost answer, after a crash, by another worker, with another parallelism, and late; and no
transaction stays open between a barrier and its checkpoint, which a store could time out.

The marker of an epoch is ``(run, operator, subtask, checkpoint)``: who *wrote* it, never who
commits it. The store keeps, for each run, operator and subtask, the highest checkpoint that it has
applied, and no more. That is enough:

- What one subtask wrote is always applied oldest first: a commit gets all that is due in order, and
  a recovery all that the checkpoint holds, before anything new.
- Checkpoint ids never come twice in a run, also where it goes back to an older checkpoint.
- A job that begins afresh, or from another job's savepoint, is another run: nothing that it
  writes can be taken for written, and what the savepoint holds keeps its former marker.

So of a run that went back, a late commit of the history that was given up is most often below the
mark already. Where it is not, the *fence* stops it: a recovery leaves the number of its attempt in
the store, and an older attempt is refused from then on.

Source: Flink's TwoPhaseCommitSinkFunction and its write-ahead sinks (GenericWriteAheadSink);
Carbone et al. 2017, section 4.2. Deviation: the log lies in the checkpoint, and the marker in the
transaction. Going back to an older checkpoint by hand does not take back what was applied after it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import msgspec

from flowsnap.config import Duration, Size, duration_ms, size_bytes
from flowsnap.connectors.committer import Committer
from flowsnap.connectors.epoch_stage import VERSION, EpochStage, remove_epochs
from flowsnap.connectors.parts import operator_tag, translated
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import Sink, SinkContext, Submission
from flowsnap.errors import ConfigError, LocalProtocolError, OperatorError, StorageError
from flowsnap.failpoint import failpoint

INLINE_BYTES: Size = "64KB"
"""How large an epoch may be and lie in the manifest itself."""

BEHIND_MAX = 2
"""How many epochs may wait for the store before records are held back."""


class EpochMarker(NamedTuple):
    """The identity of an epoch: which output is it, whoever applies it?"""

    run_id: str
    operator: str
    subtask: int
    checkpoint_id: int


class Fence(NamedTuple):
    """Who commits; the store refuses it once a recovery of a later attempt of the run was there."""

    run_id: str
    operator: str
    attempt: int


class EpochLogSink(Sink):
    """A sink whose output is applied in one transaction for each checkpoint and subtask.

    A subclass says how records become rows (``to_rows``) and how rows are applied (``apply``). All
    that talks to the store (``apply``, ``applied``, ``fence``, ``disconnect``) is called on one
    thread that is not the task's; a call that fails with StoreUnavailable is repeated, behind a
    ``disconnect``, until ``retry_timeout`` is over. Anything else that they raise fails the
    attempt, and the checkpoint keeps the rows.

    Raises:
        ConfigError: a setting is wrong.
    """

    def __init__(
        self, *, retry_timeout: Duration = "60s", inline_bytes: Size = INLINE_BYTES
    ) -> None:
        self.retry_timeout_ms = duration_ms(retry_timeout, "retry_timeout")
        self.inline_bytes = size_bytes(inline_bytes, "inline_bytes")
        self._directory = ""
        self._submission: Submission | None = None

    # --- what a subclass says -----------------------------------------------------------------

    row_type: ClassVar[Any] = Any
    """What ``apply`` gets rows as: a type that msgspec decodes."""

    def to_rows(self, values: list[Any]) -> list[Any]:
        """Return what is kept of a batch: plain msgpack values, as many as there are to apply.

        Raises:
            OperatorError: a record is none that the store could take.
        """
        return values

    def apply(self, marker: EpochMarker, rows: Iterator[Any]) -> None:
        """Apply the rows and the marker in one transaction; nothing, if the marker is there.

        Raises:
            StoreUnavailable: the store does not answer; whether it has applied them is unknown.
            OutputRefused: it does not take the rows, and would not at a repeat.
        """
        raise NotImplementedError(f"{type(self).__name__}.apply")

    def applied(self, marker: EpochMarker) -> bool:
        """Return whether the marker, or a later one of the same subtask, is in the store."""
        raise NotImplementedError(f"{type(self).__name__}.applied")

    def kept(self, rows: list[Any]) -> None:
        """Take note of rows that have become part of the epoch."""

    def raise_fence(self) -> None:
        """Have the store refuse attempts before that of ``self.fence``; once in each attempt."""

    def disconnect(self) -> None:
        """Close the connection, if there is one; the next call opens another."""

    def interrupt(self) -> None:
        """Make a call that waits for the store return; called from the thread of the task."""

    # --- what the engine calls ----------------------------------------------------------------

    def on_submit(self, submission: Submission) -> None:
        """Make the directory of the epochs that are too large for the manifest."""
        self._submission = submission
        self._directory = os.path.join(
            os.path.abspath(submission.job_directory), "epochs", operator_tag(submission.operator)
        )
        try:
            os.makedirs(self._directory, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self._directory} cannot be written: {error.strerror}").hint(
                "give a job directory that whoever runs the job may write into"
            ) from error
        if submission.is_fresh:
            remove_epochs(self._directory, submission.former_run_ids)

    def on_finish(self) -> None:
        """Remove what failed attempts have left."""
        if self._submission is not None:
            remove_epochs(self._directory, (self._submission.run_id,))

    def open(self, context: SinkContext) -> None:
        if not self._directory:
            raise LocalProtocolError(
                f"sink {context.operator!r} was copied to a task before it was submitted"
            )
        self.context = context
        self.fence = Fence(context.run_id, context.operator, int(context.attempt))
        self._behind = 0
        self._encode = msgspec.msgpack.Encoder().encode
        self._stage = EpochStage(self._directory, context, self.inline_bytes)
        self._committer = Committer(
            f"{context.operator}-{context.subtask}",
            self.commit_one,
            release=self.disconnect,
            interrupt=self.interrupt,
            retry_timeout_ms=self.retry_timeout_ms,
        )

    def write(self, batch: Batch) -> None:
        """Keep the records as rows of the epoch.

        Raises:
            OperatorError: a record has no form in the store.
            StorageError: the job directory cannot be written.
        """
        if not batch.values:
            return
        rows = self.to_rows(batch.values)
        if not rows:
            return
        try:
            data = self._encode(rows)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self.refused(f"a batch of {len(rows)}", f"cannot be kept: {error}") from error
        self._stage.append(data, len(rows))
        self.kept(rows)

    def prepare(self, checkpoint_id: CheckpointId) -> dict[str, Any] | None:
        """Seal the epoch; None where it is empty."""
        sealed = self._stage.seal()
        if sealed is None:
            return None
        self._behind += 1
        with translated(f"preparing checkpoint {checkpoint_id}"):
            failpoint("sink.prepared")
        marker = EpochMarker(
            self.context.run_id, self.context.operator, self.context.subtask, int(checkpoint_id)
        )
        return {"version": VERSION, "marker": list(marker), **sealed}

    def commit(self, committables: Sequence[Any]) -> bool:
        if not self._committer.is_busy:
            with translated("committing"):
                failpoint("sink.commit_called")
        if not self.commit_all(committables):
            return False
        self._behind = max(0, self._behind - len(committables))
        with translated("committing"):
            failpoint("sink.committed")
        return True

    def commit_all(self, committables: Sequence[Any]) -> bool:
        """Commit, or go on with it; return whether it is done. By default on a thread."""
        return self._committer.commit(committables)

    def can_accept(self) -> bool:
        """Hold records back when the store is more than one checkpoint behind."""
        return self._behind < BEHIND_MAX

    def recover(self, committables: Sequence[Any]) -> None:
        """Shut older attempts out, commit, and remove what they left.

        Raises:
            StoreUnavailable: the store is away: the next attempt tries again.
        """
        self._committer.recover([], self.raise_fence)
        self._committer.recover(committables, self._stage.remove_older)

    def close(self) -> None:
        if hasattr(self, "_committer"):  # Not where an operator before it has failed to open.
            self._committer.close()
            self._stage.close()

    def refused(self, record: str, reason: str) -> OperatorError:
        """Return the error for a record that has no form in the store; without its content."""
        operator, subtask = self.context.operator, self.context.subtask
        return OperatorError(
            f"sink {operator!r}, subtask {subtask}: {record} {reason}",
            operator=operator,
            subtask=subtask,
            record=record,
        )

    def commit_one(self, committable: dict[str, Any]) -> None:
        """Apply an epoch that is not applied yet; on the thread of the commits."""
        if committable.get("version") != VERSION:
            raise StorageError(f"an epoch of version {committable.get('version')!r} is not known")
        marker = EpochMarker(*committable["marker"])
        if not self.applied(marker):
            self.apply(marker, self.rows_of(committable))
        self.discard(committable)

    def rows_of(self, committable: dict[str, Any]) -> Iterator[Any]:
        """Yield the rows of an epoch."""
        return self._stage.read(committable, self.row_type)

    def discard(self, committable: dict[str, Any]) -> None:
        """Remove what is kept of an epoch that has been applied."""
        self._stage.discard(committable)
