"""A network that runs: snapshots of it while it does, and what it was in when it came to rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from flowsnap.connectors import Collect
from flowsnap.core.ids import CheckpointId
from flowsnap.core.job import TRANSITIONS, JobState
from flowsnap.core.retention import checkpoint_directory
from flowsnap.errors import CheckpointError, ConfigError, FlowsnapError
from flowsnap.runtime.job import JobHandle
from flowsnap.runtime.status import JobResult
from flowsnap.snapshot.network_history import Event, as_happened
from flowsnap.snapshot.network_snapshot import NetworkSnapshot
from flowsnap.snapshot.snapshot import Snapshot


class NetworkRun:
    """A running network; made by ``Network.start``, and ended by ``with`` or ``close``."""

    def __init__(
        self,
        handle: JobHandle,
        directory: Path,
        *,
        outputs: tuple[Collect | None, Collect | None],
        scratch: TemporaryDirectory[str] | None,
    ) -> None:
        self.handle = handle
        """The job that the network is."""
        self._directory = directory
        self._emitted, self._log = outputs
        self._scratch = scratch

    def snapshot(
        self, initiators: Sequence[str] = (), *, timeout_s: float | None = 60
    ) -> NetworkSnapshot:
        """Take a snapshot while the network goes on; one that has come to rest gives its last.

        ``initiators``: the processes that begin it, each by itself; all others hear of it by the
        markers. None given: all begin it.

        Raises:
            ConfigError: there is no such process.
            CheckpointError: none was taken.
            JobFailed: the network has failed.
            TimeoutError: it was not complete within ``timeout_s``.
        """
        try:
            number = self.handle.checkpoint(
                alignment="unaligned", initiators=tuple(initiators), timeout_s=timeout_s
            )
        except CheckpointError:
            if TRANSITIONS[JobState(self.handle.status().state)]:  # It has not come to its end.
                raise
            return self.wait(timeout_s)
        return self._read(self._directory / checkpoint_directory(CheckpointId(number)))

    def wait(self, timeout_s: float | None = None) -> NetworkSnapshot:
        """Wait until nothing happens any more, and return the state that it has come to.

        A network is at rest when no message is on its way: every process waits for one.

        Raises:
            JobFailed: it has failed.
            TimeoutError: it is not at rest within ``timeout_s``.
        """
        self.handle.wait(timeout_s)
        return self._read(self._directory)

    def stop(self, timeout_s: float | None = 60) -> NetworkSnapshot:
        """End the network where it is, and return its last snapshot, from which it can go on.

        Raises:
            JobFailed: it has failed.
            TimeoutError: it has not ended within ``timeout_s``.
        """
        self.handle.stop()
        return self.wait(timeout_s)

    @property
    def emitted(self) -> list[Any]:
        """What the processes have emitted, as far as checkpoints have committed it.

        Raises:
            ConfigError: it goes to a sink of the user's.
        """
        if self._emitted is None:
            raise ConfigError("what the processes emit goes to a sink of your own: read its target")
        return self._emitted.values

    @property
    def events(self) -> list[Event]:
        """What has happened, in that order, as far as checkpoints have committed it.

        Raises:
            ConfigError: the network keeps no log.
        """
        if self._log is None:
            raise ConfigError("the network keeps no log").hint("Network(name, log=True)")
        return as_happened(self._log.values)

    def close(self) -> JobResult | None:
        """End the network at once, if it runs, and release everything; a second time does nothing.

        Returns how the job has ended.

        Raises:
            JobFailed: it had failed.
        """
        if self._scratch is None and self.handle.is_done:
            return self.handle.wait()
        try:
            if not self.handle.is_done:
                self.handle.cancel()
            return self.handle.wait()
        finally:
            if self._scratch is not None:
                self._scratch.cleanup()
                self._scratch = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.close()
        except FlowsnapError:
            if kind is None:  # Otherwise the block has its own error, which says more.
                raise

    def _read(self, place: Path) -> NetworkSnapshot:
        with Snapshot.open(place, trust=True) as snapshot:
            return NetworkSnapshot.of(snapshot)
