"""What job manager and workers say to each other: msgpack, tagged, with limits; never a pickle.

Every message but the greeting carries the ``attempt``; the driver drops those of an older one
before a machine sees them.
"""

from __future__ import annotations

import msgspec

from flowsnap.config import JobConfig
from flowsnap.core.event_time import WatermarkReport
from flowsnap.core.graph import ExecutionGraph, JobGraph
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId, TaskId, WorkerId
from flowsnap.core.manifest import (
    ChannelState,
    FileHandle,
    OperatorStateValues,
    PreparedOutput,
    SplitPosition,
    StateHandle,
    TaskSnapshot,
)
from flowsnap.core.rounds import RoundReport

MESSAGE_BYTES_MAX = 64 * 2**20


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    attempt: AttemptId


# --- before anything is sent --------------------------------------------------------------------


class WorkerSettings(msgspec.Struct, frozen=True):
    """What the launcher tells a new worker process."""

    worker: WorkerId
    control_directory: str
    token: str
    heartbeat_interval_ms: int
    sys_path: tuple[str, ...]
    working_directory: str
    failpoints: str = ""


# --- worker to job manager -------------------------------------------------------------------


class WorkerReady(_Message, frozen=True, kw_only=True):
    """A worker process is up; ``token`` is the secret it was started with."""

    worker: WorkerId
    token: str
    pid: int


class OperatorMetrics(msgspec.Struct, frozen=True):
    """Totals of one operator in one task since the attempt began."""

    operator: OperatorId
    records_in: int
    records_out: int
    counters: dict[str, int] = {}  # what it counts itself: "late", "retries"


class TaskMetrics(msgspec.Struct, frozen=True):
    """Totals of one task since the attempt began.

    ``waits_for`` names the operator that it is backpressured by.
    """

    task: TaskId
    operators: tuple[OperatorMetrics, ...]
    busy_ms: float
    backpressured_ms: float
    progress_done: int = 0
    progress_total: int = 0
    waits_for: str = ""


class Heartbeat(_Message, frozen=True, kw_only=True):
    """A worker lives; ``steps`` counts the rounds of its loop, which shows that it gets on."""

    worker: WorkerId
    steps: int
    resident_bytes: int = 0


class Progress(_Message, frozen=True, kw_only=True):
    """What the tasks of a worker have done so far."""

    worker: WorkerId
    tasks: tuple[TaskMetrics, ...]
    watermarks: tuple[WatermarkReport, ...] = ()  # of sources that are aligned


class Deployed(_Message, frozen=True, kw_only=True):
    """The worker's tasks have been made and restored, and its channels bound."""

    worker: WorkerId


class Acknowledged(_Message, frozen=True, kw_only=True):
    """A task's part of a checkpoint is durable."""

    checkpoint_id: CheckpointId
    snapshot: TaskSnapshot


class Declined(_Message, frozen=True, kw_only=True):
    """A task could not make its part of a checkpoint."""

    checkpoint_id: CheckpointId
    task: TaskId
    reason: str


class TaskEnded(_Message, frozen=True, kw_only=True):
    """A task has processed the end of its input; it still takes part in checkpoints."""

    task: TaskId


class Committed(_Message, frozen=True, kw_only=True):
    """A task's sink has committed everything up to ``checkpoint_id``."""

    checkpoint_id: CheckpointId
    task: TaskId


class RoundSeen(_Message, frozen=True, kw_only=True):
    """What a task saw in a round that looks whether the loops have come to rest."""

    report: RoundReport


class TaskFailed(_Message, frozen=True, kw_only=True):
    """A task has failed, and with it the attempt. ``traceback`` is the user's own."""

    worker: WorkerId
    task: TaskId | None
    error_type: str
    message: str
    traceback: str = ""
    notes: tuple[str, ...] = ()
    is_restartable: bool = True


class Cancelled(_Message, frozen=True, kw_only=True):
    """The worker has dropped every task of ``attempt``."""

    worker: WorkerId


# --- job manager to worker -------------------------------------------------------------------


class StateAssignment(msgspec.Struct, frozen=True):
    """Keyed state for one task: what in ``handle`` falls into the task's own key groups."""

    task: TaskId  # the task of the old attempt that wrote it
    handle: StateHandle


class TransitAssignment(msgspec.Struct, frozen=True):
    """What was in transit to operators of one task: some channels of one file.

    Of a channel that is partitioned by key only those records are meant whose keys fall into the
    task's key groups; of another one, all.
    """

    file: FileHandle
    channels: tuple[ChannelState, ...]


class TaskAssignment(msgspec.Struct, frozen=True):
    """What one task starts from.

    ``recovered``: the restored checkpoint's prepared outputs of all subtasks, for subtask 0 of a
    sink. ``ended``: the first operators of a task that goes on, if they have had their last output.
    """

    task: TaskId
    is_ended: bool = False
    ended: tuple[OperatorId, ...] = ()
    states: tuple[StateAssignment, ...] = ()
    splits: tuple[SplitPosition, ...] = ()
    recovered: tuple[PreparedOutput, ...] = ()
    operator_states: tuple[OperatorStateValues, ...] = ()
    watermarks: dict[OperatorId, int] = {}  # those that none has yet are left out
    transit: tuple[TransitAssignment, ...] = ()  # to be processed first, in this order


class Deploy(_Message, frozen=True, kw_only=True):
    """Make the tasks of this worker, restore them, bind their channels; answer ``Deployed``."""

    job: str
    run_id: str
    job_graph: JobGraph
    graph: ExecutionGraph
    config: JobConfig
    code_path: str
    code_sha256: str
    job_directory: str  # the root of the checkpoint store
    socket_directory: str  # 0700; the channels' sockets of this attempt
    work_directory: str  # local state of this attempt
    assignments: tuple[TaskAssignment, ...]


class Start(_Message, frozen=True, kw_only=True):
    """Every worker is deployed: connect, and run."""


class TriggerCheckpoint(_Message, frozen=True, kw_only=True):
    """Have ``tasks`` begin a checkpoint, without waiting for its barriers.

    ``is_final``: the sources stop reading at it. ``timeout_ms`` as in ``Barrier``.
    """

    checkpoint_id: CheckpointId
    tasks: frozenset[TaskId]
    is_final: bool = False
    timeout_ms: int | None = None


class LookRound(_Message, frozen=True, kw_only=True):
    """Have the sources and loops look whether they are passive, and send their markers."""

    number: int


class EndOfLoops(_Message, frozen=True, kw_only=True):
    """Nothing goes round any more in ``loops``: the input of these tasks has ended."""

    loops: frozenset[TaskId]


class Drain(_Message, frozen=True, kw_only=True):
    """Have the sources end as if all their input had been read."""


class CompleteCheckpoint(_Message, frozen=True, kw_only=True):
    """A checkpoint is committed; sinks commit everything up to it."""

    checkpoint_id: CheckpointId


class AbortCheckpoint(_Message, frozen=True, kw_only=True):
    """A checkpoint is given up; what was stored for it is no longer needed."""

    checkpoint_id: CheckpointId


class AlignWatermarks(_Message, frozen=True, kw_only=True):
    """How far the groups of aligned sources have come; one not named holds nobody back."""

    minimums: dict[str, int]


class Cancel(_Message, frozen=True, kw_only=True):
    """Drop every task of ``attempt``; answer ``Cancelled``."""


class Shutdown(_Message, frozen=True, kw_only=True):
    """End the process, in order."""


FromWorker = (
    WorkerReady
    | Heartbeat
    | Progress
    | Deployed
    | Acknowledged
    | Declined
    | TaskEnded
    | RoundSeen
    | Committed
    | TaskFailed
    | Cancelled
)
ToWorker = (
    Deploy
    | Start
    | TriggerCheckpoint
    | LookRound
    | EndOfLoops
    | Drain
    | CompleteCheckpoint
    | AbortCheckpoint
    | AlignWatermarks
    | Cancel
    | Shutdown
)
