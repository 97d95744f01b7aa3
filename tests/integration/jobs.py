"""What the tests of whole jobs share: a census of what is left behind, and small readings."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowsnap.connectors import Generator
from flowsnap.core.element import Batch
from flowsnap.core.operator import Source, Split, SplitReader
from tests.acceptance.processes import children, until

QUICK: dict[str, Any] = {"checkpoint_interval": "10ms"}
NEVER = 10**9
STEP = 25


@contextmanager
def census(state: Path) -> Iterator[None]:
    """Check that nothing is left behind: no process, thread, socket directory, local state."""
    former = tempfile.tempdir
    tempfile.tempdir = tempfile.mkdtemp(prefix="fs-", dir="/tmp")  # short: sockets lie in it
    try:
        yield
        assert os.listdir(tempfile.tempdir) == []
    finally:
        shutil.rmtree(tempfile.tempdir)
        tempfile.tempdir = former
    assert children(os.getpid()) == []
    assert [t.name for t in threading.enumerate() if t.name.startswith("flowsnap")] == []
    assert [path.name for path in state.glob("*/work/*")] == []


def same(number: int) -> int:
    """Return the number: what the generators of these tests make."""
    return number


class Held(Source):
    """The numbers below ``count``, of which a few more come with every checkpoint.

    At most half of them, until ``completed`` checkpoints are complete; then all. So a test can act
    in the middle of a job on any machine, however slow, and every checkpoint has something new.
    """

    discovers = False

    def __init__(self, count: int, state: Path, completed: int = 0, splits: int = 2) -> None:
        self.numbers = Generator(same, count, splits=splits)
        self.state = state
        self.completed = completed
        self.half = count // splits // 2

    def splits(self, parallelism: int) -> list[Split]:
        return self.numbers.splits(parallelism)

    def open_split(self, split: Split, position: Any) -> SplitReader:
        return HeldReader(self.numbers.open_split(split, position), self)


class HeldReader(SplitReader):
    """Reads a few records at a time, and has none while they are held back."""

    def __init__(self, reader: SplitReader, source: Held) -> None:
        self._reader = reader
        self._source = source
        self._is_open = not source.completed
        self._read = 0

    def read(self, limit: int) -> Batch | None:
        left = STEP if self._is_open else self._allowed() - self._read
        if left <= 0:
            return Batch([])
        batch = self._reader.read(min(limit, left))
        self._read += 0 if batch is None else len(batch)
        return batch

    def _allowed(self) -> int:
        newest = max(checkpoints(self._source.state), default=0)
        self._is_open = newest >= self._source.completed
        return min(STEP * (newest + 1), self._source.half)

    def position(self) -> Any:
        return self._reader.position()

    def close(self) -> None:
        self._reader.close()


def lines(directory: Path) -> list[Any]:
    """Return what the parts of a directory hold, in no order that means anything."""
    parts = sorted(directory.glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def doubled_and_lost(found: Counter[Any], expected: Counter[Any]) -> tuple[dict[Any, int], ...]:
    """Return what is too much and what is too little; both empty: exactly once."""
    return dict(found - expected), dict(expected - found)


def checkpoints(state: Path) -> list[int]:
    """Return the complete checkpoints of the only job in a state directory."""
    return sorted(int(p.parent.name) for p in state.glob("*/checkpoints/*/manifest.json"))


def once_after_a_checkpoint(state: Path, act: Callable[[], object]) -> Callable[[int], int]:
    """Return a function for ``map`` that acts once, as soon as a checkpoint is complete.

    That it has acted is kept in a file, so that it holds over processes.
    """
    marker = state.parent / "has-acted"

    def watched(number: int) -> int:
        if number % 50 == 0 and not marker.exists() and checkpoints(state):
            marker.touch()
            act()
        return number

    return watched


__all__ = [
    "NEVER",
    "QUICK",
    "Held",
    "census",
    "checkpoints",
    "doubled_and_lost",
    "lines",
    "once_after_a_checkpoint",
    "same",
    "until",
]


def rows(directory: Path) -> list[Any]:
    """Return the records that a JsonLinesFiles sink has committed below a directory."""
    files = sorted(directory.rglob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]
