"""A completed checkpoint as something to look at, without the job that took it.

A checkpoint is a consistent cut: the state of every task, and what was in transit between them. So
what is true of the job as a whole can be asked of it: how much money there is, who waits for whom,
how far each source has been read. Plain values are read without the job's code, and none of it
runs; other objects come back as ``Opaque``, or as they were with ``trust=True``.

Source: Chandy and Lamport, "Distributed Snapshots", 1985; Flink's State Processor API. Deviation:
messages in transit and pending commits are there to be read as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from flowsnap.core.manifest import CheckpointManifest, TableSpec
from flowsnap.errors import ManifestCorrupt, StorageError
from flowsnap.serialize import load, load_plain
from flowsnap.snapshot import parts
from flowsnap.snapshot.channels import read_channels
from flowsnap.snapshot.content import (
    ChannelContent,
    OperatorPart,
    OperatorValues,
    PendingCommit,
    Position,
    Row,
    StateInfo,
    TaskPart,
    Timer,
)
from flowsnap.snapshot.copies import LocalCopies
from flowsnap.snapshot.decode import PLAIN, TRUSTED
from flowsnap.snapshot.keyed import KeyedState, Reading, StatePart, decoded_row
from flowsnap.snapshot.place import Place, find, scratch_of
from flowsnap.state.codec import PREFIX_BYTES
from flowsnap.storage.object_url import StateDir
from flowsnap.storage.store import CheckpointStore

if TYPE_CHECKING:
    import polars
    import pyarrow

_RETIRED_TIMES_MAX = 5


class Snapshot:
    """A consistent cut of a job; made by ``open`` and ``of``, and closed by ``close`` or ``with``.

    Every file is compared with its sha256 before it is read. Not for two threads at once::

        with Snapshot.open("state/bank") as snapshot:
            balance = snapshot.state("accounts", "balance")
            total = sum(balance.values()) + sum(sum(c.values) for c in snapshot.channels())
    """

    def __init__(
        self, manifest: CheckpointManifest, copies: LocalCopies, *, source: str, trust: bool
    ) -> None:
        self.manifest = manifest
        """The record of the checkpoint."""
        self.source = source
        """Where it lies, for people."""
        self.is_trusted = trust
        """Whether it is read with the job's classes."""
        self._copies = copies
        self._decoder = TRUSTED if trust else PLAIN

    @classmethod
    def open(
        cls,
        path: str | StateDir,
        job: str | None = None,
        *,
        trust: bool = False,
        scratch: str | Path | None = None,
    ) -> Self:
        """Open a checkpoint, a savepoint, or the newest complete checkpoint of a job.

        ``path``: ``<state-dir>/<job>/checkpoints/<number>``, a savepoint's directory,
        ``<state-dir>/<job>``, or a state directory, where ``job`` names one of several; or the URL
        of one of these in object storage. The job may run. ``trust``: read objects with the job's
        classes; their code runs, so only for snapshots of one's own. ``scratch``: where links to
        the files are made, instead of in the job's ``work`` directory or among temporary files; on
        another file system they are copies.

        Raises:
            ConfigError: there is no such snapshot, or there are several.
            RestoreError: the job has no complete checkpoint.
            ManifestCorrupt: it is torn, damaged, foreign or of another version.
            StorageError: it cannot be read.
        """
        for _ in range(_RETIRED_TIMES_MAX):
            place = find(path, job)
            try:
                return cls._made(place, trust=trust, scratch=scratch)
            except (ManifestCorrupt, StorageError):  # Perhaps it was retired meanwhile.
                if not place.is_newest or find(path, job).manifest == place.manifest:
                    raise
        return cls._made(place, trust=trust, scratch=scratch)

    @classmethod
    def of(
        cls,
        manifest: CheckpointManifest,
        store: CheckpointStore,
        *,
        trust: bool = False,
        scratch: str | Path | None = None,
        is_verified: bool = False,
    ) -> Self:
        """Return the snapshot of a manifest, written or not yet, whose files are in ``store``.

        ``trust`` and ``scratch`` are those of ``open``. ``is_verified``: who has just stored the
        files, and hashed them for it, does not want them hashed again.

        Raises:
            ManifestCorrupt: a file is missing.
            StorageError: the store or the local disk failed.
        """
        source = f"checkpoint {manifest.checkpoint_id} of {manifest.job}"
        place = Place(manifest, store, source, scratch_of(store), is_verified=is_verified)
        return cls._made(place, trust=trust, scratch=scratch)

    @classmethod
    def _made(cls, place: Place, *, trust: bool, scratch: str | Path | None) -> Self:
        parent = place.scratch if scratch is None else Path(scratch)
        copies = LocalCopies(place.manifest, place.store, parent, is_verified=place.is_verified)
        try:
            copies.pin()
        except BaseException:
            copies.close()
            raise
        return cls(place.manifest, copies, source=place.source, trust=trust)

    def close(self) -> None:
        """Release the files; a second time does nothing."""
        self._copies.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Snapshot {self.kind} {self.checkpoint_id} of {self.job}>"

    # --- what it is ------------------------------------------------------------------------------

    @property
    def job(self) -> str:
        """The job's name."""
        return self.manifest.job

    @property
    def checkpoint_id(self) -> int:
        """The number of the checkpoint."""
        return self.manifest.checkpoint_id

    @property
    def kind(self) -> str:
        """What it is: checkpoint, final or savepoint."""
        return self.manifest.kind

    @property
    def triggered_at_ms(self) -> int:
        """When it was triggered, by the wall clock, in ms since the epoch."""
        return self.manifest.triggered_at_ms

    @cached_property
    def operators(self) -> dict[str, OperatorPart]:
        """What there is of each operator, by name, in the order of the graph."""
        return parts.operators(self.manifest)

    @cached_property
    def states(self) -> list[StateInfo]:
        """All states, by operator and name."""
        return parts.states(self.manifest)

    @cached_property
    def tasks(self) -> list[TaskPart]:
        """The part of each task, with how long its phases took."""
        return parts.tasks(self.manifest)

    # --- what is in it ---------------------------------------------------------------------------

    def state(self, operator: str, name: str) -> KeyedState:
        """Return a keyed state.

        Raises:
            ConfigError: there is no such operator, or it has no such keyed state.
        """
        self._check_operator(operator)
        known = {info.name: info for info in self.operators[operator].states}
        parts.check_known("state", name, known, f"operator {operator!r}")
        keyed = [state for state, info in known.items() if info.is_keyed]
        parts.check_known("keyed state", name, keyed, f"operator {operator!r}")
        return self._keyed(known[name])

    def operator_state(self, operator: str, name: str) -> list[OperatorValues]:
        """Return a non-keyed state, by subtask.

        Raises:
            ConfigError: there is no such operator, or it has no such state.
        """
        self._check_operator(operator)
        known = [info.name for info in self.operators[operator].states if not info.is_keyed]
        parts.check_known("operator state", name, known, f"operator {operator!r}")
        return [
            OperatorValues(task.subtask, tuple(map(self._decoder.pickled, state.values)))
            for task in sorted(self.manifest.tasks, key=lambda task: task.subtask)
            for state in task.operator_states
            if (state.operator, state.name) == (operator, name)
        ]

    def timers(self, operator: str | None = None) -> Iterator[Timer]:
        """Yield the timers that have not fired, by operator, queue and key.

        Raises:
            ConfigError: there is no such operator.
        """
        self._check_operator(operator)
        return (
            timer
            for info in parts.timer_queues(self.manifest)
            if operator in (None, info.operator)
            for timer in self._timers(info)
        )

    def positions(self, source: str | None = None) -> list[Position]:
        """Return how far each split of the sources has been read.

        Raises:
            ConfigError: there is no such operator.
        """
        self._check_operator(source)
        found = parts.positions(self.manifest)
        return [position for position in found if source in (None, position.source)]

    def commits(self, sink: str | None = None) -> list[PendingCommit]:
        """Return the output that sinks have prepared, and that may not be committed yet.

        Raises:
            ConfigError: there is no such operator.
        """
        self._check_operator(sink)
        return [c for c in parts.commits(self.manifest) if sink in (None, c.sink)]

    def watermarks(self, operator: str | None = None) -> dict[str, dict[int, int]]:
        """Return the event time that each operator had reached, by subtask, in ms.

        Raises:
            ConfigError: there is no such operator.
        """
        self._check_operator(operator)
        found = parts.watermarks(self.manifest)
        return {name: marks for name, marks in found.items() if operator in (None, name)}

    def channels(
        self, source: str | None = None, target: str | None = None
    ) -> list[ChannelContent]:
        """Return the channels in which something was in transit, with it, in order.

        Raises:
            ConfigError: there is no such operator.
            ManifestCorrupt: a file is damaged.
            StateError: a record cannot be read without its class: open with ``trust=True``.
        """
        self._check_operator(source)
        self._check_operator(target)
        return [
            channel
            for channel in self._channels
            if source in (None, channel.source) and target in (None, channel.target)
        ]

    @cached_property
    def _channels(self) -> list[ChannelContent]:
        loaded = load if self.is_trusted else load_plain
        return read_channels(self.manifest.tasks, self._copies, loaded)

    # --- as tables -------------------------------------------------------------------------------

    def to_arrow(self, table: str) -> pyarrow.Table:
        """Return a table: ``"<operator>.<state>"``, ``"channels"``, ``"positions"``, ...

        Needs the extra ``sql``.

        Raises:
            ConfigError: there is no such table, or the extra is missing.
        """
        from flowsnap.snapshot.arrow import arrow_table  # noqa: PLC0415 - needs an extra

        return arrow_table(self, table)

    def to_polars(self, table: str) -> polars.DataFrame:
        """Return a table as ``to_arrow`` does, as a data frame; needs Polars as well.

        Raises:
            ConfigError: there is no such table, or Polars is missing.
        """
        from flowsnap.snapshot.arrow import polars_frame  # noqa: PLC0415 - needs an extra

        return polars_frame(self, table)

    def sql(self, query: str) -> pyarrow.Table:
        """Return what DuckDB answers to ``query``, whose tables are those of ``to_arrow``.

        Needs the extra ``sql``.

        Raises:
            ConfigError: the query is wrong, or the extra is missing.
        """
        from flowsnap.snapshot.query import run_query  # noqa: PLC0415 - needs an extra

        return run_query(self, query)

    # --- inside ----------------------------------------------------------------------------------

    @property
    def copies(self) -> LocalCopies:
        """The files, for whoever copies them."""
        return self._copies

    def row_of(self, table: TableSpec, row: bytes, data: bytes) -> Row:
        """Return a row of a task's files, for whoever copies them.

        Raises:
            StateError: the bytes are no row.
        """
        group = int.from_bytes(row[:2], "big")
        return decoded_row(self._decoder, table, group, row[PREFIX_BYTES:], data)

    def _keyed(self, info: StateInfo) -> KeyedState:
        own = []
        for task in self.manifest.tasks:
            tables = parts.layouts(task, info.operator, info.name)
            if tables and task.state is not None:
                opened = partial(self._copies.rows, task)
                own.append(StatePart(opened, range(*task.state.key_groups), tables))
        graph = self.manifest.graph
        reading = Reading(self._decoder, graph.max_parallelism, self.triggered_at_ms)
        return KeyedState(info, own, reading)

    def _timers(self, info: StateInfo) -> Iterator[Timer]:
        head, _, queue = info.name.partition(".")
        domain = parts.TIMER_PREFIXES[f"{head}."]
        for row in self._keyed(info).rows():
            timestamp_ms, name = row.namespace
            yield Timer(info.operator, domain, queue, row.key, timestamp_ms, name)

    def _check_operator(self, name: str | None) -> None:
        if name is not None:
            where = f"the snapshot of checkpoint {self.checkpoint_id}"
            parts.check_known("operator", name, self.operators, where)
