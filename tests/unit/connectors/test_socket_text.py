from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from flowsnap.connectors import SocketText, socket_text
from flowsnap.core.operator import SplitReader
from flowsnap.errors import ConfigError, StoreUnavailable
from tests.ends import await_values


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        yield server


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_text, "AGAIN_S", 0.01)


def opened(server: socket.socket, **settings: Any) -> SplitReader:
    source = SocketText("127.0.0.1", server.getsockname()[1], **settings)
    (split,) = source.splits(3)
    return source.open_split(split, None)


def test_lines_come_up_to_the_end_of_the_connection(server: socket.socket) -> None:
    with closing(opened(server, bounded=True)) as reader:
        connection, _ = server.accept()
        with connection:
            connection.sendall("ä\nb\r\n\nlast".encode())

        assert await_values(reader) == ["ä", "b", "", "last"]
        assert reader.position() == 4


def test_lost_connection_is_made_again(server: socket.socket) -> None:
    with closing(opened(server)) as reader:
        for text in ("a", "b"):
            connection, _ = server.accept()
            with connection:
                connection.sendall(f"{text}\n".encode())
                assert await_values(reader, 1) == [text]


def test_closing_does_not_wait_for_a_silent_server(server: socket.socket) -> None:
    reader = opened(server)
    connection, _ = server.accept()
    with connection:
        reader.close()

    assert [one for one in threading.enumerate() if one.name == "flowsnap-pump"] == []


def test_server_that_does_not_answer_for_too_long_is_an_error(server: socket.socket) -> None:
    server.close()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    source = SocketText("127.0.0.1", port, retry_timeout="50ms")

    with (
        closing(source.open_split(source.splits(1)[0], 7)) as reader,
        pytest.raises(StoreUnavailable, match="nobody answers at 127"),
    ):
        await_values(reader)


def test_line_without_an_end_does_not_fill_the_memory(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_text, "LINE_BYTES_MAX", 100)
    with closing(opened(server)) as reader:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"x" * 200)
            with pytest.raises(StoreUnavailable, match="without a line break"):
                await_values(reader)


@pytest.mark.parametrize(
    "settings", [{"port": 0}, {"port": "80"}, {"port": 80, "encoding": "klingon"}]
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"port|encoding"):
        SocketText("localhost", **settings)
