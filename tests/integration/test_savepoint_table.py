"""Savepoints and a table that remembers which checkpoints it has: nothing new is taken for old."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flowsnap import Pipeline
from flowsnap.connectors import SQLite
from flowsnap.errors import ConfigError
from tests.integration.jobs import NEVER, QUICK, Held, checkpoints, until

COUNT = 1_000
COLUMNS = {"digit": "integer", "n": "integer"}


def table(path: Path, **settings: Any) -> SQLite:
    return SQLite(path, "counts", columns=COLUMNS, **settings)


def digits(sink: SQLite, source: Held, name: str = "digits") -> Pipeline:
    pipeline = Pipeline(name)
    (
        pipeline.source(source, name="numbers")
        .key_by(lambda n: n % 10, name="by-digit")
        .count(name="counts")
        .map(lambda pair: {"digit": pair[0], "n": pair[1]}, name="rows")
        .sink(sink, name="out")
    )
    return pipeline


def saved(sink: SQLite, state: Path) -> Path:
    """Run a job to its middle and stop it; return a savepoint from before that."""
    handle = digits(sink, Held(COUNT, state, NEVER)).start(state_dir=state, **QUICK)
    until(lambda: len(checkpoints(state)) > 1, "some checkpoints")
    path = handle.savepoint("early")
    assert isinstance(path, Path)
    newest = checkpoints(state)[-1]
    until(lambda: checkpoints(state)[-1] > newest + 2, "more checkpoints")
    handle.stop()
    handle.wait(60)
    return path


def rows(path: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(path)) as db:
        return sorted(db.execute("select digit, n from counts"))


EACH_ONCE = sorted((digit, n) for digit in range(10) for n in range(1, COUNT // 10 + 1))


def test_an_older_savepoint_writes_what_came_after_it_anew(state: Path, tmp_path: Path) -> None:
    keyed = table(tmp_path / "db", key=("digit", "n"))
    path = saved(keyed, state)
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute("delete from counts")
        db.commit()

    digits(keyed, Held(COUNT, state)).run(state_dir=state, restore=path, quiet=True)

    found = rows(tmp_path / "db")
    assert set(found) <= set(EACH_ONCE)
    assert {n for _, n in found} >= set(range(50, 101)), "what the table had seen comes again"
    assert len(found) == len(set(found))


def test_an_older_savepoint_is_refused_where_rows_would_be_there_twice(
    state: Path, tmp_path: Path
) -> None:
    plain = table(tmp_path / "db")
    path = saved(plain, state)
    before = rows(tmp_path / "db")

    with pytest.raises(ConfigError, match="what came between would be there twice"):
        digits(plain, Held(COUNT, state)).run(state_dir=state, restore=path, quiet=True)

    assert rows(tmp_path / "db") == before


def test_another_job_adds_to_the_table_what_comes_after_a_stop(state: Path, tmp_path: Path) -> None:
    plain = table(tmp_path / "db")
    saved(plain, state)
    handle = digits(plain, Held(COUNT, state, NEVER)).start(state_dir=state, **QUICK)
    handle.stop(savepoint="last")
    path = str(handle.wait(60).savepoint)

    other = digits(table(tmp_path / "db"), Held(COUNT, state), "other")
    other.run(state_dir=tmp_path / "else", restore=path, quiet=True)

    assert rows(tmp_path / "db") == EACH_ONCE
