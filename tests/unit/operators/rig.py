"""Runs a chain of real operators on a real state backend (or its memory twin), without an engine.

``Rig(operator)`` opens it; push batches, advance event and processing time, end the input, and look
at what came out. ``snapshot`` and ``restored`` do what a checkpoint and a restart do.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any

from flowsnap.core.element import Batch
from flowsnap.core.ids import AttemptId, OperatorId
from flowsnap.core.manifest import OperatorStateValues, TableSpec
from flowsnap.core.operator import Operator
from flowsnap.core.watermark import MIN_WATERMARK
from flowsnap.runtime.chain import Chain
from flowsnap.runtime.context import Place, TaskContext
from flowsnap.state.backend import RestoredState
from flowsnap.state.memory import MemoryBackend

GROUPS = 128


@cache
def _all_rigs() -> tempfile.TemporaryDirectory[str]:
    """Return where the rigs of this process are: what one has saved may outlive it."""
    return tempfile.TemporaryDirectory(prefix="flowsnap-rigs-")


@dataclass(frozen=True)
class Saved:
    """A snapshot: keyed state in ``directory``, operator state, and how far event time has come."""

    directory: Path
    tables: tuple[TableSpec, ...]
    operator_states: tuple[OperatorStateValues, ...]
    watermarks: dict[OperatorId, int]
    is_ended: bool


class Rig:
    """One subtask with the given operators; ``out`` has the batches that came out, in order."""

    def __init__(self, *operators: Operator, saved: Saved | None = None, wall_ms: int = 0) -> None:
        self.templates = operators
        self.now_ms = wall_ms
        self.out: list[Batch] = []
        self.watermarks: list[int] = []
        self.is_ended = saved is not None and saved.is_ended
        self._root = Path(tempfile.mkdtemp(dir=_all_rigs().name))
        states = (
            () if saved is None else (RestoredState(saved.directory, saved.tables, (0, GROUPS)),)
        )
        self.backend = MemoryBackend(
            self._root / "state",
            key_groups=(0, GROUPS),
            max_parallelism=GROUPS,
            memory_bytes=1 << 24,
            restored=states,
        )
        names = [OperatorId(f"op-{n}") for n in range(len(operators))]
        values = () if saved is None else saved.operator_states
        place = Place("rig", 0, 1, AttemptId(1), lambda: self.now_ms, values)
        self.contexts = {name: TaskContext(self.backend, name, place) for name in names}
        self.operators = [copy.copy(operator) for operator in operators]
        self.chain = Chain(list(zip(names, self.operators, strict=True)), 0)
        watermarks = {} if saved is None else saved.watermarks
        self.watermark_ms = watermarks.get(names[0], MIN_WATERMARK)
        self.chain.open(self.contexts, watermarks)
        self._take(self.chain.generated())

    def push(
        self,
        values: Iterable[Any],
        timestamps: Iterable[int] | None = None,
        keys: Iterable[Any] | None = None,
        port: int = 0,
    ) -> Rig:
        """Push one batch into input ``port``."""
        batch = Batch(
            list(values),
            None if timestamps is None else list(timestamps),
            None if keys is None else list(keys),
        )
        output = self.chain.process(batch, port)
        self._take([] if output is None else [output])
        self._take(self.chain.generated())
        return self

    def watermark(self, timestamp_ms: int) -> Rig:
        """Advance event time at the input of the first operator."""
        if timestamp_ms > self.watermark_ms:
            self.watermark_ms = timestamp_ms
            self._take(self.chain.advance(timestamp_ms))
        return self

    def clock(self, now_ms: int) -> Rig:
        """Let the wall clock reach ``now_ms``."""
        self.now_ms = now_ms
        self._take(self.chain.on_processing_time(now_ms))
        self._take(self.chain.generated())
        return self

    def poll(self) -> Rig:
        """Take what asynchronous operators have ready."""
        self._take(self.chain.poll())
        self._take(self.chain.generated())
        return self

    def end(self) -> Rig:
        """End the input: event time comes to its end, and the last output leaves."""
        if not self.is_ended:
            self._take(self.chain.end_input())
            self.is_ended = True
        return self

    def snapshot(self) -> Saved:
        """Do what a barrier does, and return what it saved."""
        self._take(self.chain.before_barrier())
        persist = self.backend.freeze()
        while not persist.step():
            pass
        directory = Path(tempfile.mkdtemp(prefix="saved-", dir=self._root))
        for file in persist.files:
            (directory / file.name).write_bytes(file.path.read_bytes())
        return Saved(
            directory,
            persist.tables,
            self.chain.operator_states(),
            self.chain.watermarks(),
            self.is_ended,
        )

    def restored(self) -> Rig:
        """Return a rig that goes on from a snapshot taken now, in a new backend."""
        again = Rig(*self.templates, saved=self.snapshot(), wall_ms=self.now_ms)
        again.out, again.watermarks = self.out, self.watermarks
        return again

    @property
    def values(self) -> list[Any]:
        """Every value that came out of the main output so far."""
        return [value for batch in self.out for value in batch.values]

    @property
    def timed(self) -> list[tuple[Any, int | None]]:
        """Every value with its event time."""
        return [
            pair
            for batch in self.out
            for pair in zip(batch.values, batch.timestamps or repeat(None), strict=False)
        ]

    def side(self, tag: str, operator: int = 0) -> list[Any]:
        """Take what has come out of a side output since the last call."""
        batches = self.contexts[OperatorId(f"op-{operator}")].side_output(tag).take()
        return [value for batch in batches for value in batch.values]

    def counted(self, name: str, operator: int = 0) -> int:
        """Return what an operator has counted under ``name``."""
        return self.contexts[OperatorId(f"op-{operator}")].counter(name).value

    def _take(self, outputs: Iterable[Batch | int]) -> None:
        for output in outputs:
            if isinstance(output, int):
                self.watermarks.append(output)
            elif output.values:
                self.out.append(output)
