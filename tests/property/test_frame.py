"""Whatever the bytes are: a frame comes back as it was, or is refused; nothing else happens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, ChannelId, WorkerId
from flowsnap.errors import PeerProtocolError
from flowsnap.transport.frame import (
    FRAGMENT,
    HEADER_BYTES,
    INLINE,
    OPAQUE,
    FrameKind,
    Greeting,
    Header,
    check_payload,
    decode_greeting,
    decode_header,
    encode_greeting,
    encode_header,
)
from flowsnap.transport.payload import Payload, decode_batch, encode_batch, join
from flowsnap.transport.plane import Member, Route
from flowsnap.transport.session import PeerSession

U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
HEADERS = st.one_of(
    st.builds(
        Header,
        st.just(FrameKind.BATCH),
        U32,
        U32,
        U64,
        st.integers(-(2**63), 2**63 - 1),
        U32,
        st.integers(0, INLINE | FRAGMENT | OPAQUE),
        U16,
        U32,
    ),
    st.tuples(st.sampled_from(FrameKind), U32, U32, U64).map(lambda fields: Header(*fields)),
)
GREETINGS = st.builds(Greeting, st.text(max_size=100), U32, U32, U32)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.binary(max_size=60_000),
    lambda inner: st.tuples(inner, inner) | st.lists(inner, max_size=3),
    max_leaves=5,
)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    values = draw(st.lists(VALUES, max_size=8) | st.lists(st.binary(max_size=40_000), max_size=8))
    count = len(values)
    timestamps = draw(st.none() | st.lists(st.integers(), min_size=count, max_size=count))
    keys = draw(st.none() | st.lists(st.text(max_size=5), min_size=count, max_size=count))
    return Batch(values, timestamps, keys)


def decode(payload: Payload) -> Batch:
    buffers: Any = [bytes(buffer) for buffer in payload.buffers]
    return decode_batch(payload.records, memoryview(payload.stream), buffers)


def encoded_bytes(batch: Batch, index: int) -> int:
    one = slice(index, index + 1)
    timestamps = None if batch.timestamps is None else batch.timestamps[one]
    keys = None if batch.keys is None else batch.keys[one]
    [payload] = encode_batch(Batch(batch.values[one], timestamps, keys), 2**30)
    return payload.size_bytes


@given(HEADERS)
def test_a_header_comes_back_as_it_was(header: Header) -> None:
    assert decode_header(memoryview(encode_header(header) + b"payload")) == header


@given(HEADERS, st.integers(0, HEADER_BYTES - 1))
def test_a_header_cut_anywhere_is_refused(header: Header, length: int) -> None:
    with pytest.raises(PeerProtocolError, match="cut short"):
        decode_header(memoryview(encode_header(header)[:length]))


@given(st.binary(max_size=60), st.lists(st.integers(0, 300), min_size=1, max_size=4))
def test_any_bytes_are_a_header_or_refused(data: bytes, sizes: list[int]) -> None:
    try:
        header = decode_header(memoryview(data))
        check_payload(header, sizes)
    except PeerProtocolError:
        return
    assert encode_header(header) == data[:HEADER_BYTES]


@given(HEADERS, st.integers(0, HEADER_BYTES - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_tells_another_header(
    header: Header, index: int, change: int
) -> None:
    data = bytearray(encode_header(header))
    data[index] ^= change

    try:
        assert decode_header(memoryview(data)) != header
    except PeerProtocolError:
        assert index < 6  # magic, version, kind, flags: what decode_header can judge


@given(GREETINGS)
def test_a_greeting_comes_back_as_it_was(greeting: Greeting) -> None:
    frame = memoryview(encode_greeting(greeting))
    header = decode_header(frame)

    check_payload(header, [len(frame) - HEADER_BYTES])
    assert decode_greeting(frame[HEADER_BYTES:]) == greeting


@given(GREETINGS)
def test_a_greeting_cut_at_any_byte_is_refused(greeting: Greeting) -> None:
    payload = encode_greeting(greeting)[HEADER_BYTES:]
    for length in range(len(payload)):
        with pytest.raises(PeerProtocolError):
            decode_greeting(memoryview(payload[:length]))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_greeting_or_refused(data: bytes) -> None:
    try:
        greeting = decode_greeting(memoryview(data))
    except PeerProtocolError:
        return
    assert isinstance(greeting, Greeting)


@given(batches())
def test_a_batch_comes_back_as_it_was(batch: Batch) -> None:
    [payload] = encode_batch(batch, 2**30)

    assert decode(payload) == batch
    assert payload.size_bytes == len(payload.stream) + sum(map(len, payload.buffers))


@given(batches(), st.integers(100_000, 400_000))
def test_a_split_batch_comes_back_as_it_was(batch: Batch, limit_bytes: int) -> None:
    try:
        pieces = list(encode_batch(batch, limit_bytes))
    except TypeError:
        assert any(encoded_bytes(batch, index) > limit_bytes for index in range(len(batch)))
        return

    assert all(piece.size_bytes <= limit_bytes for piece in pieces)
    assert join([decode(piece) for piece in pieces]) == batch


@given(batches(), st.data())
def test_a_pickle_cut_anywhere_is_refused(batch: Batch, data: st.DataObject) -> None:
    [payload] = encode_batch(batch, 2**30)
    length = data.draw(st.integers(0, len(payload.stream) - 1))

    with pytest.raises(PeerProtocolError, match="a batch that"):
        decode(payload._replace(stream=payload.stream[:length]))


@given(st.lists(st.integers(1, 4), max_size=12))
def test_only_an_unbroken_sequence_is_accepted(sequences: list[int]) -> None:
    channel, a, b = ChannelId(7), WorkerId(0), WorkerId(1)
    session = PeerSession(Member("job", AttemptId(1), a), b, [Route(channel, b, a)])
    session.greet(Greeting("job", 1, 1, 0))

    accepted = 0
    for sequence in sequences:
        try:
            session.accept(Header(FrameKind.IDLE, 1, channel, sequence))
        except PeerProtocolError:
            assert sequence != accepted + 1
        else:
            assert sequence == accepted + 1
            accepted += 1
    session.accept(Header(FrameKind.POSITION, 1, channel, accepted))
