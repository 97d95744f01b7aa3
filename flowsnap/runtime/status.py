"""What a running job says of itself: plain values, made by the job manager, read by anyone."""

from __future__ import annotations

import msgspec

from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId


class OperatorStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One operator, summed over its subtasks; totals since the attempt began.

    ``busy_share`` and ``backpressured_share`` are of the last interval, 0 to 1, the mean over the
    subtasks. ``progress_total`` is 0 where the input has no known end.
    """

    name: OperatorId
    type: str
    parallelism: int
    records_in: int = 0
    records_out: int = 0
    records_in_per_s: float = 0.0
    records_out_per_s: float = 0.0
    busy_share: float = 0.0
    backpressured_share: float = 0.0
    progress_done: int = 0
    progress_total: int = 0
    waits_for: str = ""
    counters: dict[str, int] = {}  # what it counts itself, as far as it is not zero


class CheckpointStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One completed checkpoint."""

    checkpoint_id: CheckpointId
    duration_ms: int
    size_bytes: int
    new_bytes: int


class JobStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A job at one moment. ``state`` is one of ``core.job.JobState``."""

    job: str
    state: str
    attempt: AttemptId
    workers: int
    uptime_ms: int
    restored_from: CheckpointId | None = None
    operators: tuple[OperatorStatus, ...] = ()
    last_checkpoint: CheckpointStatus | None = None
    pending_checkpoint: CheckpointId | None = None
    checkpoints_completed: int = 0
    checkpoints_failed: int = 0
    failures: tuple[str, ...] = ()


class JobResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended: "finished", "stopped" (with a last checkpoint) or "cancelled"."""

    job: str
    state: str
    attempts: int
    restored_from: CheckpointId | None
    last_checkpoint: CheckpointId | None
    duration_ms: int
    running_ms: int  # from the first record of the first attempt to the end
    failures: tuple[str, ...] = ()
    savepoint: str | None = None  # the directory of the one that ``JobHandle.stop`` asked for
