"""One attempt as the job manager sees it: what was deployed, and the machines that live with it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from flowsnap.config import JobConfig
from flowsnap.core.commit import CommitRound
from flowsnap.core.coordinator import CheckpointCoordinator
from flowsnap.core.event_time import GroupAlignment
from flowsnap.core.graph import ExecutionGraph, JobGraph, OperatorKind
from flowsnap.core.ids import AttemptId, CheckpointId, WorkerId
from flowsnap.core.message import Deploy, TaskAssignment
from flowsnap.runtime.loops import LoopRounds
from flowsnap.runtime.phases import CheckpointTimes
from flowsnap.runtime.progress import AttemptProgress


@dataclass(frozen=True, slots=True)
class CodeBlob:
    """Where the user's code lies for the workers, and what it must hash to."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """Everything that an attempt starts from."""

    job: str
    run_id: str
    attempt: AttemptId
    restored_from: CheckpointId | None
    next_checkpoint_id: CheckpointId
    assignments: tuple[TaskAssignment, ...]
    job_graph: JobGraph
    config: JobConfig
    code: CodeBlob
    job_directory: str
    socket_directory: Path
    work_directory: Path

    def message_for(self, worker: WorkerId, graph: ExecutionGraph) -> Deploy:
        """Return what one worker is told: it gets the assignments of its own tasks only."""
        own = {task.id for task in graph.tasks if task.worker == worker}
        return Deploy(
            attempt=self.attempt,
            job=self.job,
            run_id=self.run_id,
            job_graph=self.job_graph,
            graph=graph,
            config=self.config,
            code_path=self.code.path,
            code_sha256=self.code.sha256,
            job_directory=self.job_directory,
            socket_directory=str(self.socket_directory),
            work_directory=str(self.work_directory),
            assignments=tuple(a for a in self.assignments if a.task in own),
        )


class Attempt:
    """The machines of one attempt."""

    def __init__(self, deployment: Deployment, graph: ExecutionGraph) -> None:
        config = deployment.config
        self.id = deployment.attempt
        self.deployment = deployment
        self.is_started = False
        self.is_final_complete = False
        self.times = CheckpointTimes()
        self.progress = AttemptProgress(deployment.job_graph)
        self.alignment = GroupAlignment(task.worker for task in graph.tasks)
        self.coordinator = CheckpointCoordinator(
            [task.id for task in graph.tasks],
            next_id=deployment.next_checkpoint_id,
            interval_ms=config.checkpoint_interval_ms,
            timeout_ms=config.checkpoint_timeout_ms,
            pause_ms_min=config.checkpoint_pause_ms_min,
            failures_max=config.checkpoint_failures_max,
            concurrent_max=config.checkpoints_concurrent,
        )
        self.loops = LoopRounds(deployment.attempt, graph)
        sinks = {s.name for s in deployment.job_graph.operators if s.kind is OperatorKind.SINK}
        chains = {chain.id for chain in graph.chains if chain.operators[-1] in sinks}
        self.commits = CommitRound([task.id for task in graph.tasks if task.chain in chains])


def versions(flowsnap: str) -> dict[str, str]:
    """Return what a manifest records of the software that wrote it."""
    return {"flowsnap": flowsnap, "python": platform.python_version()}
