"""Real servers for the tests of connectors, one for each kind and test process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.servers import azure as azure_server
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


@pytest.fixture(scope="session")
def azure() -> Iterator[azure_server.Server]:
    with azure_server.running() as server:
        yield server


@pytest.fixture
def dsn(postgres: Server) -> str:
    """Return where a table ``t`` is, which is the test's own."""
    made = postgres.new_schema()
    with psycopg.connect(made, autocommit=True) as db:
        db.execute("create table t (id int primary key, v text)")
    return made


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection
