"""CsvFiles: comma-separated values, as a source and as a sink.

RFC 4180, with any delimiter: fields in double quotes, in which a quote is doubled. As in files of
lines, a record is a line, so that a large file can be cut anywhere; with ``multiline=True`` a
quoted field may hold line breaks, and one subtask reads a file from its beginning.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import IO, Any, ClassVar, Unpack

from flowsnap.connectors.compression import compression_of, damage, decompressed
from flowsnap.connectors.file_sink import FileSink, SinkOptions, file_body
from flowsnap.connectors.files import Paths, open_input
from flowsnap.connectors.lines import (
    EachLine,
    LineFiles,
    LineOptions,
    Parser,
    split_lines,
    without_mark,
)
from flowsnap.connectors.options import check_options, chosen
from flowsnap.connectors.partitioned import Body
from flowsnap.connectors.typed import (
    MISFITS,
    check_type,
    columns_of,
    converter,
    rows_of,
    takes_text,
)
from flowsnap.core.operator import Submission
from flowsnap.errors import ConfigError, MalformedInput, StorageError

_SIMPLE = frozenset({str, int, float, type(None)})
"""Types of fields that csv writes as we want them."""

HEADER_BYTES = 1 << 16
"""How much of an object is fetched for its header; a longer one is found all the same."""

HINT = (
    "every record must have a field for each column, of its type where one is given; where fields"
    " hold line breaks, write multiline=True"
)


class CsvOptions(LineOptions, SinkOptions, total=False):
    """What CSV files can be told, as a source and as a sink."""

    delimiter: str
    header: bool
    columns: Sequence[str]
    multiline: bool


class CsvFiles(LineFiles, FileSink):
    """Files of comma-separated values, in UTF-8.

    ``header``: whether the first line of a file has the names of its columns (True by default);
    else they are ``columns``, or the fields of ``type``. As a source, a record is a dict of strings
    by column, or a ``type``: its fields are found by name, columns that it does not have are left
    out, and an empty field is None unless it may be a text. As a sink, a record is a row of
    ``columns`` or of the fields of ``type``, which must be given.

    The other options are those of ``LineFiles`` and of ``JsonLinesFiles``.

    Raises:
        ConfigError: a setting is wrong.
    """

    format: ClassVar[str] = "CSV"
    file_suffix: ClassVar[str] = ".csv"
    has_columns: ClassVar[bool] = True

    def __init__(self, path: Paths, *, type: Any = Any, **options: Unpack[CsvOptions]) -> None:
        check_options("CsvFiles", options, CsvOptions)
        super().__init__(path, **chosen(options, LineOptions))
        check_type(type)
        self.type = type
        if type is not Any and not columns_of(type):
            raise ConfigError(f"type: {type!r} has no fields").hint(
                "give a msgspec.Struct, a dataclass, a TypedDict or a pydantic model"
            )
        self.delimiter = _checked_delimiter(options.get("delimiter", ","))
        self.header = bool(options.get("header", True))
        self.columns = _checked_columns(options.get("columns") or tuple(columns_of(type)))
        if not self.header and not self.columns:
            raise ConfigError("columns: without a header, they must be named").hint(
                "give columns=[...] or type="
            )
        self.quote = b'"' if options.get("multiline", False) else b""
        is_growing = self.follow and not self.is_remote
        if is_growing and (self.quote or (self.header and not self.columns)):
            raise ConfigError("follow: a CSV file that grows is read line by line").hint(
                "leave multiline out, and name the columns: columns=[...] or type="
            )
        self.set_sink_options(chosen(options, SinkOptions))

    # --- source -------------------------------------------------------------------------------

    def parser(self) -> Parser:
        return self._parser(self.columns)

    def parser_of(self, payload: dict[str, Any]) -> Parser:
        """Return a parser of one file.

        Raises:
            MalformedInput: its header is no line of CSV.
            StorageError: it cannot be read.
        """
        return self._parser(self._header_of(payload) if self.header else self.columns)

    def _parser(self, columns: Sequence[str]) -> Parser:
        to_values = _to_values(self.type, columns)
        parse_rows = partial(self._rows, count=len(columns))
        each = EachLine(self.on_error, HINT)
        has_header, is_multiline = self.header, bool(self.quote)

        def decode(line: bytes) -> Any:
            (row,) = parse_rows(line)
            return to_values([row])[0]

        def parse(data: bytes, file: str, offset: int) -> list[Any]:
            is_first = offset == 0
            data, offset = without_mark(data, offset)
            if is_first and has_header:
                first = (_records if is_multiline else split_lines)(data)[0:1]
                size = len(b"".join(first))
                data, offset = data[size:], offset + size
            try:
                return to_values(parse_rows(data))
            except MISFITS:
                records = _records(data) if is_multiline else split_lines(data)
                return each.decode(decode, records, file, offset)

        return parse

    def _rows(self, data: bytes, count: int) -> list[list[str]]:
        """Return the rows of lines, those without the right number of fields refused."""
        text = data.decode()
        if not self.quote and '"' in text and any(line.count('"') % 2 for line in text.split("\n")):
            raise ValueError("a quoted field does not end on its line")
        # newline="" as csv wants it: a lone return within quotes is a part of its field.
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter, strict=True)
        try:
            rows = [row for row in reader if row]
        except csv.Error as error:
            raise ValueError(str(error)) from error
        for row in rows:
            if len(row) != count:
                raise ValueError(f"{len(row)} fields where there are {count} columns")
        return rows

    def _header_of(self, payload: dict[str, Any]) -> tuple[str, ...]:
        path = payload["path"]
        line = _first_record(payload, self.quote)
        try:
            (names,) = csv.reader([line.decode()], delimiter=self.delimiter, strict=True)
        except (ValueError, csv.Error) as error:
            if not line.strip():
                return ()  # An empty file has no columns, and no records either.
            raise MalformedInput(
                f"{path}, line 1: the header is no line of CSV: {error}", file=path, offset=0
            ).hint("without a header, write header=False and name the columns") from error
        missing = sorted(set(self.columns) - set(names)) if self.type is Any else []
        twice = sorted({name for name in names if names.count(name) > 1})
        if missing or twice:
            wrong = f"no column {missing[0]!r}" if missing else f"two columns {twice[0]!r}"
            raise MalformedInput(f"{path}, line 1: it has {wrong}", file=path, offset=0).hint(
                "without a header, write header=False and name the columns"
            )
        return tuple(names)

    # --- sink ---------------------------------------------------------------------------------

    def on_submit(self, submission: Submission) -> None:
        if not self.columns:
            raise ConfigError("a sink of CSV files needs to know its columns").hint(
                "give type= or columns=[...]"
            )
        super().on_submit(submission)

    def encoder(self) -> Callable[[list[Any]], bytes]:
        columns, encode = self.columns, self._encode_rows
        return lambda values: encode(rows_of(values, columns))

    def body(self, file: IO[bytes]) -> Body:
        header = self._encode_rows([list(self.columns)]) if self.header else b""
        return file_body(file, self.compression, header)

    def _encode_rows(self, rows: Sequence[Sequence[Any]]) -> bytes:
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=self.delimiter, lineterminator="\n")
        if not _SIMPLE.issuperset(map(type, chain.from_iterable(rows))):
            rows = [list(map(_cell, row)) for row in rows]
        writer.writerows(rows)
        return text.getvalue().encode()


def _first_record(payload: dict[str, Any], quote: bytes) -> bytes:
    path = payload["path"]
    try:
        with open_input({**payload, "end": HEADER_BYTES}) as raw:
            file = decompressed(raw, compression_of(path))
            line = file.readline()
            while quote and line.count(quote) % 2 and (more := file.readline()):
                line += more
    except FileNotFoundError as error:
        raise StorageError(f"{path} has vanished").hint(
            "files are read again after a failure: keep them until the job has finished"
        ) from error
    except damage() as error:
        raise MalformedInput(
            f"{path} cannot be decompressed: {error}", file=path, offset=0
        ) from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    return without_mark(line, 0)[0]


def _to_values(type_: Any, columns: Sequence[str]) -> Callable[[list[list[str]]], list[Any]]:
    if type_ is Any:
        return lambda rows: [dict(zip(columns, row, strict=True)) for row in rows]
    convert, fields = converter(type_), columns_of(type_)
    kept = [(i, name, takes_text(fields[name])) for i, name in enumerate(columns) if name in fields]

    def to_values(rows: list[list[str]]) -> list[Any]:
        return convert(
            [
                {name: row[i] if is_text or row[i] else None for i, name, is_text in kept}
                for row in rows
            ]
        )

    return to_values


def _records(data: bytes) -> list[bytes]:
    """Return records with their line breaks, where quoted fields may hold some."""
    records: list[bytes] = []
    is_open = False
    for line in split_lines(data):
        if is_open:
            records[-1] += line
        else:
            records.append(line)
        is_open ^= line.count(b'"') % 2 == 1
    return records


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value if not isinstance(value, bool) else str(value).lower()
    if isinstance(value, dict | list | tuple | bytes):
        raise TypeError(f"a {type(value).__name__} is no field of a row")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _checked_delimiter(delimiter: object) -> str:
    if isinstance(delimiter, str) and len(delimiter) == 1 and delimiter not in '"\r\n':
        return delimiter
    raise ConfigError(f"delimiter: {delimiter!r} is not one character").hint('such as ";"')


def _checked_columns(columns: Sequence[str]) -> tuple[str, ...]:
    names = (columns,) if isinstance(columns, str) else tuple(columns)
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise ConfigError(f"columns: {columns!r} are no names, each once")
    return names
