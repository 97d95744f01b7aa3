"""Snapshots for tests: checkpoints of real state in a store in memory, without a job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from flowsnap.core.element import Batch
from flowsnap.core.graph import JobGraph, Partitioning
from flowsnap.core.ids import AttemptId, ChannelId, CheckpointId, TaskId
from flowsnap.core.manifest import ChannelState, CheckpointManifest, StateHandle
from flowsnap.core.partition import key_group_range
from flowsnap.runtime.channel_state import Recording
from flowsnap.snapshot import Snapshot
from flowsnap.state.backend import StateBackend
from flowsnap.state.keyed import KeyedStates
from flowsnap.state.restore import RestoredState
from flowsnap.storage.memory import MemoryStore
from flowsnap.storage.writer import CheckpointWriter
from tests.manifests import COUNT, LINES, checkpoint, words

GROUPS = 8
Fill = Callable[[KeyedStates], None]


@dataclass
class Made:
    """A checkpoint whose files lie in ``store``."""

    manifest: CheckpointManifest
    store: MemoryStore = field(default_factory=MemoryStore)

    def opened(self, **settings: Any) -> Snapshot:
        return Snapshot.of(self.manifest, self.store, **settings)


class Maker:
    """Makes a checkpoint of source "lines" -> hash -> keyed "count" -> "out", part by part.

    ``backend``: the memory twin is enough where it does not matter how state lies on the disk.
    """

    def __init__(
        self, directory: Path, *, counters: int = 1, readers: int = 1, backend: Any = StateBackend
    ) -> None:
        self._backend = backend
        self.graph: JobGraph = words(readers=readers, counters=counters, max_parallelism=GROUPS)
        self.store = MemoryStore()
        self._directory = directory
        self._counters = counters
        self._writer = CheckpointWriter(directory, AttemptId(1), self.store)
        self._parts: dict[str, dict[str, Any]] = {}

    def part(self, task: str, **parts: Any) -> Maker:
        """Say what a task has in the checkpoint."""
        self._parts.setdefault(task, {}).update(parts)
        return self

    def keyed(self, *fills: Fill, subtask: int = 0) -> Maker:
        """Give "count" the keyed state that ``fills`` make, each in a life of its own."""
        groups = key_group_range(subtask, self._counters, GROUPS)
        restored: list[RestoredState] = []
        for number, fill in enumerate(fills):
            place = self._directory / f"state-{subtask}-{number}"
            backend = self._backend(
                place,
                key_groups=groups,
                max_parallelism=GROUPS,
                memory_bytes=1 << 22,
                restored=restored,
            )
            fill(backend.context(COUNT))
            persist = backend.freeze()
            while not persist.step():
                pass
            files = persist.files
            restored = [RestoredState(files[0].path.parent, persist.tables, groups)]
            backend.close()
            self._keep(subtask, groups, persist)
        return self

    def _keep(self, subtask: int, groups: tuple[int, int], persist: Any) -> None:
        task = TaskId(f"count/{subtask}")
        handles = tuple(self._writer.store(CheckpointId(1), task, f) for f in persist.files)
        self.part(task, state=StateHandle(groups, persist.tables, handles))

    def in_transit(self, task: str, *channels: tuple[ChannelState, Sequence[Batch]]) -> Maker:
        """Have ``task`` record batches of channels, in turn."""
        known = {ChannelId(number): channel for number, (channel, _) in enumerate(channels)}
        path = self._directory / f"transit-{task.replace('/', '-')}"
        recording = Recording(path / "channels.bin", known)
        for number, (_, batches) in enumerate(channels):
            for batch in batches:
                recording.add(ChannelId(number), batch)
        recording.finish()
        handle = self._writer.store(CheckpointId(1), TaskId(task), recording)
        return self.part(task, channels=recording.states(), channel_file=handle)

    def made(self, number: int = 1, **changes: Any) -> Made:
        """Return the checkpoint."""
        manifest = checkpoint(self.graph, self._parts, number=number)
        return Made(msgspec.structs.replace(manifest, **changes), self.store)

    def opened(self, **settings: Any) -> Snapshot:
        """Return the checkpoint, opened."""
        return self.made().opened(**settings)


def channel(*, source: int = 0, target: int = 0, is_sent: bool = False) -> ChannelState:
    """Return a channel from "lines" to "count"."""
    ends = (LINES, source, COUNT, target)
    return ChannelState(0, *ends, Partitioning.HASH, 0, "all", is_sent)


def balances(items: dict[Any, Any], name: str = "balance", **settings: Any) -> Fill:
    """Return what fills a value state."""

    def fill(states: KeyedStates) -> None:
        state = states.value_state(name, **settings)
        for states.key, value in items.items():
            state.update(value)

    return fill


def carts(items: dict[Any, dict[Any, Any]], name: str = "cart", **settings: Any) -> Fill:
    """Return what fills a map state."""

    def fill(states: KeyedStates) -> None:
        state = states.map_state(name, **settings)
        for states.key, entries in items.items():
            for entry, value in entries.items():
                state.put(entry, value)

    return fill


def both(*fills: Fill) -> Fill:
    """Return what does one after the other."""

    def fill(states: KeyedStates) -> None:
        for each in fills:
            each(states)

    return fill


def batches(*values: Iterable[Any]) -> list[Batch]:
    return [Batch(list(some)) for some in values]
