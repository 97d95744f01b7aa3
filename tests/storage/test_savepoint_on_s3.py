"""Savepoints of jobs in processes of their own, in a bucket of a real server, killed and faulty."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from flowsnap.bucket.url import ObjectUrl
from flowsnap.cli.main import invoke
from flowsnap.connectors import JsonLinesFiles
from flowsnap.errors import ManifestCorrupt
from flowsnap.storage import keeping
from tests.acceptance.jobs import assert_exactly_once
from tests.acceptance.processes import flat, until
from tests.integration.test_savepoint import digits, whole
from tests.servers.s3 import Fault, Faults, Server, proxy
from tests.storage.conftest import Start
from tests.storage.test_job_on_s3 import COUNT, SLOWLY, completed, finish

pytestmark = pytest.mark.slow


def savepoint(place: str, name: str) -> ObjectUrl:
    return ObjectUrl.parse(f"{place}/per-user/savepoints/{name}")


def test_job_is_stopped_with_a_savepoint_from_which_another_goes_on(
    start: Start, place: str, s3: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = Faults()
    with proxy(s3, faults) as url:
        running = start("run", *SLOWLY, AWS_ENDPOINT_URL=url)
        until(lambda: completed(place) >= 2, "two checkpoints")
        assert invoke(["stop", "--state-dir", place, "--savepoint", "last"]) == 0
        running.communicate(timeout=60)

    assert capsys.readouterr().out.splitlines()[-1] == str(savepoint(place, "last"))
    made = [line for line in faults.seen if "/savepoints/last/" in line]
    assert len([line for line in made if line.startswith("PUT") and "/shared/" in line]) >= 2
    assert not [line for line in faults.seen if line.startswith("GET") and "/shared/" in line]
    elsewhere = ("--state-dir", f"{place}-2", "--workers", "3")
    assert "finished" in finish(start, *elsewhere, "--restore", str(savepoint(place, "last")))
    assert_exactly_once(tmp_path / "out", COUNT)


def test_job_manager_that_is_killed_in_a_savepoint_leaves_none_and_it_is_made_anew(
    start: Start, place: str, s3: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan(method: str, path: str) -> Fault | None:
        if method == "PUT" and "/savepoints/last/" in path and path.endswith("/CURRENT"):
            running.send_signal(signal.SIGKILL)
            return "drop"
        return None

    faults = Faults(plan)
    with proxy(s3, faults) as url:
        running = start("run", *SLOWLY, AWS_ENDPOINT_URL=url)
        until(lambda: completed(place) >= 2, "two checkpoints")
        assert invoke(["savepoint", "--state-dir", place, "--name", "last"]) == 1
        assert "has ended without an answer" in flat(capsys.readouterr().err)

    assert faults.failed
    with pytest.raises(ManifestCorrupt, match=f"process {running.pid} on .* is not finished"):
        keeping.find(savepoint(place, "last"))
    assert invoke(["savepoint", "--state-dir", place, "--name", "last"]) == 0
    assert invoke(["verify", str(savepoint(place, "last"))]) == 0


def test_savepoint_is_moved_over_a_connection_that_fails_now_and_then(
    place: str, s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[Fault] = ["refuse", "busy", "drop", "lose"]

    def plan(method: str, path: str) -> Fault | None:
        count = len(faults.seen)
        return kinds[count // 5 % 4] if count % 5 == 3 else None

    digits(JsonLinesFiles(tmp_path / "out"), whole(tmp_path)).run(state_dir=place, quiet=True)
    faults = Faults(plan)
    target = f"s3://{s3.new_bucket()}/kept"
    with proxy(s3, faults) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert invoke(["savepoint", "--state-dir", place, "--to", target]) == 0
        assert invoke(["verify", target]) == 0

    assert len(faults.failed) > 5
