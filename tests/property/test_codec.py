"""Any damage to stored values and control messages is reported as damage, and as nothing else."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flowsnap.core.ids import AttemptId, CheckpointId, TaskId
from flowsnap.core.message import Committed, Declined, FromWorker, TaskEnded
from flowsnap.errors import PeerProtocolError, StateError
from flowsnap.state.codec import decode_value, encode_value
from flowsnap.transport.message import decode_from_worker, encode_message

SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=4),
    st.lists(SCALARS, max_size=4).map(tuple),
    st.dictionaries(st.text(max_size=3), SCALARS, max_size=3),
)
ATTEMPTS, NUMBERS = st.integers(1, 2**40).map(AttemptId), st.integers(1, 2**40).map(CheckpointId)
TASKS = st.text(min_size=1, max_size=8).map(TaskId)
MESSAGES: st.SearchStrategy[FromWorker] = st.one_of(
    st.builds(Committed, attempt=ATTEMPTS, checkpoint_id=NUMBERS, task=TASKS),
    st.builds(
        Declined, attempt=ATTEMPTS, checkpoint_id=NUMBERS, task=TASKS, reason=st.text(max_size=20)
    ),
    st.builds(TaskEnded, attempt=ATTEMPTS, task=TASKS),
)


def mutated(data: bytes, start: int, end: int, piece: bytes) -> bytes:
    return data[: start % (len(data) + 1)] + piece + data[end % (len(data) + 1) :]


@given(VALUES)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    found = decode_value(encode_value(value))

    assert found == value
    assert type(found) is type(value)


@given(VALUES)
def test_a_value_cut_at_any_byte_is_refused_or_is_another_value(value: Any) -> None:
    data = encode_value(value)
    for length in range(len(data)):
        try:
            decode_value(data[:length])
        except StateError:
            continue
        raise AssertionError(f"{data!r} cut to {length} bytes was read")


@given(MESSAGES)
def test_a_message_comes_back_as_it_was(message: FromWorker) -> None:
    assert decode_from_worker(encode_message(message)) == message


@given(MESSAGES)
def test_a_message_cut_at_any_byte_is_refused(message: FromWorker) -> None:
    data = encode_message(message)
    for length in range(len(data)):
        try:
            decode_from_worker(data[:length])
        except PeerProtocolError:
            continue
        raise AssertionError(f"{data!r} cut to {length} bytes was read")


@given(MESSAGES, st.integers(0, 200), st.integers(0, 200), st.binary(max_size=20))
def test_a_message_with_a_replaced_piece_is_refused_or_another_message(
    message: FromWorker, start: int, end: int, piece: bytes
) -> None:
    try:
        found = decode_from_worker(mutated(encode_message(message), start, end, piece))
    except PeerProtocolError:
        return
    assert isinstance(found, FromWorker)
