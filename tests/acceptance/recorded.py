"""A job whose records go round, or wait before a slow step, for runs in which processes die."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

from flowsnap import Pipeline
from flowsnap.connectors import Generator, JsonLinesFiles
from tests.integration.jobs import rows

RECORDS, KEYS, ROUNDS = 12_000, 97, 4
_TURN = threading.Event()  # never set


def slow(record: tuple[int, int]) -> tuple[int, int]:
    """Return the record; every twentieth takes a while, so that others queue before it."""
    if record[1] % 20 == 0:
        _TURN.wait(0.002)
    return record


def pipeline(output: str, looped: str = "no") -> Pipeline:
    p = Pipeline("recorded")
    numbers = p.source(Generator(lambda n: (n % KEYS, n), RECORDS, splits=4), name="numbers")
    values = numbers.rebalance().map(slow, name="slow")
    if looped == "yes":
        loop = p.loop("again")
        at = values.map(lambda v: (*v, 0), name="begin").union(loop)
        at = at.map(lambda v: (v[0], v[1], v[2] + 1), name="step")
        loop.feed(at.filter(lambda v: v[2] < ROUNDS, name="more"))
        values = at.filter(lambda v: v[2] == ROUNDS, name="done").map(lambda v: v[:2], name="last")
    values.key_by(0).sum(1, name="totals").sink(JsonLinesFiles(output), name="out")
    return p


def assert_exactly_once(output: Path) -> None:
    """Check that every record was added once: as many updates, and the right last ones."""
    found = rows(output)
    last: dict[int, int] = {}
    for key, total in found:
        last[key] = max(total, last.get(key, 0))
    expected: Counter[int] = Counter()
    for number in range(RECORDS):
        expected[number % KEYS] += number
    assert len(found) == RECORDS
    assert last == dict(expected)
