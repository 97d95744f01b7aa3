"""The job whose barriers overtake: in every schedule state and what is in transit are one cut.

The final checkpoint is aligned, as it is in every job: behind it nobody would process what is in
transit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from flowsnap.core.aligner import Action, Aligner, Decline, Recorded, Snapshot
from flowsnap.core.coordinator import TaskDeclined
from flowsnap.core.ids import ChannelId, CheckpointId
from tests.property.exploration import visit_all
from tests.property.job_world import JOIN, OUT, SOURCES, Job, Record, Transit, job


@dataclass
class UnalignedJob(Job):
    """A job in which a barrier is heard as soon as it has arrived, whatever is in front of it.

    It crashes at the moment its first checkpoint is there, and goes on from that to its end.
    """

    heard: list[int] = field(default_factory=lambda: [0, 0, 0])
    transit: dict[int, list[list[Record]]] = field(default_factory=dict)
    open: dict[int, set[int]] = field(default_factory=dict)  # the channels that it is recorded of

    def restart(self) -> None:
        super().restart()
        self.heard, self.transit, self.open = [0, 0, 0], {}, {}

    def moves(self) -> list[tuple[Any, ...]]:
        heard = [] if self.is_done else [n for n in (0, 1, OUT) if self.barriers_of(n)]
        moves = super().moves() + [("hear", number) for number in heard]
        if not self.crashes:
            return moves
        return [
            move
            for move in moves
            if move not in (("want", "final"), ("crash", False), ("crash", True))
        ]

    def on_manifest(self, is_written: bool) -> str:
        return self.on_crash(is_written) if self.crashes else super().on_manifest(is_written)

    def barriers_of(self, number: int) -> list[int]:
        """Return those in a channel that overtake what is before them, and are not heard of yet."""
        arrived = [one for one in self.channels[number] if isinstance(one, int)]
        return [id_ for id_ in arrived if id_ > self.heard[number] and id_ != self.final]

    def on_hear(self, number: int) -> str:
        id_ = CheckpointId(self.barriers_of(number)[0])
        self.heard[number] = id_
        if number == OUT:
            self.record(id_, OUT)
            self.prepare(id_)
            return "overtaken at sink/0"
        self.align(self.aligner.announce(ChannelId(number), id_, 0, 0))
        return "overtaken at join/0"

    def on_begin(self, number: int) -> None:
        id_ = self.triggers[number][0]
        super().on_begin(number)
        if id_ in self.open:
            self.open[id_].discard(number)  # what is sent from now on is behind the barrier

    def on_send(self, number: int) -> None:
        super().on_send(number)
        for id_, channels in self.open.items():
            if number in channels:
                self.transit[id_][number].append((number, self.sent[number]))

    def on_join(self, number: int) -> None:
        element = self.channels[number][0]
        if isinstance(element, tuple):
            return super().on_join(number)
        self.heard[number] = max(self.heard[number], element)
        self.reached_by_join = max(self.reached_by_join, element)
        timeout_ms = None if element == self.final else 0
        self.align(self.aligner.receive_barrier(ChannelId(number), element, 0, timeout_ms))
        self.channels[number].pop(0)
        return None

    def on_sink(self) -> None:
        element = self.channels[OUT][0]
        if isinstance(element, int) and element <= self.heard[OUT]:
            self.channels[OUT].pop(0)  # its part was taken when it was heard of
            return
        if isinstance(element, int):
            self.heard[OUT] = element
            self.record(element, OUT)
        super().on_sink()

    def align(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Snapshot(id_, recording=recording):
                    assert id_ not in self.given_up, "a snapshot for what was given up"
                    self.take_part(JOIN, id_, tuple(self.joined))
                    for channel in recording:
                        self.record(id_, channel)
                    begun = {n for n in (0, 1) if SOURCES[n] in self.cuts.get(id_, {})}
                    self.open[id_] = {int(channel) for channel in recording} - begun
                    self.channels[OUT].append(id_)
                    if not recording:  # else once it is complete
                        self.acknowledge(JOIN, id_)
                case Recorded(id_):
                    assert not self.open.pop(id_), "recorded before the barrier has come"
                    self.acknowledge(JOIN, id_)
                case Decline(id_, reason):
                    self.tell(TaskDeclined(id_, JOIN, reason))
                case _:
                    pass

    def record(self, id_: int, number: int) -> None:
        """Keep what has arrived in a channel and is in front of a barrier, or of its place."""
        waiting = self.channels[number]
        behind = waiting.index(id_) if id_ in waiting else len(waiting)
        records = [one for one in waiting[:behind] if isinstance(one, tuple)]
        self.transit.setdefault(id_, [[], [], []])[number] = records

    def transit_of(self, id_: int) -> Transit:
        left, right, out = self.transit.pop(id_, ((), (), ()))
        return tuple(left), tuple(right), tuple(out)


@pytest.mark.slow(seconds=12)
def test_every_schedule_of_barriers_that_overtake_commits_every_record_once() -> None:
    visited = visit_all(job(UnalignedJob, wishes=1, crashes=1))

    overtaken = {"overtaken at join/0", "overtaken at sink/0"}
    assert visited.reached.keys() > {*overtaken, "crash, manifest there", "complete at sink/0"}


class Forgetful(Aligner):
    """Believes that a channel is recorded as soon as it is being recorded, as a mistake would."""

    def _try(self, now_ms: int) -> list[Action]:
        actions = super()._try(now_ms)
        open_ = list(self._recording)
        self._recording.clear()
        return actions + [Recorded(id_) for id_ in open_]


class ForgetfulJob(UnalignedJob):
    def restart(self) -> None:
        super().restart()
        self.aligner = Forgetful([ChannelId(0), ChannelId(1)], mode="exactly-once")


def test_a_join_that_does_not_wait_for_what_is_in_transit_is_found() -> None:
    with pytest.raises(AssertionError, match="recorded before the barrier has come"):
        visit_all(job(ForgetfulJob, wishes=1, crashes=1))
