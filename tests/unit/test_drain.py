"""A drain: the input ends where it is, and nothing records half of that."""

from __future__ import annotations

from typing import Any

from flowsnap.core.coordinator import (
    CheckpointCoordinator,
    DrainRequested,
    DrainSources,
    InjectBarriers,
    ManifestWritten,
    Started,
    TaskAcknowledged,
    TimePassed,
    TriggerRequested,
    Wish,
)
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId, OperatorId, TaskId
from flowsnap.core.manifest import SplitPosition, TaskSnapshot
from flowsnap.core.operator import Source, Split, SplitReader
from flowsnap.runtime.input import SourceInput

A = TaskId("a/0")
ONE, TWO = CheckpointId(1), CheckpointId(2)


def coordinator() -> CheckpointCoordinator:
    machine = CheckpointCoordinator(
        [A], next_id=ONE, interval_ms=100, timeout_ms=1_000, pause_ms_min=0, failures_max=1
    )
    machine.handle(Started(), 0)
    return machine


def completed(machine: CheckpointCoordinator, checkpoint_id: CheckpointId) -> None:
    snapshot = TaskSnapshot(A, (OperatorId("a"),), 0)
    machine.handle(TaskAcknowledged(checkpoint_id, snapshot), 110)
    machine.handle(ManifestWritten(checkpoint_id), 120)


def test_no_periodic_checkpoint_is_triggered_during_a_drain() -> None:
    machine = coordinator()

    assert machine.handle(DrainRequested(), 50) == [DrainSources()]
    assert machine.handle(TimePassed(), 500) == []
    assert machine.next_deadline_ms() is None
    machine.check()


def test_only_the_final_checkpoint_can_be_had_during_a_drain() -> None:
    machine = coordinator()
    machine.handle(DrainRequested(), 50)

    assert machine.handle(TriggerRequested(Wish("savepoint")), 60) == []
    assert machine.handle(TriggerRequested(Wish("final")), 70) == [
        InjectBarriers(ONE, Wish("final"))
    ]


def test_a_checkpoint_that_was_under_way_before_a_drain_may_complete() -> None:
    machine = coordinator()
    machine.handle(TimePassed(), 100)

    assert machine.handle(DrainRequested(), 101) == [DrainSources()]
    completed(machine, ONE)

    assert machine.handle(TimePassed(), 500) == []


def test_a_savepoint_that_waited_for_room_is_left_to_the_final_checkpoint() -> None:
    machine = coordinator()
    machine.handle(TimePassed(), 100)
    machine.handle(TriggerRequested(Wish("savepoint")), 101)
    machine.handle(DrainRequested(), 102)

    completed(machine, ONE)

    assert machine.handle(TriggerRequested(Wish("final")), 130) == [
        InjectBarriers(TWO, Wish("final"))
    ]


class Endless(Source):
    """Numbers without end."""

    bounded = False

    def open_split(self, split: Split, position: Any) -> SplitReader:
        return EndlessReader(position or 0)


class EndlessReader(SplitReader):
    def __init__(self, position: int) -> None:
        self.next = position

    def read(self, limit: int) -> Batch | None:
        self.next += 1
        return Batch([self.next])

    def position(self) -> int:
        return self.next


def endless() -> SourceInput:
    splits = [SplitPosition(name, {}, None, None, False) for name in "ab"]
    return SourceInput(Endless(), OperatorId("numbers"), 0, splits, 10)


def test_a_drained_source_ends_at_its_next_read_where_it_is() -> None:
    source = endless()
    source.read(0)

    source.drain()
    assert [split.is_finished for split in source.positions()] == [False, False]

    assert source.read(1) is None
    assert source.is_exhausted
    ended = [(split.position, split.is_finished) for split in source.positions()]
    assert ended == [(1, True), (0, True)]


def test_a_drained_source_that_had_ended_changes_nothing() -> None:
    source = endless()
    source.drain()
    source.read(0)
    before = source.positions()

    source.drain()
    source.read(1)

    assert source.positions() == before
