"""Two sources, a join, a sink that commits: every schedule of the real machines, with one crash.

The machines decide everything; the world around them only carries what they say: elements in FIFO
channels, triggers and news to each task in order. (That acknowledgements come in any order is in
``test_coordinator_exhaustive.py``; here they come at once.) A crash takes all processes, and what
was under way with them; manifests and transactions stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from flowsnap.core.aligner import Aligner, Snapshot
from flowsnap.core.commit import CommitRound, SinkCommits
from flowsnap.core.coordinator import (
    Abort,
    CheckpointCoordinator,
    Event,
    InjectBarriers,
    ManifestFailed,
    ManifestWritten,
    NotifyComplete,
    Started,
    TaskAcknowledged,
    TriggerRequested,
    Wish,
    WriteManifest,
)
from flowsnap.core.ids import ChannelId, CheckpointId, TaskId
from flowsnap.core.manifest import PreparedOutput, TaskSnapshot
from tests.property.exploration import visit_all

SOURCES = (TaskId("left/0"), TaskId("right/0"))
JOIN, SINK = TaskId("join/0"), TaskId("sink/0")
NEVER_MS = 10**9

Record = tuple[int, int]
"""From which source, and which of its records."""

Count = tuple[int, int]
"""How many records of each source."""


@dataclass
class Complete:
    """What a durable manifest says: how far each task had come, and what is prepared."""

    checkpoint_id: int = 0
    cuts: dict[str, Count] = field(default_factory=dict)
    prepared: tuple[PreparedOutput, ...] = ()

    @property
    def count(self) -> Count:
        return self.cuts.get(JOIN, (0, 0))


@dataclass
class Job:
    """All of it; what is reset by a crash is made by ``restart``."""

    records: int
    crashes: int
    failures: int  # how many manifests may fail to be written
    wishes: int = 1
    next_id: int = 1
    newest: Complete = field(default_factory=Complete)
    transactions: dict[str, tuple[str, tuple[Record, ...]]] = field(default_factory=dict)
    attempt: int = 0

    def restart(self) -> None:
        """Begin an attempt from the newest complete checkpoint."""
        self.attempt += 1
        self.coordinator = CheckpointCoordinator(
            [*SOURCES, JOIN, SINK],
            next_id=CheckpointId(self.next_id),
            interval_ms=NEVER_MS,
            timeout_ms=NEVER_MS,
            pause_ms_min=0,
            failures_max=9,
        )
        self.coordinator.handle(Started(), 0)
        self.aligner = Aligner([ChannelId(0), ChannelId(1)], mode="exactly-once")
        self.commits, self.round = SinkCommits(), CommitRound([SINK])
        self.sent = list(self.newest.count)
        self.joined, self.received = list(self.newest.count), list(self.newest.count)
        self.channels: list[list[Any]] = [[], [], []]
        self.triggers: list[list[int]] = [[], []]
        self.news: dict[str, list[tuple[str, int]]] = {JOIN: [], SINK: []}
        self.cuts: dict[int, dict[str, Count]] = {}
        self.writing: WriteManifest | None = None
        self.written: list[Record] = []
        self.is_final = self.is_done = False
        for output in self.newest.prepared:
            self.commit(output.committable)
        for name, (state, records) in self.transactions.items():
            self.transactions[name] = ("aborted" if state == "prepared" else state, records)

    # --- what may happen

    def moves(self) -> list[tuple[Any, ...]]:
        if self.is_done:
            return []
        moves: list[tuple[Any, ...]] = [("crash", False)] * bool(self.crashes)
        moves += [("crash", True)] * bool(self.crashes and self.writing)
        moves += [("want", "checkpoint")] * bool(self.wishes and not self.is_final)
        if not self.is_final and self.sent == [self.records] * 2:
            moves.append(("want", "final"))
        for number in (0, 1):
            moves += [("begin", number)] * bool(self.triggers[number])
            moves += [("send", number)] * (self.sent[number] < self.records)
            is_readable = self.channels[number] and number not in self.aligner.blocked
            moves += [("join", number)] * bool(is_readable)
        moves += [("sink",)] * bool(self.channels[2])
        moves += [("news", task) for task, waiting in self.news.items() if waiting]
        moves += [("manifest", True)] * (self.writing is not None)
        return moves + [("manifest", False)] * bool(self.writing and self.failures)

    def make(self, move: tuple[Any, ...]) -> list[str]:
        reached = getattr(self, f"on_{move[0]}")(*move[1:])
        self.coordinator.check()
        self.aligner.check()
        self.check_committed()
        return [reached or move[0]]

    def on_crash(self, is_written: bool) -> str:
        """Everybody dies; a manifest that was being written is there, or is not."""
        self.crashes -= 1
        if self.writing and is_written:
            self.complete(self.writing)
        self.restart()
        return "crash, manifest there" if is_written else "crash"

    def on_want(self, kind: Any) -> None:
        self.wishes -= kind == "checkpoint"
        self.is_final = self.is_final or kind == "final"
        self.tell(TriggerRequested(Wish(kind)))

    def on_begin(self, number: int) -> None:
        """A source says how far it has read, and sends the barrier behind that."""
        id_ = self.triggers[number].pop(0)
        self.snapshot(SOURCES[number], id_, tuple(self.sent))
        self.channels[number].append(id_)

    def on_send(self, number: int) -> None:
        self.sent[number] += 1
        self.channels[number].append((number, self.sent[number]))

    def on_join(self, number: int) -> None:
        element = self.channels[number].pop(0)
        if isinstance(element, tuple):
            self.joined[number] += 1
            self.channels[2].append(element)
            return
        for action in self.aligner.receive_barrier(ChannelId(number), element, 0):
            if isinstance(action, Snapshot):
                self.snapshot(JOIN, action.checkpoint_id, tuple(self.joined))
                self.channels[2].append(action.checkpoint_id)

    def on_sink(self) -> None:
        element = self.channels[2].pop(0)
        if isinstance(element, tuple):
            self.received[element[0]] += 1
            self.written.append(element)
            return
        name = f"{self.attempt}/{element}"
        if self.written:
            self.transactions[name] = ("prepared", tuple(self.written))
        self.commits.add(element, name if self.written else None)
        self.written = []
        self.snapshot(SINK, element, tuple(self.received), self.commits.pending())

    def on_news(self, task: str) -> str:
        what, number = self.news[task].pop(0)
        id_ = CheckpointId(number)
        if task == JOIN:
            self.aligner.abort(id_)
        elif what == "complete":
            for output in self.commits.due(id_):
                self.commit(output.committable)
            self.commits.committed(id_)
            self.is_done = self.round.committed(SINK, id_)
        return f"{what} at {task}"

    def on_manifest(self, is_written: bool) -> str:
        assert self.writing is not None
        manifest, self.writing = self.writing, None
        id_ = manifest.checkpoint_id
        if not is_written:
            self.failures -= 1
            self.is_final = False  # and the attempt fails, if it was the last one
            self.tell(ManifestFailed(id_, "full"))
            if manifest.kind == "final":
                self.restart()
            return "manifest failed"
        self.complete(manifest)
        if manifest.kind == "final":
            self.round.expect(id_)
        self.tell(ManifestWritten(id_))
        return "manifest written"

    # --- what the machines say, carried out

    def tell(self, event: Event) -> None:
        for action in self.coordinator.handle(event, 0):
            match action:
                case InjectBarriers(id_):
                    self.next_id = id_ + 1
                    for waiting in self.triggers:
                        waiting.append(id_)
                case WriteManifest():
                    self.writing = action
                case NotifyComplete(id_):
                    self.inform("complete", id_)
                case Abort(id_):
                    self.inform("abort", id_)
                case _:
                    pass

    def inform(self, what: str, id_: int) -> None:
        self.news[SINK].append((what, id_))
        if what == "abort":
            self.news[JOIN].append((what, id_))

    def snapshot(
        self, task: TaskId, id_: int, cut: Any, prepared: tuple[PreparedOutput, ...] = ()
    ) -> None:
        self.cuts.setdefault(id_, {})[task] = cut
        part = TaskSnapshot(task, (), 0, prepared=prepared)
        self.tell(TaskAcknowledged(CheckpointId(id_), part))

    def complete(self, manifest: WriteManifest) -> None:
        """What is durable is a consistent cut, and all that it covers is committed or prepared."""
        cuts = self.cuts.pop(manifest.checkpoint_id)
        read = tuple(cuts[source][number] for number, source in enumerate(SOURCES))
        assert read == cuts[JOIN] == cuts[SINK], "no consistent cut"
        assert manifest.checkpoint_id > self.newest.checkpoint_id
        prepared = tuple(output for part in manifest.snapshots for output in part.prepared)
        self.newest = Complete(manifest.checkpoint_id, dict(cuts), prepared)

    def commit(self, name: str) -> None:
        state, records = self.transactions[name]
        assert state != "aborted", f"{name} was aborted before it was committed"
        self.transactions[name] = ("committed", records)

    def check_committed(self) -> None:
        """What is seen is seen once, in order, and covered by a durable checkpoint."""
        seen = self.seen()
        for number in (0, 1):
            mine = [record for source, record in seen if source == number]
            assert mine == list(range(1, len(mine) + 1)), "lost, doubled or out of order"
            assert len(mine) <= self.newest.count[number], "committed before it was complete"

    def seen(self) -> list[Record]:
        kept = [records for state, records in self.transactions.values() if state == "committed"]
        return [record for records in kept for record in records]

    def check_end(self) -> None:
        """The job has finished: everything is seen, and nothing is left prepared."""
        assert self.is_done, "everybody waits"
        assert len(self.seen()) == 2 * self.records
        assert {state for state, _ in self.transactions.values()} <= {"committed", "aborted"}


def job(kind: type[Job] = Job, *, wishes: int = 0, crashes: int = 0, failures: int = 0) -> Job:
    """Return a job of one record in each source; a final checkpoint follows what is wished."""
    made = kind(1, crashes, failures, wishes)
    made.restart()
    return made


def test_every_schedule_of_two_checkpoints_commits_every_record_once() -> None:
    visited = visit_all(job(wishes=1))

    assert visited.reached.keys() > {"manifest written", "complete at sink/0"}


def test_every_schedule_with_a_crash_at_any_moment_commits_every_record_once() -> None:
    visited = visit_all(job(crashes=1))

    assert visited.reached.keys() > {"crash", "crash, manifest there", "complete at sink/0"}


def test_every_schedule_with_a_manifest_that_fails_commits_every_record_once() -> None:
    visited = visit_all(job(wishes=0, failures=1, crashes=1))

    assert visited.reached.keys() > {"manifest failed", "crash", "complete at sink/0"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_schedule_of_two_checkpoints_survives_a_crash_at_any_moment() -> None:
    visited = visit_all(job(wishes=1, crashes=1))

    assert visited.states > 20_000


class Leaky(Aligner):
    """Forgets to block, as a mistake would have it."""

    def check(self) -> None:
        self.blocked.clear()


class LeakyJob(Job):
    def restart(self) -> None:
        super().restart()
        self.aligner = Leaky([ChannelId(0), ChannelId(1)], mode="exactly-once")


class Rash(SinkCommits):
    """Commits what is prepared, whatever is complete."""

    def due(self, checkpoint_id: CheckpointId) -> tuple[PreparedOutput, ...]:
        return self.pending()


class RashJob(Job):
    def restart(self) -> None:
        super().restart()
        self.commits = Rash()


@pytest.mark.parametrize(
    ("kind", "message"),
    [(LeakyJob, "no consistent cut"), (RashJob, "committed before it was complete")],
)
def test_a_mistake_in_a_machine_is_found(kind: type[Job], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        visit_all(job(kind, wishes=1))
