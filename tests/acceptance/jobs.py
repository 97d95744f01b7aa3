"""The job of the acceptance tests, and the independent check of its output.

Every record must be counted exactly once and every update written exactly once: for each user the
output holds the numbers 1 to n, n being computed from the generator alone.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

from flowsnap import Pipeline
from flowsnap.connectors import Generator, JsonLinesFiles

USERS = 97


def user_of(number: int) -> str:
    return f"user-{number * 7919 % USERS}"


def pipeline(output: str, count: int = 12_000, rate: float = 12_000.0) -> Pipeline:
    p = Pipeline("per-user")
    (
        p.source(Generator(user_of, count=count, rate=rate, splits=4), name="users")
        .map(str.upper, name="upper")
        .key_by(lambda user: user, name="by-user")
        .count(name="counts")
        .sink(JsonLinesFiles(output), name="out")
    )
    return p


def expected(count: int) -> dict[str, int]:
    return dict(Counter(user_of(number).upper() for number in range(count)))


def written(output: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for part in sorted(output.glob("part-*.jsonl")):
        for line in part.read_text(encoding="utf-8").splitlines():
            user, number = json.loads(line)
            found[user].append(number)
    return found


def assert_exactly_once(output: Path, count: int) -> None:
    found = written(output)
    for user, total in expected(count).items():
        numbers = sorted(found.get(user, []))
        assert numbers == list(range(1, total + 1)), (
            f"{user}: {len(numbers)} updates, expected {total}; lost "
            f"{sorted(set(range(1, total + 1)) - set(numbers))[:5]}, doubled "
            f"{[n for n, times in Counter(numbers).items() if times > 1][:5]}"
        )
    assert not list(output.glob(".part-*")), "temporary files were left behind"
