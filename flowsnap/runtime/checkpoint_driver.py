"""Carries out what the checkpoint coordinator of an attempt decides."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from flowsnap import __version__
from flowsnap.config import JobConfig
from flowsnap.core import coordinator as checkpoints
from flowsnap.core import job as life
from flowsnap.core import requests, restore
from flowsnap.core.graph import ExecutionGraph
from flowsnap.core.ids import CheckpointId
from flowsnap.core.initiation import Initiation
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.core.message import (
    AbortCheckpoint,
    Acknowledged,
    Committed,
    CompleteCheckpoint,
    Declined,
    Drain,
    FromWorker,
    ToWorker,
    TriggerCheckpoint,
)
from flowsnap.errors import CheckpointError, StorageError
from flowsnap.failpoint import failpoint
from flowsnap.runtime.asked import AskedCheckpoints
from flowsnap.runtime.attempt import Attempt, versions
from flowsnap.runtime.clock import Clock
from flowsnap.runtime.recovery import Recovery
from flowsnap.runtime.report import Report
from flowsnap.runtime.watcher import InvariantWatch

LOG = logging.getLogger("flowsnap")


@dataclass(frozen=True, slots=True)
class Means:
    """What the driver acts with: those of its job manager.

    ``queue`` has something done once all actions of the event before have been carried out;
    ``feed`` tells the job machine, ``tell`` every worker, ``answer`` whoever has asked for
    something; ``attempt`` returns the current attempt.
    """

    clock: Clock
    config: JobConfig
    graph: ExecutionGraph
    recovery: Recovery
    report: Report
    watch: InvariantWatch
    attempt: Callable[[], Attempt | None]
    queue: Callable[[Callable[[], None]], None]
    feed: Callable[[life.Event], None]
    tell: Callable[[ToWorker], None]
    answer: Callable[[requests.Event], None]


class CheckpointDriver:
    """The checkpoints of one job, attempt after attempt."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._initiation = Initiation(means.graph)
        self._asked = AskedCheckpoints()
        self._uncommitted: deque[requests.Completed] = deque()
        self._is_whole = False  # the final checkpoint: it holds the end of every task

    def request(self, wish: checkpoints.Wish) -> Future[CheckpointId]:
        """Ask for a checkpoint, from any thread; its id comes when it is complete."""
        return self._asked.ask(wish)

    def close(self) -> None:
        """Tell whoever has asked for a checkpoint that none will come."""
        self._asked.fail("the job has ended")

    def coordinate(self, event: checkpoints.Event) -> None:
        """Give an event to the coordinator, and do what it wants."""
        self._means.queue(lambda: self._handle(event))

    def take(self, message: FromWorker, attempt: Attempt) -> None:
        """Take what a worker says of a checkpoint."""
        match message:
            case Acknowledged(checkpoint_id=checkpoint_id, snapshot=snapshot):
                failpoint("jm.ack")
                self.coordinate(checkpoints.TaskAcknowledged(checkpoint_id, snapshot))
            case Declined(checkpoint_id=checkpoint_id, task=task, reason=reason):
                self.coordinate(checkpoints.TaskDeclined(checkpoint_id, task, reason))
            case Committed():
                self._committed(message, attempt)
            case _:
                pass  # Every other kind has been taken before.

    def step(self) -> None:
        """Take what was asked for, and go on with manifests that have been checked meanwhile."""
        for wish in self._asked.take():
            self.coordinate(checkpoints.TriggerRequested(wish))
        for manifest, why_fatal in self._means.watch.checked():
            attempt = self._means.attempt()
            if attempt is None or attempt.id != manifest.attempt or not attempt.is_started:
                continue  # The attempt has failed meanwhile: so has the checkpoint.
            if not why_fatal:
                self._write(manifest, attempt)
                continue
            why = f"checkpoint {manifest.checkpoint_id} is not committed: {why_fatal}"
            self._means.feed(life.AttemptFailed(why, False, None))

    def _handle(self, event: checkpoints.Event) -> None:
        attempt = self._means.attempt()
        if attempt is None or not attempt.is_started:
            return
        now_ms = self._means.clock.now_ms()
        if isinstance(event, checkpoints.Started):
            self._asked.start()
            self._uncommitted.clear()
        for action in attempt.coordinator.handle(event, now_ms):
            LOG.debug("%s: %s", type(event).__name__, type(action).__name__)
            self._carry_out(action, attempt)

    def _carry_out(self, action: checkpoints.Action, attempt: Attempt) -> None:
        match action:
            case checkpoints.InjectBarriers(checkpoint_id, wish):
                self._inject(checkpoint_id, wish, attempt)
            case checkpoints.DrainSources():
                self._means.tell(Drain(attempt=attempt.id))
            case checkpoints.WriteManifest():
                self._conclude(action, attempt)
            case checkpoints.NotifyComplete(checkpoint_id, kind):
                self._notify(checkpoint_id, kind, attempt)
            case checkpoints.Abort(checkpoint_id, reason):
                LOG.warning("checkpoint %d aborted: %s", checkpoint_id, reason)
                self._means.report.checkpoint_failed()
                abort = AbortCheckpoint(attempt=attempt.id, checkpoint_id=checkpoint_id)
                self._means.tell(abort)
                self._means.answer(requests.Aborted(checkpoint_id, reason))
                self._asked.aborted(checkpoint_id, reason)
                self._make_room(attempt)
            case checkpoints.FailAttempt(reason):
                self._means.feed(life.AttemptFailed(reason, True, None))

    def _inject(
        self, checkpoint_id: CheckpointId, wish: checkpoints.Wish, attempt: Attempt
    ) -> None:
        means = self._means
        begun = attempt.times.begin(checkpoint_id, means.clock)
        # A savepoint, or what may become one, has nothing in transit: it fits other pipelines too.
        alignment = wish.alignment if wish.kind == "checkpoint" else "aligned"
        timeout_ms = means.config.barrier_timeout_of(alignment)
        self._asked.triggered(checkpoint_id, wish)
        try:
            means.recovery.reserve(checkpoint_id)
        except StorageError as error:
            means.feed(life.AttemptFailed(str(error), True, None))
            return
        means.report.checkpoint_pending(checkpoint_id)
        means.answer(requests.Triggered(checkpoint_id, is_aligned=timeout_ms is None))
        means.tell(
            TriggerCheckpoint(
                attempt=attempt.id,
                checkpoint_id=checkpoint_id,
                tasks=self._initiation.tasks(wish.initiators, is_unaligned=timeout_ms == 0),
                is_final=wish.is_final,
                timeout_ms=timeout_ms,
            )
        )
        begun.triggered(means.clock)
        failpoint("jm.triggered")

    def _conclude(self, action: checkpoints.WriteManifest, attempt: Attempt) -> None:
        if operator := restore.ended_in_part(action.snapshots, self._means.graph):
            why = f"{operator!r} has ended in some of its subtasks"
            self.coordinate(checkpoints.ManifestFailed(action.checkpoint_id, why))
            return
        phases = attempt.times.of(action.checkpoint_id)
        manifest = CheckpointManifest(
            job=self._means.recovery.job,
            run_id=self._means.recovery.run_id,
            checkpoint_id=action.checkpoint_id,
            attempt=attempt.id,
            kind=action.kind,
            graph=self._means.recovery.job_graph,
            tasks=action.snapshots,
            triggered_at_ms=phases.begun_at_wall_ms,
            trigger_ms=phases.trigger_ms,
            duration_ms=action.duration_ms,
            versions=versions(__version__),
        )
        if not self._means.watch.submit(manifest):
            self._write(manifest, attempt)

    def _write(self, manifest: CheckpointManifest, attempt: Attempt) -> None:
        try:
            self._means.recovery.write_manifest(manifest)
        except (CheckpointError, StorageError) as error:
            if isinstance(error, StorageError) and not error.is_definite:
                # It may be there: no abort and no delete. The next attempt looks what there is.
                self._means.feed(life.AttemptFailed(str(error), True, None))
            else:
                self.coordinate(checkpoints.ManifestFailed(manifest.checkpoint_id, str(error)))
            return
        self._is_whole = all(task.is_ended and not task.channels for task in manifest.tasks)
        attempt.times.of(manifest.checkpoint_id).written(self._means.clock)
        self._means.report.checkpoint_completed(manifest)
        self.coordinate(checkpoints.ManifestWritten(manifest.checkpoint_id))

    def _notify(
        self, checkpoint_id: CheckpointId, kind: checkpoints.CheckpointKind, attempt: Attempt
    ) -> None:
        means = self._means
        LOG.info("%s", means.report.describe_last_checkpoint())
        attempt.commits.expect(checkpoint_id)
        attempt.is_final_complete = kind == "final"
        means.tell(CompleteCheckpoint(attempt=attempt.id, checkpoint_id=checkpoint_id))
        failpoint("jm.notify_sent")
        self._asked.completed(checkpoint_id, is_final=kind == "final")
        told = requests.Completed(checkpoint_id, attempt.is_final_complete)
        if told.is_final:
            means.answer(told)
        else:  # A savepoint holds no output that is yet to be committed.
            self._uncommitted.append(told)
        try:
            # Of those whose output is yet to be committed a savepoint may still be made.
            retained = max(means.config.checkpoints_retained, len(self._uncommitted))
            means.recovery.retire(retained, _pending(attempt))
        except StorageError as error:
            LOG.warning("older checkpoints are still there: %s", error)

    def _make_room(self, attempt: Attempt) -> None:
        """On a disk full of what failed checkpoints have stored none would complete again."""
        try:
            self._means.recovery.make_room(_pending(attempt))
        except StorageError as error:
            LOG.warning("files of a failed checkpoint are still there: %s", error)

    def _committed(self, message: Committed, attempt: Attempt) -> None:
        if not attempt.commits.committed(message.task, message.checkpoint_id):
            return
        while self._uncommitted and self._uncommitted[0].checkpoint_id <= message.checkpoint_id:
            self._means.answer(self._uncommitted.popleft())
        if completion := attempt.times.committed(message.checkpoint_id, self._means.clock):
            self._means.recovery.record_completion(completion)
        # Not started any more: the last word of a worker that died, while we start anew.
        if attempt.is_final_complete and attempt.is_started:
            self._means.feed(life.FinalCommitted(self._is_whole))


def _pending(attempt: Attempt) -> list[CheckpointId]:
    return [one.checkpoint_id for one in attempt.coordinator.all_pending]
