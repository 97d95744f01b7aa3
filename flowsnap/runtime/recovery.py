"""Where an attempt starts from, and where its checkpoints go: the job manager's side of storage."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowsnap.config import JobConfig
from flowsnap.core import manifest as manifests
from flowsnap.core import restore
from flowsnap.core.graph import ExecutionGraph, JobGraph, OperatorKind, build_execution_graph
from flowsnap.core.ids import CheckpointId, OperatorId
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.core.message import TaskAssignment
from flowsnap.core.operator import Sink, Source, Split, Submission
from flowsnap.core.restore import NOTHING, Allowed
from flowsnap.errors import ManifestCorrupt, RestoreError, StorageError
from flowsnap.failpoint import failpoint
from flowsnap.runtime.attempt import CodeBlob, Deployment
from flowsnap.runtime.definition import PipelineDefinition
from flowsnap.runtime.watcher import InvariantCheck
from flowsnap.serialize import code_sha256
from flowsnap.storage import keeping
from flowsnap.storage import savepoint as savepoints
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.object_url import StateDir
from flowsnap.storage.record import Completion
from flowsnap.storage.savepoint import SavepointFiles
from flowsnap.storage.store import CheckpointStore

LOG = logging.getLogger("flowsnap")
LATEST, FRESH = "latest", "fresh"

Wanted = str | int | StateDir
"""What to begin with: "latest", "fresh", the id of a checkpoint, or the place of a savepoint."""


class Recovery:
    """Chooses and hands out checkpoints; ``allowed``: how the pipeline may differ from one."""

    def __init__(
        self,
        directory: JobDirectory,
        definition: PipelineDefinition,
        scratch: Path,
        wanted: Wanted,
        allowed: Allowed = NOTHING,
    ) -> None:
        self.job = definition.graph.name
        self.job_graph: JobGraph = definition.graph
        self._directory = directory
        self._definition = definition
        self._code = CodeBlob("", "")
        self.scratch = scratch
        self._wanted = wanted
        self._allowed = allowed
        self._restored: CheckpointManifest | None = None
        self._newest_before = CheckpointId(0)
        self._durable = CheckpointId(0)  # the newest checkpoint that we know to be
        self._splits: Mapping[OperatorId, Sequence[Split]] = {}
        self.run_id = directory.run_id or ""

    @property
    def invariants(self) -> InvariantCheck | None:
        """What has to hold of every checkpoint, if anything has."""
        return self._definition.invariants

    @property
    def store(self) -> CheckpointStore:
        """Where the files of checkpoints lie."""
        return self._directory.store

    # --- submission ---------------------------------------------------------------------------

    def submit(self) -> None:
        """Choose where to begin, and have sources and sinks check what they are given.

        Raises:
            ConfigError: a source's input or a sink's target is not usable.
            RestoreError: the wanted checkpoint does not exist, or the pipeline does not fit it.
        """
        self._directory.clean_leftovers()
        savepoint = None if isinstance(self._wanted, str | int) else keeping.find(self._wanted)
        self._restored = self._choose() if savepoint is None else savepoint.manifest
        if self._restored is not None:
            self._check(self._restored)
        self._splits = self._enumerate()
        # Whatever does not fit is found before anything is begun, gone back from, or removed.
        self._assign(build_execution_graph(self.job_graph, workers=1))
        self._begin(savepoint)
        origin = self._go_back()
        self._newest_before = max(self._directory.checkpoints(), default=CheckpointId(0))
        for name, sink in self._sinks():
            sink.on_submit(
                Submission(
                    job=self.job,
                    operator=name,
                    job_directory=str(self._directory.root),
                    run_id=self.run_id,
                    is_fresh=self._restored is None,
                    former_run_ids=self._directory.former_run_ids,
                    restored_from=origin,
                )
            )

    def _begin(self, savepoint: SavepointFiles | None) -> None:
        """Begin a run, unless the current one goes on; a savepoint is brought in first."""
        if savepoint is not None:
            size_bytes = manifests.size_bytes(savepoint.manifest)
            LOG.info("bringing in %s, %d bytes", savepoint.path, size_bytes)
            self._restored = savepoints.bring_in(self._directory, savepoint)
            self.run_id = self._directory.run_id
        elif self._restored is None:
            self.run_id = self._directory.begin_run()
        elif self._restored.run_id != self.run_id:
            self.run_id = self._directory.begin_run(after=self._restored.run_id)

    def _go_back(self) -> CheckpointId | None:
        """Give up the checkpoints of the history that the job leaves; return after which one.

        A checkpoint that was brought in follows upon an older one of this job, or upon none, where
        it is another's: what came between is given up, and sinks are told to write it anew.
        """
        if self._restored is None:
            return None
        origin, own = self._restored.origin, self._restored.checkpoint_id
        self._directory.go_back(own if origin is None else origin, but=own)
        return own if origin is None else origin

    def publish_code(self, blob: bytes) -> None:
        """Put the user's code where the workers of this run find it, and nobody else."""
        path = self.scratch / "code.pkl"
        path.write_bytes(blob)
        self._code = CodeBlob(str(path), code_sha256(blob))

    @property
    def restored_from(self) -> CheckpointId | None:
        """The checkpoint that the next attempt begins from."""
        return None if self._restored is None else self._restored.checkpoint_id

    def finish(self) -> None:
        """Tell the sinks that all output is committed."""
        for _, sink in self._sinks():
            sink.on_finish()

    # --- attempts -----------------------------------------------------------------------------

    def begin_attempt(self, graph: ExecutionGraph, config: JobConfig) -> Deployment:
        """Make the next attempt number durable, and return what to deploy.

        Raises:
            StorageError: the store failed, or a newer job manager has taken over.
            RestoreError: no checkpoint can be restored.
        """
        attempt = self._directory.begin_attempt()
        failpoint("rs.attempt_persisted")
        # Asked of the store, not of our memory: a manifest whose outcome was unknown may be there.
        newest = max(self._directory.checkpoints(), default=CheckpointId(0))
        if newest > self._newest_before:
            self._restored = self._directory.read_manifest(newest)
        if self._restored is not None and self._restored.checkpoint_id != self._durable:
            self._directory.secure(self._restored.checkpoint_id)
            self._durable = self._restored.checkpoint_id
        failpoint("rs.manifest_read")
        self._directory.remove_work()  # every task of an older attempt is gone, or fenced
        return Deployment(
            job=self.job,
            run_id=self.run_id,
            attempt=attempt,
            restored_from=self.restored_from,
            next_checkpoint_id=self._directory.next_checkpoint_id(),
            assignments=self._assign(graph),
            job_graph=self.job_graph,
            config=config,
            code=self._code,
            job_directory=self._directory.location,
            socket_directory=self.scratch,
            work_directory=self._directory.work_directory(attempt),
        )

    def _assign(self, graph: ExecutionGraph) -> tuple[TaskAssignment, ...]:
        if self._restored is None:
            return restore.assign_fresh(graph, self.job_graph, self._splits)
        return restore.assign(self._restored, graph, self.job_graph, self._splits)

    # --- checkpoints --------------------------------------------------------------------------

    def reserve(self, checkpoint_id: CheckpointId) -> None:
        """Make an id durable before its barriers are sent."""
        self._directory.reserve_checkpoint(checkpoint_id)

    def write_manifest(self, manifest: CheckpointManifest) -> None:
        """Commit a checkpoint.

        Raises:
            CheckpointError: the manifest cannot be written down.
            StorageError: with ``is_definite`` it is surely not there; without, nobody knows.
        """
        self._directory.write_manifest(manifest)
        self._durable = manifest.checkpoint_id

    def check_savepoint(self, name: str) -> None:
        """Check that a savepoint of this name can be made; an empty name is chosen later.

        Raises:
            ConfigError: it is no name, or there is one already.
        """
        keeping.check_new(self._directory, name)

    def export(self, checkpoint_id: CheckpointId, name: str) -> StateDir:
        """Make a savepoint of a complete checkpoint that is not retired yet; return where it is.

        Raises:
            ConfigError: as ``check_savepoint``.
            RestoreError: there is no such checkpoint.
            StorageError: the disk failed.
        """
        return keeping.export(self._directory, checkpoint_id, name)

    def record_completion(self, completion: Completion) -> None:
        """Record how long the end of a checkpoint took; a failure is only said."""
        try:
            self._directory.record_completion(completion)
        except StorageError as error:
            LOG.warning("the times of %d are lost: %s", completion.checkpoint_id, error)

    def retire(self, retained: int, pending: Sequence[CheckpointId] = ()) -> None:
        """Delete the checkpoints beyond the newest ``retained``, and what only they refer to.

        Raises:
            StorageError: it stopped half-way; the next call goes on.
        """
        self._directory.retire(retained, pending=pending)

    def make_room(self, pending: Sequence[CheckpointId]) -> None:
        """Delete what a checkpoint that has failed has stored.

        Raises:
            StorageError: some of it is still there.
        """
        self._directory.make_room(pending)

    def record_outcome(self, state: str, message: str) -> None:
        """Record how the job ended."""
        self._directory.record_outcome(state, message)

    def close(self) -> None:
        """Release the job's directory, and remove what only this run needed."""
        self._directory.remove_work()
        self._directory.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    # --- choice -------------------------------------------------------------------------------

    def _choose(self) -> CheckpointManifest | None:
        if self._wanted == FRESH:
            return None
        wanted = self._wanted if isinstance(self._wanted, int) else None
        chosen = restore.choose(
            self._candidates(wanted), None if wanted is None else CheckpointId(wanted)
        )
        if chosen is None:
            return None
        manifest = self._directory.read_manifest(chosen)
        if manifest.job != self.job:
            raise RestoreError(
                f"checkpoint {chosen} belongs to job {manifest.job!r}, not to {self.job!r}"
            )
        return manifest

    def _check(self, manifest: CheckpointManifest) -> None:
        restore.check_compatible(manifest, self.job_graph, self._allowed)
        change = restore.difference(manifest, self.job_graph)
        if change.removed:
            LOG.warning("dropped, as allowed: the state of %s", ", ".join(change.removed))
        if change.added:
            LOG.warning("without state, as allowed: %s", ", ".join(change.added))

    def _candidates(self, wanted: int | None) -> list[CheckpointId]:
        """Return the checkpoints of this life of the job, or all when one is asked for by id."""
        found = self._directory.checkpoints()
        if wanted is not None:
            return found
        begun = {self.run_id, *self._directory.former_run_ids}
        while found and (newest := self._newest(found)).run_id not in begun:
            found.pop()  # Of a run that was to begin with a savepoint, and did not come to begin.
        if not found:
            return found
        # Started over and stopped before the first checkpoint: what is here is of a former life.
        return found if newest.run_id == self.run_id else []

    def _newest(self, found: list[CheckpointId]) -> CheckpointManifest:
        try:
            return self._directory.read_manifest(found[-1])
        except ManifestCorrupt as error:
            older = ", ".join(map(str, reversed(found[:-1]))) or "none"
            error.hint(f"older checkpoints that can be restored by number: {older}")
            raise

    def _enumerate(self) -> dict[OperatorId, Sequence[Split]]:
        splits = {}
        for spec in self.job_graph.operators:
            if spec.kind is OperatorKind.SOURCE:
                source = self._definition.code[spec.name]
                assert isinstance(source, Source)
                known = self._known_splits(spec.name)
                splits[spec.name] = source.splits_after(spec.parallelism, known)
        return splits

    def _known_splits(self, source: OperatorId) -> list[tuple[Split, Any]]:
        if self._restored is None:
            return []
        return [
            (Split(position.split, position.payload, position.size), position.position)
            for task in self._restored.tasks
            if task.operators[0] == source
            for position in task.splits
        ]

    def _sinks(self) -> list[tuple[OperatorId, Sink]]:
        found = []
        for spec in self.job_graph.operators:
            template = self._definition.code[spec.name]
            if spec.kind is OperatorKind.SINK and isinstance(template, Sink):
                found.append((spec.name, template))
        return found
