"""What a job keeps in its checkpoint store: who it is, its attempts, checkpoints and their files.

Invariants, whatever fails or dies between any two steps:

- a checkpoint is complete if and only if its manifest exists, and then all that the manifest lists
  exists too: files come before the manifest, and a manifest goes before its files;
- attempts and checkpoint ids only ever increase: the record of the highest one is never deleted;
- only names that flowsnap can have written are deleted; anything else in the store is foreign.

One job manager writes; workers only add files (``storage/writer.py``). A second one that gets in
all the same loses at ``begin_attempt`` or is refused at ``write_manifest``.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import suppress

import msgspec

from flowsnap.core import manifest as manifests
from flowsnap.core import retention
from flowsnap.core.ids import AttemptId, CheckpointId
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.errors import (
    ConfigError,
    LocalProtocolError,
    ManifestCorrupt,
    RestoreError,
    StorageError,
)
from flowsnap.failpoint import failpoint
from flowsnap.storage import layout
from flowsnap.storage.publish import create_surely, pass_failpoint, put_surely
from flowsnap.storage.record import (
    AttemptRecord,
    Completion,
    Identity,
    Outcome,
    Reservation,
    seal,
    unseal,
)
from flowsnap.storage.store import CheckpointStore, Step
from flowsnap.storage.verification import Finding, check_listed, verify

ATTEMPTS_KEPT = 20

_FAILPOINTS: dict[Step, str] = {
    "tmp": "jm.manifest_tmp",
    "fsynced": "jm.manifest_fsynced",
    "renamed": "jm.manifest_renamed",
    "dir_fsynced": "jm.dir_fsynced",
}


class JobStore:
    """One job's part of a checkpoint store; ``place`` is where that is, for people.

    Raises:
        ConfigError: the store belongs to another job, or its ``job.json`` is gone.
        ManifestCorrupt: ``job.json`` is damaged, foreign or of another version.
        StorageError: the store failed.
    """

    def __init__(
        self, store: CheckpointStore, job: str, *, place: str = "", is_read_only: bool = False
    ) -> None:
        self.job = job
        self._store = store
        self._place = place
        self._is_read_only = is_read_only
        self._manifests: dict[CheckpointId, CheckpointManifest] = {}
        self._attempt = AttemptId(0)  # the newest that was begun here
        self._is_settled = False  # whether what seems to be deleted is surely gone
        self._identity = self._identify()

    @property
    def store(self) -> CheckpointStore:
        """The store that everything lies in."""
        return self._store

    # --- runs and attempts -----------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """The id of the current run; empty before the first."""
        return self._identity.run_id

    @property
    def former_run_ids(self) -> tuple[str, ...]:
        """The ids of earlier runs, oldest first."""
        return self._identity.former_run_ids

    @property
    def lineage(self) -> tuple[str, ...]:
        """The ids of the runs whose history the current one goes on with, and its own."""
        return tuple(filter(None, (*self._identity.lineage, self.run_id)))

    def begin_run(self, *, after: str = "", first: CheckpointManifest | None = None) -> str:
        """Begin a run that does not go on from the newest checkpoint; return its id.

        ``after``: the run whose history it goes on with, if it does. ``first``: the checkpoint that
        it begins with, which is made one of the new run; it exists before the run does, so that a
        run that is to begin with one never begins without.

        Raises:
            StorageError: it is not recorded, or perhaps not.
        """
        self._check_writable()
        former = tuple(filter(None, (*self.former_run_ids, self.run_id)))
        lineage = self.lineage if after in self.lineage else (after,)
        run_id = secrets.token_hex(4)
        while run_id in former:
            run_id = secrets.token_hex(4)
        if first is not None:
            self._complete(msgspec.structs.replace(first, run_id=run_id))
        identity = msgspec.structs.replace(
            self._identity,
            run_id=run_id,
            former_run_ids=former,
            lineage=lineage if after else (),
        )
        put_surely(self._store, layout.IDENTITY, seal(identity))
        self._identity = identity
        return run_id

    def begin_attempt(self) -> AttemptId:
        """Take the next attempt's number, durably; from now on every older attempt is fenced.

        Raises:
            StorageError: it is not taken, or another job manager was faster.
        """
        self._check_writable()
        begun = self._attempts()
        attempt = AttemptId(max(begun, default=0) + 1)
        record = AttemptRecord(
            attempt=attempt,
            run_id=self.run_id,
            pid=os.getpid(),
            host=socket.gethostname(),
            nonce=secrets.token_hex(8),
            begun_at_ms=_now_ms(),
        )
        if not create_surely(self._store, layout.attempt_path(attempt), seal(record)):
            raise StorageError(f"attempt {attempt} was begun by another job manager").hint(
                "two job managers work on the same job: stop one of them"
            )
        self._attempt = attempt
        # The newest records are enough to go on counting, and to tell who was there.
        with suppress(StorageError):
            for old in sorted(begun)[: max(0, len(begun) + 1 - ATTEMPTS_KEPT)]:
                self._store.delete(layout.attempt_path(old), is_durable=False)
        return attempt

    def newest_attempt(self) -> AttemptId | None:
        """Return the newest attempt that anybody has begun."""
        return max(self._attempts(), default=None)

    # --- making a checkpoint ---------------------------------------------------------------------

    def next_checkpoint_id(self) -> CheckpointId:
        """Return 1 + the highest id that was ever begun, or that any file carries."""
        names = [file.name for file in self._store.list(retention.CHECKPOINTS)]
        shared = [file.name for file in self._store.list(retention.SHARED)]
        seen = [*map(layout.checkpoint_of, names), *map(layout.stored_for, shared)]
        return CheckpointId(max(filter(None, seen), default=0) + 1)

    def reserve_checkpoint(self, checkpoint_id: CheckpointId) -> None:
        """Take an id, durably, before anything is stored for it.

        Raises:
            StorageError: it is not taken, or was before.
        """
        self._check_writable()
        record = Reservation(
            checkpoint_id=checkpoint_id, nonce=secrets.token_hex(8), begun_at_ms=_now_ms()
        )
        if not create_surely(self._store, layout.begun_path(checkpoint_id), seal(record)):
            raise StorageError(f"checkpoint {checkpoint_id} has been begun before")
        pass_failpoint("jm.id_persisted")

    def write_manifest(self, manifest: CheckpointManifest) -> None:
        """Complete a checkpoint: durable on return. To repeat the call is harmless.

        Raises:
            CheckpointError: the manifest cannot be written down.
            StorageError: with ``is_definite`` the checkpoint is not complete and never will be: a
                newer attempt has begun, a listed file is not there, or the store failed. Without,
                nobody knows: delete nothing, and look again.
        """
        self._check_writable()
        if (manifest.job, manifest.run_id) != (self.job, self.run_id):
            raise LocalProtocolError(
                f"checkpoint {manifest.checkpoint_id} is of run {manifest.run_id!r} of "
                f"{manifest.job!r}, not of run {self.run_id!r} of {self.job!r}"
            )
        self._complete(manifest)

    def _complete(self, manifest: CheckpointManifest) -> None:
        data = manifests.encode(manifest)
        self._check_fence(manifest)
        check_listed(self._store, manifest)

        def on_step(step: Step) -> None:
            failpoint(_FAILPOINTS[step])
            if step in {"tmp", "fsynced"}:  # As late as can be: we may have been stopped.
                self._check_fence(manifest)

        path = retention.manifest_path(manifest.checkpoint_id)
        if not create_surely(self._store, path, data, on_step=on_step):
            raise StorageError(
                f"checkpoint {manifest.checkpoint_id} is complete with other content"
            )
        self._manifests[manifest.checkpoint_id] = manifest

    def record_completion(self, completion: Completion) -> None:
        """Record how long the end of a complete checkpoint took; to lose it harms nobody."""
        self._check_writable()
        self._store.put(layout.completion_path(completion.checkpoint_id), seal(completion))

    def completion(self, checkpoint_id: CheckpointId) -> Completion | None:
        """Return what was recorded of a checkpoint's end; None: nothing, or nothing readable."""
        path = layout.completion_path(checkpoint_id)
        try:
            data = self._store.get(path) if self._store.exists(path) else b""
            return unseal(data, Completion, self._source(path)) if data else None
        except (ManifestCorrupt, StorageError):
            return None

    def secure(self, checkpoint_id: CheckpointId) -> None:
        """Make a complete checkpoint durable, whoever wrote it: call it before it is relied upon.

        Its writer may have died, or had no answer, between the name and the sync of the directory.
        What is committed for it now must not be forgotten when the power fails.

        Raises:
            ManifestCorrupt: it has been damaged meanwhile: that is not written anew.
            StorageError: it is not known to be durable.
        """
        self._check_writable()
        path = retention.manifest_path(checkpoint_id)
        data = self._store.get(path)
        manifests.decode(data, path)
        put_surely(self._store, path, data)

    # --- complete checkpoints --------------------------------------------------------------------

    def checkpoints(self) -> list[CheckpointId]:
        """Return the complete checkpoints, ascending."""
        names = [file.name for file in self._store.list(retention.CHECKPOINTS)]
        found = [layout.checkpoint_of(name) for name in names if name.endswith("/manifest.json")]
        return sorted(checkpoint_id for checkpoint_id in found if checkpoint_id is not None)

    def read_manifest(self, checkpoint_id: CheckpointId) -> CheckpointManifest:
        """Return the manifest of a complete checkpoint, verified; the files it lists are not.

        Raises:
            RestoreError: there is no such checkpoint.
            ManifestCorrupt: it is damaged, or the manifest of something else.
            StorageError: it cannot be read.
        """
        path = retention.manifest_path(checkpoint_id)
        if not self._store.exists(path):
            known = ", ".join(map(str, self.checkpoints())) or "none"
            raise RestoreError(f"job {self.job} has no checkpoint {checkpoint_id}").hint(
                f"complete checkpoints: {known}"
            )
        manifest = manifests.decode(self._store.get(path), self._source(path))
        if (manifest.job, manifest.checkpoint_id) != (self.job, checkpoint_id):
            raise ManifestCorrupt(
                f"{self._source(path)} is of checkpoint {manifest.checkpoint_id} of "
                f"{manifest.job!r}, expected {checkpoint_id} of {self.job!r}"
            )
        return manifest

    def latest(self, run_id: str | None = None) -> CheckpointManifest | None:
        """Return the newest complete checkpoint of a run, by default the current one.

        It never falls back to an older one by itself.

        Raises:
            ManifestCorrupt: the newest is damaged; the hint names the older ones.
            StorageError: it cannot be read.
        """
        wanted, complete = self.run_id if run_id is None else run_id, self.checkpoints()
        while complete:
            try:
                manifest = self.read_manifest(complete.pop())
            except ManifestCorrupt as error:
                older = ", ".join(map(str, reversed(complete))) or "none"
                error.hint(f"older checkpoints that can be restored by number: {older}")
                raise
            if manifest.run_id == wanted:
                return manifest
        return None

    # --- deleting --------------------------------------------------------------------------------

    def retire(
        self,
        retained: int,
        *,
        pending: Collection[CheckpointId] = (),
        protected: Collection[CheckpointId] = (),
    ) -> list[str]:
        """Give up all but the newest ``retained`` checkpoints; return what was deleted.

        ``pending``: those under way. All that is stored for them or for a later one stays, and so
        does the checkpoint they build upon. ``protected`` stays too.

        Raises:
            StorageError: it stopped half-way; the next call goes on. Nothing kept is affected.
        """
        self._check_newest()
        complete = self.checkpoints()
        kept = set(protected)
        if pending:
            kept.update(id_ for id_ in complete if id_ >= min(pending))
            kept.update([id_ for id_ in complete if id_ < min(pending)][-1:])
        deleted = []
        for checkpoint_id in retention.retire(complete, retained, kept):
            deleted.append(retention.manifest_path(checkpoint_id))
            self._manifests.pop(checkpoint_id, None)
            was_settled, self._is_settled = self._is_settled, False
            self._store.delete(deleted[-1])
            self._is_settled = was_settled
            pass_failpoint("jm.subsumed_deleted")
        return deleted + list(self._collect(pending))

    def make_room(self, pending: Collection[CheckpointId] = ()) -> list[str]:
        """Delete what checkpoints that came to nothing have stored, but for those ``pending``.

        ``retire`` does so too, but only once one is complete: on a full disk none ever would be.

        Raises:
            StorageError: as ``retire``.
        """
        self._check_newest()
        return list(self._collect(pending))

    def _check_newest(self) -> None:
        self._check_writable()
        newest = self.newest_attempt()
        if newest is not None and newest > self._attempt:
            raise StorageError(f"nothing is deleted: attempt {newest} has begun")

    def go_back(self, checkpoint_id: CheckpointId, *, but: CheckpointId | None = None) -> list[str]:
        """Give up every checkpoint after this one, ``but`` one, durably; return what was deleted.

        Call it before the output of those is removed: one that were taken for the newest at the
        next start would rely on that output.

        Raises:
            StorageError: as ``retire``.
        """
        self._check_writable()
        deleted = []
        for later in [id_ for id_ in self.checkpoints() if id_ > checkpoint_id and id_ != but]:
            self._manifests.pop(later, None)
            deleted.append(retention.manifest_path(later))
            self._store.delete(deleted[-1])
        return deleted

    def clean_leftovers(self) -> list[str]:
        """Delete what earlier lives have left behind; call it before anything is pending.

        Raises:
            StorageError: as ``retire``.
        """
        self._check_writable()
        self._store.delete_temporaries()
        return list(self._collect(()))

    def _collect(self, pending: Collection[CheckpointId]) -> Iterator[str]:
        names = [
            file.name
            for prefix in (retention.CHECKPOINTS, retention.SHARED)
            for file in self._store.list(prefix)
        ]
        try:
            kept = [self._manifest(checkpoint_id) for checkpoint_id in self.checkpoints()]
        except RestoreError:
            # Its files would look like garbage. ``latest`` or ``verify`` reports it.
            return
        self._settle(names)
        spared = list(self._spared(names, pending))
        garbage = retention.collect(kept, spared, [name for name in names if layout.is_ours(name)])
        pass_failpoint("gc.listed")
        for name in garbage:
            self._store.delete(name, is_durable=False)
            pass_failpoint("gc.deleted")
            yield name

    def _settle(self, names: list[str]) -> None:
        """Make it durable that manifests are gone, before what they listed goes.

        Who deleted them may have died, or had no answer, before the directory was synced.
        """
        if self._is_settled:
            return
        complete = set(self.checkpoints())
        for checkpoint_id in sorted(set(filter(None, map(layout.checkpoint_of, names))) - complete):
            self._store.delete(retention.manifest_path(checkpoint_id))
        self._is_settled = True

    def _spared(self, names: list[str], pending: Collection[CheckpointId]) -> Iterator[str]:
        begun = [id_ for name in names if (id_ := layout.checkpoint_of(name)) is not None]
        if begun:
            yield layout.begun_path(max(begun))  # Or its id would be given away again.
        for name in names:
            stored_for = layout.stored_for(name) or layout.checkpoint_of(name)
            if pending and stored_for is not None and stored_for >= min(pending):
                yield name

    def _manifest(self, checkpoint_id: CheckpointId) -> CheckpointManifest:
        if checkpoint_id not in self._manifests:
            self._manifests[checkpoint_id] = self.read_manifest(checkpoint_id)
        return self._manifests[checkpoint_id]

    # --- how it ended, and whether it is whole ---------------------------------------------------

    def record_outcome(self, state: str, message: str = "") -> None:
        """Record how the current run has ended, durably.

        Raises:
            StorageError: it is not recorded, or perhaps not.
        """
        self._check_writable()
        outcome = Outcome(run_id=self.run_id, state=state, message=message, ended_at_ms=_now_ms())
        put_surely(self._store, layout.OUTCOME, seal(outcome))
        pass_failpoint("jm.finish_recorded")

    def outcome(self) -> Outcome | None:
        """Return how the last run that has ended did; its ``run_id`` says which one that was.

        Raises:
            ManifestCorrupt: the record is damaged.
            StorageError: it cannot be read.
        """
        if not self._store.exists(layout.OUTCOME):
            return None
        return unseal(self._store.get(layout.OUTCOME), Outcome, self._source(layout.OUTCOME))

    def verify(self) -> Iterator[Finding]:
        """Read and hash everything, and yield one finding after the other."""
        return verify(self._store)

    # --- inside ----------------------------------------------------------------------------------

    def _identify(self) -> Identity:
        if not self._store.exists(layout.IDENTITY):
            self._begin_identity()
        data = self._store.get(layout.IDENTITY)
        identity = unseal(data, Identity, self._source(layout.IDENTITY))
        if identity.job != self.job:
            raise ConfigError(
                f"{self._source(layout.IDENTITY)} is of job {identity.job!r}, not {self.job!r}"
            ).hint("choose another job name or another state directory")
        return identity

    def _begin_identity(self) -> None:
        if self._is_read_only:
            raise ConfigError(f"there is no job {self.job} in {self._place}")
        for prefix in (layout.ATTEMPTS, retention.CHECKPOINTS, retention.SHARED):
            if files := self._store.list(prefix):
                raise ConfigError(
                    f"{self._source(layout.IDENTITY)} is missing, although there is {files[0].name}"
                ).hint("put job.json back, or choose another state directory")
        identity = Identity(job=self.job, run_id="", former_run_ids=(), created_at_ms=_now_ms())
        put_surely(self._store, layout.IDENTITY, seal(identity))

    def _attempts(self) -> list[AttemptId]:
        found = [layout.attempt_of(file.name) for file in self._store.list(layout.ATTEMPTS)]
        return [attempt for attempt in found if attempt is not None]

    def _check_fence(self, manifest: CheckpointManifest) -> None:
        newest = self.newest_attempt()
        if newest is not None and newest > manifest.attempt:
            raise StorageError(
                f"checkpoint {manifest.checkpoint_id} of attempt {manifest.attempt} is refused: "
                f"attempt {newest} has begun"
            )

    def _check_writable(self) -> None:
        if self._is_read_only:
            raise LocalProtocolError(f"job {self.job} was opened for reading")

    def _source(self, name: str) -> str:
        return f"{self._place}/{name}" if self._place else name


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
