"""``python -m tests.servers.prepare``: get ready what the tests of connectors run.

It says what is missing and how to get it, has Maven download the broker's jars and npm the emulator
of Azure, so that no test waits for that. The exit code is 1 if a test would be skipped.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys

from tests.servers import azure, postgres
from tests.servers.kafka import broker

CLIENTS = {
    "confluent_kafka": "pip install 'flowsnap[kafka]'",
    "fastavro": "pip install 'flowsnap[avro]'",
    "moto": "pip install 'moto[server]'",
    "psycopg": "pip install 'flowsnap[postgres]'",
}


def missing() -> dict[str, str]:
    """Return what this machine has not, and how to get each."""
    found = {name: how for name, how in CLIENTS.items() if importlib.util.find_spec(name) is None}
    tools = dict.fromkeys(broker.TOOLS, broker.HOW) | dict.fromkeys(azure.TOOLS, azure.HOW)
    found |= {tool: how for tool, how in tools.items() if shutil.which(tool) is None}
    if postgres.programs() is None:
        found["initdb"] = postgres.HOW_TO_GET_IT
    return found


def main() -> int:
    """Prepare, and return the exit code."""
    lacking = missing()
    for name, how in lacking.items():
        print(f"{name} is missing: {how}")
    if not lacking.keys() & set(broker.TOOLS):
        try:
            jars = broker.download()
        except subprocess.CalledProcessError as error:
            print(f"the jars of Kafka cannot be downloaded: maven ended with {error.returncode}")
            return 1
        print(f"{jars} jars of Kafka are here")
    if not lacking.keys() & set(azure.TOOLS):
        try:
            azure.install()
        except subprocess.CalledProcessError as error:
            print(f"Azurite cannot be installed: npm ended with {error.returncode}")
            return 1
        print(f"Azurite {azure.VERSION} is here")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
