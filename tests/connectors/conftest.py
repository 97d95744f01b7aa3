"""Real servers for the tests of connectors, one for each kind and test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import s3 as s3_server
from tests.servers.postgres import Server, running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[s3_server.Server]:
    with s3_server.running() as server:
        yield server
