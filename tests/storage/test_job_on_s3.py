"""Whole jobs whose checkpoints are in a bucket: killed, resumed, refused, listed and verified."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from flowsnap.bucket.url import ObjectUrl
from flowsnap.cli.main import invoke
from flowsnap.errors import ConfigError
from flowsnap.snapshot import Snapshot
from flowsnap.storage.opening import read_job
from tests.acceptance import jobs
from tests.acceptance.jobs import assert_exactly_once
from tests.acceptance.processes import flat, until
from tests.servers.s3 import KEY_ID, SECRET, Fault, Faults, Server, proxy
from tests.storage.conftest import Start

pytestmark = pytest.mark.slow

COUNT = 12_000
QUICK = ("--workers", "2", "--checkpoint-interval", "300ms")
SLOWLY = (*QUICK, "--arg", "rate=3000")


def completed(place: str) -> int:
    """Return how many checkpoints of the job are in the bucket."""
    try:
        with read_job(ObjectUrl.parse(place), "per-user") as directory:
            return len(directory.checkpoints())
    except ConfigError:
        return 0  # The job has not begun.


def finish(start: Start, *arguments: str, **environment: str) -> str:
    """Run the job to its end, and return what it printed."""
    run = start("run", *QUICK, *arguments, **environment)
    text, _ = run.communicate(timeout=90)
    assert run.returncode == 0, text
    return flat(text)


@pytest.mark.parametrize("is_same_host", [True, False])
def test_a_job_that_was_killed_goes_on_from_the_bucket(
    start: Start, place: str, tmp_path: Path, is_same_host: bool
) -> None:
    killed = start("run", *SLOWLY)
    until(lambda: completed(place) >= 2, "two checkpoints")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    if not is_same_host:
        shutil.rmtree(tmp_path / "work", ignore_errors=True)

    assert "from checkpoint" in finish(start)
    assert_exactly_once(tmp_path / "out", COUNT)


def test_a_worker_that_was_killed_is_replaced_and_its_state_comes_back(
    start: Start, place: str, tmp_path: Path
) -> None:
    text = finish(start, FLOWSNAP_FAILPOINTS="op.file_stored=kill@3,worker=1")

    assert "1 failure survived" in text
    assert_exactly_once(tmp_path / "out", COUNT)


def test_after_a_crash_on_the_same_host_no_state_is_fetched(start: Start, s3: Server) -> None:
    faults = Faults()
    with proxy(s3, faults) as url:
        failpoints = "op.file_stored=kill@4,worker=1"
        slowly = ("--arg", "rate=3000")
        text = finish(start, *slowly, AWS_ENDPOINT_URL=url, FLOWSNAP_FAILPOINTS=failpoints)

    assert "1 failure survived" in text
    stored = {line for line in faults.seen if line.startswith("PUT") and "/shared/" in line}
    assert len(stored) >= 4
    restored = {line for line in faults.seen if line.startswith("HEAD") and "/shared/" in line}
    assert restored
    assert not [line for line in faults.seen if line.startswith("GET") and "/shared/" in line]


def test_a_second_job_manager_is_refused_and_the_first_goes_on(
    start: Start, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = start("run", *SLOWLY)
    until(lambda: completed(place) >= 1, "a checkpoint")
    target = [f"{jobs.__file__}:pipeline", "--arg", f"output={tmp_path / 'out'}"]

    for elsewhere in ([], ["--work-dir", str(tmp_path / "elsewhere")]):
        assert invoke(["run", *target, "--state-dir", place, *QUICK, *elsewhere]) == 2
        assert f"in use by process {running.pid}" in flat(capsys.readouterr().err)

    running.communicate(timeout=60)
    assert_exactly_once(tmp_path / "out", COUNT)


def test_a_job_is_stopped_and_resumed_with_another_number_of_workers(
    start: Start, place: str, tmp_path: Path
) -> None:
    running = start("run", *SLOWLY)
    until(lambda: completed(place) >= 1, "a checkpoint")

    stopped = start("stop")

    text, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 0, text
    running.communicate(timeout=60)
    assert "from checkpoint" in finish(start, "--workers", "3")
    assert_exactly_once(tmp_path / "out", COUNT)


def test_a_job_survives_a_service_that_fails_now_and_then(
    start: Start, s3: Server, tmp_path: Path
) -> None:
    kinds: list[Fault] = ["refuse", "busy", "drop", "lose"]

    def plan(method: str, path: str) -> Fault | None:
        count = len(faults.seen)
        return kinds[count // 7 % 4] if count % 7 == 3 else None

    faults = Faults(plan)
    with proxy(s3, faults) as url:
        finish(start, AWS_ENDPOINT_URL=url)

    assert len(faults.failed) > 20
    assert_exactly_once(tmp_path / "out", COUNT)


@pytest.mark.slow(seconds=30)
def test_a_job_survives_an_outage_of_the_service(start: Start, s3: Server, tmp_path: Path) -> None:
    faults = Faults(lambda method, path: "busy" if 60 <= len(faults.seen) < 84 else None)
    with proxy(s3, faults) as url:
        finish(start, "--arg", "rate=3000", AWS_ENDPOINT_URL=url)

    assert len(faults.failed) == 24
    assert_exactly_once(tmp_path / "out", COUNT)


def test_checkpoints_are_listed_verified_and_read_where_they_are(
    start: Start, place: str, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    finish(start)
    outputs = []
    for command in ("checkpoints", "verify"):
        assert invoke([command, "--state-dir", place, "--json"]) == 0
        outputs.append(json.loads(capsysbinary.readouterr().out))

    assert [line["state"] for line in outputs[0]] == ["complete"] * len(outputs[0]) != []
    assert outputs[1]["findings"] == outputs[1]["cuts"] == []
    assert invoke(["inspect", f"{place}/per-user"]) == 0
    with Snapshot.open(f"{place}/per-user") as snapshot:
        assert snapshot.manifest.checkpoint_id == outputs[0][-1]["id"]


def test_damage_in_the_bucket_is_found(start: Start, place: str) -> None:
    finish(start)
    with read_job(ObjectUrl.parse(place), "per-user") as directory:
        shared = directory.store.list("shared/")[0].name
        directory.store.put(shared, b"other")

    assert invoke(["verify", "--state-dir", place]) == 3


def test_no_credential_is_stored_logged_or_shown(start: Start, place: str, tmp_path: Path) -> None:
    text = finish(start, "--log-level", "debug")
    with read_job(ObjectUrl.parse(place), "per-user") as directory:
        stored = b"".join(directory.store.get(file.name) for file in directory.store.list())
    local = b"".join(p.read_bytes() for p in (tmp_path / "work").rglob("*") if p.is_file())

    for secret in (SECRET, KEY_ID):
        assert secret not in text
        assert secret.encode() not in stored + local
