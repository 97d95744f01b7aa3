"""Graphs and checkpoints for tests: small, whole, and changed where a test wants them changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from flowsnap.core.graph import (
    EdgeSpec,
    JobGraph,
    OperatorKind,
    OperatorSpec,
    Partitioning,
    build_execution_graph,
)
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId, TaskId
from flowsnap.core.manifest import (
    CheckpointManifest,
    FileHandle,
    SplitPosition,
    StateHandle,
    TableSpec,
    TaskSnapshot,
)
from flowsnap.core.operator import Split

LINES, COUNT, OUT = OperatorId("lines"), OperatorId("count"), OperatorId("out")


def words(*, readers: int = 1, counters: int = 1, max_parallelism: int = 128) -> JobGraph:
    """Return source "lines" -> hash -> keyed "count" -> "out": two chains.

    The tag keeps source and counter in two chains where both have one subtask.
    """
    return JobGraph(
        "words",
        (
            OperatorSpec(LINES, OperatorKind.SOURCE, readers, "TextFiles"),
            OperatorSpec(COUNT, OperatorKind.OPERATOR, counters, "Count", is_keyed=True),
            OperatorSpec(OUT, OperatorKind.SINK, counters, "JsonFiles"),
        ),
        (
            EdgeSpec(LINES, COUNT, Partitioning.HASH, tag="all"),
            EdgeSpec(COUNT, OUT, Partitioning.FORWARD),
        ),
        max_parallelism,
    )


def changed(graph: JobGraph, operator: str, **changes: Any) -> JobGraph:
    """Return ``graph`` with one operator changed, its edges following a new name."""

    def end(name: OperatorId) -> OperatorId:
        return OperatorId(changes.get("name", name)) if name == operator else name

    operators = [
        msgspec.structs.replace(spec, **changes) if spec.name == operator else spec
        for spec in graph.operators
    ]
    edges = [
        msgspec.structs.replace(edge, source=end(edge.source), target=end(edge.target))
        for edge in graph.edges
    ]
    return msgspec.structs.replace(graph, operators=tuple(operators), edges=tuple(edges))


def inserted(graph: JobGraph, name: str, *, before: OperatorId, parallelism: int = 1) -> JobGraph:
    """Return ``graph`` with a stateless operator put in front of another, joined to it forward."""
    plain = OperatorSpec(OperatorId(name), OperatorKind.OPERATOR, parallelism, "Map")
    forward = Partitioning.FORWARD if parallelism == 1 else Partitioning.HASH
    edges = [
        msgspec.structs.replace(edge, target=plain.name) if edge.target == before else edge
        for edge in graph.edges
    ]
    edges.append(EdgeSpec(plain.name, before, forward))
    return msgspec.structs.replace(graph, operators=(*graph.operators, plain), edges=tuple(edges))


def checkpoint(
    graph: JobGraph, parts: Mapping[str, Mapping[str, Any]] | None = None, *, number: int = 1
) -> CheckpointManifest:
    """Return a checkpoint of ``graph``; ``parts`` says what the tasks have in it, by task id."""
    running = build_execution_graph(graph, 0)
    tasks = [
        TaskSnapshot(
            task.id,
            running.chains[task.chain].operators,
            task.subtask,
            **(parts or {}).get(task.id, {}),
        )
        for task in running.tasks
    ]
    return CheckpointManifest(
        job=graph.name,
        run_id="run-1",
        checkpoint_id=CheckpointId(number),
        attempt=AttemptId(1),
        graph=graph,
        tasks=tuple(tasks),
        triggered_at_ms=1_700_000_000_000,
        duration_ms=12,
        versions={"flowsnap": "0.1.0", "python": "3.11.9"},
    )


def file(name: str, *, path: str = "", size_bytes: int = 100) -> FileHandle:
    """Return a stored file; its hash follows from its name."""
    return FileHandle(name, path or f"shared/{name}", size_bytes, f"{hash_of(name)}")


def hash_of(name: str) -> str:
    """Return something that looks like a sha256 and depends on ``name`` alone."""
    return name.encode().hex().ljust(64, "0")[:64]


def keyed_state(
    start: int, end: int, *names: str, operators: Iterable[str] = (COUNT,)
) -> StateHandle:
    """Return keyed state of the key groups ``[start, end)`` in the files ``names``."""
    tables = [
        TableSpec(number, OperatorId(operator), "counts", "value")
        for number, operator in enumerate(operators)
    ]
    return StateHandle((start, end), tuple(tables), tuple(file(name) for name in names))


def at(split: str, position: Any = None, *, is_finished: bool = False) -> SplitPosition:
    """Return how far a split has been read."""
    return SplitPosition(split, {"path": split}, 10, position, is_finished)


def split(name: str) -> Split:
    """Return a split as a source finds it."""
    return Split(name, {"path": name}, 10)


def found(*names: str) -> dict[OperatorId, list[Split]]:
    """Return what the source "lines" finds."""
    return {LINES: [split(name) for name in names]}


def task(name: str) -> TaskId:
    """Return a task id from its text."""
    return TaskId(name)
