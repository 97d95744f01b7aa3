"""Making a savepoint: of plain data, or of a snapshot with some of its state changed.

So a job can begin with the state that another system had, and state can be renamed, rewritten or
dropped between two versions of a job::

    SavepointBuilder.new(pipeline).add_state("accounts", "balance", {"ada": 100}).write("start")

    with Snapshot.open("state/bank") as snapshot:
        changed = SavepointBuilder.of(snapshot).rename_state("accounts", "sum", "balance")
        changed.write("renamed")

Source: Flink's State Processor API, ``SavepointWriter``.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Protocol, Self, get_args

import msgspec

from flowsnap import __version__
from flowsnap.core.graph import JobGraph, OperatorKind, build_execution_graph
from flowsnap.core.ids import AttemptId, CheckpointId, OperatorId
from flowsnap.core.manifest import (
    CheckpointManifest,
    OperatorStateValues,
    SplitPosition,
    TableSpec,
    TaskSnapshot,
)
from flowsnap.errors import ConfigError
from flowsnap.runtime.attempt import versions
from flowsnap.runtime.definition import PipelineDefinition
from flowsnap.serialize import dump
from flowsnap.snapshot import parts
from flowsnap.snapshot.rewriting import Rewriting, Rewritten
from flowsnap.snapshot.snapshot import Snapshot
from flowsnap.storage import keeping
from flowsnap.storage.object_url import as_state_dir

Kind = Literal["value", "list", "map", "reducing", "aggregating"]
OperatorStateKind = Literal["list", "union", "broadcast"]
Identity = tuple[str, str]
Items = Mapping[Any, Any] | Iterable[tuple[Any, Any]]


class Defined(Protocol):
    """A pipeline."""

    def definition(self, parallelism: int = 1) -> PipelineDefinition:
        """Return what is submitted; see ``Pipeline.definition``."""


@dataclass(frozen=True, slots=True)
class NewState:
    """A state that is added; the items are read when the savepoint is written."""

    spec: TableSpec
    items: Items

    def rows(self) -> Iterator[tuple[Any, Any, Any]]:
        """Yield key, entry (None unless it is a map), and value."""
        pairs = self.items.items() if isinstance(self.items, Mapping) else self.items
        for key, value in pairs:
            if self.spec.kind == "map":
                yield from ((key, entry, own) for entry, own in value.items())
            elif self.spec.kind != "list" or value:  # An empty list is no state.
                yield key, None, list(value) if self.spec.kind == "list" else value


class SavepointBuilder:
    """Collects what a savepoint is to hold; ``write`` makes it. Made by ``new`` and ``of``.

    Its methods answer the builder itself. Nothing is read or written before ``write``.
    """

    def __init__(self, manifest: CheckpointManifest, snapshot: Snapshot | None) -> None:
        self._manifest = manifest
        self._snapshot = snapshot
        self._rewritten: dict[Identity, Rewritten] = {}
        self._new: dict[Identity, NewState] = {}
        self._names: dict[str, str] = {}

    @classmethod
    def new(cls, pipeline: Defined | JobGraph, *, parallelism: int = 1) -> Self:
        """Return a builder for a pipeline that has no state as yet; its sources begin anew.

        Raises:
            ConfigError: the pipeline is not complete.
        """
        if isinstance(pipeline, JobGraph):
            graph = pipeline
        else:
            graph = pipeline.definition(parallelism).graph
        running = build_execution_graph(graph, 0)
        tasks = tuple(
            TaskSnapshot(task.id, running.chains[task.chain].operators, task.subtask)
            for task in running.tasks
        )
        manifest = CheckpointManifest(
            job=graph.name,
            run_id=secrets.token_hex(4),
            checkpoint_id=CheckpointId(1),
            attempt=AttemptId(1),
            kind="savepoint",
            graph=graph,
            tasks=tasks,
            triggered_at_ms=time.time_ns() // 1_000_000,
            duration_ms=0,
            versions=versions(__version__),
        )
        return cls(manifest, None)

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        """Return a builder that begins with all that is in ``snapshot``, which stays open."""
        return cls(msgspec.structs.replace(snapshot.manifest, kind="savepoint"), snapshot)

    # --- keyed state -----------------------------------------------------------------------------

    def add_state(
        self, operator: str, name: str, items: Items, *, kind: Kind = "value", version: int = 1
    ) -> Self:
        """Add a keyed state with these keys and values; of a map, a value is a dict of its entries.

        The name is the one that the operator asks for its state by; ``flowsnap inspect`` tells
        those of a running job.

        Raises:
            ConfigError: there is no such operator, it is not keyed, or has such a state already.
        """
        self._check_operator(operator)
        spec = next(spec for spec in self._manifest.graph.operators if spec.name == operator)
        if not spec.is_keyed:
            raise ConfigError(f"operator {operator!r} is not keyed, so it has no keyed state")
        if kind not in get_args(Kind):
            raise ConfigError(f"state {name!r} of operator {operator!r}: there is no kind {kind!r}")
        self._check_free(operator, name)
        number = 1 + max((table.state_id for table in self._tables()), default=-1)
        table = TableSpec(number + len(self._new), OperatorId(operator), name, kind, version)
        self._new[operator, name] = NewState(table, items)
        return self

    def rename_state(self, operator: str, old: str, new: str) -> Self:
        """Give a keyed state another name.

        Raises:
            ConfigError: there is no such state, or one of the new name already.
        """
        change = self._change(operator, old)
        self._check_free(operator, new)
        change.name = new
        return self

    def delete_state(self, operator: str, name: str) -> Self:
        """Leave a keyed state out.

        Raises:
            ConfigError: there is no such state.
        """
        self._change(operator, name).is_deleted = True
        return self

    def transform_state(
        self, operator: str, name: str, function: Callable[..., Any], *, version: int | None = None
    ) -> Self:
        """Replace every value of a keyed state by ``function(key, value)``.

        Of a map it is ``function(key, entry, value)``. ``MISSING`` (of this package) drops the key
        or entry. ``version``: of the new values' schema. Values of the job's own classes can only
        be transformed in a snapshot that was opened with ``trust=True``.

        Raises:
            ConfigError: there is no such state.
        """
        change = self._change(operator, name)
        change.function, change.version = function, version
        return self

    # --- other state -----------------------------------------------------------------------------

    def set_operator_state(
        self,
        operator: str,
        name: str,
        values: Iterable[Any],
        *,
        kind: OperatorStateKind = "list",
    ) -> Self:
        """Set a non-keyed state; the values are dealt out when the job begins with the savepoint.

        Raises:
            ConfigError: there is no such operator.
        """
        self._check_operator(operator)
        own = OperatorStateValues(OperatorId(operator), name, kind, tuple(map(dump, values)))
        tasks = []
        for task in self._manifest.tasks:
            kept = [s for s in task.operator_states if (s.operator, s.name) != (operator, name)]
            if operator in task.operators and (task.subtask == 0 or kind == "broadcast"):
                kept.append(own)
            tasks.append(msgspec.structs.replace(task, operator_states=tuple(kept)))
        return self._with(tasks)

    def set_position(
        self,
        source: str,
        split: str,
        position: Any,
        *,
        payload: dict[str, Any] | None = None,
        is_finished: bool = False,
    ) -> Self:
        """Have a source go on with one of its splits at ``position``.

        Raises:
            ConfigError: there is no such source.
        """
        graph = self._manifest.graph
        known = [spec.name for spec in graph.operators if spec.kind is OperatorKind.SOURCE]
        parts.check_known("source", source, known, self._where())
        former = [p for t in self._of_source(source) for p in t.splits if p.split == split]
        given = former[0] if former else SplitPosition(split, {}, None, None, is_finished)
        own = msgspec.structs.replace(
            given,
            position=position,
            is_finished=is_finished,
            payload=given.payload if payload is None else payload,
            watermark_ms=None,
        )
        tasks = []
        for task in self._manifest.tasks:
            kept = [p for p in task.splits if task.operators[0] != source or p.split != split]
            if task.operators[0] == source and task.subtask == 0:
                kept.append(own)
            tasks.append(msgspec.structs.replace(task, splits=tuple(kept)))
        return self._with(tasks)

    def rename_operator(self, old: str, new: str) -> Self:
        """Give an operator another name, under which the job will find what belongs to it.

        The other methods of this builder know it by the old one.

        Raises:
            ConfigError: there is no such operator, or one of the new name already.
        """
        self._check_operator(old)
        specs = self._manifest.graph.operators
        if new in {self._names.get(spec.name, spec.name) for spec in specs}:
            raise ConfigError(f"{self._where()} has an operator {new!r} already")
        self._names[old] = new
        return self

    # --- writing ---------------------------------------------------------------------------------

    def write(self, path: str | Path) -> CheckpointManifest:
        """Write the savepoint to ``path``, durably, and return its manifest.

        ``path`` is a directory that is made, or a URL of object storage.

        Raises:
            ConfigError: there is something at ``path``, or an operator's new name is none.
            StateError: a key or value cannot be stored, or the disk refuses.
            OperatorError: a function of ``transform_state`` has raised.
            ManifestCorrupt: a file of the snapshot is damaged.
            StorageError: it was not written.
        """
        new = list(self._new.values())
        rewriting = Rewriting(self._manifest, self._snapshot, self._rewritten, new)
        place = as_state_dir(path)
        if isinstance(place, Path):
            return rewriting.write(place, self._names)
        keeping.check_target(place)
        with tempfile.TemporaryDirectory(prefix="flowsnap-") as scratch:
            manifest = rewriting.write(Path(scratch) / "savepoint", self._names)
            keeping.copy(keeping.find(Path(scratch) / "savepoint"), place)
        return manifest

    def _with(self, tasks: list[TaskSnapshot]) -> Self:
        self._manifest = msgspec.structs.replace(self._manifest, tasks=tuple(tasks))
        return self

    def _of_source(self, source: str) -> list[TaskSnapshot]:
        return [task for task in self._manifest.tasks if task.operators[0] == source]

    def _tables(self) -> Iterator[TableSpec]:
        states = (task.state for task in self._manifest.tasks if task.state is not None)
        return chain.from_iterable(state.tables for state in states)

    def _change(self, operator: str, name: str) -> Rewritten:
        self._check_operator(operator)
        known = {table.name for table in self._tables() if table.operator == operator}
        parts.check_known("keyed state", name, known, f"operator {operator!r}")
        return self._rewritten.setdefault((operator, name), Rewritten(name))

    def _check_free(self, operator: str, name: str) -> None:
        taken = {
            change.name if (change := self._rewritten.get((operator, table.name))) else table.name
            for table in self._tables()
            if table.operator == operator
            and not ((c := self._rewritten.get((operator, table.name))) and c.is_deleted)
        } | {known for owner, known in self._new if owner == operator}
        if name in taken:
            raise ConfigError(f"operator {operator!r} has a state {name!r} already").hint(
                "delete or rename that one first"
            )

    def _check_operator(self, name: str) -> None:
        known = [spec.name for spec in self._manifest.graph.operators]
        parts.check_known("operator", name, known, self._where())

    def _where(self) -> str:
        return f"job {self._manifest.job!r}"
