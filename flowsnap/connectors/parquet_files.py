"""ParquetFiles: files of columns, as a source and as a sink; needs ``flowsnap[parquet]``.

A file is read by row groups: those of one split are about ``split_bytes`` together, and a position
is the number of rows of the split that have been read. Where a job goes on, row groups before the
position are not read at all.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from itertools import chain
from typing import IO, Any, ClassVar, Unpack

import msgspec

from flowsnap.errors import ConfigError, MalformedInput, StorageError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise ConfigError("ParquetFiles needs the pyarrow package").hint(
        "pip install 'flowsnap[parquet]'"
    ) from error

from flowsnap.config import Duration, Size, duration_ms, size_bytes
from flowsnap.connectors.dead_letters import DeadLetter, OnError, check_on_error, dead_letter
from flowsnap.connectors.file_sink import FileSink, SinkOptions
from flowsnap.connectors.files import (
    InputFile,
    Paths,
    are_remote,
    as_paths,
    find_files,
    kept_versions,
    open_scattered,
)
from flowsnap.connectors.follow import kept_lanes, lanes
from flowsnap.connectors.options import check_options, chosen
from flowsnap.connectors.rows import describe
from flowsnap.connectors.typed import (
    MISFITS,
    cause_of,
    check_type,
    columns_of,
    converter,
    reason_of,
    rows_of,
)
from flowsnap.core.element import Batch
from flowsnap.core.operator import Source, Split, SplitReader, Submission

ROW_GROUP_ROWS = 100_000
"""How many rows of a part are held back, to be written as one row group."""

LOOKS_AT_ONCE = 8
"""How many footers are read at once when a job is submitted: objects are far away."""

_PLAIN: dict[Any, Any] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bytes: pa.binary(),
    datetime: pa.timestamp("us", tz="UTC"),
    date: pa.date32(),
    time: pa.time64("us"),
    Decimal: pa.decimal128(38, 18),
}


class ParquetOptions(SinkOptions, total=False):
    """What Parquet files can be told, as a source and as a sink."""

    split_bytes: Size | None
    on_error: OnError
    columns: Sequence[str] | None
    schema: Any
    follow: bool
    look_every: Duration


class ParquetFiles(Source, FileSink):
    """Parquet files.

    As a source: the files that ``path`` means, as for ``TextFiles``. A record is a dict by column,
    or a ``type``. ``columns`` are those that are read; by default the fields of ``type``, or all.
    ``split_bytes`` (64 MB, compressed): row groups that are larger together are read by several
    subtasks; None: one reads a file. ``follow=True``: of objects, new ones are read as they appear,
    and looked for every ``look_every`` (10 s).

    As a sink: parts as of ``JsonLinesFiles``. The columns are those of ``schema``, a
    ``pyarrow.Schema``, or the fields of ``type``. A part is held in memory by row groups.

    Raises:
        ConfigError: a setting is wrong, or a field has no type in Parquet.
    """

    format: ClassVar[str] = "Parquet"
    file_suffix: ClassVar[str] = ".parquet"
    has_columns: ClassVar[bool] = True

    def __init__(self, path: Paths, *, type: Any = Any, **options: Unpack[ParquetOptions]) -> None:
        check_options("ParquetFiles", options, ParquetOptions)
        self.paths = as_paths(path)
        check_type(type)
        self.type = type
        split_bytes = options.get("split_bytes", "64MB")
        self.split_bytes = (
            None if split_bytes is None else size_bytes(split_bytes, "split_bytes", at_least=1)
        )
        self.on_error = check_on_error(options.get("on_error", "fail"))
        self.has_dead_letters = self.on_error == "dead-letter"
        self.follow = bool(options.get("follow", False))
        if self.follow and not are_remote(self.paths, self.follow):
            raise ConfigError("follow: a Parquet file does not grow").hint(
                "objects can be followed: write a URL, such as s3://bucket/events"
            )
        self.look_ms = duration_ms(options.get("look_every", "10s"), "look_every", at_least_ms=1)
        self.bounded = self.discovers = not self.follow
        self.columns = _columns(options.get("columns"), type)
        self.schema: pa.Schema | None = options.get("schema")
        if self.schema is not None and not isinstance(self.schema, pa.Schema):
            raise ConfigError(f"schema: {self.schema!r} is no pyarrow.Schema")
        if options.get("compression") is not None:
            raise ConfigError("compression: Parquet files are compressed inside").hint(
                "leave it out"
            )
        self.set_sink_options(chosen(options, SinkOptions))

    # --- source -------------------------------------------------------------------------------

    def splits(self, parallelism: int) -> list[Split]:
        """Return ranges of row groups of all files; they do not depend on ``parallelism``.

        Where objects are followed, there is one lane for each subtask.

        Raises:
            ConfigError: a file is missing, unreadable, or no Parquet file.
        """
        if self.follow:
            return lanes(self.paths, parallelism)
        files = find_files(self.paths)
        with ThreadPoolExecutor(LOOKS_AT_ONCE, "flowsnap-parquet") as pool:
            return list(chain.from_iterable(pool.map(self._cut, files)))

    def splits_after(self, parallelism: int, known: Sequence[tuple[Split, Any]]) -> Sequence[Split]:
        if self.follow and known:
            return kept_lanes(self.paths, known)
        return kept_versions(self.splits(parallelism), known)

    def open_split(self, split: Split, position: Any) -> SplitReader:
        """Return a reader of a range of row groups, or of a lane.

        Raises:
            StorageError: the file has vanished, or cannot be read.
            MalformedInput: it is no Parquet file any more, or lacks a column.
        """
        if not self.follow:
            return self.open_range(split, position)
        from flowsnap.connectors.follow_objects import ObjectLane  # noqa: PLC0415 - needs an extra

        return ObjectLane(split, position, open_split=self.open_range, look_ms=self.look_ms)

    def open_range(self, split: Split, position: Any) -> SplitReader:
        """Return a reader of a range of row groups; raises as ``open_split``."""
        convert = None if self.type is Any else converter(self.type)
        return ParquetReader(
            split, position, columns=self.columns, convert=convert, on_error=self.on_error
        )

    def _cut(self, file: InputFile) -> list[Split]:
        try:
            with pq.ParquetFile(open_scattered(file.payload(0, None))) as opened:
                metadata = opened.metadata
        except (pa.ArrowException, OSError, StorageError) as error:
            raise ConfigError(f"{file.path} is no Parquet file: {error}").hint(
                "leave it out, or look at it with another reader"
            ) from error
        splits = []
        start = rows = size = 0
        for group in range(metadata.num_row_groups):
            rows += metadata.row_group(group).num_rows
            size += sum(
                metadata.row_group(group).column(i).total_compressed_size
                for i in range(metadata.num_columns)
            )
            is_last = group + 1 == metadata.num_row_groups
            if is_last or (self.split_bytes is not None and size >= self.split_bytes):
                splits.append(Split(f"{file.name}@{start}", file.payload(start, group + 1), rows))
                start, rows, size = group + 1, 0, 0
        return splits

    # --- sink ---------------------------------------------------------------------------------

    def on_submit(self, submission: Submission) -> None:
        self._written_schema()
        super().on_submit(submission)

    def _written_schema(self) -> pa.Schema:
        fields = columns_of(self.type)
        if self.schema is None and fields:
            self.schema = pa.schema([(name, arrow_type(one, name)) for name, one in fields.items()])
        if self.schema is None:
            raise ConfigError("a sink of Parquet files needs to know its columns").hint(
                "give type= or schema=pyarrow.schema(...)"
            )
        return self.schema

    def encoder(self) -> Callable[[list[Any]], pa.Table]:
        schema = self._written_schema()
        names = schema.names

        def encode(values: list[Any]) -> pa.Table:
            columns = zip(*rows_of(values, names), strict=True)
            arrays = [_array(column, field) for column, field in zip(columns, schema, strict=True)]
            return pa.Table.from_arrays(arrays, schema=schema)

        return encode

    def body(self, file: IO[bytes]) -> ParquetBody:
        return ParquetBody(file, self._written_schema())


def _array(column: Sequence[Any], field: pa.Field) -> pa.Array:
    """Return the values of a column.

    Raises:
        TypeError: one is not of its type; without the value, which pyarrow would tell.
    """
    try:
        array = pa.array(column, field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        kinds = ", ".join(sorted({describe(value) for value in column if value is not None}))
        raise TypeError(f"{kinds} has no form in column {field.name!r}: {field.type}") from None
    if array.null_count and not field.nullable:
        raise TypeError(f"column {field.name!r} has no value, which its schema demands")
    return array


class ParquetBody:
    """Writes tables into a file, several together as a row group."""

    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")
        self._tables: list[pa.Table] = []
        self._rows = 0

    def write(self, table: pa.Table, /) -> None:
        """Append rows."""
        self._tables.append(table)
        self._rows += table.num_rows
        if self._rows >= ROW_GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is held back, and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._tables:
            self._writer.write_table(pa.concat_tables(self._tables), row_group_size=self._rows)
            self._tables, self._rows = [], 0


class ParquetReader(SplitReader):
    """Reads a range of row groups; a position is the number of rows that have been read."""

    def __init__(
        self,
        split: Split,
        position: int | None,
        *,
        columns: Sequence[str] | None,
        convert: Callable[[list[dict[str, Any]]], list[Any]] | None,
        on_error: OnError,
    ) -> None:
        self._path: str = split.payload["path"]
        self._columns = columns
        self._convert = convert
        self._is_kept = on_error == "dead-letter"
        self._done = position or 0
        self._rows: Iterator[pa.RecordBatch] | None = None
        self._batch: pa.RecordBatch | None = None
        with self._translated():
            source = open_scattered(split.payload)
            # Of an object, the columns of a row group come in few requests.
            self._is_remote = source is not self._path
            self._file = pq.ParquetFile(source, pre_buffer=self._is_remote)
        try:
            self._check_columns()
            end = split.payload["end"]
            end = self._file.metadata.num_row_groups if end is None else end
            self._groups = list(range(split.payload["start"], end))
            self._skip = self._drop_read_groups()
        except BaseException:
            self.close()
            raise

    def read(self, limit: int) -> Batch | None:
        with self._translated():
            batch = self._next(limit)
        if batch is None:
            return None
        first, self._done = self._done, self._done + batch.num_rows
        rows = batch.to_pylist()
        if self._convert is None:
            return Batch(rows)
        try:
            return Batch(self._convert(rows))
        except MISFITS:
            return Batch([self._value(row, first + i) for i, row in enumerate(rows)])

    def position(self) -> int:
        return self._done

    def progress(self) -> int:
        return self._done

    def close(self) -> None:
        self._rows = self._batch = None
        self._file.close()

    def _next(self, limit: int) -> pa.RecordBatch | None:
        """Return up to ``limit`` rows, from where it has come to."""
        if self._rows is None:
            # What is fetched ahead is kept until its iterator ends: of one row group at a time.
            groups = [[one] for one in self._groups] if self._is_remote else [self._groups]
            self._rows = chain.from_iterable(
                self._file.iter_batches(
                    batch_size=max(limit, 1), row_groups=some, columns=self._columns
                )
                for some in groups
            )
        for batch in self._rows:
            skipped = min(self._skip, batch.num_rows)
            self._skip -= skipped
            if skipped < batch.num_rows:
                return batch.slice(skipped)
        return None

    def _drop_read_groups(self) -> int:
        """Leave out the row groups that have been read; return how many rows of the next have."""
        rows = self._done
        metadata = self._file.metadata
        if self._groups and self._groups[-1] >= metadata.num_row_groups:
            raise self._shrank()
        while self._groups and rows >= metadata.row_group(self._groups[0]).num_rows:
            rows -= metadata.row_group(self._groups.pop(0)).num_rows
        if rows and not self._groups:
            raise self._shrank()
        return int(rows)

    def _check_columns(self) -> None:
        if self._columns is None:
            return
        names = set(self._file.schema_arrow.names)
        missing = sorted(set(self._columns) - names)
        if self._convert is not None:
            # What a type has a default for may be missing; its absence is told record by record.
            self._columns = [name for name in self._columns if name in names]
        elif missing:
            raise MalformedInput(
                f"{self._path} has no column {missing[0]!r}", file=self._path, offset=0
            ).hint(f"it has {', '.join(sorted(names))}")

    def _value(self, row: dict[str, Any], number: int) -> Any:
        assert self._convert is not None
        try:
            return self._convert([row])[0]
        except MISFITS as error:
            reason = reason_of(error)
            if self._is_kept:
                return self._letter(row, reason, number)
            raise MalformedInput(
                f"{self._path}: row {number} of its split is not what was expected: {reason}",
                file=self._path,
                offset=number,
            ).hint("every row must be of the given type") from cause_of(error)

    def _letter(self, row: dict[str, Any], reason: str, number: int) -> DeadLetter:
        text = msgspec.json.encode(row, enc_hook=str)
        return dead_letter(text, reason, self._path, number)

    def _shrank(self) -> StorageError:
        return StorageError(f"{self._path} has fewer rows than it had").hint(
            "put the file back as it was when the job was submitted, or start the job afresh"
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise StorageError(f"{self._path} has vanished").hint(
                "files are read again after a failure: keep them until the job has finished"
            ) from error
        except pa.ArrowInvalid as error:
            raise MalformedInput(
                f"{self._path} is not a complete Parquet file: {error}", file=self._path, offset=0
            ).hint("was it changed since the job was submitted?") from error
        except (pa.ArrowException, OSError) as error:
            raise StorageError(f"{self._path} cannot be read: {error}") from error


def arrow_type(annotation: Any, field: str) -> Any:
    """Return the type of a column for a field of a record.

    Raises:
        ConfigError: there is none.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin is typing.Annotated:
        return arrow_type(arguments[0], field)
    if origin in (typing.Union, types.UnionType):
        present = [one for one in arguments if one is not types.NoneType]
        if len(present) == 1:
            return arrow_type(present[0], field)
    if origin is list:
        return pa.list_(arrow_type(arguments[0], field))
    inner = columns_of(annotation) if origin is None else {}
    if inner:
        return pa.struct(
            [(name, arrow_type(one, f"{field}.{name}")) for name, one in inner.items()]
        )
    raise ConfigError(f"type: field {field!r} is {annotation!r}, which no column can be").hint(
        "give schema=pyarrow.schema(...) with the columns' types"
    )


def _columns(columns: Any, type_: Any) -> list[str] | None:
    if columns is None:
        return list(columns_of(type_)) or None
    if isinstance(columns, str) or not all(isinstance(name, str) for name in columns):
        raise ConfigError(f"columns: {columns!r} is no list of names")
    return list(columns)
