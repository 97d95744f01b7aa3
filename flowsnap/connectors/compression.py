"""Compressed files, read and written as the bytes that are in them.

A position in such a file counts bytes of the content. To go on there it is decompressed from its
beginning, and what lies before is dropped: exact, however the file was compressed, and as slow as
reading it. A file may hold several members (gzip) or frames (zstd), one after the other; one that
ends within one of them is damaged, and never taken for complete.
"""

from __future__ import annotations

import gzip
import importlib
import io
import sys
import zlib
from typing import IO, Any, Literal, Protocol, get_args

from flowsnap.errors import ConfigError

Compression = Literal["gzip", "zstd"]

SUFFIXES: dict[str, str] = {"gzip": ".gz", "zstd": ".zst"}
"""How the names of compressed files end."""

_CHUNK_BYTES = 1 << 16
_SKIP_BYTES = 1 << 20
_DAMAGE: tuple[type[Exception], ...] = (gzip.BadGzipFile, EOFError, zlib.error)


class ByteWriter(Protocol):
    """What bytes are written to; ``close`` completes what it has made of them."""

    def write(self, data: bytes, /) -> Any:
        """Take bytes."""

    def close(self) -> Any:
        """Write what is held back, and leave the file below open."""


def compression_of(path: str) -> Compression | None:
    """Return how a file is compressed, by its name."""
    return next((kind for kind in get_args(Compression) if path.endswith(SUFFIXES[kind])), None)


def check_compression(compression: object) -> Compression | None:
    """Return a compression that can be written, or None.

    Raises:
        ConfigError: it is not known, or its library is missing.
    """
    if compression is None or compression == "gzip":
        return "gzip" if compression else None
    if compression == "zstd":
        zstandard()
        return "zstd"
    raise ConfigError(f"compression: {compression!r} is not known").hint('write "gzip" or "zstd"')


def zstandard() -> Any:
    """Return the zstandard module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("zstandard")
    except ImportError as error:
        raise ConfigError("files ending in .zst need the zstandard package").hint(
            "pip install 'flowsnap[zstd]'"
        ) from error


def damage() -> tuple[type[Exception], ...]:
    """Return what is raised by reading a compressed file that is damaged or cut off."""
    loaded = sys.modules.get("zstandard")
    return _DAMAGE if loaded is None else (*_DAMAGE, loaded.ZstdError)


def decompressed(file: IO[bytes], compression: Compression | None) -> IO[bytes]:
    """Return the content of an open file; closing it leaves ``file`` open."""
    if compression is None:
        return file
    if compression == "gzip":
        return gzip.GzipFile(fileobj=file, mode="rb")  # type: ignore[return-value]  # reads alike
    return io.BufferedReader(_ZstdContent(file), _CHUNK_BYTES)


def compressing(file: IO[bytes], compression: Compression) -> ByteWriter:
    """Return a writer that compresses into ``file``."""
    if compression == "gzip":
        return gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0, compresslevel=6)
    writer: ByteWriter = zstandard().ZstdCompressor().stream_writer(file, closefd=False)
    return writer


def skip(file: IO[bytes], size_bytes: int) -> int:
    """Read over ``size_bytes``, and return how many there were."""
    done = 0
    while done < size_bytes:
        data = file.read(min(_SKIP_BYTES, size_bytes - done))
        if not data:
            break
        done += len(data)
    return done


class _ZstdContent(io.RawIOBase):
    """Decompresses frame after frame.

    The reader of zstandard takes a file that is cut off for one that ends, so it is not used.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = zstandard().ZstdDecompressor()
        self._frame: Any = None
        self._content = memoryview(b"")
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` as far as there is content at hand; 0: the end.

        Raises:
            EOFError: the file ends within a frame.
        """
        while not self._content:
            data = self._rest or self._file.read(_CHUNK_BYTES)
            self._rest = b""
            if not data:
                if self._frame is not None:
                    raise EOFError("it ends within a frame")
                return 0
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            self._content = memoryview(self._frame.decompress(data))
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._content))
        buffer[:size] = self._content[:size]
        self._content = self._content[size:]
        return size
