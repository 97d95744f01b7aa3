"""The frame: what every message between two workers begins with, byte by byte.

A frame is one ZeroMQ message of one or more parts. The first part begins with a header of 40 bytes,
big endian:

    magic u16 "fs" | version u8 | kind u8 | flags u16 | parts u16 | attempt u32 | channel u32 |
    sequence u64 | records u32 | payload u32 | value i64

``parts`` counts the parts that follow the first one; ``payload`` is the number of bytes after the
header, over all parts: what is cut short is noticed before a byte of it is read. ``value`` is the
timestamp of a watermark, the id of a barrier's checkpoint (its lower 40 bits; above them 0 if the
checkpoint is aligned, else the timeout in ms plus 1), the number of a marker's round, the credits
of a grant, or 0.

Nothing here keeps state or loads a pickle: what may come next is ``session.py``'s question, what
a batch's payload looks like ``payload.py``'s.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

import msgspec

from flowsnap.core.element import (
    TIMEOUT_MS_MAX,
    Active,
    Barrier,
    Control,
    EndOfInput,
    Idle,
    Marker,
    Watermark,
)
from flowsnap.core.ids import CheckpointId
from flowsnap.errors import LocalProtocolError, PeerProtocolError

MAGIC = 0x6673
VERSION = 1
PARTS_MAX = 64
GREETING_BYTES_MAX = 4096
_ID_BITS = 40

_LAYOUT = struct.Struct("!HBBHHIIQIIq")
HEADER_BYTES = _LAYOUT.size


class FrameKind(IntEnum):
    """What a frame carries; the number is on the wire."""

    GREETING = 1
    BATCH = 2
    WATERMARK = 3
    BARRIER = 4
    END_OF_INPUT = 5
    IDLE = 6
    ACTIVE = 7
    CREDIT = 8
    POSITION = 9
    MARKER = 10


INLINE = 0x1
"""The pickle stream follows the header in the same part; otherwise it is the second part."""

FRAGMENT = 0x2
"""The next frame of the channel carries more records of the same batch."""

OPAQUE = 0x4
"""The buffers of the batch are ``bytes``."""

_FLAGS = INLINE | FRAGMENT | OPAQUE
_KINDS = {int(kind): kind for kind in FrameKind}


class Header(NamedTuple):
    """The first 40 bytes of a frame."""

    kind: FrameKind
    attempt: int
    channel: int = 0
    sequence: int = 0
    value: int = 0
    records: int = 0
    flags: int = 0
    parts: int = 0
    payload_bytes: int = 0


class Greeting(msgspec.Struct, frozen=True):
    """Who speaks to whom, in which attempt of which job: the first frame in both directions."""

    job: str
    attempt: int
    source: int
    target: int


def encode_header(header: Header) -> bytes:
    """Return the 40 bytes of a header.

    Raises:
        LocalProtocolError: a number does not fit its field.
    """
    kind, attempt, channel, sequence, value, records, flags, parts, payload_bytes = header
    try:
        return _LAYOUT.pack(
            MAGIC, VERSION, kind, flags, parts, attempt, channel, sequence, records, payload_bytes,
            value,
        )  # fmt: skip
    except struct.error as error:
        raise LocalProtocolError(f"{header} does not fit a frame: {error}") from error


def decode_header(part: memoryview) -> Header:
    """Return the header that the first part of a frame begins with.

    Raises:
        PeerProtocolError: too short, or not a frame of this version with a known kind and flags.
    """
    if len(part) < HEADER_BYTES:
        raise PeerProtocolError(f"a frame of {len(part)} bytes is cut short of its header")
    magic, version, kind, flags, parts, attempt, channel, sequence, records, size, value = (
        _LAYOUT.unpack_from(part)
    )
    known = _KINDS.get(kind)
    if magic != MAGIC:
        raise PeerProtocolError(f"bytes that begin with {magic:#06x}, which is no frame")
    if version != VERSION:
        raise PeerProtocolError(f"protocol version {version}, expected {VERSION}").hint(
            "all workers must run the same version of flowsnap"
        )
    if known is None or flags & ~_FLAGS or (flags and known is not FrameKind.BATCH):
        raise PeerProtocolError(f"a frame of unknown kind {kind} or flags {flags:#x}")
    return Header(known, attempt, channel, sequence, value, records, flags, parts, size)


def check_payload(header: Header, sizes: list[int]) -> None:
    """Check that what follows the header has the announced parts and bytes.

    ``sizes``: the bytes after the header in the first part, then those of each further part.

    Raises:
        PeerProtocolError: it has not, or a frame that needs none has a payload.
    """
    if len(sizes) - 1 != header.parts or sum(sizes) != header.payload_bytes:
        raise PeerProtocolError(
            f"a {_name(header.kind)} frame of {sum(sizes)} bytes in {len(sizes) - 1} further "
            f"parts, announced as {header.payload_bytes} in {header.parts}"
        )
    carries = header.kind in (FrameKind.BATCH, FrameKind.GREETING)
    if carries != (header.payload_bytes > 0) or (not carries and (header.records or header.parts)):
        raise PeerProtocolError(
            f"a {_name(header.kind)} frame with {header.records} records and "
            f"{header.payload_bytes} bytes in {header.parts} further parts"
        )
    is_inline = header.kind is FrameKind.GREETING or bool(header.flags & INLINE)
    if is_inline != (sizes[0] > 0) and carries:
        raise PeerProtocolError(f"a {_name(header.kind)} frame has its payload out of place")


def encode_greeting(greeting: Greeting) -> bytes:
    """Return the whole frame of a greeting, one part.

    Raises:
        LocalProtocolError: the name of the job makes it too large.
    """
    body = msgspec.msgpack.encode(greeting)
    if len(body) > GREETING_BYTES_MAX:
        raise LocalProtocolError(f"a greeting of {len(body)} bytes exceeds {GREETING_BYTES_MAX}")
    header = Header(FrameKind.GREETING, greeting.attempt, payload_bytes=len(body))
    return encode_header(header) + body


def decode_greeting(body: memoryview) -> Greeting:
    """Return the greeting that the bytes after a header are.

    Raises:
        PeerProtocolError: they are none.
    """
    if len(body) > GREETING_BYTES_MAX:
        raise PeerProtocolError(f"a greeting of {len(body)} bytes exceeds {GREETING_BYTES_MAX}")
    try:
        return _greeting_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PeerProtocolError(f"a greeting that does not parse: {error}") from error


_greeting_decoder = msgspec.msgpack.Decoder(Greeting)


def control_fields(element: Control) -> tuple[FrameKind, int]:
    """Return a control element as the kind and the value of its frame."""
    match element:
        case Watermark(timestamp_ms):
            return FrameKind.WATERMARK, timestamp_ms
        case Barrier(checkpoint_id, timeout_ms):
            timeout = 0 if timeout_ms is None else timeout_ms + 1
            return FrameKind.BARRIER, timeout << _ID_BITS | checkpoint_id
        case Marker(number):
            return FrameKind.MARKER, number
        case EndOfInput():
            return FrameKind.END_OF_INPUT, 0
        case Idle():
            return FrameKind.IDLE, 0
        case Active():
            return FrameKind.ACTIVE, 0


def control_element(kind: FrameKind, value: int) -> Control:
    """Return the control element of a frame.

    Raises:
        PeerProtocolError: a frame of this kind carries none, or no such value.
    """
    if kind is FrameKind.WATERMARK:
        return Watermark(value)
    if kind is FrameKind.BARRIER and value > 0:
        return _barrier(value)
    if kind is FrameKind.MARKER and value > 0:
        return Marker(value)
    element = _VALUELESS.get(kind)
    if element is None or value:
        raise PeerProtocolError(f"a {_name(kind)} frame with the value {value}")
    return element


def _barrier(value: int) -> Barrier:
    timeout, checkpoint_id = value >> _ID_BITS, value & (1 << _ID_BITS) - 1
    if timeout > TIMEOUT_MS_MAX + 1 or checkpoint_id == 0:
        raise PeerProtocolError(f"a barrier frame with the value {value}")
    return Barrier(CheckpointId(checkpoint_id), timeout - 1 if timeout else None)


_VALUELESS: dict[FrameKind, Control] = {
    FrameKind.END_OF_INPUT: EndOfInput(),
    FrameKind.IDLE: Idle(),
    FrameKind.ACTIVE: Active(),
}


def _name(kind: FrameKind) -> str:
    return kind.name.lower().replace("_", " ")
