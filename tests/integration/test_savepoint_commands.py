"""``flowsnap savepoint``, ``stop`` and ``cancel`` against jobs in this process, and without any."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowsnap.cli.main import invoke
from flowsnap.connectors import Collect, JsonLinesFiles
from flowsnap.runtime.job import JobHandle
from flowsnap.storage.savepoint import find
from tests.integration.jobs import NEVER, QUICK, Held, checkpoints, lines, until
from tests.integration.test_savepoint import COUNT, assert_exactly_once, digits, whole


@pytest.fixture
def running(state: Path, tmp_path: Path) -> Iterator[JobHandle]:
    pipeline = digits(JsonLinesFiles(tmp_path / "out"), Held(COUNT, state, NEVER))
    handle = pipeline.start(state_dir=state, **QUICK)
    until(lambda: checkpoints(state), "a checkpoint")
    yield handle
    handle.cancel()
    handle.wait(60)


@pytest.fixture
def ended(state: Path, tmp_path: Path) -> None:
    digits(JsonLinesFiles(tmp_path / "out"), whole(state)).run(state_dir=state, quiet=True)


def made(state: Path) -> list[str]:
    return sorted(path.name for path in (state / "digits" / "savepoints").glob("*"))


# --- of a running job ------------------------------------------------------------------------


def test_a_running_job_is_asked_for_a_savepoint(
    running: JobHandle, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["savepoint", "--state-dir", str(state), "--name", "monday"]) == 0

    printed = capsys.readouterr().out.strip()
    assert Path(printed) == state / "digits" / "savepoints" / "monday"
    assert not running.is_done


def test_savepoints_are_listed_behind_the_checkpoints(
    running: JobHandle, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = running.savepoint("monday")

    assert invoke(["checkpoints", "--state-dir", str(state)]) == 0

    assert capsys.readouterr().out.endswith(f"savepoints, which --restore takes:\n  {path}\n")


def test_a_savepoint_can_be_moved_elsewhere(
    running: JobHandle, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "elsewhere"

    code = invoke(["savepoint", "--state-dir", str(state), "--to", str(target), "--json"])

    assert code == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "savepoint": str(target),
        "checkpoint": find(target).manifest.checkpoint_id,
    }
    assert made(state) == []


def test_a_job_is_stopped_with_a_savepoint_and_its_directory_is_free(
    running: JobHandle, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["stop", "--state-dir", str(state), "--savepoint", "last"]) == 0

    assert running.wait(60).state == "stopped"
    assert capsys.readouterr().out.startswith("job digits is stopped\n")
    assert made(state) == ["last"]
    digits(JsonLinesFiles(tmp_path / "out"), whole(state)).run(state_dir=state, quiet=True)
    assert_exactly_once(lines(tmp_path / "out"))


def test_a_job_is_stopped_with_a_savepoint_that_is_called_after_its_checkpoint(
    running: JobHandle, state: Path
) -> None:
    assert invoke(["stop", "--state-dir", str(state), "--savepoint"]) == 0

    assert made(state) == [f"{running.wait(60).last_checkpoint:08d}"]


def test_a_job_is_drained(
    running: JobHandle, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["stop", "--state-dir", str(state), "--drain"]) == 0

    assert running.wait(60).state == "finished"
    assert capsys.readouterr().out == "job digits is finished\n"


def test_a_job_is_cancelled(
    running: JobHandle, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["cancel", "--state-dir", str(state)]) == 0

    assert running.wait(60).state == "cancelled"
    assert capsys.readouterr().out == "job digits is cancelled\n"


def test_a_name_that_is_taken_is_refused_before_the_job_is_stopped(
    running: JobHandle, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running.savepoint("last")

    assert invoke(["stop", "--state-dir", str(state), "--savepoint", "last"]) == 2

    assert "has a savepoint 'last' already" in " ".join(capsys.readouterr().err.split())
    assert not running.is_done


def test_who_waits_no_longer_is_told_so(
    running: JobHandle, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["savepoint", "--state-dir", str(state), "--timeout", "0ms"]) == 1

    assert "has not answered in time" in capsys.readouterr().err


# --- of a job that does not run --------------------------------------------------------------


def test_a_savepoint_of_a_job_that_has_ended_is_made_of_its_newest_checkpoint(
    ended: None, state: Path, tmp_path: Path
) -> None:
    assert invoke(["savepoint", "--state-dir", str(state), "--name", "end"]) == 0

    manifest = find(state / "digits" / "savepoints" / "end").manifest
    assert manifest.checkpoint_id == checkpoints(state)[-1]


@pytest.mark.parametrize("command", ["stop", "cancel"])
def test_a_job_that_does_not_run_cannot_be_ended(
    ended: None, state: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke([command, "--state-dir", str(state)]) == 2

    told = " ".join(capsys.readouterr().err.split())
    assert f"job digits does not run: there is nothing to {command}" in told
    assert "it is finished" in told


def test_a_job_without_a_checkpoint_has_nothing_to_save(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = digits(Collect(), Held(COUNT, state, NEVER)).start(state_dir=state)
    handle.cancel()
    handle.wait(60)

    assert invoke(["savepoint", "--state-dir", str(state)]) == 3
    assert "has no checkpoint to make a savepoint of" in capsys.readouterr().err


def test_a_target_that_is_taken_is_refused_before_anything_is_made(
    ended: None, state: Path, tmp_path: Path
) -> None:
    assert invoke(["savepoint", "--state-dir", str(state), "--to", str(tmp_path)]) == 2

    assert made(state) == []


def test_restore_and_fresh_exclude_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = "flowsnap.examples.wordcount"
    code = invoke(["run", target, "--fresh", "--restore", str(tmp_path)])

    assert code == 2
    assert "give one of them" in capsys.readouterr().err
