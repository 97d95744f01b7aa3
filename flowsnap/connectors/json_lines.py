"""JsonLinesFiles: files of one JSON value per line, as a source and as a sink."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Unpack

import msgspec

from flowsnap.connectors.file_sink import FileSink, SinkOptions
from flowsnap.connectors.files import Paths
from flowsnap.connectors.lines import (
    EachLine,
    LineFiles,
    LineOptions,
    Parser,
    split_lines,
    without_mark,
)
from flowsnap.connectors.options import check_options, chosen
from flowsnap.connectors.typed import MISFITS, check_type, encode_hook, json_decoder

SUFFIX = ".jsonl"


class JsonLinesOptions(LineOptions, SinkOptions, total=False):
    """What files of JSON lines can be told, as a source and as a sink."""


class JsonLinesFiles(LineFiles, FileSink):
    """Files of one JSON value per line.

    As a source: the files that ``path`` means, as for ``TextFiles``. A record is what a line
    decodes to, checked against ``type`` where one is given (a ``msgspec.Struct``, a dataclass, a
    pydantic model, anything msgspec decodes). Empty lines are left out. The options are those of
    ``LineFiles``.

    As a sink: ``path`` is a directory, made if need be, and every record becomes a line of a part
    file that appears when its checkpoint is complete: exactly-once. ``existing`` says what to do
    with parts that are there when the job starts without a checkpoint: ``"error"`` refuses those of
    other jobs, ``"append"`` leaves all, ``"replace"`` removes all files called ``part-*.jsonl``.
    Parts of earlier lives of the same job are removed unless ``existing`` is ``"append"``: to start
    over means the output too. A record that could not be read as ``type`` ends the job.
    ``partition_by`` parts records into directories, ``roll_size`` and
    ``roll_every`` end parts earlier, ``compression`` is ``"gzip"`` or ``"zstd"``.

    Raises:
        ConfigError: a setting is wrong.
    """

    format: ClassVar[str] = "JSON"
    file_suffix: ClassVar[str] = SUFFIX

    def __init__(
        self, path: Paths, *, type: Any = Any, **options: Unpack[JsonLinesOptions]
    ) -> None:
        check_options("JsonLinesFiles", options, JsonLinesOptions)
        super().__init__(path, **chosen(options, LineOptions))
        check_type(type)
        self.type = type
        self.set_sink_options(chosen(options, SinkOptions))

    def parser(self) -> Parser:
        """Return a function that decodes a chunk line by line.

        Not with ``decode_lines``, which also takes two values in a line and a value on two lines.
        """
        decode = json_decoder(self.type)
        each = EachLine(
            self.on_error, "every line must be one JSON value, of the given type where one is given"
        )

        def parse(data: bytes, file: str, offset: int) -> list[Any]:
            data, offset = without_mark(data, offset)
            lines = data.split(b"\n")
            if not lines[-1]:
                lines.pop()
            try:
                return list(map(decode, lines))
            except MISFITS:  # One is malformed, or empty.
                return each.decode(decode, split_lines(data), file, offset)

        return parse

    def encoder(self) -> Callable[[list[Any]], Any]:
        return msgspec.json.Encoder(enc_hook=encode_hook).encode_lines
