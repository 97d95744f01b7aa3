"""The temporary directory of a job: its own while the job lives, gone afterwards."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowsnap.errors import ConfigError
from flowsnap.runtime.scratch import LOCK, PREFIX, Scratch, remove_left_behind

DIES = """
import os, sys
from pathlib import Path
from flowsnap.runtime.scratch import Scratch

scratch = Scratch.make(Path(sys.argv[1]))
(scratch.path / "code.pkl").write_bytes(b"code")
print(scratch.path, flush=True)
os.kill(os.getpid(), 9)
"""


def test_directory_is_private_and_goes_with_the_job(tmp_path: Path) -> None:
    scratch = Scratch.make(tmp_path)
    assert stat.S_IMODE(scratch.path.stat().st_mode) == 0o700

    scratch.remove()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_job_manager_has_left_goes_when_the_next_one_begins(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", DIES, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=False
    )
    left = Path(killed.stdout.strip())
    assert (left / "code.pkl").exists()

    scratch = Scratch.make(tmp_path)
    assert list(tmp_path.iterdir()) == [scratch.path]
    scratch.remove()


def test_directory_of_one_that_lives_is_left_alone(tmp_path: Path) -> None:
    living = Scratch.make(tmp_path)

    assert remove_left_behind(tmp_path) == []
    assert living.path.exists()
    living.remove()


def test_directory_that_is_not_locked_yet_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}begun").mkdir()
    (tmp_path / f"{PREFIX}created").mkdir()
    (tmp_path / f"{PREFIX}created" / LOCK).touch()

    assert remove_left_behind(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 2


def test_link_to_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / LOCK).write_text("{}")
    (tmp_path / f"{PREFIX}link").symlink_to(elsewhere)

    assert remove_left_behind(tmp_path) == []
    assert (elsewhere / LOCK).exists()


def test_directory_that_is_deleted_by_half_is_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = Scratch.make(tmp_path)
    (scratch.path / "code.pkl").touch()
    (scratch.path / "state").mkdir()
    (scratch.path / "state" / "CURRENT").touch()
    (scratch.path / "link").symlink_to(tmp_path)
    deleted, unlink = [], os.unlink

    def told(path: Any, **place: Any) -> None:
        deleted.append(Path(path).name)
        unlink(path, **place)

    monkeypatch.setattr("os.unlink", told)
    scratch.remove()

    assert sorted(deleted[:-1]) == ["CURRENT", "code.pkl", "link"]
    assert deleted[-1] == LOCK
    assert not list(tmp_path.iterdir())


def test_directory_with_something_that_cannot_be_deleted_keeps_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = Scratch.make(tmp_path)
    (scratch.path / "state").mkdir()
    (scratch.path / "state" / "CURRENT").touch()
    rmdir = os.rmdir

    def refused(path: Any, **place: Any) -> None:
        raise PermissionError(errno.EPERM, "not now", path)

    monkeypatch.setattr("os.rmdir", refused)
    scratch.remove()
    monkeypatch.setattr("os.rmdir", rmdir)

    assert remove_left_behind(tmp_path) == [scratch.path]
    assert not scratch.path.exists()


def test_parent_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot make a temporary directory"):
        Scratch.make(tmp_path / "nowhere")
