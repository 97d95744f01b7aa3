"""Azure Blob Storage for tests: Azurite, Microsoft's own emulator, in a process of its own.

``install`` has npm get it, once, into the user's cache; node runs it. What it keeps is in memory.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from obstore.store import AzureStore

from tests.servers.required import unavailable

VERSION = "3.35.0"
TOOLS = ("node", "npm")
HOW = "apt-get install npm, or brew install node"
HOW_TO_GET_IT = (
    f"Azurite is not installed, so Azure is NOT tested: {HOW}, then python -m tests.servers.prepare"
)
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key of that account in every Azurite, which its manual prints."""

_FLAGS = ("--silent", "--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence")


@dataclass
class Server:
    """An emulator that runs at ``url``."""

    url: str
    containers: int = 0

    def new_container(self) -> str:
        """Make an empty container, and return its name."""
        self.containers += 1
        name = f"container-{self.containers}"
        date, version = email.utils.formatdate(usegmt=True), "2021-08-06"
        lines = [f"x-ms-date:{date}", f"x-ms-version:{version}"]
        lines += [f"/{ACCOUNT}/{ACCOUNT}/{name}", "restype:container"]
        signed = "PUT" + "\n" * 12 + "\n".join(lines)
        digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
        headers = {
            "x-ms-date": date,
            "x-ms-version": version,
            "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
        }
        url = f"{self.url}/{ACCOUNT}/{name}?restype=container"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)).close()
        return name

    def remote(self, container: str) -> AzureStore:
        """Return a client of a container."""
        return AzureStore(
            container,
            account_name=ACCOUNT,
            account_key=KEY,
            endpoint=f"{self.url}/{ACCOUNT}",
            client_options={"allow_http": True, "timeout": "10s"},
            retry_config={"max_retries": 0},
        )

    def environment(self) -> dict[str, str]:
        """Return what a process needs to know to find it."""
        return {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": self.url}


def program() -> Path:
    """Return where the emulator is, or would be."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    package = Path(cache) / f"flowsnap-azurite-{VERSION}" / "node_modules" / "azurite"
    return package / "dist" / "src" / "blob" / "main.js"


def install() -> None:
    """Have npm get the emulator, unless it is here; whole or not at all.

    Raises:
        CalledProcessError: npm failed.
    """
    home = program().parents[5]
    if program().exists():
        return
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="flowsnap-") as scratch:
        flags = ("--no-audit", "--no-fund", "--omit=dev", "--omit=optional", "--ignore-scripts")
        command = ["npm", "install", "--silent", "--prefix", ".", *flags, f"azurite@{VERSION}"]
        subprocess.run(command, cwd=scratch, check=True)
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(scratch, home, symlinks=True)


@contextmanager
def running() -> Iterator[Server]:
    """Yield an emulator of one's own; skip, and say how to get it, where it is not installed."""
    if shutil.which("node") is None or not program().exists():
        unavailable(HOW_TO_GET_IT)
    process = subprocess.Popen(
        ["node", str(program()), "--blobHost", "127.0.0.1", "--blobPort", "0", *_FLAGS],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as lines:
        try:
            heard = (line.split()[-1] for line in lines if "successfully listens" in line)
            url = next(heard, "")
            assert url, "Azurite has not started"
            yield Server(url)
        finally:
            process.kill()
            process.wait()
