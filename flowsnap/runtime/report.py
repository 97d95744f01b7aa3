"""Keeps the status of a job up to date for whoever asks, and sums it up at the end."""

from __future__ import annotations

from flowsnap.core import job as life
from flowsnap.core import manifest as manifests
from flowsnap.core.graph import JobGraph
from flowsnap.core.ids import AttemptId, CheckpointId
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.runtime.attempt import Attempt
from flowsnap.runtime.progress import AttemptProgress
from flowsnap.runtime.status import CheckpointStatus, JobResult, JobStatus

UPDATE_INTERVAL_MS = 100


class Report:
    """What the job manager knows, as plain values; ``status`` may be read from any thread."""

    def __init__(self, graph: JobGraph, workers: int, now_ms: int) -> None:
        self._graph = graph
        self._workers = workers
        self._submitted_ms = now_ms
        self._started_ms: int | None = None
        self._updated_ms = now_ms - UPDATE_INTERVAL_MS
        self._last: CheckpointStatus | None = None
        self._pending: CheckpointId | None = None
        self._completed = 0
        self._failed = 0
        self._none = AttemptProgress(graph)
        self.status = JobStatus(
            job=graph.name,
            state=life.JobState.CREATED,
            attempt=AttemptId(0),
            workers=workers,
            uptime_ms=0,
        )

    def started(self, now_ms: int) -> None:
        """The tasks of an attempt begin to run."""
        self._started_ms = now_ms if self._started_ms is None else self._started_ms
        self._pending = None

    def checkpoint_pending(self, checkpoint_id: CheckpointId) -> None:
        """A checkpoint has been triggered."""
        self._pending = checkpoint_id

    def checkpoint_failed(self) -> None:
        """The pending checkpoint has been given up."""
        self._pending = None
        self._failed += 1

    def checkpoint_completed(self, manifest: CheckpointManifest) -> None:
        """The pending checkpoint is committed."""
        self._pending = None
        self._completed += 1
        self._last = CheckpointStatus(
            checkpoint_id=manifest.checkpoint_id,
            duration_ms=manifest.duration_ms,
            size_bytes=manifests.size_bytes(manifest),
            new_bytes=manifests.new_bytes(manifest),
        )

    def describe_last_checkpoint(self) -> str:
        """Return one line for the log."""
        last = self._last
        if last is None:
            return "no checkpoint yet"
        return (
            f"checkpoint {last.checkpoint_id} completed in {last.duration_ms} ms, "
            f"{last.size_bytes} bytes, {last.new_bytes} new"
        )

    def update(self, now_ms: int, machine: life.JobMachine, attempt: Attempt | None) -> None:
        """Make the status anew, if it is old or the job's state has changed."""
        is_changed = machine.state != self.status.state
        if now_ms - self._updated_ms < UPDATE_INTERVAL_MS and not is_changed:
            return
        self._updated_ms = now_ms
        progress = self._none if attempt is None else attempt.progress
        self.status = JobStatus(
            job=self._graph.name,
            state=machine.state,
            attempt=AttemptId(0) if attempt is None else attempt.id,
            workers=self._workers,
            uptime_ms=now_ms - self._submitted_ms,
            restored_from=None if attempt is None else attempt.deployment.restored_from,
            operators=progress.operators(now_ms),
            last_checkpoint=self._last,
            pending_checkpoint=self._pending,
            checkpoints_completed=self._completed,
            checkpoints_failed=self._failed,
            failures=machine.failures,
        )

    def result(self, machine: life.JobMachine) -> JobResult:
        """Return how the job ended; call it right after it has."""
        started_ms = self._submitted_ms if self._started_ms is None else self._started_ms
        ended_ms = self._submitted_ms + self.status.uptime_ms
        return JobResult(
            job=self._graph.name,
            state=machine.state,
            attempts=len(machine.failures) + 1,
            restored_from=self.status.restored_from,
            last_checkpoint=None if self._last is None else self._last.checkpoint_id,
            duration_ms=ended_ms - self._submitted_ms,
            running_ms=max(0, ended_ms - started_ms),
            failures=machine.failures,
        )
