"""What goes wrong in a harness is said at once, with what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowsnap import ConfigError, OperatorError, Pipeline, RestoreError, bounded
from flowsnap.connectors import Collect, FromIterable
from flowsnap.core.element import Batch
from flowsnap.core.ids import CheckpointId
from flowsnap.core.operator import Sink
from flowsnap.testing import PAUSE, Harness, TestSource
from tests.unit.testing.pipelines import click, order, reminders, totals, windows


def hint(error: BaseException) -> str:
    return "\n".join(error.__notes__)


def test_error_of_the_user_is_raised_from_the_call_and_is_a_crash() -> None:
    with Harness(reminders()) as harness:
        harness.push("words", "apple")
        harness.checkpoint()

        with pytest.raises(OperatorError, match=r"'remind'.*boom is not accepted") as caught:
            harness.push("words", "boom")

        assert isinstance(caught.value.__cause__, ValueError)
        assert harness.is_crashed
        assert harness.output("out") == ["apple"]


def test_error_that_comes_again_is_raised_by_the_restore() -> None:
    with Harness(reminders()) as harness:
        with pytest.raises(OperatorError, match="boom"):
            harness.push("words", "boom")

        with pytest.raises(OperatorError, match="boom"):
            harness.restore()

        assert harness.is_crashed


class Refusing(Sink):
    def write(self, batch: Batch) -> None:
        """Take everything."""

    def prepare(self, checkpoint_id: CheckpointId) -> None:
        raise OSError("the target is full")


def test_error_of_a_sink_at_a_checkpoint_is_a_crash() -> None:
    pipeline = Pipeline("refused")
    pipeline.from_iterable(list[int](), name="numbers").sink(Refusing(), name="out")

    with Harness(pipeline, keep=["out"]) as harness:
        harness.push("numbers", 1)
        with pytest.raises(OperatorError, match="the target is full"):
            harness.checkpoint()

        assert harness.is_crashed
        assert harness.checkpoints == []


def test_error_at_the_start_is_raised_where_the_harness_is_made() -> None:
    pipeline = Pipeline("broken")
    source = pipeline.source(TestSource([0]), name="numbers")
    source.map(lambda number: 1 // number, name="divide").sink(Collect(), name="out")

    with pytest.raises(OperatorError, match=r"'divide'.*division"):
        Harness(pipeline)


def test_checkpoint_that_is_not_there_cannot_be_restored() -> None:
    with Harness(totals()) as harness:
        harness.crash()

        with pytest.raises(RestoreError, match="7"):
            harness.restore(7)

        assert harness.is_crashed


@pytest.mark.parametrize(
    ("misuse", "message", "advice"),
    [
        (lambda h: h.push("oders", 1), "there is no 'oders'", "did you mean 'orders'?"),
        (lambda h: h.push("orders", 1, partition=1), "has no partition 1", "partitions=n"),
        (lambda h: h.output("outt"), "there is no 'outt'", "did you mean 'out'?"),
        (lambda h: h.output("totals"), "is not watched", "watch=['totals']"),
        (lambda h: h.output(3), "3 is not the name of an output", "<step>/<tag>"),
        (lambda h: h.states("total"), "there is no 'total'", "did you mean 'totals'?"),
        (lambda h: h.states("out"), "there is no 'out'", "by-user, totals"),
        (lambda h: h.state("totals", "sun", "a"), "there is no 'sun'", "did you mean 'sum'?"),
        (lambda h: h.advance("soon"), "'soon' is not a duration", '"10s"'),
        (lambda h: h.resume("orders"), "there is no 'orders'", "there are none"),
        (lambda h: h.restore(), "the job is running", "crash() it first"),
        (lambda h: h.rescale(1_000), "parallelism 1000 is not in", "max_parallelism"),
    ],
)
def test_misuse_is_explained(misuse: Callable[[Harness], Any], message: str, advice: str) -> None:
    with Harness(totals()) as harness:
        harness.push("orders", order("ann", 1))

        with pytest.raises(ConfigError) as caught:
            misuse(harness)

        assert message in str(caught.value)
        assert advice in hint(caught.value)
        assert harness.output("out") == [("ann", 1)]


def test_missing_key_names_those_that_are_there() -> None:
    with Harness(totals()) as harness:
        harness.push("orders", order("ann", 1))

        with pytest.raises(ConfigError, match="key 'bob' has no 'sum' in 'totals'") as caught:
            harness.state("totals", "sum", "bob")

        assert hint(caught.value).startswith("keys that have it: 'ann'")


@pytest.mark.parametrize(
    "call",
    [
        lambda h: h.checkpoint(),
        lambda h: h.crash(),
        lambda h: h.states("totals"),
        lambda h: h.timers("totals"),
        lambda h: h.end(),
    ],
)
def test_job_that_is_down_says_so(call: Callable[[Harness], Any]) -> None:
    with Harness(totals()) as harness:
        harness.crash()

        with pytest.raises(ConfigError, match="the job is crashed") as caught:
            call(harness)

        assert hint(caught.value) == "restore() it first"


def test_finished_job_takes_nothing_more() -> None:
    with Harness(totals()) as harness:
        harness.end()

        with pytest.raises(ConfigError, match="push: the job is finished"):
            harness.push("orders", order("ann", 1))
        with pytest.raises(ConfigError, match="checkpoint: the job is finished"):
            harness.checkpoint()


def test_closed_harness_takes_nothing_more() -> None:
    harness = Harness(totals())
    harness.close()
    harness.close()

    with pytest.raises(ConfigError, match="push: the job is closed"):
        harness.push("orders", order("ann", 1))


def test_source_that_has_ended_takes_nothing_more() -> None:
    pipeline = Pipeline("two")
    left = pipeline.from_iterable(list[int](), name="left")
    left.union(pipeline.from_iterable(list[int](), name="right")).sink(Collect(), name="out")

    with Harness(pipeline) as harness:
        harness.end("left")

        with pytest.raises(ConfigError, match="source 'left' has ended"):
            harness.push("left", 1)


def test_source_that_knows_event_times_must_be_given_them() -> None:
    pipeline = Pipeline("timed")
    source = pipeline.source(FromIterable([]), watermark=bounded("1s"), name="clicks")
    source.sink(Collect(), name="out")

    with Harness(pipeline) as harness:
        with pytest.raises(ConfigError, match="need event times") as caught:
            harness.push("clicks", 1)

        assert "timestamp=1_000" in hint(caught.value)
        harness.push("clicks", 1, timestamp=5)
        assert harness.output("out").timestamps == [5]


def test_watermark_that_would_get_nowhere_is_refused() -> None:
    pipeline = Pipeline("twice")
    source = pipeline.source(FromIterable([]), watermark=bounded("1s"), name="clicks")
    source.assign_timestamps("at", name="times").sink(Collect(), name="out")

    with Harness(pipeline) as harness:
        with pytest.raises(ConfigError, match="end at 'times', which makes its own") as caught:
            harness.watermark("clicks", 1_000)

        assert "push a record that is late enough" in hint(caught.value)


def test_watermark_that_is_no_time_is_refused() -> None:
    with (
        Harness(windows("source")) as harness,
        pytest.raises(ConfigError, match="'now' is no event time"),
    ):
        harness.watermark("clicks", "now")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": ["totals"]}, "keep: there is no 'totals'"),
        ({"watch": ["out"]}, "watch: there is no 'out'"),
        ({"partitions": 0}, "partitions: 0 is less than 1"),
        ({"backend": "disk"}, "neither 'memory' nor 'rocksdb'"),
        ({"checkpoint_intervall": "1s"}, "no setting 'checkpoint_intervall'"),
    ],
)
def test_setting_that_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Harness(totals(), **settings)


def test_what_is_not_a_pipeline_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not a pipeline"):
        Harness("totals")  # type: ignore[arg-type]


def test_end_that_does_not_come_is_explained() -> None:
    pipeline = Pipeline("paused")
    pipeline.source(TestSource([1, PAUSE]), name="numbers").sink(Collect(), name="out")

    with (
        Harness(pipeline) as harness,
        pytest.raises(ConfigError, match="does not finish") as caught,
    ):
        harness.end()

    assert "resume a TestSource" in hint(caught.value)


def test_late_record_is_dropped_without_an_error() -> None:
    with Harness(windows("source")) as harness:
        harness.push("clicks", click("ann", 30_000))
        harness.push("clicks", click("ann", 1_000))

        assert harness.output("out") == []
