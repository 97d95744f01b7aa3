"""A private PostgreSQL for tests: made in a temporary directory, on a Unix socket, then removed."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.required import unavailable

HOW_TO_GET_IT = (
    "PostgreSQL is not installed, so its connectors are NOT tested: "
    "apt-get install postgresql, or brew install postgresql"
)

PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
)

USER = "flowsnap"

SETTINGS = {
    "listen_addresses": "''",
    "wal_level": "logical",
    "max_connections": "60",
    "max_wal_senders": "8",
    "max_replication_slots": "16",
    "wal_sender_timeout": "10s",
    # Nothing of it has to survive the machine; the tests kill the server, not the kernel.
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
}


def programs() -> Path | None:
    """Return where ``initdb`` and ``pg_ctl`` are, the newest version first."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    places = [Path(match) for pattern in PLACES for match in glob.glob(pattern)]
    known = [place for place in places if (place / "initdb").exists()]
    return max(known, key=_version, default=None)


def _version(place: Path) -> int:
    digits = "".join(filter(str.isdigit, str(place)))
    return int(digits or 0)


class Server:
    """A PostgreSQL that runs; ``dsn`` reaches its database "postgres"."""

    def __init__(self, place: Path, directory: Path) -> None:
        self._place = place
        self._directory = directory
        self._user = _harmless_user()
        self._schemas = 0
        self.dsn = f"host={directory} user={USER} dbname=postgres password=canary"
        if self._user is not None:
            shutil.chown(directory, self._user)
        self._run(
            "initdb", "--no-sync", "--auth=trust", f"--username={USER}", "--encoding=UTF8",
            "--locale=C", f"--pgdata={directory / 'data'}",
        )  # fmt: skip
        settings = "".join(f"{name} = {value}\n" for name, value in SETTINGS.items())
        with open(directory / "data" / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write(f"{settings}unix_socket_directories = '{directory}'\n")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = self._directory / "log"
        self._run("pg_ctl", "start", "--wait", "--silent", f"--log={log}", *self._where())

    def stop(self, how: str = "immediate") -> None:
        """Stop it, by default without warning, as a crash does."""
        self._run("pg_ctl", "stop", "--wait", "--silent", f"--mode={how}", *self._where())

    def new_schema(self) -> str:
        """Make an empty schema; return the connection string of those who work in it."""
        import psycopg

        self._schemas += 1
        with psycopg.connect(self.dsn, autocommit=True) as db:
            db.execute(f"create schema test_{self._schemas}".encode())
        return f"{self.dsn} options='-c search_path=test_{self._schemas}'"

    def _where(self) -> list[str]:
        return [f"--pgdata={self._directory / 'data'}"]

    def _run(self, program: str, *arguments: str) -> None:
        # Its output goes nowhere: the server would keep a pipe open.
        command = [str(self._place / program), *arguments]
        done = subprocess.run(
            command, user=self._user, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, cwd=self._directory, check=False,
        )  # fmt: skip
        if done.returncode:
            log = self._directory / "log"
            text = log.read_text(encoding="utf-8") if log.exists() else "no log"
            raise RuntimeError(f"{' '.join(command)} failed: {text}")


def _harmless_user() -> str | None:
    """Return whom to become where we are root, whom PostgreSQL refuses."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextmanager
def running() -> Iterator[Server]:
    """Yield a server of one's own; skip, and say how to get it, where it is not installed."""
    place = programs()
    if place is None:
        unavailable(HOW_TO_GET_IT)
    # Not below pytest's directory: another user has to enter it, and a socket's path is short.
    directory = Path(tempfile.mkdtemp(prefix="flowsnap-pg-"))
    try:
        server = Server(place, directory)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)
