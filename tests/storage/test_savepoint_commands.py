"""Whole jobs, on a disk and in a bucket, whose savepoints go to either and come back from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from obstore.exceptions import PermissionDeniedError
from obstore.store import LocalStore

from flowsnap.bucket.url import ObjectUrl
from flowsnap.cli.main import invoke
from flowsnap.connectors import JsonLinesFiles
from flowsnap.errors import ManifestCorrupt, RestoreError
from flowsnap.runtime.job import JobHandle
from flowsnap.snapshot import Snapshot
from flowsnap.storage import keeping
from flowsnap.storage.object_remote import connect
from flowsnap.storage.object_savepoint import BEGUN
from flowsnap.storage.object_url import StateDir
from flowsnap.storage.opening import read_job
from tests.acceptance.processes import flat
from tests.integration.jobs import NEVER, QUICK, Held, lines, until
from tests.integration.test_savepoint import COUNT, assert_exactly_once, digits, whole
from tests.storage import buckets

KEPT = ObjectUrl.parse("gs://backup/monday")
STATE = ObjectUrl.parse("s3://bucket/state")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    buckets.serve_from(tmp_path / "objects", monkeypatch)
    return tmp_path / "objects"


@pytest.fixture(params=["disk", "bucket"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> StateDir:
    return tmp_path / "state" if request.param == "disk" else STATE


@pytest.fixture
def running(state: StateDir, tmp_path: Path) -> Iterator[JobHandle]:
    pipeline = digits(JsonLinesFiles(tmp_path / "out"), Held(COUNT, tmp_path / "held", NEVER))
    handle = pipeline.start(state_dir=str(state), **QUICK)
    until(lambda: handle.status().checkpoints_completed > 1, "checkpoints")
    yield handle
    handle.cancel()
    handle.wait(60)


def finish(state: StateDir, tmp_path: Path, **settings: str) -> None:
    """Run the job to its end."""
    sink, source = JsonLinesFiles(tmp_path / "out"), whole(tmp_path / "held")
    digits(sink, source).run(state_dir=str(state), quiet=True, **settings)  # type: ignore[arg-type]


def savepoints(state: StateDir) -> list[str]:
    with read_job(state, "digits") as job:
        return list(keeping.of_job(job))


@pytest.mark.parametrize("kept", ["disk", "bucket"])
def test_savepoint_of_a_running_job_is_moved_and_gone_back_to(
    running: JobHandle,
    state: StateDir,
    kept: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = str(tmp_path / "kept" if kept == "disk" else KEPT)

    code = invoke(["savepoint", "--state-dir", str(state), "--to", target, "--json"])

    told = json.loads(capsys.readouterr().out)
    assert (code, told["savepoint"], savepoints(state)) == (0, target, [])
    running.stop()
    running.wait(60)
    finish(state, tmp_path, restore=target)
    assert_exactly_once(lines(tmp_path / "out"))


def test_job_is_stopped_with_a_savepoint_in_a_bucket(
    running: JobHandle, state: StateDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = invoke(["stop", "--state-dir", str(state), "--savepoint", "--to", str(KEPT)])

    assert code == 0
    assert capsys.readouterr().out == f"job digits is stopped\n{KEPT}\n"
    assert running.wait(60).state == "stopped"
    finish(state, tmp_path, restore=str(KEPT / "manifest.json"))
    assert_exactly_once(lines(tmp_path / "out"))


def test_handle_says_where_its_savepoint_is(running: JobHandle, state: StateDir) -> None:
    place = running.savepoint("monday")
    running.stop(savepoint="last")
    result = running.wait(60)

    assert place == state / "digits" / "savepoints" / "monday"
    assert result.savepoint == str(state / "digits" / "savepoints" / "last")
    assert savepoints(state) == ["last", "monday"]


def test_savepoint_of_a_job_that_has_ended_is_listed(
    state: StateDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(state, tmp_path)
    assert invoke(["savepoint", "--state-dir", str(state), "--name", "end"]) == 0
    capsys.readouterr()

    assert invoke(["checkpoints", "--state-dir", str(state)]) == 0

    place = state / "digits" / "savepoints" / "end"
    assert capsys.readouterr().out.endswith(f"savepoints, which --restore takes:\n  {place}\n")


def test_savepoint_that_is_not_finished_is_listed_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(STATE, tmp_path)
    place = STATE / "digits" / "savepoints" / "end"
    invoke(["savepoint", "--state-dir", str(STATE), "--name", "end"])
    connect(place).delete("manifest.json")

    assert invoke(["checkpoints", "--state-dir", str(STATE)]) == 0

    said = flat(capsys.readouterr().out)
    assert "savepoints that are not finished" in said
    assert "end: process" in said
    finish(STATE, tmp_path, restore="fresh")
    assert not connect(place).exists(BEGUN)


def test_user_is_told_of_both_places_where_the_first_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(remote: LocalStore, name: str) -> None:
        raise PermissionDeniedError("not yours")

    finish(STATE, tmp_path)
    first, copied = STATE / "digits" / "savepoints" / "end", tmp_path / "kept"
    monkeypatch.setattr("obstore.delete", refuse)

    command = ["savepoint", "--state-dir", str(STATE), "--name", "end", "--to", str(copied)]
    assert invoke(command) != 0

    said = "".join(flat(capsys.readouterr().err).split())  # A long path is broken anywhere.
    advice = f"the copy at {copied} is complete; delete what is left at {first}"
    assert advice.replace(" ", "") in said
    assert keeping.find(copied).manifest == keeping.find(first).manifest


def test_savepoint_in_a_bucket_is_inspected_compared_and_verified(
    state: StateDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(state, tmp_path)
    assert invoke(["savepoint", "--state-dir", str(state), "--to", str(KEPT)]) == 0
    capsys.readouterr()

    assert invoke(["inspect", str(KEPT), "--operator", "counts", "--json"]) == 0
    assert invoke(["diff", str(KEPT), str(state / "digits")]) == 0
    assert "nothing has changed" in capsys.readouterr().out
    assert invoke(["verify", str(KEPT)]) == 0
    with Snapshot.open(f"{KEPT}/manifest.json") as snapshot:
        assert (snapshot.kind, snapshot.source) == ("savepoint", str(KEPT))


def test_damaged_savepoint_in_a_bucket_is_found_and_not_restored(
    state: StateDir, tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(state, tmp_path)
    invoke(["savepoint", "--state-dir", str(state), "--to", str(KEPT)])
    file = next(buckets.on_disk(root, KEPT).glob("shared/*"))
    file.write_bytes(b"other")

    assert invoke(["verify", str(KEPT)]) == 3

    assert f"corrupt shared/{file.name}" in flat(capsys.readouterr().out)
    with pytest.raises(ManifestCorrupt, match=f"{file.name} is damaged"):
        finish(state, tmp_path, restore=str(KEPT))


def test_target_that_is_taken_is_refused_before_the_job_is_stopped(
    running: JobHandle, state: StateDir, capsys: pytest.CaptureFixture[str]
) -> None:
    connect(KEPT).put("notes", b"1")

    assert invoke(["stop", "--state-dir", str(state), "--savepoint", "--to", str(KEPT)]) == 2
    assert invoke(["savepoint", "--state-dir", str(state), "--to", str(KEPT)]) == 2

    assert f"there is something at {KEPT}" in flat(capsys.readouterr().err)
    assert (running.is_done, savepoints(state)) == (False, [])


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["stop", "--state-dir", "x", "--to", "y"], "give --savepoint as well"),
        (["verify"], "give --state-dir, or the place of a savepoint"),
        (["verify", "x", "--state-dir", "y"], "give --state-dir, or the place of a savepoint"),
        (["savepoint", "--state-dir", "x", "--to", "ftp://host/x"], "begins with ftp://"),
        (["inspect", "s3://key:canary@bucket/x"], "more than a bucket and a prefix"),
    ],
)
def test_wrong_use_is_refused(
    command: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(command) == 2

    text = flat(capsys.readouterr().err)
    assert said in text
    assert "canary" not in text


def test_place_in_a_bucket_that_leads_nowhere_is_not_restored(tmp_path: Path) -> None:
    with pytest.raises(RestoreError, match="there is no savepoint at s3://bucket/none"):
        finish(tmp_path / "state", tmp_path, restore="s3://bucket/none")
