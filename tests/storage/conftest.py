"""Servers for the tests of object storage, and a way to run the command line on them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance import jobs
from tests.servers import azure as azure_server
from tests.servers import s3 as s3_server

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def s3() -> Iterator[s3_server.Server]:
    with s3_server.running() as server:
        yield server


@pytest.fixture(scope="session")
def azure() -> Iterator[azure_server.Server]:
    with azure_server.running() as server:
        yield server


@pytest.fixture
def place(s3: s3_server.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A state directory of the test's own, which this process can reach, too."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLOWSNAP_WORK_DIR", str(tmp_path / "work"))
    return f"s3://{s3.new_bucket()}/state"


@pytest.fixture
def start(place: str, tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def command(name: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        job = [f"{jobs.__file__}:pipeline", "--arg", f"output={tmp_path / 'out'}"]
        started.append(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "flowsnap.cli.main", name),
                    *(job if name == "run" else []),
                    *("--state-dir", place, *arguments),
                ],
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield command
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
