"""Makes snapshots durable between batches: the state in slices, then the files in a helper thread.

The loop's thread owns the state, so it writes the rows, at most some milliseconds at a time.
Hashing and storing finished files releases the GIL and touches nothing of the task, so a helper
thread does it. A file that a committed checkpoint of this attempt already holds is not stored
again.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from flowsnap.core.ids import CheckpointId, TaskId
from flowsnap.core.manifest import FileHandle, SnapshotTimes, StateHandle, TaskSnapshot
from flowsnap.core.registry import SharedFiles
from flowsnap.errors import StateError, StorageError
from flowsnap.runtime.channel_state import Recording
from flowsnap.runtime.clock import now_ns
from flowsnap.runtime.parts import TakenSnapshot
from flowsnap.state.backend import LocalFile, Persist
from flowsnap.storage.writer import CheckpointWriter


def upload_thread() -> Executor:
    """Return the helper thread that stores finished files."""
    return ThreadPoolExecutor(1, thread_name_prefix="flowsnap-upload")


class SnapshotEvents(Protocol):
    """What becomes of a snapshot."""

    def acknowledge(self, checkpoint_id: CheckpointId, snapshot: TaskSnapshot) -> None:
        """Tell the job manager that the snapshot is durable."""

    def declined(self, task: TaskId, checkpoint_id: CheckpointId, reason: str) -> None:
        """Tell the job manager that it cannot be made durable."""


class Hashes:
    """The sha256 of immutable local files, each read once however many names link to it."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], str] = {}

    def sha256(self, path: Path) -> str:
        """Return the hex sha256 of a finished file.

        Raises:
            StorageError: it cannot be read.
        """
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                inode = (status.st_ino, status.st_size, status.st_mtime_ns)
                if inode not in self._known:
                    self._known[inode] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
        return self._known[inode]


@dataclass(slots=True)
class _Pending:
    snapshot: TakenSnapshot
    started_ns: int
    is_aborted: bool = False
    upload: Future[StateHandle] | None = None
    channels: Future[FileHandle] | None = None


class Snapshotter:
    """Takes snapshots of a worker's tasks from frozen to durable."""

    def __init__(
        self, writer: CheckpointWriter, events: SnapshotEvents, executor: Executor
    ) -> None:
        self._writer = writer
        self._events = events
        self._pool = executor
        self._queue: deque[_Pending] = deque()
        self._uploading: deque[_Pending] = deque()
        self._files: dict[TaskId, SharedFiles] = {}
        self._lock = threading.Lock()  # of the registries, which both threads ask
        self._hashes = Hashes()

    def register(self, task: TaskId, restored: Sequence[FileHandle]) -> None:
        """Begin with what the restored checkpoint holds of this task's very database."""
        self._files[task] = SharedFiles()
        self._files[task].restored(restored)

    def add(self, snapshot: TakenSnapshot) -> None:
        """Make a snapshot durable; it is acknowledged when it is."""
        self._queue.append(_Pending(snapshot, now_ns()))

    def step(self) -> bool:
        """Do one slice of work; return whether more is waiting for the loop's thread."""
        for pending in self._uploading:
            self._begin_channels(pending)
        while self._uploading and self._finished(self._uploading[0]):
            self._acknowledge(self._uploading.popleft())
        if self._queue:
            self._advance(self._queue[0])
        return bool(self._queue)

    @property
    def is_uploading(self) -> bool:
        """Whether the helper thread is at work, so that the loop should look again soon."""
        return any(
            not upload.done()
            for pending in self._uploading
            for upload in (pending.upload, pending.channels)
            if upload is not None
        ) or any(map(self._finished, islice(self._uploading, 1)))

    def abort(self, checkpoint_id: CheckpointId) -> None:
        """Store nothing more for a checkpoint; what is frozen still becomes part of the state."""
        for pending in (*self._queue, *self._uploading):
            if pending.snapshot.checkpoint_id == checkpoint_id:
                pending.is_aborted = True
        with self._lock:
            for files in self._files.values():
                files.abort(checkpoint_id)

    def complete(self, checkpoint_id: CheckpointId) -> None:
        """Reuse from now on what this checkpoint stored."""
        with self._lock:
            for files in self._files.values():
                files.complete(checkpoint_id)

    def close(self) -> None:
        """Wait for the file that is being stored, and drop the rest."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._queue.clear()
        self._uploading.clear()

    def _advance(self, pending: _Pending) -> None:
        persist = pending.snapshot.persist
        try:
            if persist is not None and not persist.step():
                return
        except StateError as error:
            assert persist is not None
            persist.release()  # The rows stay, and go with the next snapshot; its files do not.
            advice = "; ".join(getattr(error, "__notes__", ()))
            self._decline(self._queue.popleft(), f"{error} ({advice})" if advice else str(error))
            return
        self._queue.popleft()
        if persist is not None and pending.is_aborted:
            persist.release()
        elif persist is not None:
            self._begin_upload(pending)
            return
        self._uploading.append(pending)

    def _begin_upload(self, pending: _Pending) -> None:
        pending.upload = self._pool.submit(self._store, pending)
        self._uploading.append(pending)

    def _store(self, pending: _Pending) -> StateHandle:
        """Store what is new; runs in the helper thread and touches nothing of the tasks."""
        persist = pending.snapshot.persist
        assert persist is not None
        try:
            return self._store_files(pending, persist)
        finally:
            persist.release()

    def _store_files(self, pending: _Pending, persist: Persist) -> StateHandle:
        checkpoint_id, task = pending.snapshot.checkpoint_id, pending.snapshot.task
        new_bytes = 0

        def store(file: LocalFile) -> FileHandle:
            nonlocal new_bytes
            if pending.is_aborted:
                raise StorageError(f"checkpoint {checkpoint_id} was given up meanwhile")
            handle = self._reusable(task.id, file)
            if handle is None:
                handle = self._writer.store(checkpoint_id, task.id, file)
                with self._lock:
                    new_bytes += handle.size_bytes
                    if file.is_shared:
                        self._files[task.id].stored(checkpoint_id, handle)
            return handle

        handles = self._writer.each(store, persist.files)
        with self._lock:
            shared = [h for h, f in zip(handles, persist.files, strict=True) if f.is_shared]
            self._files[task.id].used(checkpoint_id, shared)
        return StateHandle(
            key_groups=task.key_groups,
            tables=persist.tables,
            files=tuple(handles),
            new_bytes=new_bytes,
        )

    def _reusable(self, task: TaskId, file: LocalFile) -> FileHandle | None:
        if not file.is_shared:
            return None
        digest = self._hashes.sha256(file.path)
        with self._lock:
            return self._files[task].lookup(file.name, digest)

    def _finished(self, pending: _Pending) -> bool:
        if pending.upload is not None and not pending.upload.done():
            return False
        if pending.channels is not None:
            return pending.channels.done()
        recording = pending.snapshot.recording
        return pending.is_aborted or recording is None or recording.is_complete

    def _begin_channels(self, pending: _Pending) -> None:
        """Have what was in transit stored, once nothing more can come."""
        recording = pending.snapshot.recording
        if pending.channels is not None or pending.is_aborted or recording is None:
            return
        if recording.is_complete and recording.states():
            pending.channels = self._pool.submit(self._store_channels, pending, recording)

    def _store_channels(self, pending: _Pending, recording: Recording) -> FileHandle:
        snapshot = pending.snapshot
        try:
            return self._writer.store(snapshot.checkpoint_id, snapshot.task.id, recording)
        finally:
            recording.drop()

    def _acknowledge(self, pending: _Pending) -> None:
        snapshot, recording = pending.snapshot, pending.snapshot.recording
        try:
            state = None if pending.upload is None else pending.upload.result()
            channels = None if pending.channels is None else pending.channels.result()
        except (StorageError, StateError) as error:
            self._decline(pending, str(error))
            return
        if pending.is_aborted:
            self._drop_recording(pending)
            return
        self._events.acknowledge(
            snapshot.checkpoint_id,
            TaskSnapshot(
                task=snapshot.task.id,
                operators=snapshot.operators,
                subtask=snapshot.task.subtask,
                is_ended=snapshot.is_ended,
                ended=snapshot.ended,
                state=state,
                splits=snapshot.splits,
                prepared=snapshot.prepared,
                operator_states=snapshot.operator_states,
                watermarks=snapshot.watermarks,
                channels=() if recording is None else recording.states(),
                channel_file=channels,
                trace=snapshot.trace,
                times=SnapshotTimes(
                    alignment_ms=snapshot.alignment_ms,
                    synchronous_ms=snapshot.synchronous_ms,
                    durable_ms=(now_ns() - pending.started_ns) / 1e6,
                    recording_ms=0.0 if recording is None else recording.recording_ms,
                ),
            ),
        )

    def _drop_recording(self, pending: _Pending) -> None:
        if pending.snapshot.recording is not None:
            pending.snapshot.recording.drop()

    def _decline(self, pending: _Pending, reason: str) -> None:
        self._drop_recording(pending)
        if not pending.is_aborted:
            task, checkpoint_id = pending.snapshot.task.id, pending.snapshot.checkpoint_id
            self._events.declined(task, checkpoint_id, reason)
