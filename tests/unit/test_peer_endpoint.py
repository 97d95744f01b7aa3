from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowsnap.errors import ConfigError
from flowsnap.transport.endpoint import VIA_VARIABLE, ipc_endpoint, peer_endpoint


@pytest.fixture
def directory() -> Iterator[Path]:
    """A private directory whose path is short enough for sockets, wherever tests run."""
    with tempfile.TemporaryDirectory(prefix="fs-", dir="/tmp") as name:
        yield Path(name)


def test_a_peer_is_reached_at_its_own_socket(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VIA_VARIABLE, raising=False)

    assert peer_endpoint(directory, "a.sock") == ipc_endpoint(directory, "a.sock")


def test_a_proxy_is_reached_at_the_same_name_in_its_directory(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "via").mkdir(mode=0o700)
    monkeypatch.setenv(VIA_VARIABLE, str(directory / "via"))

    assert peer_endpoint(directory, "a.sock") == f"ipc://{directory}/via/a.sock"


def test_a_proxy_that_others_could_be_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "via").mkdir()
    (directory / "via").chmod(0o755)
    monkeypatch.setenv(VIA_VARIABLE, str(directory / "via"))

    with pytest.raises(ConfigError, match="open to others"):
        peer_endpoint(directory, "a.sock")
