"""A test source ends, crashes and pauses at an exact record, in any run."""

from __future__ import annotations

from typing import Any

import pytest

from flowsnap import ConfigError, Pipeline, bounded
from flowsnap.connectors import Collect
from flowsnap.testing import ABORT, END, PAUSE, Harness, TestSource, at


def pipeline_of(source: TestSource, sink: Collect | None = None) -> Pipeline:
    pipeline = Pipeline("numbers")
    stream = pipeline.source(source, name="numbers")
    stream.map(
        lambda number: number if not isinstance(number, int) else 10 * number, name="tens"
    ).sink(sink or Collect(), name="out")
    return pipeline


def test_source_ends_before_what_follows() -> None:
    with Harness(pipeline_of(TestSource([1, 2, END, 3]))) as harness:
        assert harness.is_done
        assert harness.output("out").committed == [10, 20]


def test_pause_lasts_until_it_is_lifted() -> None:
    with Harness(pipeline_of(TestSource([1, PAUSE, 2, PAUSE, 3]))) as harness:
        assert harness.output("out") == [10]
        harness.advance("1h")
        assert harness.output("out") == [10]

        harness.resume("numbers")
        assert harness.output("out") == [10, 20]
        harness.resume("numbers")

        assert harness.is_done


def test_checkpoint_at_a_pause_is_exactly_there() -> None:
    with Harness(pipeline_of(TestSource([1, 2, PAUSE, 3, PAUSE]))) as harness:
        harness.checkpoint()
        harness.resume("numbers")
        assert harness.output("out").pending == [30]

        harness.crash()
        harness.restore()

        assert harness.output("out").committed == [10, 20]
        assert harness.output("out").pending == [30]


def test_abort_is_a_crash_that_happens_once() -> None:
    with Harness(pipeline_of(TestSource([1, PAUSE, 2, ABORT, 3]))) as harness:
        harness.checkpoint()
        harness.resume("numbers")
        assert harness.is_crashed
        assert harness.output("out") == [10]

        harness.restore()

        assert harness.output("out").committed == [10, 20, 30]


def test_fresh_start_aborts_again() -> None:
    with Harness(pipeline_of(TestSource([1, ABORT, 2]))) as harness:
        assert harness.is_crashed

        harness.restore("fresh")
        assert harness.is_crashed
        harness.restore()

        assert harness.is_crashed  # There was no checkpoint: it is a fresh start.


def test_job_outside_of_a_harness_aborts_once_and_goes_on() -> None:
    out = Collect()

    result = pipeline_of(TestSource([1, 2, ABORT, 3, END, 4]), out).run(quiet=True)

    assert out.values == [10, 20, 30]
    assert result.attempts == 2


def test_each_run_of_a_pipeline_aborts_for_itself() -> None:
    pipeline = pipeline_of(TestSource([1, ABORT, 2]))

    assert [pipeline.run(quiet=True).attempts for _ in range(2)] == [2, 2]


def test_batches_have_the_size_that_was_asked_for() -> None:
    sizes: list[int] = []

    def remember(records: list[Any]) -> list[Any]:
        sizes.append(len(records))
        return records

    pipeline = Pipeline("batches")
    source = TestSource([1, 2, 3, PAUSE, 4], batch_records=2)
    pipeline.source(source, name="numbers").map_batches(remember).sink(Collect(), name="out")

    with Harness(pipeline) as harness:
        harness.resume("numbers")

    assert [size for size in sizes if size] == [2, 1, 1]


def test_values_carry_their_event_times() -> None:
    source = TestSource([at(5, 1), at(7, 2), 3, PAUSE])

    with Harness(pipeline_of(source)) as harness:
        assert harness.output("out").timestamps == [5, 7, None]


def test_pause_of_a_source_with_event_times_is_lifted_by_the_source_itself() -> None:
    source, pipeline = TestSource([1, PAUSE, 2]), Pipeline("timed")
    timed = pipeline.source(source, watermark=bounded("0ms", timestamp=int), name="numbers")
    timed.sink(Collect(), name="out")

    with Harness(pipeline) as harness:
        source.resume()
        harness.advance("1ms")

        assert harness.output("out") == [1, 2]


def test_values_that_compare_in_their_own_way_are_no_sentinels() -> None:
    class Anything:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

    with Harness(pipeline_of(TestSource([Anything(), PAUSE]), None)) as harness:
        assert not harness.is_done


def test_more_pauses_than_there_are_cannot_be_lifted() -> None:
    source = TestSource([1, PAUSE, 2])
    with pytest.raises(ConfigError, match="not being read"):
        source.resume()

    with Harness(pipeline_of(source)) as harness:
        harness.resume("numbers")
        with pytest.raises(ConfigError, match="all 1 pauses have been lifted"):
            harness.resume("numbers")


def test_test_source_is_not_pushed_to() -> None:
    with (
        Harness(pipeline_of(TestSource([1, PAUSE]))) as harness,
        pytest.raises(ConfigError, match="'numbers' is a TestSource, which has its values"),
    ):
        harness.push("numbers", 2)


@pytest.mark.parametrize(("values", "settings"), [(3, {}), ([1], {"batch_records": 0})])
def test_source_of_nothing_sensible_is_refused(values: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="TestSource"):
        TestSource(values, **settings)


def test_event_time_must_be_a_number() -> None:
    with pytest.raises(ConfigError, match="'noon' is no event time"):
        at("noon", 1)  # type: ignore[arg-type]


def test_sentinels_show_their_names() -> None:
    assert repr([END, ABORT, PAUSE]) == "[END, ABORT, PAUSE]"
