"""Sinks driven by hand, without faults: see ``tests/contract/sinks.py`` for those."""

from __future__ import annotations

import copy
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.core.operator import Sink, SinkContext, Submission
from flowsnap.serialize import dump, load

Any_ = TypeVar("Any_", bound=Sink)


def submitted(sink: Any_, directory: Path, restored_from: int | None = None) -> Any_:
    """Submit a sink for a job in a directory, afresh or from a checkpoint; return it."""
    sink.on_submit(
        Submission(
            job="job",
            operator=OperatorId("out"),
            job_directory=str(directory),
            run_id="run",
            is_fresh=restored_from is None,
            restored_from=None if restored_from is None else CheckpointId(restored_from),
        )
    )
    return sink


def opened(sink: Any_, attempt: int = 1) -> Any_:
    """Return a copy of a sink as a task has it."""
    task: Any_ = copy.copy(load(dump(sink)))
    task.open(
        SinkContext(
            job="job",
            run_id="run",
            operator=OperatorId("out"),
            subtask=0,
            parallelism=1,
            attempt=AttemptId(attempt),
        )
    )
    return task


def committed(sink: Sink, *epochs: list[Any]) -> None:
    """Write epochs and commit each."""
    numbers = count(1)
    with closing(opened(sink)) as task:
        task.recover([])
        for epoch in epochs:
            task.write(Batch(epoch))
            committable = task.prepare(CheckpointId(next(numbers)))
            while committable and task.commit([committable]) is False:
                pass
