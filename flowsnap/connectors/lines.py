r"""Files of lines, cut into ranges of bytes that are read independently, from exact positions.

A range ``[start, end)`` owns the lines that begin in it. Its reader skips the line that it begins
inside of, and finishes the line that spans its end, as Hadoop's TextInputFormat does: so every line
is read once, wherever the cuts fall. A line ends with ``\n`` and with nothing else, and its bytes
are never looked at here: a chunk of whole lines goes to a parser, which decodes and splits it at
once, so that a line costs what ``str.split`` costs.

A file is read up to the size it had when the job was submitted. What is appended later is not read;
a file that has lost bytes is an error.
"""

from __future__ import annotations

import codecs
import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from flowsnap.config import Size, size_bytes
from flowsnap.connectors.files import InputFile, Paths, as_paths, find_files
from flowsnap.core.element import Batch
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.errors import MalformedInput, StorageError

Parser = Callable[[bytes, str, int], list[Any]]
"""Whole lines, the file they are from, and their offset in it in bytes, to records."""


class LineFiles(Source):
    """A source of files of lines; a subclass says how lines become records."""

    def __init__(self, path: Paths, *, split_bytes: Size | None, batch_bytes: Size) -> None:
        self.paths = as_paths(path)
        self.split_bytes = (
            None if split_bytes is None else size_bytes(split_bytes, "split_bytes", at_least=1)
        )
        self.batch_bytes = size_bytes(batch_bytes, "batch_bytes", at_least=1)

    def parser(self) -> Parser:
        """Return a new parser; called once per reader, in the task."""
        raise NotImplementedError(f"{type(self).__name__}.parser")

    def splits(self, parallelism: int) -> list[Split]:
        """Return the ranges of all files.

        They do not depend on ``parallelism``, so that a job may be restored with another one.
        """
        return [split for file in find_files(self.paths) for split in self._cut(file)]

    def open_split(self, split: Split, position: int | None) -> LineReader:
        """Return a reader of one range.

        Raises:
            StorageError: the file has vanished, or is now shorter than ``position``.
            MalformedInput: it is no gzip file though it is called so.
        """
        return LineReader(split, position, batch_bytes=self.batch_bytes, parse=self.parser())

    def _cut(self, file: InputFile) -> Iterator[Split]:
        size = file.size_bytes
        if file.path.endswith(".gz"):
            yield Split(f"{file.name}@0", {"path": file.path, "start": 0, "end": None}, size)
            return
        step = self.split_bytes or max(size, 1)
        for start in range(0, max(size, 1), step):
            end = min(start + step, size)
            payload = {"path": file.path, "start": start, "end": end}
            yield Split(f"{file.name}@{start}", payload, end - start)


class LineReader(SplitReader):
    """Reads one range of one file, plain or gzip; a position is the next line's offset in bytes.

    In a gzip file, which is always one range, offsets count uncompressed bytes and progress counts
    compressed ones.
    """

    def __init__(
        self, split: Split, position: int | None, *, batch_bytes: int, parse: Parser
    ) -> None:
        self._path: str = split.payload["path"]
        self._start: int = split.payload["start"]
        self._end: int | None = split.payload["end"]
        self._batch_bytes = batch_bytes
        self._parse = parse
        self._offset = self._start if position is None else position
        with self._translated():
            self._raw = open(self._path, "rb")  # noqa: SIM115 - closed by close()
        self._file: IO[bytes] = (
            gzip.GzipFile(fileobj=self._raw, mode="rb")  # type: ignore[assignment]  # it reads alike
            if self._path.endswith(".gz")
            else self._raw
        )
        try:
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
        if self._end is not None and os.fstat(self._raw.fileno()).st_size < self._offset:
            raise self._shrank()
        if is_fresh and self._start > 0:
            # From one byte earlier, so that a line which begins exactly at the start is kept.
            self._file.seek(self._start - 1)
            self._file.readline()
            self._offset = self._file.tell()
        elif self._file.seek(self._offset) < self._offset:
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
        if not data.endswith(b"\n") and self._offset + len(data) < (self._end or 0):
            raise self._shrank()
        return data

    def _shrank(self) -> StorageError:
        size = os.fstat(self._raw.fileno()).st_size
        expected = self._offset if self._end is None else max(self._offset, self._end)
        return StorageError(
            f"{self._path} is shorter than it was: {size} bytes, bytes up to {expected} are missing"
        ).hint("put the file back as it was when the job was submitted, or start the job afresh")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise MalformedInput(
                f"{self._path} is not a complete gzip file after byte {self._offset}"
                f" of its content: {error}",
                file=self._path,
                offset=self._offset,
            ).hint(
                "check it with gzip --test; a file that is not gzip must not end in .gz"
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
