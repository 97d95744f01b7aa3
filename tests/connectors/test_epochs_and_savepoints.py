"""Savepoints of jobs whose uncommitted output lies in files beside the checkpoint."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flowsnap import Pipeline
from flowsnap.connectors import SQLite
from flowsnap.core import manifest
from tests.integration.jobs import NEVER, QUICK, Held, census, checkpoints, until

COUNT = 1_000


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    with census(tmp_path / "state"):
        yield tmp_path / "state"


def numbers(table: Path, state: Path, completed: int = 0, name: str = "numbers") -> Pipeline:
    pipeline = Pipeline(name)
    sink = SQLite(table, "t", columns={"n": "integer"}, inline_bytes=0)
    pipeline.source(Held(COUNT, state, completed), name="numbers").sink(sink, name="out")
    return pipeline


def saved(table: Path, state: Path, to: Path) -> None:
    """Run a job to its middle and stop it; copy a savepoint from before that to another place."""
    handle = numbers(table, state, NEVER).start(state_dir=state, **QUICK)
    until(lambda: len(checkpoints(state)) > 1, "some checkpoints")
    shutil.copytree(str(handle.savepoint("one")), to)
    handle.stop()
    handle.wait(60)


def prepared(savepoint: Path) -> list[Any]:
    path = savepoint / "manifest.json"
    tasks = manifest.decode(path.read_bytes(), str(path)).tasks
    return [output.committable for task in tasks for output in task.prepared]


def rows(table: Path) -> list[int]:
    with closing(sqlite3.connect(table)) as db:
        return [row[0] for row in db.execute("select n from t order by n")]


def test_savepoint_needs_no_file_of_the_job_that_made_it(state: Path, tmp_path: Path) -> None:
    saved(tmp_path / "first.db", state, tmp_path / "moved")
    before = rows(tmp_path / "first.db")
    shutil.rmtree(state)

    other = numbers(tmp_path / "second.db", state, name="other")
    other.run(state_dir=tmp_path / "else", restore=tmp_path / "moved", quiet=True)

    assert all("file" in one for one in prepared(tmp_path / "moved"))
    after = rows(tmp_path / "second.db")
    assert len(after) == len(set(after))
    assert {*before, *after} == set(range(COUNT))
    assert 0 < len(after) < COUNT
