from __future__ import annotations

import pytest

from flowsnap.core.element import Active, Barrier, Control, EndOfInput, Idle, Watermark
from flowsnap.core.ids import CheckpointId
from flowsnap.errors import LocalProtocolError, PeerProtocolError
from flowsnap.transport.frame import (
    GREETING_BYTES_MAX,
    HEADER_BYTES,
    INLINE,
    FrameKind,
    Greeting,
    Header,
    check_payload,
    control_element,
    control_fields,
    decode_greeting,
    decode_header,
    encode_greeting,
    encode_header,
)

HEADER = Header(
    FrameKind.BATCH,
    attempt=0x01020304,
    channel=0x05060708,
    sequence=0x1112131415161718,
    value=-2,
    records=0x21222324,
    flags=0x0003,
    parts=0x0031,
    payload_bytes=0x41424344,
)


def test_the_layout_of_a_header_is_the_documented_one() -> None:
    assert encode_header(HEADER).hex(" ", -4) == (
        "66730102 00030031 01020304 05060708 11121314 15161718 21222324 41424344 ffffffff fffffffe"
    )
    assert HEADER_BYTES == 40


def test_the_layout_of_a_greeting_is_the_documented_one() -> None:
    frame = encode_greeting(Greeting(job="j", attempt=3, source=1, target=0))

    assert frame[:4] == b"fs\x01\x01"
    assert frame[HEADER_BYTES:] == b"\x84\xa3job\xa1j\xa7attempt\x03\xa6source\x01\xa6target\x00"


def test_numbers_of_frame_kinds_do_not_change() -> None:
    assert {kind.name: int(kind) for kind in FrameKind} == {
        "GREETING": 1,
        "BATCH": 2,
        "WATERMARK": 3,
        "BARRIER": 4,
        "END_OF_INPUT": 5,
        "IDLE": 6,
        "ACTIVE": 7,
        "CREDIT": 8,
        "POSITION": 9,
        "MARKER": 10,
    }


@pytest.mark.parametrize(
    "header",
    [
        HEADER._replace(attempt=2**32),
        HEADER._replace(channel=-1),
        HEADER._replace(sequence=2**64),
        HEADER._replace(value=2**63),
        HEADER._replace(records=2**32),
        HEADER._replace(parts=2**16),
    ],
)
def test_a_number_that_does_not_fit_is_our_fault(header: Header) -> None:
    with pytest.raises(LocalProtocolError, match="does not fit a frame"):
        encode_header(header)


@pytest.mark.parametrize("flags", [INLINE, 0x8000])
def test_a_control_frame_has_no_flags(flags: int) -> None:
    data = encode_header(Header(FrameKind.IDLE, 1, flags=flags))

    with pytest.raises(PeerProtocolError, match="unknown kind 6 or flags"):
        decode_header(memoryview(data))


def test_another_version_is_refused_with_advice() -> None:
    data = b"fs\x02" + encode_header(HEADER)[3:]

    with pytest.raises(PeerProtocolError, match="protocol version 2, expected 1") as caught:
        decode_header(memoryview(data))
    assert caught.value.__notes__ == ["all workers must run the same version of flowsnap"]


@pytest.mark.parametrize(
    ("header", "sizes"),
    [
        (Header(FrameKind.BATCH, 1, flags=INLINE, payload_bytes=9), [9]),
        (Header(FrameKind.BATCH, 1, flags=INLINE, parts=2, payload_bytes=9), [4, 5, 0]),
        (Header(FrameKind.BATCH, 1, parts=1, payload_bytes=9), [0, 9]),
        (Header(FrameKind.GREETING, 1, payload_bytes=5), [5]),
        (Header(FrameKind.POSITION, 1), [0]),
    ],
)
def test_a_payload_as_announced_is_accepted(header: Header, sizes: list[int]) -> None:
    check_payload(header, sizes)


@pytest.mark.parametrize(
    ("header", "sizes"),
    [
        (Header(FrameKind.BATCH, 1, flags=INLINE, payload_bytes=9), [8]),
        (Header(FrameKind.BATCH, 1, flags=INLINE, payload_bytes=9), [9, 0]),
        (Header(FrameKind.BATCH, 1, parts=1, payload_bytes=9), [0]),
        (Header(FrameKind.BATCH, 1, parts=1, payload_bytes=9), [9, 0]),
        (Header(FrameKind.BATCH, 1, flags=INLINE, parts=1, payload_bytes=9), [0, 9]),
        (Header(FrameKind.BATCH, 1, payload_bytes=0), [0]),
        (Header(FrameKind.GREETING, 1), [0]),
        (Header(FrameKind.GREETING, 1, parts=1, payload_bytes=9), [0, 9]),
        (Header(FrameKind.IDLE, 1, payload_bytes=1), [1]),
        (Header(FrameKind.IDLE, 1, parts=1), [0, 0]),
        (Header(FrameKind.IDLE, 1, records=1), [0]),
    ],
)
def test_a_payload_other_than_announced_is_refused(header: Header, sizes: list[int]) -> None:
    with pytest.raises(PeerProtocolError, match=r"a .* frame"):
        check_payload(header, sizes)


@pytest.mark.parametrize(
    "element",
    [
        Watermark(-(2**63)),
        Watermark(2**63 - 1),
        Barrier(CheckpointId(1)),
        EndOfInput(),
        Idle(),
        Active(),
    ],
)
def test_control_elements_come_back_from_their_fields(element: Control) -> None:
    assert control_element(*control_fields(element)) == element


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (FrameKind.BARRIER, 0),
        (FrameKind.BARRIER, -1),
        (FrameKind.END_OF_INPUT, 1),
        (FrameKind.IDLE, -1),
        (FrameKind.BATCH, 0),
        (FrameKind.GREETING, 0),
    ],
)
def test_a_frame_that_is_no_control_element_is_refused(kind: FrameKind, value: int) -> None:
    with pytest.raises(PeerProtocolError, match=f"frame with the value {value}"):
        control_element(kind, value)


@pytest.mark.parametrize(
    "body",
    [b"", b"\x80", b"\x84", b"\xc1", b"\x85\xa3job\x01", bytes(GREETING_BYTES_MAX + 1)],
)
def test_bytes_that_are_no_greeting_are_refused(body: bytes) -> None:
    with pytest.raises(PeerProtocolError, match="a greeting"):
        decode_greeting(memoryview(body))


def test_a_greeting_of_a_job_with_an_endless_name_is_our_fault() -> None:
    with pytest.raises(LocalProtocolError, match="exceeds 4096"):
        encode_greeting(Greeting("j" * GREETING_BYTES_MAX, 1, 0, 1))
