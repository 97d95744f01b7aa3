"""Two sources, a join, a sink that commits: the real machines, and a world around them.

The machines decide everything; the world only carries what they say: elements in FIFO
channels, triggers and news to each task in order, acknowledgements at once. A crash takes all
processes, and what was under way with them; manifests and transactions stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flowsnap.core.aligner import Action, Aligner, Decline, Snapshot
from flowsnap.core.commit import CommitRound, SinkCommits
from flowsnap.core.coordinator import (
    Abort,
    CheckpointCoordinator,
    Event,
    FailAttempt,
    InjectBarriers,
    ManifestFailed,
    ManifestWritten,
    NotifyComplete,
    Started,
    TaskAcknowledged,
    TaskDeclined,
    TriggerRequested,
    Wish,
    WriteManifest,
)
from flowsnap.core.ids import ChannelId, CheckpointId, TaskId
from flowsnap.core.manifest import PreparedOutput, TaskSnapshot

SOURCES = (TaskId("left/0"), TaskId("right/0"))
JOIN, SINK = TaskId("join/0"), TaskId("sink/0")
OUT = 2  # the channel from the join to the sink; those of the sources are 0 and 1
NEVER_MS = 10**9

Record = tuple[int, int]
"""From which source, and which of its records."""

Count = tuple[int, int]
"""How many records of each source."""

Transit = tuple[tuple[Record, ...], ...]
"""What a snapshot holds of each channel."""


@dataclass
class Complete:
    """What a durable manifest says: how far each task had come, and what is prepared."""

    checkpoint_id: int = 0
    read: Count = (0, 0)
    joined: Count = (0, 0)
    received: Count = (0, 0)
    transit: Transit = ((), (), ())
    prepared: tuple[PreparedOutput, ...] = ()


@dataclass
class Job:
    """All of it; what is reset by a crash is made by ``restart``."""

    records: int
    crashes: int
    failures: int  # how many manifests may fail to be written
    wishes: int = 1
    declines: int = 0  # how many checkpoints the sink may decline while the join waits
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
        self.sent = list(self.newest.read)
        self.joined, self.received = list(self.newest.joined), list(self.newest.received)
        self.channels: list[list[Any]] = [list(one) for one in self.newest.transit]
        self.triggers: list[list[int]] = [[], []]  # below zero: it is given up
        self.news: dict[str, list[tuple[str, int]]] = {JOIN: [], SINK: []}
        self.cuts: dict[int, dict[str, Count]] = {}  # of each checkpoint under way
        self.final = 0  # the checkpoint after which nobody reads on
        self.reached_by_join = 0  # the newest barrier that it has read
        self.given_up: set[int] = set()  # as far as the join has heard
        self.writing: WriteManifest | None = None
        self.written: list[Record] = []
        self.is_final = self.is_done = self.has_failed = False
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
            moves += [("skip", number)] * self.may_skip(number)
            moves += [("send", number)] * (self.sent[number] < self.records)
            is_readable = self.channels[number] and number not in self.aligner.blocked
            moves += [("join", number)] * bool(is_readable)
        moves += [("decline",)] * bool(self.declines and self.aligner.blocked)
        moves += [("sink",)] * bool(self.channels[OUT])
        moves += [("news", task) for task, waiting in self.news.items() if waiting]
        moves += [("manifest", True)] * (self.writing is not None)
        return moves + [("manifest", False)] * bool(self.writing and self.failures)

    def may_skip(self, number: int) -> bool:
        """Whether a source hears that a checkpoint is given up before it has begun it."""
        waiting = self.triggers[number]
        return bool(waiting) and waiting[0] > 0 and -waiting[0] in waiting

    def make(self, move: tuple[Any, ...]) -> list[str]:
        reached = getattr(self, f"on_{move[0]}")(*move[1:])
        self.coordinator.check()
        self.aligner.check()
        self.check_committed()
        if self.has_failed:
            self.restart()
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
        if id_ > 0:
            self.take_part(SOURCES[number], id_, tuple(self.sent))
            self.acknowledge(SOURCES[number], id_)
            self.channels[number].append(id_)

    def on_skip(self, number: int) -> None:
        id_ = self.triggers[number][0]
        self.triggers[number] = [one for one in self.triggers[number] if abs(one) != id_]

    def on_send(self, number: int) -> None:
        self.sent[number] += 1
        self.channels[number].append((number, self.sent[number]))

    def on_join(self, number: int) -> None:
        element = self.channels[number].pop(0)
        if isinstance(element, tuple):
            self.joined[number] += 1
            self.channels[OUT].append(element)
            return
        self.reached_by_join = max(self.reached_by_join, element)
        self.align(self.aligner.receive_barrier(ChannelId(number), element, 0))

    def align(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Snapshot(id_):
                    assert id_ not in self.given_up, "a snapshot for what was given up"
                    self.take_part(JOIN, id_, tuple(self.joined))
                    self.acknowledge(JOIN, id_)
                    self.channels[OUT].append(id_)
                case Decline(id_, reason):
                    self.tell(TaskDeclined(id_, JOIN, reason))
                case _:
                    pass

    def on_decline(self) -> None:
        """The sink has no room for a checkpoint that the join waits for a barrier of."""
        self.declines -= 1
        self.tell(TaskDeclined(CheckpointId(self.reached_by_join), SINK, "full"))

    def on_sink(self) -> None:
        element = self.channels[OUT].pop(0)
        if isinstance(element, tuple):
            self.received[element[0]] += 1
            self.written.append(element)
        else:
            self.prepare(element)

    def prepare(self, id_: int) -> None:
        name = f"{self.attempt}/{id_}"
        if self.written:
            self.transactions[name] = ("prepared", tuple(self.written))
        self.commits.add(CheckpointId(id_), name if self.written else None)
        self.written = []
        self.take_part(SINK, id_, tuple(self.received))
        self.acknowledge(SINK, id_, self.commits.pending())

    def on_news(self, task: str) -> str:
        what, number = self.news[task].pop(0)
        id_ = CheckpointId(number)
        if task == JOIN:
            self.align(self.aligner.abort(id_))
            self.given_up.add(number)
            is_awaited = self.aligner.blocked and self.reached_by_join == number
            assert not is_awaited, "the join waits for what was given up"
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
            self.tell(ManifestFailed(id_, "full"))
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
                case InjectBarriers(id_, wish):
                    self.next_id = id_ + 1
                    self.final = id_ if wish.is_final else 0
                    self.cuts[id_] = {}
                    for waiting in self.triggers:
                        waiting.append(id_)
                case WriteManifest():
                    self.writing = action
                case NotifyComplete(id_):
                    self.news[SINK].append(("complete", id_))
                case Abort(id_):
                    self.give_up(id_)
                case FailAttempt():
                    self.has_failed = True
                case _:
                    pass

    def give_up(self, id_: int) -> None:
        del self.cuts[id_]
        for waiting in self.triggers:
            waiting.append(-id_)
        for news in self.news.values():
            news.append(("abort", id_))

    def take_part(self, task: TaskId, id_: int, cut: Any) -> None:
        if id_ in self.cuts:
            self.cuts[id_][task] = cut

    def acknowledge(
        self, task: TaskId, id_: int, prepared: tuple[PreparedOutput, ...] = ()
    ) -> None:
        part = TaskSnapshot(task, (), 0, prepared=prepared)
        self.tell(TaskAcknowledged(CheckpointId(id_), part))

    def complete(self, manifest: WriteManifest) -> None:
        """What is durable is a consistent cut, and all that it covers is committed or prepared."""
        id_ = manifest.checkpoint_id
        cuts, transit = self.cuts.pop(id_), self.transit_of(id_)
        left, right = (cuts[source][number] for number, source in enumerate(SOURCES))
        assert (left, right) == beyond(cuts[JOIN], transit[:OUT]), "no consistent cut"
        assert cuts[JOIN] == beyond(cuts[SINK], transit[OUT:]), "no consistent cut"
        assert id_ > self.newest.checkpoint_id
        prepared = tuple(output for part in manifest.snapshots for output in part.prepared)
        self.newest = Complete(id_, (left, right), cuts[JOIN], cuts[SINK], transit, prepared)

    def transit_of(self, id_: int) -> Transit:
        """Return what was recorded for a checkpoint: an aligned one has nothing in transit."""
        return ((), (), ())

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
            assert len(mine) <= self.newest.received[number], "committed before it was complete"

    def seen(self) -> list[Record]:
        kept = [records for state, records in self.transactions.values() if state == "committed"]
        return [record for records in kept for record in records]

    def check_end(self) -> None:
        """The job has finished: everything is seen, and nothing is left prepared."""
        assert self.is_done, "everybody waits"
        assert len(self.seen()) == 2 * self.records
        assert {state for state, _ in self.transactions.values()} <= {"committed", "aborted"}


def beyond(count: Count, transit: Transit) -> Count:
    """Return how far those are whose records in transit come behind ``count``, one by one."""
    reached = list(count)
    for source, record in (record for channel in transit for record in channel):
        assert record == reached[source] + 1, "what is in transit has a gap"
        reached[source] = record
    return reached[0], reached[1]


def job(
    kind: type[Job] = Job,
    *,
    wishes: int = 0,
    crashes: int = 0,
    failures: int = 0,
    declines: int = 0,
) -> Job:
    """Return a job of one record in each source; a final checkpoint follows what is wished."""
    made = kind(1, crashes, failures, wishes, declines)
    made.restart()
    return made
