"""Which store a state directory leads to, and what is said where that cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flowsnap.bucket.url import ObjectUrl
from flowsnap.cli.main import invoke
from flowsnap.errors import ConfigError
from flowsnap.storage.opening import job_names, open_job, read_job
from tests.acceptance.jobs import pipeline
from tests.acceptance.processes import flat

URL = ObjectUrl.parse("s3://bucket/state")


def test_a_path_leads_to_a_directory(tmp_path: Path) -> None:
    with open_job(tmp_path / "state", "words") as job:
        assert job.location == str(tmp_path / "state" / "words")

    assert job_names(tmp_path / "state") == ["words"]
    assert job_names(tmp_path / "missing") == []
    read_job(tmp_path / "state", "words").close()


def test_without_the_package_a_url_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("obstore", "obstore.exceptions", "obstore.store"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("directory", "remote", "store"):
        monkeypatch.delitem(sys.modules, f"flowsnap.storage.object_{name}", raising=False)
    monkeypatch.delattr("flowsnap.storage.object_directory", raising=False)

    for call in (lambda: open_job(URL, "words"), lambda: job_names(URL)):
        with pytest.raises(ConfigError, match="needs the package obstore") as raised:
            call()
        assert raised.value.__notes__ == ["pip install 'flowsnap[s3]'"]


@pytest.mark.parametrize("command", ["checkpoints", "verify", "stop", "cancel", "savepoint"])
def test_every_command_refuses_a_secret_in_a_url_without_showing_it(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke([command, "--state-dir", "s3://key:canary@bucket/state"]) == 2

    shown = capsys.readouterr()
    assert "holds more than a bucket and a prefix" in flat(shown.err)
    assert "canary" not in shown.out + shown.err


def test_a_pipeline_refuses_a_url_of_another_kind_before_it_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="begins with ftp://"):
        pipeline(str(tmp_path / "out")).run(state_dir="ftp://host/state", quiet=True)
    assert list(tmp_path.iterdir()) == []
