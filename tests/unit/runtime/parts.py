"""Parts that the tests of the drivers are put together from: a source, an operator, a sink."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import SplitPosition
from flowsnap.core.operator import (
    Operator,
    Sink,
    SinkContext,
    Source,
    Split,
    SplitReader,
    Submission,
)


class ListReader(SplitReader):
    """Reads one list a record at a time; None in the list is a moment with nothing to read."""

    def __init__(self, values: Sequence[Any], position: int | None, closed: list[str]) -> None:
        self._values = values
        self._next = position or 0
        self._closed = closed

    def read(self, limit: int) -> Batch | None:
        if self._next == len(self._values):
            return None
        value = self._values[self._next]
        self._next += 1
        return Batch([] if value is None else [value])

    def position(self) -> int:
        return self._next

    def progress(self) -> int:
        return self._next

    def wait_ms(self) -> int:
        return 30

    def close(self) -> None:
        self._closed.append("reader")


class ListSource(Source):
    """A split for each list; counts how often it was asked for them."""

    def __init__(
        self, lists: Mapping[str, Sequence[Any]], *, bounded: bool = True, discovers: bool = True
    ) -> None:
        self.lists = lists
        self.bounded = bounded
        self.discovers = discovers
        self.closed: list[str] = []
        self.asked = 0

    def splits(self, parallelism: int) -> list[Split]:
        self.asked += 1
        return [Split(name, {"path": name}, len(values)) for name, values in self.lists.items()]

    def open_split(self, split: Split, position: int | None) -> SplitReader:
        return ListReader(self.lists[split.id], position, self.closed)


class Holding(Operator):
    """Keeps every record until a barrier or the end, and then lets them go one by one."""

    def __init__(self) -> None:
        self.held: list[Any] = []

    def process(self, batch: Batch) -> Batch:
        self.held += batch.values
        return Batch([])

    def before_barrier(self) -> Iterable[Batch]:
        held, self.held = self.held, []
        return [Batch([value]) for value in held]

    def end_input(self) -> Iterable[Batch]:
        return self.before_barrier()


class MemorySink(Sink):
    """Commits into a list; ``is_broken``: the next commit raises."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.commits: list[list[Any]] = []
        self.submissions: list[Submission] = []
        self.finished = 0
        self.is_broken = False

    def on_submit(self, submission: Submission) -> None:
        self.submissions.append(submission)

    def on_finish(self) -> None:
        self.finished += 1

    def open(self, context: SinkContext) -> None:
        self.written = []

    def write(self, batch: Batch) -> None:
        self.written += batch.values

    def prepare(self, checkpoint_id: CheckpointId) -> Any:
        written, self.written = self.written, []
        return written or None

    def commit(self, committables: Sequence[Any]) -> None:
        if self.is_broken:
            raise OSError("the target is away")
        self.commits.append(list(committables))


def at(name: str, size: int | None, position: int | None = None) -> SplitPosition:
    """Return where the reading of a list begins."""
    return SplitPosition(name, {}, size, position, False)
