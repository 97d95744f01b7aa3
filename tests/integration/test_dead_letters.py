"""Records that a sink could not take, of whole jobs: they come once, as the records beside them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowsnap import Pipeline, Stream
from flowsnap.config import Restart
from flowsnap.connectors import Collect, DeadLetter, FromIterable, JsonLinesFiles, SQLite
from flowsnap.core.operator import Sink
from flowsnap.errors import JobFailed
from flowsnap.testing import simulate
from tests.integration.jobs import QUICK, Held, once_after_a_checkpoint, rows

COUNT = 400
TWICE = Restart(strategy="fixed", delay_ms=1, attempts_max=2)


class Order(msgspec.Struct):
    n: int


def without_place(letters: Stream[DeadLetter]) -> Stream[tuple[str, str]]:
    """Return what dead letters are about; their places depend on how the job is spread."""
    return letters.map(lambda letter: (letter.raw, letter.reason))


def view(sink: Sink) -> list[str]:
    assert isinstance(sink, JsonLinesFiles)
    parts = sorted(Path(sink.paths[0]).glob("*.jsonl"))
    return [line for part in parts for line in part.read_text().splitlines()]


def in_files(directory: Path) -> Pipeline:
    pipeline = Pipeline("orders")
    orders = pipeline.source(FromIterable([]), name="orders")
    orders.sink(
        JsonLinesFiles(directory / "out", type=Order),
        name="out",
        dead_letters=lambda letters: without_place(letters).sink(
            JsonLinesFiles(directory / "bad"), name="bad"
        ),
    )
    return pipeline


def test_records_and_dead_letters_come_once_in_every_world(tmp_path: Path) -> None:
    places = iter(range(1_000))
    orders = [{"n": str(n) if n % 3 == 0 else n} for n in range(60)]

    simulation = simulate(
        lambda: in_files(tmp_path / str(next(places))),
        {"orders": orders},
        seeds=range(12),
        views={"out": view, "bad": view},
    )

    simulation.assert_exactly_once()
    assert (len(simulation.expected["out"]), len(simulation.expected["bad"])) == (40, 20)
    assert simulation.situations["worker killed"] > 0


def fail() -> None:
    raise ZeroDivisionError


def numbers(sink: Sink, state: Path, **letters: Any) -> Pipeline:
    """Draw a job that fails once, and gives every third number as a pair."""
    watched = once_after_a_checkpoint(state, fail)
    pipeline = Pipeline("numbers")
    stream = pipeline.source(Held(COUNT, state, 2), name="numbers").map(watched, name="watched")
    pairs = stream.map(lambda n: (n, n) if n % 3 == 0 else (n,), name="pairs")
    pairs.sink(sink, name="out", **letters)
    return pipeline


def test_job_that_fails_writes_each_record_or_dead_letter_once(state: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    sink = SQLite(tmp_path / "out.db", "t", columns={"n": "integer"}, inline_bytes=100)
    pipeline = numbers(sink, state, dead_letters=JsonLinesFiles(bad))

    result = pipeline.run(state_dir=state, quiet=True, restart=TWICE, **QUICK)

    assert result.attempts == 2
    with closing(sqlite3.connect(tmp_path / "out.db")) as db:
        assert [n for (n,) in db.execute("select n from t order by n")] == [
            n for n in range(COUNT) if n % 3
        ]
    assert sorted(msgspec.json.decode(one["raw"])[0] for one in rows(bad)) == [*range(0, COUNT, 3)]
    assert {one["reason"] for one in rows(bad)} == {"has 2 values for 1 columns"}


def test_job_that_fails_keeps_each_row_that_its_table_refuses_once(
    state: Path, tmp_path: Path
) -> None:
    path, columns = tmp_path / "out.db", {"n": "integer check (n % 3 > 0)"}
    sink = SQLite(path, "t", columns=columns, dead_letter_table="refused")
    once = once_after_a_checkpoint(state, fail)
    pipeline = Pipeline("numbers")
    pipeline.source(Held(COUNT, state, 2), name="numbers").map(once).sink(sink, name="out")

    pipeline.run(state_dir=state, quiet=True, restart=TWICE, **QUICK)

    with closing(sqlite3.connect(path)) as db:
        taken = [n for (n,) in db.execute("select n from t")]
        refused = [n for (n,) in db.execute("select json_extract(row, '$.n') from refused")]
    assert (sorted(taken), sorted(refused)) == (
        [n for n in range(COUNT) if n % 3], [*range(0, COUNT, 3)],
    )  # fmt: skip


def test_job_without_dead_letters_fails_at_the_first_record_that_does_not_fit(
    state: Path, tmp_path: Path
) -> None:
    pipeline = Pipeline("strict")
    sink = SQLite(tmp_path / "out.db", "t", columns={"n": "integer"})
    pipeline.from_iterable([(1,), (2, 2)]).sink(sink, name="out")

    with pytest.raises(JobFailed, match="record 2 of a batch of 2 has 2 values for 1 columns"):
        pipeline.run(state_dir=state, quiet=True, restart=Restart(strategy="none"), **QUICK)


def test_dead_letters_of_several_sinks_may_go_to_one(tmp_path: Path) -> None:
    letters: list[Stream[DeadLetter]] = []
    bad = Collect()
    pipeline = Pipeline("several")
    stream = pipeline.from_iterable([(1,), (2, 2)])
    for name in ("a", "b"):
        sink = SQLite(tmp_path / name, "t", columns={"n": "integer"})
        stream.sink(sink, name=name, dead_letters=letters.append)
    letters[0].union(letters[1]).sink(bad)

    handle = pipeline.start(**QUICK)
    handle.wait()

    assert sorted((one.source, one.raw) for one in bad.values) == [
        (f"{name}/0", "[2,2]") for name in ("a", "b")
    ]
    counted = {one.name: one.counters for one in handle.status().operators if one.counters}
    assert counted == {f"{name}-fit": {"dead letters": 1} for name in ("a", "b")}
