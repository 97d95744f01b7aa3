from __future__ import annotations

from collections.abc import Callable

import pytest

from flowsnap.core.ids import AttemptId, CheckpointId, TaskId
from flowsnap.core.manifest import PreparedOutput, TaskSnapshot
from flowsnap.core.message import MESSAGE_BYTES_MAX, Acknowledged, Cancel, Shutdown, TaskEnded
from flowsnap.errors import LocalProtocolError, PeerProtocolError
from flowsnap.transport.message import decode_from_worker, decode_to_worker, encode_message

ONE = AttemptId(1)


def ended(task: str) -> TaskEnded:
    return TaskEnded(attempt=ONE, task=TaskId(task))


@pytest.mark.parametrize("decode", [decode_from_worker, decode_to_worker])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x80",
        b"\x81\xa4type\xa5Nobod",
        b"\x91" * 100_000,
        encode_message(Cancel(attempt=ONE))[:-1],
        encode_message(ended("map/0"))[:-1],
        encode_message(Cancel(attempt=ONE)).replace(b"attempt\x01", b"attempt\xa1x"),
    ],
)
def test_bytes_that_are_no_message_are_the_fault_of_the_peer(
    decode: Callable[[bytes], object], data: bytes
) -> None:
    with pytest.raises(PeerProtocolError, match="a message that does not parse"):
        decode(data)


def test_a_worker_does_not_take_the_messages_of_workers() -> None:
    with pytest.raises(PeerProtocolError):
        decode_to_worker(encode_message(ended("map/0")))
    with pytest.raises(PeerProtocolError):
        decode_from_worker(encode_message(Shutdown(attempt=ONE)))


def test_a_message_beyond_the_limit_is_neither_made_nor_read() -> None:
    with pytest.raises(LocalProtocolError, match=r"TaskEnded has \d+ bytes"):
        encode_message(ended("x" * MESSAGE_BYTES_MAX))
    with pytest.raises(PeerProtocolError, match="a message of 67108865 bytes"):
        decode_from_worker(bytes(MESSAGE_BYTES_MAX + 1))


def test_a_value_without_a_type_in_messagepack_is_refused_where_it_is_made() -> None:
    snapshot = TaskSnapshot(
        TaskId("sink/0"), (), 0, prepared=(PreparedOutput(CheckpointId(1), object()),)
    )

    with pytest.raises(LocalProtocolError, match="Acknowledged cannot be encoded"):
        encode_message(Acknowledged(attempt=ONE, checkpoint_id=CheckpointId(1), snapshot=snapshot))
