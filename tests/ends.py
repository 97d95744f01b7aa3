"""What the tests of single sources and sinks share: reading one to its end, having one write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.core.operator import Sink, SinkContext, Source, Split, SplitReader, Submission

S = TypeVar("S", bound=Sink)
OUT = OperatorId("out")


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# --- sources ----------------------------------------------------------------------------------


def drain(reader: SplitReader, limit: int = 100) -> Iterator[Any]:
    """Yield the records up to the end."""
    while (batch := reader.read(limit)) is not None:
        yield from batch.values


def rest_of(source: Source, split: Split, position: Any = None, limit: int = 100) -> list[Any]:
    """Return the records of a split from a position on."""
    with closing(source.open_split(split, position)) as reader:
        return list(drain(reader, limit))


def read(source: Source, limit: int = 100) -> list[Any]:
    """Return the records of all splits."""
    return [one for split in source.splits(1) for one in rest_of(source, split, limit=limit)]


def read_in_pieces(source: Source, split: Split, batches: int) -> list[Any]:
    """Return the records of a split, read by a new reader after every few batches."""
    values: list[Any] = []
    position = None
    while True:
        with closing(source.open_split(split, position)) as reader:
            for _ in range(batches):
                batch = reader.read(10)
                if batch is None:
                    return values
                values += batch.values
            position = reader.position()


def await_values(reader: SplitReader, count: int | None = None, limit: int = 3) -> list[Any]:
    """Return so many records, or all up to the end, waiting between two looks as the engine does.

    They come ``limit`` at a time: where ``count`` is no multiple of it there may be more.
    """
    values: list[Any] = []
    while count is None or len(values) < count:
        batch = reader.read(limit)
        if batch is None:
            break
        if not batch.values:
            threading.Event().wait(reader.wait_ms() / 1000)
        values += batch.values
    return values


# --- sinks ------------------------------------------------------------------------------------


def submission(**changes: Any) -> Submission:
    facts = {"job": "job", "operator": OUT, "job_directory": "-", "run_id": "r1", "is_fresh": True}
    return Submission(**{**facts, **changes})


def context(**changes: Any) -> SinkContext:
    facts = {"job": "job", "operator": OUT, "run_id": "r1", "subtask": 0, "parallelism": 1}
    return SinkContext(**{**facts, "attempt": AttemptId(1), **changes})


def submitted(sink: S, **changes: Any) -> S:
    """Return a sink of which its job has been submitted."""
    sink.on_submit(submission(**changes))
    return sink


def opened(sink: S, **changes: Any) -> S:
    """Return a sink that a task has opened."""
    sink.open(context(**changes))
    return sink


def commit(sink: Sink, *batches: list[Any], checkpoint_id: int = 1) -> None:
    """Have a sink write batches, and commit them as a checkpoint."""
    for values in batches:
        sink.write(Batch(values))
    sink.commit([sink.prepare(CheckpointId(checkpoint_id)) or {}])
