"""Sinks of files: a directory of parts, that appear when their checkpoint is complete.

A subclass says what bytes its records become, and what makes a file of them complete. See
``parts.py`` for the names and for why a rename is exactly-once, and ``partitioned.py`` for
directories and for when a part ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import IO, Any, ClassVar, Literal, TypedDict, get_args

from flowsnap.bucket.url import is_url
from flowsnap.config import Duration, Size, duration_ms, size_bytes
from flowsnap.connectors.compression import (
    SUFFIXES,
    ByteWriter,
    Compression,
    check_compression,
    compressing,
)
from flowsnap.connectors.fitting import tried
from flowsnap.connectors.output import Output, output_at, resolved
from flowsnap.connectors.partitioned import (
    Body,
    Directories,
    PartitionBy,
    PartitionedParts,
    Rolling,
    directories_of,
    grouped,
    misplaced,
)
from flowsnap.connectors.parts import run_tag, run_tag_of, translated
from flowsnap.connectors.typed import UNENCODABLE, cause_of, checker, reason_of
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import Misfits, Sink, SinkContext, Submission
from flowsnap.errors import ConfigError, OperatorError, StorageError

Existing = Literal["error", "append", "replace"]


OBJECT_BYTES_MAX = 4 * 2**30
"""How large a part may become in object storage; S3 copies up to 5 GiB in one request."""


class SinkOptions(TypedDict, total=False):
    """What a sink of files can be told."""

    existing: Existing
    partition_by: PartitionBy | None
    roll_size: Size | None
    roll_every: Duration | None
    compression: Compression | None


class FileSink(Sink):
    """A sink of part files; a subclass gives the suffix, ``encoder`` and ``body``.

    ``existing``, ``partition_by``, ``roll_size``, ``roll_every`` and ``compression`` are explained
    in ``docs/connectors.md``.

    Raises:
        ConfigError: a setting is wrong.
    """

    format: ClassVar[str]
    """What its records are written as, for messages."""

    file_suffix: ClassVar[str]
    has_columns: ClassVar[bool] = False
    """Whether a list or a tuple stands for a record: a row, which is not checked as a ``type``."""

    paths: tuple[str, ...]
    type: Any

    def set_sink_options(self, options: SinkOptions) -> None:
        """Take the options of a sink.

        Raises:
            ConfigError: one is wrong.
        """
        self.existing = options.get("existing", "error")
        if self.existing not in get_args(Existing):
            raise ConfigError(f"existing: {self.existing!r} is not known").hint(
                'write "error", "append" or "replace"'
            )
        self.partition_by = options.get("partition_by")
        if self.partition_by is not None:
            directories_of(self.partition_by)
        age = options.get("roll_every")
        self.rolling = Rolling(
            self._roll_bytes(options.get("roll_size")),
            None if age is None else duration_ms(age, "roll_every", at_least_ms=1),
        )
        self.compression = check_compression(options.get("compression"))
        self._place: str | None = None
        self._submission: Submission | None = None

    def _roll_bytes(self, size: Size | None) -> int | None:
        if not is_url(self.paths[0]):
            return None if size is None else size_bytes(size, "roll_size", at_least=1)
        rolled = size_bytes("128MB" if size is None else size, "roll_size", at_least=1)
        if rolled > OBJECT_BYTES_MAX:
            raise ConfigError(
                f"roll_size: a part of {rolled} bytes is too large for an object"
            ).hint("4GB at most: a service copies no more at once")
        return rolled

    @property
    def suffix(self) -> str:
        """How the names of parts end."""
        return self.file_suffix + SUFFIXES.get(self.compression or "", "")

    def encoder(self) -> Callable[[list[Any]], Any]:
        """Return a function from records to what ``Body.write`` takes; it raises UNENCODABLE."""
        raise NotImplementedError(f"{type(self).__name__}.encoder")

    def body(self, file: IO[bytes]) -> Body:
        """Return what writes into a new part."""
        return file_body(file, self.compression)

    # --- in the submitting process ------------------------------------------------------------

    def on_submit(self, submission: Submission) -> None:
        """Make the directory, try whether it can be written, and deal with what it holds."""
        if len(self.paths) > 1:
            raise ConfigError(f"a sink writes into one directory, not {len(self.paths)}")
        self._place, self._submission = resolved(self.paths[0]), submission
        output = self._output()
        try:
            output.make()
            if submission.is_fresh:
                self._start_over(output, submission)
            output.remove_later(submission)
        except (OSError, StorageError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"{output.place} cannot be written: {reason}").hint(
                "give a directory that whoever runs the job may write into"
            ) from error

    def on_finish(self) -> None:
        """Remove what failed attempts left uncommitted."""
        if self._place is not None and self._submission is not None:
            run_id, operator = self._submission.run_id, self._submission.operator
            with translated(f"removing uncommitted output from {self._place}"):
                self._output().remove_uncommitted([run_id], operator)

    def _output(self) -> Output:
        place = self._place or resolved(self.paths[0])
        return output_at(place, is_parted=self.partition_by is not None)

    def _start_over(self, output: Output, submission: Submission) -> None:
        output.remove_uncommitted(submission.former_run_ids)
        if self.existing == "append":
            return
        former = {run_tag(run_id) for run_id in submission.former_run_ids}
        own = run_tag(submission.run_id)
        ends = tuple(self.file_suffix + end for end in ("", *SUFFIXES.values()))
        parts = [
            (directory, name)
            for directory, name in output.parts()
            if name.startswith("part-") and name.endswith(ends) and run_tag_of(name) != own
        ]
        foreign = [name for _, name in parts if run_tag_of(name) not in former]
        if foreign and self.existing == "error":
            raise ConfigError(
                f"{output.place} holds {len(foreign)} parts of another job, such as {min(foreign)}"
            ).hint(
                'write into another directory, or choose: existing="append" leaves them there, '
                'existing="replace" removes them'
            )
        output.remove(parts)

    # --- in the task --------------------------------------------------------------------------

    def open(self, context: SinkContext) -> None:
        self._begin_encoding(context)
        self._parts = PartitionedParts(
            self._output(), context, self.suffix, self.body, self.rolling
        )

    def misfits(self, context: SinkContext) -> Misfits:
        """Return what tells the records that have no form in the format, or no directory."""
        self._begin_encoding(context)

        def attempt(batch: Batch) -> None:
            self._encoded(batch.values)
            if self._places is not None:
                self._places(batch)

        is_function = callable(self.partition_by)  # Whose errors may tell a value.
        return tried(attempt, () if is_function else (TypeError, ValueError, OSError))

    def write(self, batch: Batch) -> None:
        """Append the records.

        Raises:
            OperatorError: a record has no form in the format, or no directory.
            StorageError: the file cannot be written.
        """
        if not batch.values:
            return
        if self._places is None:
            self._parts.write(self._encoded(batch.values))
            return
        try:
            groups = grouped(batch, self._places(batch))
        except (TypeError, ValueError, OverflowError, OSError) as error:
            if isinstance(error, ConfigError):
                raise
            raise misplaced(self._context, error) from error
        encoded = {place: self._encoded(values) for place, values in groups.items()}
        for place, data in encoded.items():
            self._parts.write(data, place)

    def prepare(self, checkpoint_id: CheckpointId) -> dict[str, Any] | None:
        return self._parts.prepare(checkpoint_id)

    def commit(self, committables: Sequence[dict[str, Any]]) -> bool | None:
        return self._parts.commit(committables)

    def recover(self, committables: Sequence[dict[str, Any]]) -> None:
        self._parts.recover(committables)

    def close(self) -> None:
        if hasattr(self, "_parts"):  # Not where an operator before it has failed to open.
            self._parts.close()

    def _begin_encoding(self, context: SinkContext) -> None:
        self._context = context
        self._encode = self.encoder()
        self._check = checker(self.type)
        self._places: Directories | None = None
        if self.partition_by is not None:
            self._places = directories_of(self.partition_by)

    def _encoded(self, values: list[Any]) -> Any:
        try:
            return self._made_of(values)
        except UNENCODABLE as error:
            raise self._unencodable(values, error) from cause_of(error)

    def _made_of(self, values: list[Any]) -> Any:
        records = values
        if self.has_columns:
            records = [one for one in values if not isinstance(one, list | tuple)]
        self._check(records)
        return self._encode(values)

    def _unencodable(self, values: list[Any], error: Exception) -> OperatorError:
        operator, subtask = self._context.operator, self._context.subtask
        index = next((i for i, value in enumerate(values) if not self._is_encodable(value)), 0)
        shown = f"a {type(values[index]).__name__}"
        record = f"record {index + 1} of a batch of {len(values)} ({shown})"
        return OperatorError(
            f"sink {operator!r}, subtask {subtask}: {record} cannot be written as"
            f" {self.format}: {reason_of(error)}",
            operator=operator,
            subtask=subtask,
            record=record,
        ).hint(
            "map records to dicts, lists, strings, numbers, dataclasses or Structs before the sink,"
            " or have such records leave it: .sink(..., dead_letters=...)"
        )

    def _is_encodable(self, value: Any) -> bool:
        try:
            self._made_of([value])
        except UNENCODABLE:
            return False
        return True


def file_body(
    file: IO[bytes], compression: Compression | None, header: bytes = b""
) -> PlainBody | ByteWriter:
    """Return what writes bytes into a part, compressed or not, behind a header."""
    body = PlainBody(file) if compression is None else compressing(file, compression)
    if header:
        body.write(header)
    return body


class PlainBody:
    """Bytes that are written as they are."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write

    def close(self) -> None:
        """Complete the file, which is so at any time."""
