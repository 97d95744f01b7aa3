"""How fast can a snapshot be read, queried and compared, next to a bare scan of its rows?"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, announce, per_second, rounds
from flowsnap import Pipeline
from flowsnap.connectors import Discard, FromIterable
from flowsnap.snapshot import SavepointBuilder, Snapshot, diff

PARALLELISM = 2
LOOKUPS = 20_000
QUERY = "select count(*), sum(value), max(key) from totals.plain"


def run(quick: bool) -> list[Row]:
    """Read 1 M keys of a value state (quick: 50,000), and as many whose values are dicts."""
    keys = 50_000 if quick else 1_000_000
    place = Path(tempfile.mkdtemp(prefix="flowsnap-benchmark-"))
    try:
        announce(f"writing savepoints of {keys:,} keys")
        write_s = _timed(lambda: _write(place / "one", keys, 0))
        _write(place / "other", keys, keys // 100)
        with Snapshot.open(place / "one") as one, Snapshot.open(place / "other") as other:
            _drain(one.state("totals", "plain").raw_rows())  # verified, opened and cached
            _drain(other.state("totals", "plain").raw_rows())
            one.sql("select * from tasks")  # so that what it needs is imported
            rows = _measured(one, other, keys, 1 if quick else 5)
        written = 2 * keys / write_s
        return [*rows, _first(place / "one", keys), Row(case="write a savepoint", value=written)]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _measured(one: Snapshot, other: Snapshot, keys: int, n: int) -> list[Row]:
    plain, dicts = one.state("totals", "plain"), one.state("totals", "dicts")
    some = [f"user-{number * (keys // LOOKUPS):08d}" for number in range(LOOKUPS)]
    cases = {
        "bare scan": lambda: per_second(keys, lambda: _drain(plain.raw_rows())),
        "keys and values": lambda: per_second(keys, lambda: _drain(plain.items())),
        "keys and values, dicts": lambda: per_second(keys, lambda: _drain(dicts.items())),
        "single keys": lambda: per_second(LOOKUPS, lambda: [plain[key] for key in some]),
        "Arrow table": lambda: per_second(keys, lambda: one.to_arrow("totals.plain")),
        "SQL": lambda: per_second(keys, lambda: one.sql(QUERY)),
        "difference": lambda: per_second(2 * keys, lambda: diff(one, other)),
    }
    notes = {
        "bare scan": "rows as bytes, nothing decoded",
        "keys and values, dicts": "pickles, read without the job's classes",
        "single keys": "each by its own look-up",
        "SQL": "count, sum and max; reads the state anew for each query",
        "difference": "rows of both sides, 1 % of which differ; two states",
    }
    return rounds(n, cases, warm_up=n > 1).rows(baseline="bare scan", notes=notes)


def _first(path: Path, keys: int) -> Row:
    """Return how long it takes from the path to the first sum, all files hashed."""

    def summed() -> None:
        with Snapshot.open(path) as snapshot:
            if sum(snapshot.state("totals", "plain").values()) != sum(range(keys)):
                raise RuntimeError("the sum of all values is wrong")

    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Row(
        case="open, verify, sum up",
        value=_timed(summed) * 1_000,
        unit="ms",
        is_lower_better=True,
        note=f"{size / 2**20:.0f} MiB, the sum checked",
    )


def _write(path: Path, keys: int, changed: int) -> None:
    """Write a savepoint with two states, the values of ``changed`` keys being others."""
    pipeline = Pipeline("query")
    keyed = pipeline.source(FromIterable([]), name="read").key_by(lambda user: user)
    keyed.count(name="totals").sink(Discard(), name="out")

    def items(of: Any) -> Iterator[tuple[str, Any]]:
        for number in range(keys):
            yield f"user-{number:08d}", of(number if number >= changed else -number)

    builder = SavepointBuilder.new(pipeline, parallelism=PARALLELISM)
    builder.add_state("totals", "plain", items(int))
    builder.add_state("totals", "dicts", items(lambda number: {"clicks": number, "tag": "x"}))
    builder.write(path)


def _drain(rows: Iterator[Any]) -> None:
    deque(rows, maxlen=0)


def _timed(work: Any) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s
