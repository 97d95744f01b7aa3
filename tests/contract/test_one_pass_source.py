"""What sources keep whose input cannot be read again: stopped anywhere, no value comes twice."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from flowsnap.connectors import FromGenerator, FromQueue, SocketText, socket_text
from flowsnap.core.operator import Source, Split, SplitReader
from tests.ends import await_values

PATIENCE_S = 20


class Input:
    """What a source reads from: ``put`` gives it values, each of which can be taken once."""

    def __init__(self) -> None:
        self.values: queue.Queue[Any] = queue.Queue()

    def put(self, value: Any) -> None:
        """Give a value."""
        self.values.put(value)

    def opened(self) -> None:
        """Take note that the source is open: from now on it gets what is put."""

    def closing(self) -> None:
        """Take note that the source is about to be closed."""


class Waiting(Input):
    """What a generator waits for; when it is to be closed it must not wait for ever."""

    def closing(self) -> None:
        self.put(None)


class Connections(Input):
    """A server, whose newest connection gets the values as lines."""

    def __init__(self, server: socket.socket, stack: ExitStack) -> None:
        super().__init__()
        self._server, self._stack = server, stack

    def opened(self) -> None:
        self._connection, _ = self._server.accept()
        self._stack.enter_context(self._connection)

    def put(self, value: Any) -> None:
        self._connection.sendall(f"{value}\n".encode())


@pytest.fixture(params=["queue", "generator", "socket"])
def case(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Source, Input]]:
    """Yield a source and its input."""
    if request.param == "queue":
        input_ = Input()
        yield FromQueue(input_.values), input_
        return
    if request.param == "generator":
        waiting = Waiting()
        yield FromGenerator(lambda: iter(waiting.values.get, None), bounded=False), waiting
        return
    monkeypatch.setattr(socket_text, "AGAIN_S", 0.01)
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.settimeout(PATIENCE_S)
        source = SocketText("127.0.0.1", server.getsockname()[1])
        yield source, Connections(server, stack)


def await_ints(reader: SplitReader, count: int) -> list[int]:
    return list(map(int, await_values(reader, count, limit=1)))


@pytest.mark.parametrize("taken", range(4))
def test_restored_it_goes_on_with_what_comes_and_nothing_comes_twice(
    case: tuple[Source, Input], taken: int
) -> None:
    source, input_ = case
    (split,) = source.splits(2)
    with closing(source.open_split(split, None)) as reader:
        input_.opened()
        for value in range(taken):
            input_.put(value)
        assert await_ints(reader, taken) == list(range(taken))
        position = reader.position()
        input_.closing()

    with closing(source.open_split(split, position)) as reader:
        input_.opened()
        for value in range(10, 13):
            input_.put(value)
        assert await_ints(reader, 3) == [10, 11, 12]
        assert reader.position() == position + 3
        input_.closing()


def test_it_is_one_split_that_a_restored_job_keeps_with_any_parallelism(
    case: tuple[Source, Input],
) -> None:
    source, _ = case

    splits = source.splits(1)

    assert splits == source.splits(3) == source.splits_after(2, [(Split("all"), 4)])
    assert not source.discovers
