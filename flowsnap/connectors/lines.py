r"""Files of lines, cut into ranges of bytes that are read independently, from exact positions.

A range ``[start, end)`` owns the lines that begin in it. Its reader skips the line that it begins
inside of, and finishes the line that spans its end, as Hadoop's TextInputFormat does: so every line
is read once, wherever the cuts fall. A line ends with ``\n`` and with nothing else, and its bytes
are never looked at here: a chunk of whole lines goes to a parser, which decodes and splits it at
once, so that a line costs what ``str.split`` costs.

A file is read up to the size it had when the job was submitted. What is appended later is not read;
a file that has lost bytes is an error. Files that grow are followed instead: see ``follow.py``.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, ClassVar, TypedDict, Unpack

from flowsnap.bucket.url import is_url
from flowsnap.config import Duration, Size, duration_ms, size_bytes
from flowsnap.connectors.compression import (
    compression_of,
    damage,
    decompressed,
    skip,
    zstandard,
)
from flowsnap.connectors.dead_letters import DeadLetter, OnError, check_on_error, dead_letter
from flowsnap.connectors.files import (
    InputFile,
    Paths,
    are_remote,
    as_paths,
    find_files,
    kept_versions,
    open_input,
    size_of,
)
from flowsnap.connectors.follow import FollowReader, kept_lanes, lanes
from flowsnap.connectors.options import check_options
from flowsnap.connectors.typed import MISFITS, cause_of, reason_of
from flowsnap.core.element import Batch
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.errors import MalformedInput, StorageError

Parser = Callable[[bytes, str, int], list[Any]]
"""Whole lines, the file they are from, and their offset in it in bytes, to records."""


COUNTED_BYTES_MAX = 1 << 28
"""Up to which offset the lines before a malformed one are counted, to tell its number."""

FETCHED_BYTES_MAX = 1 << 23
"""The same of an object, which has to be fetched for that."""


class LineOptions(TypedDict, total=False):
    """What a source of lines can be told."""

    split_bytes: Size | None
    batch_bytes: Size
    on_error: OnError
    follow: bool
    look_every: Duration


class LineFiles(Source):
    """A source of files of lines; a subclass says how lines become records.

    ``split_bytes`` (64 MB): a plain file that is larger is cut into ranges that several subtasks
    read; None: one subtask reads a file. ``batch_bytes`` (64 KB): how much is read at once.
    ``on_error="dead-letter"``: what does not parse leaves by the side output of that name.
    ``follow=True``: files are read on as they grow, and new ones are looked for every
    ``look_every`` (1 s). Of objects, new ones are read as they appear, and looked for every 10 s.

    Raises:
        ConfigError: a setting is wrong.
    """

    quote: bytes = b""
    """The byte between two of which a line break does not end a record; empty: there is none."""

    reads_whole_files: ClassVar[bool] = False

    def __init__(self, path: Paths, **options: Unpack[LineOptions]) -> None:
        check_options(type(self).__name__, options, LineOptions)
        self.paths = as_paths(path)
        split_bytes = options.get("split_bytes", "64MB")
        self.split_bytes = (
            None if split_bytes is None else size_bytes(split_bytes, "split_bytes", at_least=1)
        )
        self.batch_bytes = size_bytes(options.get("batch_bytes", "64KB"), "batch_bytes", at_least=1)
        self.on_error = check_on_error(options.get("on_error", "fail"))
        self.has_dead_letters = self.on_error == "dead-letter"
        self.follow = bool(options.get("follow", False))
        self.is_remote = are_remote(self.paths, self.follow)
        look_every = options.get("look_every", "10s" if self.is_remote else "1s")
        self.look_ms = duration_ms(look_every, "look_every", at_least_ms=1)
        self.bounded = self.discovers = not self.follow

    def parser(self) -> Parser:
        """Return a new parser; called once per reader, in the task."""
        raise NotImplementedError(f"{type(self).__name__}.parser")

    def splits(self, parallelism: int) -> list[Split]:
        """Return the ranges of all files.

        They do not depend on ``parallelism``, so that a job may be restored with another one;
        where files are followed, there is one for each subtask, which a restored job keeps.
        """
        if self.follow:
            return lanes(self.paths, parallelism)
        return [split for file in find_files(self.paths) for split in self._cut(file)]

    def splits_after(self, parallelism: int, known: Sequence[tuple[Split, Any]]) -> Sequence[Split]:
        """Return the splits of a job that goes on; lanes look for files where they are told now."""
        if not self.follow:
            return kept_versions(self.splits(parallelism), known)
        if not known:
            return self.splits(parallelism)
        return kept_lanes(self.paths, known)

    def open_split(self, split: Split, position: Any) -> SplitReader:
        """Return a reader of one range, or of what is followed.

        Raises:
            StorageError: the file has vanished, or is now shorter than ``position``.
            MalformedInput: it is no gzip file though it is called so.
        """
        if not self.follow:
            return self.open_range(split, position)
        if self.is_remote:
            from flowsnap.connectors.follow_objects import ObjectLane  # noqa: PLC0415 - an extra

            return ObjectLane(split, position, open_split=self.open_range, look_ms=self.look_ms)
        return FollowReader(
            split,
            position,
            batch_bytes=self.batch_bytes,
            parse=self.parser(),
            look_ms=self.look_ms,
        )

    def open_range(self, split: Split, position: Any) -> SplitReader:
        """Return a reader of one range of one file; raises as ``open_split``."""
        return LineReader(
            split,
            position,
            batch_bytes=self.batch_bytes,
            parse=self.parser_of(split.payload),
            quote=self.quote,
        )

    def parser_of(self, payload: dict[str, Any]) -> Parser:
        """Return a new parser of the lines of the file of a split."""
        return self.parser()

    def _cut(self, file: InputFile) -> Iterator[Split]:
        size = file.size_bytes
        compression = compression_of(file.path)
        if compression == "zstd":
            zstandard()
        if compression is not None or self.reads_whole_files or self.quote:
            # Where a record may span lines, no one can tell from the middle where it begins.
            yield Split(f"{file.name}@0", file.payload(0, None), size)
            return
        step = self.split_bytes or max(size, 1)
        for start in range(0, max(size, 1), step):
            end = min(start + step, size)
            yield Split(f"{file.name}@{start}", file.payload(start, end), end - start)


class LineReader(SplitReader):
    """Reads one range of one file, plain or compressed; a position is the next record's offset.

    In a compressed file, which is always one range, offsets count bytes of the content and progress
    counts compressed ones. ``quote``: see ``LineFiles``.
    """

    def __init__(
        self,
        split: Split,
        position: int | None,
        *,
        batch_bytes: int,
        parse: Parser,
        quote: bytes = b"",
    ) -> None:
        self._path: str = split.payload["path"]
        self._start: int = split.payload["start"]
        self._end: int | None = split.payload["end"]
        self._batch_bytes = batch_bytes
        self._parse = parse
        self._quote = quote
        self._compression = compression_of(self._path)
        self._offset = self._start if position is None else position
        with self._translated():
            self._raw = open_input(split.payload)
        self._file: IO[bytes] = self._raw
        try:
            self._file = decompressed(self._raw, self._compression)
            with self._translated():
                self._seek(is_fresh=position is None)
        except BaseException:
            self.close()
            raise

    def read(self, limit: int) -> Batch | None:
        """Return the lines of the next ``batch_bytes`` or so; ``limit`` is not looked at."""
        while data := self._read_lines():
            values = self._parse(data, self._path, self._offset)
            self._offset += len(data)
            if values:
                return Batch(values)
        return None

    def position(self) -> int:
        return self._offset

    def progress(self) -> int:
        if self._end is None:
            return self._raw.tell()
        return min(self._offset, self._end) - self._start

    def wait_ms(self) -> int:
        return 0

    def close(self) -> None:
        self._file.close()
        self._raw.close()

    def _seek(self, *, is_fresh: bool) -> None:
        if self._end is not None and size_of(self._raw) < self._offset:
            raise self._shrank()
        if is_fresh and self._start > 0:
            # From one byte earlier, so that a line which begins exactly at the start is kept.
            self._file.seek(self._start - 1)
            self._file.readline()
            self._offset = self._file.tell()
        elif self._compression is None:
            self._file.seek(self._offset)
        elif skip(self._file, self._offset) < self._offset:
            raise self._shrank()

    def _read_lines(self) -> bytes:
        """Return whole lines from the offset on, and nothing at the end of the range."""
        wanted = self._batch_bytes
        if self._end is not None:
            wanted = min(wanted, self._end - self._offset)
        if wanted <= 0:
            return b""
        with self._translated():
            data = self._file.read(wanted)
            if not data.endswith(b"\n"):
                data += self._file.readline()
            if self._quote:
                data += self._rest_of_record(data)
        if not data.endswith(b"\n") and self._offset + len(data) < (self._end or 0):
            raise self._shrank()
        return data

    def _rest_of_record(self, data: bytes) -> bytes:
        """Return the lines up to the end of the record that ``data``, of whole lines, ends in."""
        lines: list[bytes] = []
        quotes = data.count(self._quote)
        while quotes % 2 and (line := self._file.readline()):
            quotes += line.count(self._quote)
            lines.append(line)
        return b"".join(lines)

    def _shrank(self) -> StorageError:
        size = size_of(self._raw)
        expected = self._offset if self._end is None else max(self._offset, self._end)
        return StorageError(
            f"{self._path} is shorter than it was: {size} bytes, bytes up to {expected} are missing"
        ).hint("put the file back as it was when the job was submitted, or start the job afresh")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except damage() as error:
            kind = self._compression
            raise MalformedInput(
                f"{self._path} is not a complete {kind} file after byte {self._offset}"
                f" of its content: {error}",
                file=self._path,
                offset=self._offset,
            ).hint(
                f"check it with {kind} --test; a file that is not {kind} must not be named as one"
            ) from error
        except FileNotFoundError as error:
            raise StorageError(f"{self._path} has vanished").hint(
                "files are read again after a failure: keep them until the job has finished"
            ) from error
        except OSError as error:
            raise StorageError(f"{self._path} cannot be read: {error}") from error


def without_mark(data: bytes, offset: int) -> tuple[bytes, int]:
    """Return ``data`` and its offset after the UTF-8 byte order mark that a file may begin with."""
    if offset == 0 and data.startswith(codecs.BOM_UTF8):
        return data[len(codecs.BOM_UTF8) :], len(codecs.BOM_UTF8)
    return data, offset


class EachLine:
    """Decodes line by line where one of a chunk does not parse; finds out which, and says why.

    ``hint``: what a user may do about it.
    """

    def __init__(self, on_error: OnError, hint: str) -> None:
        self._is_kept = on_error == "dead-letter"
        self._hint = hint

    def decode(
        self, decode: Callable[[bytes], Any], lines: Sequence[bytes], file: str, offset: int
    ) -> list[Any]:
        """Return the records of lines, which come with their line breaks; empty ones have none.

        Raises:
            MalformedInput: one does not parse, and dead letters are not wanted.
        """
        values = []
        for line in lines:
            if line.strip():
                try:
                    values.append(decode(line))
                except MISFITS as error:
                    values.append(self._refused(error, line, file, offset))
            offset += len(line)
        return values

    def _refused(self, error: Exception, line: bytes, file: str, offset: int) -> DeadLetter:
        reason = reason_of(error)
        if self._is_kept:
            return dead_letter(line.rstrip(b"\r\n"), reason, file, offset)
        number = line_number(file, offset)
        where = file if number is None else f"{file}, line {number}"
        raise MalformedInput(
            f"{where}: the line at byte {offset} is not what was expected: {reason}",
            file=file,
            offset=offset,
        ).hint(self._hint) from cause_of(error)


def line_number(path: str, offset: int) -> int | None:
    """Return the number of the line that begins at an offset, from 1; None: it is not known."""
    if offset > (FETCHED_BYTES_MAX if is_url(path) else COUNTED_BYTES_MAX):
        return None
    number, left = 1, offset
    try:
        with open_input({"path": path}) as raw:
            file = decompressed(raw, compression_of(path))
            while left and (data := file.read(min(left, 1 << 20))):
                number += data.count(b"\n")
                left -= len(data)
    except (OSError, StorageError):
        return None
    except damage():
        return None
    return None if left else number


def split_lines(data: bytes) -> list[bytes]:
    """Return the lines of ``data`` with their line breaks."""
    *lines, last = data.split(b"\n")
    return [line + b"\n" for line in lines] + ([last] if last else [])
