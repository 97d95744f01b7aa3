"""What the contracts are tried on: both backends of keyed state, a PostgreSQL, an S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowsnap.state.backend import StateBackend
from flowsnap.state.memory import MemoryBackend
from tests.contract.lives import Lives
from tests.servers import azure as azure_server
from tests.servers import s3 as s3_server
from tests.servers.postgres import Server, running


@pytest.fixture(params=[StateBackend, MemoryBackend])
def backend_class(request: pytest.FixtureRequest) -> Callable[..., Any]:
    class_: Callable[..., Any] = request.param
    return class_


@pytest.fixture
def lives(backend_class: Callable[..., Any], tmp_path: Path) -> Iterator[Lives]:
    made = Lives(backend_class, tmp_path / "one")
    yield made
    made.backend.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[s3_server.Server]:
    with s3_server.running() as server:
        yield server


@pytest.fixture(scope="session")
def azure() -> Iterator[azure_server.Server]:
    with azure_server.running() as server:
        yield server
