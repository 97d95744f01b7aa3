"""Whole jobs whose checkpoints, or whose files, are in a container of Azure's emulator."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from flowsnap.bucket.url import ObjectUrl
from flowsnap.cli.main import invoke
from flowsnap.storage import keeping
from tests.acceptance.jobs import assert_exactly_once
from tests.acceptance.processes import until
from tests.connectors import object_job
from tests.places import BucketPlace
from tests.servers.azure import KEY, Server
from tests.storage.conftest import Start
from tests.storage.test_job_on_s3 import COUNT, SLOWLY, completed, finish

pytestmark = pytest.mark.slow


@pytest.fixture
def container(azure: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in azure.environment().items():
        monkeypatch.setenv(name, value)
    return azure.new_container()


@pytest.fixture
def place(container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FLOWSNAP_WORK_DIR", str(tmp_path / "work"))
    return f"az://{container}/state"


def test_job_that_was_killed_goes_on_from_azure_and_leaves_a_savepoint_there(
    start: Start, place: str, tmp_path: Path
) -> None:
    killed = start("run", *SLOWLY)
    until(lambda: completed(place) >= 2, "two checkpoints")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    kept = f"{place}/kept"

    assert invoke(["savepoint", "--state-dir", place, "--job", "per-user", "--to", kept]) == 0
    text = finish(start)

    assert "from checkpoint" in text
    assert KEY not in text
    assert_exactly_once(tmp_path / "out", COUNT)
    assert invoke(["verify", kept]) == invoke(["verify", "--state-dir", place]) == 0
    assert keeping.find(ObjectUrl.parse(kept)).manifest.kind == "savepoint"


def test_worker_that_is_killed_between_containers_loses_and_doubles_nothing(
    azure: Server, container: str, tmp_path: Path
) -> None:
    files = BucketPlace(f"az://{container}/data", azure.remote(container))

    text = object_job.run(files, tmp_path, FLOWSNAP_FAILPOINTS="sink.commit_called=kill@2,worker=1")

    assert "1 failure survived" in text
    object_job.assert_exactly_once(files)
