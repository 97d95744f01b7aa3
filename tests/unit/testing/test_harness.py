"""A harness runs the real pipeline, step by step, the same way each time."""

from __future__ import annotations

from typing import Any

import pytest

from flowsnap import Pipeline
from flowsnap.connectors import Collect, FromIterable
from flowsnap.testing import Harness, at
from tests.unit.testing.pipelines import Alarm, click, order, reminders, totals, windows


def test_records_come_out_as_soon_as_they_are_pushed() -> None:
    with Harness(totals()) as harness:
        harness.push("orders", order("ann", 3), order("bob", 1))
        harness.push("orders", order("ann", 4))

        assert harness.output("out") == [("ann", 3), ("bob", 1), ("ann", 7)]


def test_output_is_pending_until_a_checkpoint_commits_it() -> None:
    with Harness(totals()) as harness:
        harness.push("orders", order("ann", 3))
        assert harness.output("out").pending == [("ann", 3)]

        assert harness.checkpoint() == 1
        harness.push("orders", order("ann", 4))

        assert harness.output("out").committed == [("ann", 3)]
        assert harness.output("out").pending == [("ann", 7)]


def test_crash_takes_pending_output_and_the_restore_makes_it_again() -> None:
    with Harness(totals()) as harness:
        harness.push("orders", order("ann", 3))
        harness.checkpoint()
        harness.push("orders", order("ann", 4))

        harness.crash()
        assert harness.output("out") == [("ann", 3)]
        harness.push("orders", order("bob", 9))  # while the job is down
        harness.restore()

        assert harness.output("out") == [("ann", 3), ("ann", 7), ("bob", 9)]
        assert harness.states("totals") == {"sum": {"ann": 7, "bob": 9}}


def test_crash_without_a_checkpoint_begins_anew() -> None:
    with Harness(totals()) as harness:
        harness.push("orders", order("ann", 3))
        harness.crash()

        harness.restore()

        assert harness.output("out").pending == [("ann", 3)]


def test_job_goes_back_to_an_older_checkpoint() -> None:
    with Harness(totals()) as harness:
        for amount in (1, 2, 3):
            harness.push("orders", order("ann", amount))
            harness.checkpoint()
        harness.crash()

        harness.restore(1)

        assert harness.output("out").committed == [("ann", 1)]
        assert harness.output("out").pending == [("ann", 3), ("ann", 6)]
        assert harness.checkpoints == [1]


def test_job_is_started_afresh() -> None:
    with Harness(totals()) as harness:
        harness.push("orders", order("ann", 1))
        harness.checkpoint()
        harness.crash()

        harness.restore("fresh")

        assert harness.output("out").pending == [("ann", 1)]
        assert harness.checkpoints == []


@pytest.mark.parametrize("backend", ["memory", "rocksdb"])
def test_state_follows_its_keys_over_a_rescale(backend: Any) -> None:
    with Harness(totals(), backend=backend) as harness:
        harness.push("orders", *(order(f"user-{n}", n) for n in range(20)))
        for parallelism in (3, 1, 2):
            harness.rescale(parallelism)
            harness.push("orders", *(order(f"user-{n}", 100) for n in range(20)))

        assert harness.states("totals")["sum"] == {f"user-{n}": n + 300 for n in range(20)}
        assert len(harness.output("out")) == 80


def test_job_that_has_crashed_goes_on_with_another_parallelism() -> None:
    with Harness(totals()) as harness:
        harness.push("orders", order("ann", 1), order("bob", 2))
        harness.crash()

        harness.rescale(2)

        assert sorted(harness.output("out")) == [("ann", 1), ("bob", 2)]
        assert harness.parallelism == 2


def test_end_of_input_finishes_the_job_and_commits() -> None:
    with Harness(windows("source"), parallelism=2) as harness:
        harness.push("clicks", click("ann", 1_000), click("bob", 2_000))

        harness.end()

        assert sorted(harness.output("out").committed) == [("ann", 0, 1), ("bob", 0, 1)]
        assert harness.is_done


def test_timers_are_called_at_their_own_time() -> None:
    with Harness(reminders()) as harness:
        harness.push("words", "apple")
        harness.advance("2s")
        harness.push("words", "banana")
        assert [(one.timestamp_ms, one.key, one.kind) for one in harness.timers("remind")] == [
            (5_000, "a", "processing"),
            (7_000, "b", "processing"),
        ]

        harness.advance("1h")

        expected = ["apple", "banana", "apple again at 5000", "banana again at 7000"]
        assert harness.output("out") == expected
        assert harness.now_ms == 3_602_000


def test_timers_survive_a_crash() -> None:
    with Harness(reminders(), now_ms=1_000_000) as harness:
        harness.push("words", "apple")
        harness.checkpoint()
        harness.crash()
        harness.advance("10s")

        harness.restore()

        assert harness.output("out") == ["apple", "apple again at 1010000"]


@pytest.mark.parametrize("event_time", ["source", "behind"])
def test_watermark_closes_a_window_wherever_event_time_is_made(event_time: str) -> None:
    with Harness(windows(event_time)) as harness:
        harness.push("clicks", click("ann", 1_000))
        harness.watermark("clicks", 9_998)
        assert harness.output("out") == []

        harness.watermark("clicks", 9_999)

        assert harness.output("out") == [("ann", 0, 1)]
        assert harness.event_time("counts") == 9_999


def test_watermark_calls_event_timers_where_nothing_else_makes_event_time() -> None:
    pipeline = Pipeline("alarms")
    alarms = pipeline.from_iterable(list[int](), name="alarms")
    alarms.key_by(name="by-time").process(Alarm, name="alarm").sink(Collect(), name="out")

    with Harness(pipeline) as harness:
        harness.push("alarms", 5_000, 7_000)
        assert [timer.kind for timer in harness.timers("alarm")] == ["event", "event"]

        harness.watermark("alarms", 6_000)

        assert harness.output("out") == [("alarm", 5_000)]


def test_watermarks_of_the_pipeline_itself_stay_in_force() -> None:
    with Harness(windows("source")) as harness:
        harness.push("clicks", click("ann", 1_000))
        assert harness.event_time("counts") == -1

        harness.push("clicks", click("ann", 11_000))

        assert harness.output("out") == [("ann", 0, 1)]


def test_watermarks_are_read_again_after_a_crash() -> None:
    with Harness(windows("source")) as harness:
        harness.checkpoint()
        harness.push("clicks", click("ann", 1_000))
        harness.watermark("clicks", 20_000)
        harness.push("clicks", click("late", 2_000))
        harness.crash()

        harness.restore()

        assert harness.output("out") == [("ann", 0, 1)]
        assert harness.event_time("counts") == 20_000


def test_least_partition_holds_event_time() -> None:
    with Harness(windows("source"), partitions=2) as harness:
        harness.push("clicks", click("ann", 50_000), partition=0)
        assert harness.event_time("counts") is None

        harness.watermark("clicks", 9_999, partition=1)
        assert harness.event_time("counts") == 9_999

        harness.watermark("clicks", 60_000)
        assert harness.output("out") == [("ann", 50_000, 1)]


def test_records_without_event_times_keep_having_none() -> None:
    with Harness(totals(), watch=["orders", "by-user"]) as harness:
        harness.push("orders", order("ann", 1))
        harness.push("orders", at(7, order("ann", 2)), order("bob", 3))

        assert harness.output("orders").timestamps == [None, 7, None]
        assert harness.output("by-user").timestamps == [None, 7, None]


def test_output_of_a_step_in_the_middle_is_watched() -> None:
    pipeline = Pipeline("side")
    small, large = pipeline.from_iterable(list[int](), name="numbers").split(
        lambda n: n < 10, name="sort"
    )
    small.map(str, name="text").sink(Collect(), name="out")
    large.sink(Collect(), name="rest")

    with Harness(pipeline, watch=["text", "sort", large]) as harness:
        harness.push("numbers", 1, 20, 3)

        assert harness.output("text") == ["1", "3"]
        assert harness.output(small) == [1, 3]
        assert harness.output(large) == [20]


def test_one_name_needs_no_list() -> None:
    pipeline, kept = Pipeline("one"), Collect()
    pipeline.from_iterable(list[int](), name="numbers").map(str, name="text").sink(kept, name="out")

    with Harness(pipeline, watch="text", keep="out") as harness:
        harness.push("numbers", 1)
        harness.checkpoint()

        assert harness.output("text") == kept.values == ["1"]


def test_take_returns_what_is_new() -> None:
    with Harness(totals()) as harness:
        harness.push("orders", order("ann", 1))
        assert harness.take("out") == [("ann", 1)]
        assert harness.take("out") == []

        harness.crash()
        harness.restore()

        assert harness.take("out") == [("ann", 1)]


def test_state_that_is_looked_at_is_a_copy() -> None:
    with Harness(reminders()) as harness:
        harness.push("words", "apple")
        harness.states("remind")["seen"]["a"]["plum"] = True

        assert harness.states("remind") == {
            "count": {"a": 1},
            "last": {"a": "apple"},
            "seen": {"a": {"apple": True}},
        }


def test_state_of_a_key_has_a_default() -> None:
    with Harness(reminders()) as harness:
        harness.push("words", "apple")

        assert harness.state("remind", "count", "a") == 1
        assert harness.state("remind", "count", "b", default=0) == 0


def test_operator_state_is_there_after_a_checkpoint() -> None:
    with Harness(windows("behind")) as harness:
        harness.push("clicks", click("ann", 5_000))
        harness.checkpoint()

        assert harness.operator_states("times") == {"watermark": [3_999]}


def test_sink_that_is_kept_runs_for_real() -> None:
    pipeline, kept = Pipeline("kept"), Collect()
    pipeline.from_iterable(list[int](), name="numbers").sink(kept, name="out")

    with Harness(pipeline, keep=["out"]) as harness:
        harness.push("numbers", 1, 2)
        harness.checkpoint()
        harness.push("numbers", 3)

        assert kept.values == harness.output("out").committed == [1, 2]
        harness.crash()
        harness.restore()
        harness.end()
        assert kept.values == [1, 2, 3]


def test_source_that_is_kept_runs_for_real() -> None:
    pipeline = Pipeline("kept")
    pipeline.source(FromIterable(range(5)), name="numbers").sink(Collect(), name="out")

    with Harness(pipeline, keep=["numbers"]) as harness:
        assert harness.output("out").committed == [0, 1, 2, 3, 4]
        assert harness.is_done


def test_asynchronous_functions_are_waited_for() -> None:
    async def double(number: int) -> int:
        return 2 * number

    pipeline = Pipeline("async")
    numbers = pipeline.from_iterable(list[int](), name="numbers")
    numbers.async_map(double, name="double").sink(Collect(), name="out")

    with Harness(pipeline) as harness:
        harness.push("numbers", *range(50))

        assert harness.output("out") == list(range(0, 100, 2))


def test_rate_limit_waits_for_the_clock() -> None:
    pipeline = Pipeline("slow")
    numbers = pipeline.from_iterable(list[int](), name="numbers")
    numbers.rate_limit(1, name="slow").sink(Collect(), name="out")

    with Harness(pipeline) as harness:
        harness.push("numbers", *range(5))
        before = len(harness.output("out"))
        harness.advance("2s")

        assert 0 < len(harness.output("out")) - before <= 2


@pytest.mark.parametrize("alignment", ["aligned", "unaligned"])
def test_loop_comes_to_rest_and_survives_a_crash(alignment: str) -> None:
    pipeline = Pipeline("halves")
    loop = pipeline.loop("again")
    numbers = pipeline.source(FromIterable(list[int]()), name="numbers")
    halves = numbers.union(loop).map(lambda number: number // 2, name="half")
    loop.feed(halves.filter(lambda number: number > 1, name="more"))
    halves.sink(Collect(), name="out")

    with Harness(pipeline, parallelism=2, checkpoint_alignment=alignment) as harness:
        harness.push("numbers", 20)
        harness.checkpoint()
        harness.push("numbers", 9)
        harness.crash()
        harness.rescale(3)
        harness.end()

        assert sorted(harness.output("out").committed) == [1, 1, 2, 2, 4, 5, 10]


def test_one_source_of_two_ends() -> None:
    pipeline = Pipeline("two")
    left = pipeline.from_iterable(list[int](), name="left")
    left.union(pipeline.from_iterable(list[int](), name="right")).sink(Collect(), name="out")

    with Harness(pipeline) as harness:
        harness.push("left", 1)
        harness.end("left")
        harness.push("right", 2)
        harness.end("right")

        assert harness.output("out").committed == [1, 2]


def test_describe_says_how_things_stand() -> None:
    with Harness(totals()) as harness:
        harness.push("orders", order("ann", 1))
        harness.checkpoint()
        harness.push("orders", *(order("bob", 0) for _ in range(9)))

        first, *rest = harness.describe()

    assert first == "<Harness 'totals': running, parallelism 1, 0 ms, checkpoints [1]>"
    assert rest[0] == "  out, 1 committed: ('ann', 1)"
    assert rest[1].startswith("  out, 9 pending: ..., ('bob', 0)")
