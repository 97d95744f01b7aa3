from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from flowsnap.core.element import (
    Active,
    Barrier,
    Batch,
    Idle,
    Watermark,
)
from flowsnap.core.ids import (
    CheckpointId,
)
from flowsnap.core.operator import Operator, Split
from flowsnap.core.task import TaskState
from flowsnap.errors import OperatorError, PeerProtocolError
from flowsnap.operators import Map
from flowsnap.runtime.parts import TakenSnapshot
from tests.unit.runtime.bench import END, ONE, TASK, TWO, A, B, Bench
from tests.unit.runtime.parts import Holding, ListReader, ListSource, MemorySink


def positions(snapshot: TakenSnapshot) -> list[Any]:
    return [split.position for split in snapshot.splits]


def batches(*values: Any) -> list[Batch]:
    return [Batch([value]) for value in values]


# --- batches and credit


def test_a_batch_goes_through_the_chain_and_its_credit_returns() -> None:
    bench = Bench(Map(lambda n: n * 10))

    bench.feed(A, *batches(1, 2, 3, 4))

    assert bench.flow == [[10], [20], [30], [40]]
    assert bench.told == [("grant", A, 8), ("grant", B, 8), ("grant", A, 4)]


def test_the_channels_are_read_in_turn() -> None:
    bench = Bench(Map(str))
    for batch in batches(1, 2):
        bench.runner.inputs[A].receive(batch)

    bench.feed(B, *batches(11, 12))

    assert bench.flow == [["1"], ["11"], ["2"], ["12"]]


def test_without_credit_one_batch_waits_and_nothing_more_is_read() -> None:
    bench = Bench(Map(str), credits=1)

    bench.feed(A, *batches(1, 2, 3))

    assert bench.flow == [["1"]]
    assert bench.runner.waits_for() == "next"
    assert list(bench.runner.inputs[A].queue) == batches(3)
    bench.grant(2)
    bench.work()
    assert bench.flow == [["1"], ["2"], ["3"]]
    assert bench.runner.waits_for() is None


def test_time_under_backpressure_is_told_with_who_causes_it() -> None:
    bench = Bench(Map(str), credits=1)

    bench.feed(A, *batches(1, 2))

    metrics = bench.runner.metrics()
    assert metrics.waits_for == "next"
    assert metrics.backpressured_ms > 0
    assert [(o.records_in, o.records_out) for o in metrics.operators] == [(2, 2)]


def test_the_users_error_names_operator_subtask_and_record() -> None:
    bench = Bench(Map(str), Map(lambda text: 1 // (int(text) - 3)))

    with pytest.raises(OperatorError, match=r"'op-1', subtask 1: .* on record 2 of a batch of 3"):
        bench.feed(A, Batch([2, 3, 4]))


# --- sources


def test_a_source_records_its_position_and_then_emits_the_barrier() -> None:
    bench = Bench(Map(str), source=ListSource({"a": [1, 2, 3]}))
    bench.runner.step(0)

    bench.runner.trigger(ONE, is_final=False)
    bench.work()

    assert bench.flow == [["1"], Barrier(ONE), ["2"], ["3"], END]
    assert positions(bench.snapshots[0]) == [1]
    assert not bench.snapshots[0].is_ended


def test_a_source_without_credit_takes_its_snapshot_all_the_same() -> None:
    bench = Bench(Map(str), source=ListSource({"a": [1, 2, 3]}), credits=0)
    bench.work()

    bench.runner.trigger(ONE, is_final=False)
    bench.work()

    assert positions(bench.snapshots[0]) == [1]
    assert bench.flow == []
    bench.grant(1)
    assert bench.flow == [["1"], Barrier(ONE)], "the barrier keeps its place behind the batch"


def test_a_source_stops_reading_at_the_final_barrier() -> None:
    bench = Bench(Map(str), source=ListSource({"a": [1, 2, 3]}))
    bench.runner.step(0)

    bench.runner.trigger(ONE, is_final=True)
    bench.work()

    assert bench.flow == [["1"], Barrier(ONE)]
    assert bench.runner.next_step_ms(0) is None
    assert bench.runner.state is TaskState.RUNNING


def test_an_aborted_trigger_emits_no_barrier() -> None:
    bench = Bench(Map(str), source=ListSource({"a": [1]}))
    bench.runner.trigger(ONE, is_final=False)

    bench.runner.abort(ONE)
    bench.work()

    assert bench.flow == [["1"], END]
    assert bench.snapshots == []


def test_an_idle_source_says_when_to_come_back() -> None:
    bench = Bench(Map(str), source=ListSource({"a": [None, 1]}))

    assert not bench.runner.step(100)
    assert bench.runner.next_step_ms(100) == 130


def test_a_source_without_credit_is_not_due_until_credit_comes() -> None:
    bench = Bench(Map(str), source=ListSource({"a": [1, 2, 3]}), credits=0)
    bench.work()

    assert bench.runner.next_step_ms(100) is None, "or its worker would spin"
    bench.grant(1)
    assert bench.runner.next_step_ms(100) == 100


# --- alignment


def test_a_channel_that_has_brought_its_barrier_is_not_read_until_all_have() -> None:
    bench = Bench(Map(str))

    bench.feed(A, *batches(1), Barrier(ONE), *batches(2))
    bench.feed(B, *batches(11))
    assert bench.flow == [["1"], ["11"]]

    bench.feed(B, Barrier(ONE))
    assert bench.flow == [["1"], ["11"], Barrier(ONE), ["2"]]
    assert [snapshot.checkpoint_id for snapshot in bench.snapshots] == [ONE]


def test_at_least_once_blocks_no_channel() -> None:
    bench = Bench(Map(str), mode="at-least-once")

    bench.feed(A, Barrier(ONE), *batches(2))
    assert bench.flow == [["2"]]

    bench.feed(B, Barrier(ONE))
    assert bench.flow == [["2"], Barrier(ONE)]


def test_alignment_is_measured_from_the_first_barrier_to_the_last() -> None:
    bench = Bench(Map(str))
    for channel, now_ms in ((A, 100), (B, 170)):
        bench.runner.inputs[channel].receive(Barrier(ONE))
        bench.runner.step(now_ms)

    assert bench.snapshots[0].alignment_ms == 70
    assert bench.snapshots[0].synchronous_ms > 0


def test_an_abort_during_alignment_makes_the_channel_readable_again() -> None:
    bench = Bench(Map(str))
    bench.feed(A, Barrier(ONE), *batches(2))

    bench.runner.abort(ONE)
    bench.feed(B, Barrier(ONE), *batches(12))

    assert bench.flow == [["2"], ["12"]]
    assert bench.snapshots == []


def test_barriers_that_come_after_their_abort_are_ignored() -> None:
    bench = Bench(Map(str))
    bench.runner.abort(ONE)

    bench.feed(A, Barrier(ONE), *batches(2))
    bench.feed(B, Barrier(ONE), Barrier(TWO))
    bench.feed(A, Barrier(TWO))

    assert bench.flow == [["2"], Barrier(TWO)]
    assert [snapshot.checkpoint_id for snapshot in bench.snapshots] == [TWO]


def test_a_checkpoint_that_is_overtaken_is_declined() -> None:
    bench = Bench(Map(str))
    bench.feed(A, Barrier(ONE))

    bench.feed(B, Barrier(TWO))

    assert ("declined", TASK, ONE, "overtaken by checkpoint 2") in bench.told


def test_what_an_operator_holds_leaves_before_the_barrier() -> None:
    bench = Bench(Holding(), Map(str))
    bench.feed(A, *batches(1, 2), Barrier(ONE))

    bench.feed(B, Barrier(ONE))

    assert bench.flow == [["1"], ["2"], Barrier(ONE)]


# --- the end of input


def test_a_task_ends_when_its_last_channel_has() -> None:
    bench = Bench(Holding())
    bench.feed(A, *batches(1), END)
    assert bench.flow == []

    bench.feed(B, *batches(2), END)

    assert bench.flow[-3:] == [[1], [2], END]
    assert bench.told[-1] == ("ended", TASK)
    assert bench.runner.state is TaskState.ENDED


def test_a_task_takes_part_in_checkpoints_after_its_end() -> None:
    bench = Bench(Map(str))
    bench.feed(A, END, Barrier(ONE))

    bench.feed(B, END, Barrier(ONE))

    assert bench.flow[-2:] == [END, Barrier(ONE)]
    assert bench.snapshots[0].is_ended


def test_a_channel_that_has_ended_still_has_to_bring_its_barrier() -> None:
    bench = Bench(Map(str))
    bench.feed(A, END)

    bench.feed(B, Barrier(ONE), *batches(2))
    assert bench.snapshots == []

    bench.feed(A, Barrier(ONE))
    assert bench.flow[-2:] == [Barrier(ONE), ["2"]]
    assert not bench.snapshots[0].is_ended


def test_the_last_output_waits_for_credit_and_a_barrier_waits_behind_it() -> None:
    bench = Bench(Holding(), credits=1)
    bench.feed(A, *batches(1, 2, 3), END, Barrier(ONE))
    bench.feed(B, END, Barrier(ONE))
    assert bench.runner.state is TaskState.ENDING
    assert bench.flow == [[1]]

    for _ in range(2):
        bench.grant(1)
        bench.work()

    assert bench.flow == [[1], [2], [3], END, Barrier(ONE)]
    assert bench.snapshots[0].is_ended


def test_a_source_does_not_snapshot_in_the_middle_of_its_last_output() -> None:
    bench = Bench(Holding(), source=ListSource({"a": [1, 2]}), credits=1)
    bench.work()
    bench.runner.trigger(ONE, is_final=False)
    bench.work()
    assert bench.snapshots == []

    bench.grant(5)
    bench.work()

    assert bench.flow == [[1], [2], END, Barrier(ONE)]
    assert bench.snapshots[0].is_ended


def test_input_that_ends_twice_is_refused() -> None:
    bench = Bench(Map(str))
    bench.feed(A, END)

    with pytest.raises(PeerProtocolError, match="ended twice"):
        bench.feed(A, END)


class Saying(Operator):
    """Has one last word, whatever came before."""

    def process(self, batch: Batch) -> Batch:
        return batch

    def end_input(self) -> Sequence[Batch]:
        return batches("last word")


def test_a_task_restored_behind_its_end_has_no_last_output() -> None:
    bench = Bench(Saying(), is_ended=True)

    bench.feed(A, END)
    bench.feed(B, END)

    assert bench.flow == [END]
    assert bench.told[-1] == ("ended", TASK)


def test_a_task_restored_behind_its_end_says_so_in_a_snapshot_before_its_input_has_ended() -> None:
    bench = Bench(Saying(), is_ended=True)

    for channel in (A, B):
        bench.feed(channel, Barrier(ONE))

    assert bench.snapshots[0].is_ended, "a restore would have the last output leave twice"


# --- event time


def test_the_watermark_is_the_least_of_all_channels_and_leaves_behind_the_batches() -> None:
    bench = Bench(Map(str))
    bench.feed(A, *batches(1), Watermark(10))
    assert bench.flow == [["1"]]

    bench.feed(B, *batches(2), Watermark(7))

    assert bench.flow == [["1"], ["2"], Watermark(7)]


def test_an_idle_channel_does_not_hold_event_time_back() -> None:
    bench = Bench(Map(str))
    bench.feed(A, Watermark(10))

    bench.feed(B, Idle())
    bench.feed(B, Active())
    bench.feed(A, Watermark(20))

    assert bench.flow == [Watermark(10)]


def test_a_channel_that_has_ended_does_not_hold_event_time_back() -> None:
    bench = Bench(Map(str))
    bench.feed(A, Watermark(10))

    bench.feed(B, END)

    assert bench.flow == [Watermark(10)]


def test_a_task_is_idle_when_all_inputs_that_have_not_ended_are() -> None:
    bench = Bench(Map(str))
    bench.feed(A, Idle())
    assert bench.flow == []

    bench.feed(B, END)

    assert bench.flow == [Idle()]
    bench.feed(A, Active())
    assert bench.flow == [Idle(), Active()]


def test_the_end_of_all_input_is_no_watermark_for_the_last_output_is_not_late() -> None:
    bench = Bench(Saying())
    bench.feed(A, END)

    bench.feed(B, END)

    assert bench.flow == [["last word"], END]


# --- sinks


def prepared(bench: Bench, checkpoint_id: CheckpointId, *values: Any) -> None:
    bench.feed(A, *batches(*values), Barrier(checkpoint_id))
    bench.feed(B, Barrier(checkpoint_id))


def test_all_that_is_due_is_committed_at_a_notification_oldest_first() -> None:
    sink = MemorySink()
    bench = Bench(sink)
    prepared(bench, ONE, 1)
    prepared(bench, TWO, 2)
    prepared(bench, CheckpointId(3), 3)

    bench.runner.complete(TWO)

    assert sink.commits == [[[1], [2]]]
    assert bench.told[-1] == ("committed", TASK, TWO)


def test_a_notification_that_is_late_or_repeated_commits_nothing_but_is_answered() -> None:
    sink = MemorySink()
    bench = Bench(sink)
    prepared(bench, ONE, 1)
    prepared(bench, TWO, 2)

    for checkpoint_id in (TWO, ONE, TWO):
        bench.runner.complete(checkpoint_id)

    assert sink.commits == [[[1], [2]]]
    assert [one[2] for one in bench.told if one[0] == "committed"] == [TWO, ONE, TWO]


def test_what_is_not_known_to_be_committed_goes_into_every_snapshot() -> None:
    bench = Bench(MemorySink())
    prepared(bench, ONE, 1)
    prepared(bench, TWO, 2)
    bench.runner.complete(ONE)
    prepared(bench, CheckpointId(3))

    kept = [[one.committable for one in snapshot.prepared] for snapshot in bench.snapshots]
    assert kept == [[[1]], [[1], [2]], [[2]]]


def test_a_commit_that_fails_names_the_sink_and_is_not_reported() -> None:
    sink = MemorySink()
    bench = Bench(Map(str), sink)
    prepared(bench, ONE, 1)
    sink.is_broken = True

    with pytest.raises(OperatorError, match="operator 'op-1', subtask 1: OSError"):
        bench.runner.complete(ONE)

    assert not [one for one in bench.told if one[0] == "committed"]


def test_a_task_without_a_sink_reports_no_commit() -> None:
    bench = Bench(Map(str))

    bench.runner.complete(ONE)

    assert not [one for one in bench.told if one[0] == "committed"]


# --- closing


def test_the_chain_is_closed_although_the_source_fails_at_it() -> None:
    closed: list[str] = []

    class Closing(Holding):
        def close(self) -> None:
            closed.append("operator")

    class Stubborn(ListReader):
        def close(self) -> None:
            raise OSError("busy")

    class Source(ListSource):
        def open_split(self, split: Split, position: int | None) -> ListReader:
            return Stubborn(self.lists[split.id], position, closed)

    bench = Bench(Closing(), source=Source({"a": [None]}))
    bench.runner.step(0)

    with pytest.raises(OperatorError, match="busy"):
        bench.runner.close()
    assert closed == ["operator"]
