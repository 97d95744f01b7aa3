"""Whatever comes to the job manager is a message, or counted, or the fault of a named worker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsnap.core.ids import AttemptId, WorkerId
from flowsnap.core.message import WorkerReady
from flowsnap.errors import PeerProtocolError
from flowsnap.transport.control import MemoryControl
from flowsnap.transport.message import encode_message

TOKEN = "right"
READY = WorkerReady(attempt=AttemptId(0), worker=WorkerId(4), token=TOKEN, pid=1)


@given(messages=st.lists(st.binary(max_size=300), max_size=5))
def test_garbage_of_strangers_is_only_counted(messages: list[bytes]) -> None:
    control = MemoryControl(TOKEN)
    control.server.inbox.extend((b"stranger", message) for message in messages)

    assert control.server.receive() == []
    assert control.server.refused == len(messages)


@given(data=st.binary(max_size=300))
def test_garbage_of_a_worker_names_the_worker(data: bytes) -> None:
    control = MemoryControl(TOKEN)
    control.server.inbox.append((b"worker/4/1", encode_message(READY)))
    control.server.receive()
    control.server.inbox.append((b"worker/4/1", data))

    with pytest.raises(PeerProtocolError, match=r"^worker 4 sent "):
        control.server.receive()


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 200))
def test_a_damaged_greeting_is_not_a_greeting(junk: bytes, start: int, end: int) -> None:
    good = encode_message(READY)
    data = good[:start] + junk + good[end:]
    control = MemoryControl(TOKEN)
    control.server.inbox.append((b"worker/4/1", data))

    heard = control.server.receive()

    assert heard == [] or all(
        isinstance(message, WorkerReady) and message.token == TOKEN for _, message in heard
    )
    assert len(heard) + control.server.refused == 1
