from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flowsnap.core.element import Barrier, Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import Sink
from flowsnap.errors import StoreUnavailable
from tests.unit.runtime.bench import ONE, TASK, TWO, A, B, Bench
from tests.unit.runtime.parts import ListSource

THREE = CheckpointId(3)


class Slow(Sink):
    """Takes ``rounds`` calls for a commit; then it may accept, or not."""

    def __init__(self, rounds: int, *, accepts: bool = True) -> None:
        self.rounds = rounds
        self.accepts = accepts
        self.left = rounds
        self.asked: list[list[Any]] = []
        self.written: list[Any] = []

    def write(self, batch: Batch) -> None:
        self.written += batch.values

    def prepare(self, checkpoint_id: CheckpointId) -> Any:
        return f"output {checkpoint_id}"

    def can_accept(self) -> bool:
        return self.accepts

    def commit(self, committables: Sequence[Any]) -> bool:
        self.asked.append(list(committables))
        self.left -= 1
        if self.left > 0:
            return False
        self.left = self.rounds
        return True


def prepared(bench: Bench, *checkpoint_ids: CheckpointId) -> None:
    for checkpoint_id in checkpoint_ids:
        bench.feed(A, Barrier(checkpoint_id))
        bench.feed(B, Barrier(checkpoint_id))


def reported(bench: Bench) -> list[Any]:
    return [one[2] for one in bench.told if one[0] == "committed"]


def test_commit_under_way_is_asked_for_again_in_each_step_and_told_of_once() -> None:
    bench = Bench(sink := Slow(3))
    prepared(bench, ONE)

    bench.runner.complete(ONE)
    assert reported(bench) == []
    bench.runner.step(0)
    assert reported(bench) == []
    bench.runner.step(0)
    bench.runner.step(0)

    assert bench.told[-1] == ("committed", TASK, ONE)
    assert sink.asked == [["output 1"]] * 3


def test_commit_under_way_is_asked_for_with_the_same_committables_until_it_is_done() -> None:
    bench = Bench(sink := Slow(2))
    prepared(bench, ONE, TWO, THREE)

    bench.runner.complete(ONE)
    bench.runner.complete(THREE)
    for _ in range(3):
        bench.runner.step(0)

    assert sink.asked == [["output 1"]] * 2 + [["output 2", "output 3"]] * 2
    assert reported(bench) == [ONE, THREE]


def test_what_is_being_committed_goes_into_the_snapshots_taken_meanwhile() -> None:
    bench = Bench(Slow(99))
    prepared(bench, ONE)
    bench.runner.complete(ONE)

    prepared(bench, TWO)

    kept = [[one.committable for one in snapshot.prepared] for snapshot in bench.snapshots]
    assert kept == [["output 1"], ["output 1", "output 2"]]


def test_records_come_in_while_a_commit_is_under_way_if_the_sink_accepts_them() -> None:
    bench = Bench(sink := Slow(99))
    prepared(bench, ONE)
    bench.runner.complete(ONE)

    bench.feed(A, Batch([1]))

    assert sink.written == [1]


def test_records_are_held_back_while_a_commit_is_under_way_if_the_sink_wants_none() -> None:
    bench = Bench(sink := Slow(3, accepts=False))
    prepared(bench, ONE)
    bench.feed(A, Batch([1]))
    bench.runner.complete(ONE)
    bench.feed(A, Batch([2]))
    assert sink.written == [1]

    bench.work()
    bench.work()

    assert sink.written == [1, 2]


def test_task_is_stepped_soon_while_a_commit_is_under_way_and_not_for_it_afterwards() -> None:
    bench = Bench(Slow(2))
    prepared(bench, ONE)
    assert bench.runner.next_step_ms(100) is None

    bench.runner.complete(ONE)
    assert bench.runner.next_step_ms(100) == 102
    bench.runner.step(100)
    assert bench.runner.next_step_ms(100) is None


def test_sink_that_wants_nothing_does_not_keep_its_worker_awake() -> None:
    bench = Bench(Slow(99, accepts=False), source=ListSource({"numbers": [1, 2, 3]}))
    bench.runner.trigger(ONE, is_final=False)
    bench.runner.step(0)
    assert bench.runner.next_step_ms(100) == 100

    bench.runner.complete(ONE)

    assert not bench.runner.step(100)
    assert bench.runner.next_step_ms(100) == 102


def test_commit_under_way_is_looked_after_while_output_waits_for_credit() -> None:
    bench = Bench(Slow(99), credits=0)
    prepared(bench, ONE)
    bench.runner.outputs[0].send(Batch([1]))
    assert bench.runner.next_step_ms(100) is None

    bench.runner.complete(ONE)

    assert bench.runner.next_step_ms(100) == 102


def test_error_of_a_commit_under_way_comes_out_of_the_step() -> None:
    class Broken(Slow):
        def commit(self, committables: Sequence[Any]) -> bool:
            if super().commit(committables):
                raise StoreUnavailable("away")
            return False

    bench = Bench(Broken(2))
    prepared(bench, ONE)
    bench.runner.complete(ONE)

    with pytest.raises(StoreUnavailable):
        bench.runner.step(0)
    assert reported(bench) == []


def test_sink_that_recovers_by_a_commit_has_to_wait_for_it() -> None:
    with pytest.raises(NotImplementedError, match=r"Slow\.recover has to wait"):
        Slow(2).recover(["output 1"])
