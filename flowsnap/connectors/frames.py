"""Bytes one after the other, each behind its length: how batches lie in a file or a manifest."""

from __future__ import annotations

import struct
from collections.abc import Iterator


def frame(data: bytes, length: struct.Struct) -> bytes:
    """Return bytes behind their length, written as ``length``, of one number, says."""
    return length.pack(len(data)) + data


def frames(data: memoryview, length: struct.Struct) -> Iterator[memoryview]:
    """Yield what lies in frames."""
    start = 0
    while start < len(data):
        (size,) = length.unpack_from(data, start)
        start += length.size
        yield data[start : start + size]
        start += size
