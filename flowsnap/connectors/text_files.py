"""TextFiles: the lines of files."""

from __future__ import annotations

import codecs
from typing import Any, Unpack

from flowsnap.connectors.dead_letters import dead_letter
from flowsnap.connectors.files import Paths
from flowsnap.connectors.lines import (
    LineFiles,
    LineOptions,
    Parser,
    line_number,
    split_lines,
    without_mark,
)
from flowsnap.errors import ConfigError, MalformedInput


class TextFiles(LineFiles):
    r"""The lines of a file, of all files below a directory, or of those that match a glob.

    A record is a line as ``str``, without its ``\n`` or ``\r\n``; no other character ends a line. A
    file whose name ends in ``.gz`` or ``.zst`` is decompressed. ``errors`` is that of
    ``bytes.decode``. The other options are those of ``LineFiles``.

    Raises:
        ConfigError: a setting is wrong, or lines in that encoding do not end with the byte 10.
    """

    def __init__(
        self,
        path: Paths,
        *,
        encoding: str = "utf-8",
        errors: str = "strict",
        **options: Unpack[LineOptions],
    ) -> None:
        super().__init__(path, **options)
        self.encoding = _checked(encoding)
        try:
            codecs.lookup_error(errors)
        except LookupError as error:
            raise ConfigError(
                f"errors: {errors!r} is not a way to treat what cannot be decoded"
            ).hint('write "strict", "replace", "ignore" or "backslashreplace"') from error
        self.errors = errors

    def parser(self) -> Parser:
        """Return a function that decodes a chunk once and splits it once."""
        encoding, errors = self.encoding, self.errors
        may_have_mark = encoding == "utf-8"

        def parse(data: bytes, file: str, offset: int) -> list[Any]:
            if may_have_mark:
                data, offset = without_mark(data, offset)
            try:
                text = data.decode(encoding, errors)
            except UnicodeError as error:
                if self.has_dead_letters:
                    return _decode_each(data, file, offset, encoding)
                raise _malformed(error, file, offset, encoding) from error
            if b"\r" in data:  # One memchr where there is none, which is faster than the replace.
                text = text.replace("\r\n", "\n")
            lines = text.split("\n")
            if data.endswith(b"\n") or not data:
                lines.pop()
            return lines

        return parse


def _checked(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        name = "utf-8" if name == "utf-8-sig" else name
        is_usable = "\n".encode(name) == b"\n"
    except (LookupError, UnicodeError) as error:
        raise ConfigError(f"encoding: {encoding!r} is not a text encoding").hint(
            'write a name that Python knows, such as "utf-8" or "latin-1"'
        ) from error
    if not is_usable:
        raise ConfigError(f"encoding: lines of {encoding} do not end with the byte 10").hint(
            "convert the files first: iconv -f UTF-16 -t UTF-8"
        )
    return name


def _decode_each(data: bytes, file: str, offset: int, encoding: str) -> list[Any]:
    """Return the lines of a chunk in which not all can be decoded."""
    values: list[Any] = []
    for line in split_lines(data):
        bare = line.removesuffix(b"\n").removesuffix(b"\r")
        try:
            values.append(bare.decode(encoding))
        except UnicodeError as error:
            values.append(dead_letter(bare, error, file, offset))
        offset += len(line)
    return values


def _malformed(error: UnicodeError, file: str, offset: int, encoding: str) -> MalformedInput:
    at, reason = offset, str(error)
    if isinstance(error, UnicodeDecodeError):
        at, reason = offset + error.start, error.reason
    number = line_number(file, at)
    where = "" if number is None else f", line {number}"
    return MalformedInput(
        f"{file} is not {encoding} at byte {at}{where}: {reason}", file=file, offset=at
    ).hint('give the encoding of the files, or errors="replace" to go on with a substitute')
