"""A server that is missing is said loudly, and is a failure where servers are required."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.servers import azure, postgres, prepare, required
from tests.servers.kafka import broker
from tests.servers.required import VARIABLE, unavailable


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on a machine without any program."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(postgres, "PLACES", ())


@pytest.mark.parametrize("value", [None, "", "0"])
def test_test_without_its_server_is_skipped_and_says_why(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)

    with pytest.raises(pytest.skip.Exception, match="install it"):
        unavailable("install it")


@pytest.mark.usefixtures("bare")
def test_servers_that_are_missing_fail_the_tests_where_they_are_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "1")

    with pytest.raises(pytest.fail.Exception, match=f"apt-get install postgresql.*{VARIABLE}"):
        postgres.running().__enter__()
    with pytest.raises(pytest.fail.Exception, match=r"Azure is NOT tested: apt-get install npm"):
        azure.running().__enter__()
    with pytest.raises(pytest.fail.Exception, match=f"{' and '.join(broker.TOOLS)}.*apt-get"):
        broker.skip_without_tools()


@pytest.mark.parametrize("value", ["", "1"])
def test_jars_that_cannot_be_downloaded_are_a_server_that_is_missing(
    value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\nexit 3\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(VARIABLE, value)
    outcome = pytest.fail.Exception if value else pytest.skip.Exception

    with pytest.raises(outcome, match=r"cannot download its jars \(exit code 3\)"):
        broker.skip_without_jars()
    assert prepare.main() == 1


@pytest.mark.usefixtures("bare")
def test_preparation_says_what_is_missing_and_how_to_get_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert prepare.main() == 1

    said = capsys.readouterr().out
    assert said.splitlines() == [
        *(f"{tool} is missing: {broker.HOW}" for tool in broker.TOOLS),
        *(f"{tool} is missing: {azure.HOW}" for tool in azure.TOOLS),
        f"initdb is missing: {postgres.HOW_TO_GET_IT}",
    ]


def test_all_that_is_required_is_here() -> None:
    assert not required.is_required() or prepare.missing() == {}


def test_emulator_that_npm_cannot_get_is_not_there_by_half(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\nmkdir node_modules\nexit 3\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        azure.install()

    assert list((tmp_path / "cache").iterdir()) == []
