"""What a test does whose server is not on the machine: it is skipped, or fails where all is due.

``FLOWSNAP_REQUIRE_SERVERS=1`` says that all is due: then no test of a connector goes missing in
silence. ``python -m tests.servers.required`` says what is missing, and exits with 1 if anything is.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from typing import NoReturn

import pytest

from tests.servers import postgres

VARIABLE = "FLOWSNAP_REQUIRE_SERVERS"
CLIENTS = {
    "confluent_kafka": "pip install 'flowsnap[kafka]'",
    "fastavro": "pip install 'flowsnap[avro]'",
    "psycopg": "pip install 'flowsnap[postgres]'",
}
PROGRAMS = {
    "java": "apt-get install openjdk-17-jre-headless, or brew install openjdk",
    "mvn": "apt-get install maven, or brew install maven",
}


def is_required() -> bool:
    """Return whether a missing server is a failure."""
    return os.environ.get(VARIABLE, "") not in {"", "0"}


def unavailable(why: str) -> NoReturn:
    """Skip the test and say why; fail it where servers are required."""
    if is_required():
        pytest.fail(f"{why} ({VARIABLE} is set)", pytrace=False)
    pytest.skip(why)


def missing() -> dict[str, str]:
    """Return what the tests of connectors need and this machine has not: how to get each."""
    clients = {
        name: how for name, how in CLIENTS.items() if importlib.util.find_spec(name) is None
    }
    programs = {name: how for name, how in PROGRAMS.items() if shutil.which(name) is None}
    servers = {} if postgres.programs() is not None else {"initdb": postgres.HOW_TO_GET_IT}
    return {**clients, **programs, **servers}


if __name__ == "__main__":
    found = missing()
    for name, how in found.items():
        print(f"{name} is missing: {how}")
    sys.exit(1 if found else 0)
