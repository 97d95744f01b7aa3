"""A network on the real engine in a seeded world: which process moves next is for the seed to say.

Job manager, worker, tasks, barriers and the checkpoint store are the real ones; the clock stands
still until it is moved. A process that is not chosen for a while is a slow process, and what waits
for it is a slow channel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from random import Random

from flowsnap.api.settings import job_config
from flowsnap.connectors import Collect
from flowsnap.core.coordinator import Wish
from flowsnap.core.ids import CheckpointId, OperatorId
from flowsnap.core.retention import checkpoint_directory
from flowsnap.snapshot import Snapshot
from flowsnap.snapshot.network import Event, Network, NetworkSnapshot, as_happened
from flowsnap.testing.local_job import HandClock, LocalJob

ROUNDS_MAX = 100_000
SETTINGS = {"workers": 0, "checkpoint_interval": "1h", "batch_linger": "0ms"}


class World:
    """One life of a network, from its start to its end or crash."""

    def __init__(self, network: Network, seed: int, directory: Path) -> None:
        self.log: Collect = Collect()
        self._state = directory / "state" / network.name
        self._chance = Random(seed)
        self._clock = HandClock(0)
        network._invariants.clear()  # A thread checks them: the same seed would do other things.
        definition = network._drawn(Collect(), self.log).definition()
        self._job = LocalJob(directory, definition, self._clock, job_config(SETTINGS))

    def step(self, rounds: int = 1) -> None:
        """Let some processes move, in an order that is drawn; ``rounds`` times."""
        for _ in range(rounds):
            if self._job.is_done:
                return
            self._clock.reach(self._clock.wall_ms() + 1)
            self._job._manager.step()
            self._step_worker()

    def _step_worker(self) -> None:
        worker = self._job._launcher.worker
        assert worker is not None
        for message in worker._control.receive():
            worker._take(message)
        tasks = worker._tasks
        chosen = self._chance.sample(tasks, self._chance.randint(0, len(tasks)))
        worker._tasks = chosen
        try:
            worker.step()
        finally:
            if worker._tasks is chosen:
                worker._tasks = tasks
        assert worker.error is None, worker.error

    def ask(self, initiators: Sequence[str] = ()) -> Future[CheckpointId]:
        """Ask for a snapshot that begins at these processes."""
        names = tuple(OperatorId(name) for name in initiators)
        return self._job._manager.request_checkpoint(Wish("checkpoint", "unaligned", names))

    def snapshot(self, initiators: Sequence[str] = ()) -> NetworkSnapshot:
        """Take a snapshot while the network goes on; of one at rest, its last."""
        asked = self.ask(initiators)
        for _ in range(ROUNDS_MAX):
            if asked.done():
                return self.read(asked.result())
            if self._job.is_done:
                return self.newest()
            self.step()
        raise AssertionError("the snapshot does not become complete")

    def read(self, checkpoint_id: CheckpointId) -> NetworkSnapshot:
        """Return a snapshot that is complete."""
        with Snapshot.open(self._state / checkpoint_directory(checkpoint_id)) as snapshot:
            return NetworkSnapshot.of(snapshot)

    def newest(self) -> NetworkSnapshot:
        """Return the newest snapshot that is complete."""
        with Snapshot.open(self._state) as snapshot:
            return NetworkSnapshot.of(snapshot)

    def finish(self) -> list[Event]:
        """Go on until the network is at rest; return all that has happened."""
        for _ in range(ROUNDS_MAX):
            if self._job.is_done:
                break
            self.step()
        self._job.settle()
        return as_happened(self.log.values)

    def crash(self) -> None:
        """Lose everything but the checkpoints."""
        self._job.crash()


@contextmanager
def world_of(network: Network, seed: int, directory: Path | None = None) -> Iterator[World]:
    """Start a network in the world of a seed; ``directory`` keeps its checkpoints."""
    with directory_in_memory() as own:
        world = World(network, seed, directory or own)
        try:
            yield world
        finally:
            world.crash()


@contextmanager
def directory_in_memory() -> Iterator[Path]:
    """Make a directory that goes with the block, in memory where there is such a thing."""
    parent = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=parent) as own:
        yield Path(own)
