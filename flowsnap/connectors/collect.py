"""Collect: brings records back into the process that submitted the job."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from typing import Any

from flowsnap.connectors.frames import frame, frames
from flowsnap.connectors.parts import (
    Part,
    PartWriter,
    committed_parts,
    operator_tag,
    remove_files,
    remove_later,
    translated,
)
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import Sink, SinkContext, Submission
from flowsnap.errors import ConfigError, LocalProtocolError, StorageError
from flowsnap.serialize import dump, load

SUFFIX = ".batches"
_LENGTH = struct.Struct(">Q")


class Collect(Sink):
    """All records, as ``.values``, in the submitting process.

    For tests and for results that fit into memory: workers write them to the job directory, and
    only what a completed checkpoint has committed is seen, so that it is exactly-once. Once the job
    has finished, they are in memory and the job directory may go.

    A part file is a sequence of batches: ``length u64 BE | pickle of a list``. Its sha256 stands in
    the manifest and in its name; one that hashes to something else is never unpickled.
    """

    def __init__(self) -> None:
        self._directory = ""
        self._submission: Submission | None = None
        self._loaded: dict[str, list[Any]] = {}
        self._is_finished = False

    @property
    def values(self) -> list[Any]:
        """The records committed so far, ordered by checkpoint, then subtask, then as written.

        Raises:
            StorageError: a part cannot be read, or its bytes are not those that were committed.
        """
        if not self._is_finished:
            self._load()
        return [value for values in self._loaded.values() for value in values]

    def on_submit(self, submission: Submission) -> None:
        """Make the directory; a fresh start empties it."""
        self._submission = submission
        self._loaded, self._is_finished = {}, False
        self._directory = os.path.join(
            os.path.abspath(submission.job_directory), "collect", operator_tag(submission.operator)
        )
        try:
            os.makedirs(self._directory, exist_ok=True)
            if submission.is_fresh:
                remove_files(self._directory, os.listdir(self._directory))
            remove_later(self._directory, submission)
        except OSError as error:
            raise ConfigError(f"{self._directory} cannot be written: {error.strerror}").hint(
                "give a job directory that whoever runs the job may write into"
            ) from error

    def on_finish(self) -> None:
        """Load everything, so that the job directory is needed no longer."""
        self._load()
        self._is_finished = True

    def open(self, context: SinkContext) -> None:
        if not self._directory:
            raise LocalProtocolError(
                f"Collect {context.operator!r} was copied to a task before it was submitted"
            )
        self._parts = PartWriter(self._directory, context, SUFFIX, is_hashed=True)

    def write(self, batch: Batch) -> None:
        """Append the records, as they are now: a later change of one is not seen.

        Raises:
            StorageError: the file cannot be written.
        """
        if batch.values:
            data = dump(batch.values)
            self._parts.write(frame(data, _LENGTH))

    def prepare(self, checkpoint_id: CheckpointId) -> dict[str, str] | None:
        return self._parts.prepare(checkpoint_id)

    def commit(self, committables: Sequence[dict[str, str]]) -> None:
        self._parts.commit(committables)

    def recover(self, committables: Sequence[dict[str, str]]) -> None:
        self._parts.recover(committables)

    def close(self) -> None:
        if hasattr(self, "_parts"):  # Not where an operator before it has failed to open.
            self._parts.close()

    def _load(self) -> None:
        if self._submission is None:
            return
        runs = (self._submission.run_id, *self._submission.former_run_ids)
        parts = committed_parts(self._directory, runs, self._submission.operator, SUFFIX)
        self._loaded = {
            part.name: self._loaded.get(part.name) or self._verified(part) for part in parts
        }

    def _verified(self, part: Part) -> list[Any]:
        path = os.path.join(self._directory, part.name)
        with translated(f"reading {path}"), open(path, "rb") as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise StorageError(f"{path} does not hold what was committed").hint(
                "the file was damaged or changed; run the job afresh"
            )
        return [value for pickled in frames(memoryview(data), _LENGTH) for value in load(pickled)]
