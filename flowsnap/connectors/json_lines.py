"""JsonLinesFiles: files of one JSON value per line, as a source and as a sink."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from typing import Any, Literal, get_args

import msgspec

from flowsnap.config import Size
from flowsnap.connectors.files import Paths
from flowsnap.connectors.lines import LineFiles, Parser, without_mark
from flowsnap.connectors.parts import (
    PartWriter,
    remove_files,
    remove_later,
    remove_uncommitted,
    run_tag,
    run_tag_of,
    translated,
)
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import Sink, SinkContext, Submission
from flowsnap.errors import ConfigError, MalformedInput, OperatorError

SUFFIX = ".jsonl"

Existing = Literal["error", "append", "replace"]


class JsonLinesFiles(LineFiles, Sink):
    """Files of one JSON value per line.

    As a source: the files that ``path`` means, as for ``TextFiles``. A record is what a line
    decodes to, checked against ``type`` where one is given (a ``msgspec.Struct``, a dataclass,
    anything msgspec decodes). Empty lines are left out.

    As a sink: ``path`` is a directory, made if need be, and every record becomes a line of a part
    file that appears when its checkpoint is complete: exactly-once. ``existing`` says what to do
    with parts that are there when the job starts without a checkpoint: ``"error"`` refuses those of
    other jobs, ``"append"`` leaves all, ``"replace"`` removes all files called ``part-*.jsonl``.
    Parts of earlier lives of the same job are removed unless ``existing`` is ``"append"``: to start
    over means the output too.

    Raises:
        ConfigError: a setting is wrong.
    """

    def __init__(
        self,
        path: Paths,
        *,
        type: Any = Any,
        existing: Existing = "error",
        split_bytes: Size | None = "64MB",
        batch_bytes: Size = "64KB",
    ) -> None:
        super().__init__(path, split_bytes=split_bytes, batch_bytes=batch_bytes)
        try:
            msgspec.json.Decoder(type)
        except TypeError as error:
            raise ConfigError(f"type: {type!r} cannot be decoded: {error}").hint(
                "give a msgspec.Struct, a dataclass, a TypedDict or a builtin type"
            ) from error
        if existing not in get_args(Existing):
            raise ConfigError(f"existing: {existing!r} is not known").hint(
                'write "error", "append" or "replace"'
            )
        self.type = type
        self.existing = existing
        self._directory: str | None = None
        self._submission: Submission | None = None

    # --- source -------------------------------------------------------------------------------

    def parser(self) -> Parser:
        """Return a function that decodes a chunk line by line.

        Not with ``decode_lines``, which also takes two values in a line and a value on two lines.
        """
        decoder = msgspec.json.Decoder(self.type)
        decode = decoder.decode

        def parse(data: bytes, file: str, offset: int) -> list[Any]:
            data, offset = without_mark(data, offset)
            lines = data.split(b"\n")
            if not lines[-1]:
                lines.pop()
            try:
                return list(map(decode, lines))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return _decode_each(decoder, lines, file, offset)

        return parse

    # --- sink ---------------------------------------------------------------------------------

    def on_submit(self, submission: Submission) -> None:
        """Make the directory, try whether it can be written, and deal with what it holds."""
        if len(self.paths) > 1:
            raise ConfigError(f"a sink writes into one directory, not {len(self.paths)}")
        directory = os.path.abspath(self.paths[0])
        self._directory, self._submission = directory, submission
        try:
            os.makedirs(directory, exist_ok=True)
            probe = os.path.join(directory, f".flowsnap-probe-{os.getpid()}.tmp")
            with open(probe, "wb"):
                os.unlink(probe)
            if submission.is_fresh:
                self._start_over(directory, submission)
            remove_later(directory, submission)
        except OSError as error:
            raise ConfigError(f"{directory} cannot be written: {error.strerror}").hint(
                "give a directory that whoever runs the job may write into"
            ) from error

    def on_finish(self) -> None:
        """Remove what failed attempts left uncommitted."""
        if self._directory is not None and self._submission is not None:
            run_id, operator = self._submission.run_id, self._submission.operator
            with translated(f"removing uncommitted output from {self._directory}"):
                remove_uncommitted(self._directory, [run_id], operator)

    def open(self, context: SinkContext) -> None:
        directory = self._directory or os.path.abspath(self.paths[0])
        self._context = context
        self._encoder = msgspec.json.Encoder()
        self._parts = PartWriter(directory, context, SUFFIX)

    def write(self, batch: Batch) -> None:
        """Append one line per record.

        Raises:
            OperatorError: a record has no form in JSON.
            StorageError: the file cannot be written.
        """
        if not batch.values:
            return
        try:
            data = self._encoder.encode_lines(batch.values)
        except (TypeError, ValueError, RecursionError) as error:
            raise self._unencodable(batch.values, error) from error
        self._parts.write(data)

    def prepare(self, checkpoint_id: CheckpointId) -> dict[str, str] | None:
        return self._parts.prepare(checkpoint_id)

    def commit(self, committables: Sequence[dict[str, str]]) -> None:
        self._parts.commit(committables)

    def recover(self, committables: Sequence[dict[str, str]]) -> None:
        self._parts.recover(committables)

    def close(self) -> None:
        if hasattr(self, "_parts"):  # Not where an operator before it has failed to open.
            self._parts.close()

    def _start_over(self, directory: str, submission: Submission) -> None:
        remove_uncommitted(directory, submission.former_run_ids)
        if self.existing == "append":
            return
        former = {run_tag(run_id) for run_id in submission.former_run_ids}
        found = fnmatch.filter(os.listdir(directory), f"part-*{SUFFIX}")
        parts = [name for name in found if run_tag_of(name) != run_tag(submission.run_id)]
        foreign = [name for name in parts if run_tag_of(name) not in former]
        if foreign and self.existing == "error":
            raise ConfigError(
                f"{directory} holds {len(foreign)} parts of another job, such as {min(foreign)}"
            ).hint(
                'write into another directory, or choose: existing="append" leaves them there, '
                'existing="replace" removes them'
            )
        remove_files(directory, parts)

    def _unencodable(self, values: list[Any], error: Exception) -> OperatorError:
        operator, subtask = self._context.operator, self._context.subtask
        index = next((i for i, value in enumerate(values) if not self._is_encodable(value)), 0)
        record = f"record {index + 1} of a batch of {len(values)} ({_shown(values[index])})"
        return OperatorError(
            f"sink {operator!r}, subtask {subtask}: {record} cannot be written as JSON: {error}",
            operator=operator,
            subtask=subtask,
            record=record,
        ).hint(
            "map records to dicts, lists, strings, numbers, dataclasses or Structs before the sink"
        )

    def _is_encodable(self, value: Any) -> bool:
        try:
            self._encoder.encode(value)
        except (TypeError, ValueError, RecursionError):
            return False
        return True


def _decode_each(
    decoder: msgspec.json.Decoder[Any], lines: list[bytes], file: str, offset: int
) -> list[Any]:
    """Decode lines of which some are empty, or one is malformed."""
    values = []
    for line in lines:
        try:
            if line.strip():
                values.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedInput(
                f"{file}: the line at byte {offset} is not what was expected: {error}",
                file=file,
                offset=offset,
            ).hint(
                "every line must be one JSON value, of the given type where one is given"
            ) from error
        offset += len(line) + 1
    return values


def _shown(value: Any) -> str:
    return f"a {type(value).__name__}"
