"""Whole jobs in one process, on real state and a real checkpoint store."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowsnap import Pipeline
from flowsnap.config import Restart
from flowsnap.connectors import Collect, FromIterable, Generator, JsonLinesFiles, TextFiles
from flowsnap.core.operator import Sink, Source
from flowsnap.errors import ConfigError, JobFailed, RestoreError, StateIncompatible
from flowsnap.runtime.job import JobHandle
from tests.integration.jobs import (
    NEVER,
    QUICK,
    Held,
    checkpoints,
    doubled_and_lost,
    lines,
    once_after_a_checkpoint,
    same,
    until,
)

COUNT = 2_000
TWICE = Restart(strategy="fixed", delay_ms=1, attempts_max=2)
ALONE = Restart(strategy="none")


def digits(
    sink: Sink,
    source: Source | None = None,
    parse: Callable[[int], int] = same,
    *,
    name: str = "counts",
) -> Pipeline:
    """Count the numbers by their last digit; every update is written."""
    pipeline = Pipeline("digits")
    (
        pipeline.source(source or Held(COUNT, Path()), name="numbers")
        .map(parse, name="parse")
        .key_by(lambda n: n % 10, name="by-digit")
        .count(name=name)
        .sink(sink, name="out")
    )
    return pipeline


def endless() -> Generator:
    return Generator(same, rate=10_000, splits=2)


def updates(count: int = COUNT) -> Counter[Any]:
    """Return all updates that there must be, each once."""
    return Counter((digit, n) for digit in range(10) for n in range(1, count // 10 + 1))


def assert_exactly_once(found: list[Any], count: int = COUNT) -> None:
    seen = Counter((digit, n) for digit, n in found)
    assert doubled_and_lost(seen, updates(count)) == ({}, {})


def begun(pipeline: Pipeline, state: Path, completed: int = 2, **settings: Any) -> JobHandle:
    """Start a job, and wait until some checkpoints are complete."""
    before = len(checkpoints(state))
    handle = pipeline.start(state_dir=state, checkpoints_retained=1_000, **QUICK, **settings)
    until(lambda: len(checkpoints(state)) >= before + completed, "some checkpoints")
    return handle


def half_done(sink: Sink, state: Path, completed: int = 2) -> JobHandle:
    """Start a job that does not come to its end, and wait until it is in the middle."""
    return begun(digits(sink, Held(COUNT, state, NEVER)), state, completed)


# --- to the end


def test_a_job_runs_to_its_end_and_its_output_is_complete(state: Path) -> None:
    result = digits(sink := Collect()).run(state_dir=state, quiet=True)

    assert (result.state, result.attempts, result.restored_from) == ("finished", 1, None)
    assert result.last_checkpoint == checkpoints(state)[-1]
    assert_exactly_once(sink.values)


def test_a_job_without_a_state_directory_leaves_nothing_at_all(state: Path) -> None:
    result = digits(sink := Collect()).run(quiet=True)

    assert result.state == "finished"
    assert_exactly_once(sink.values)


def test_many_checkpoints_change_nothing_and_older_ones_are_retired(state: Path) -> None:
    settings: dict[str, Any] = {"state_dir": state, "checkpoints_retained": 2, **QUICK}
    handle = digits(Collect(), Held(COUNT, state, NEVER)).start(**settings)
    until(lambda: checkpoints(state)[-1:] > [5], "many checkpoints")
    assert len(checkpoints(state)) <= 3
    handle.stop()
    handle.wait(60)

    digits(sink := Collect()).run(quiet=True, **settings)

    assert_exactly_once(sink.values)
    assert len(checkpoints(state)) == 2


def test_a_pipeline_is_the_same_whoever_drives_it(state: Path) -> None:
    handle = digits(sink := Collect()).start(state_dir=state)

    assert handle.wait().state == "finished"
    assert handle.is_done
    assert handle.status().state == "finished"
    assert_exactly_once(sink.values)


# --- failures


def parse_badly(n: int) -> int:
    return 1 // (n - 1_610)


def test_a_function_that_raises_fails_the_job_after_the_last_restart(state: Path) -> None:
    pipeline = digits(Collect(), parse=parse_badly)

    with pytest.raises(
        JobFailed, match=r"operator 'parse', subtask 0: ZeroDivisionError"
    ) as caught:
        pipeline.run(state_dir=state, quiet=True, restart=TWICE)

    assert len(caught.value.history) == 3
    assert all("'parse'" in line for line in caught.value.history)
    notes = "\n".join(caught.value.__notes__)
    assert "return 1 // (n - 1_610)" in notes


def test_the_failing_record_is_found_by_its_place_not_by_its_content(state: Path) -> None:
    pipeline = Pipeline("secrets")
    words = pipeline.source(FromIterable(["a", "b", "pin 1234", "d"]), name="words", parallelism=1)
    words.map(lambda word: int(word, 16), name="hex").sink(Collect())

    with pytest.raises(JobFailed, match=r"on record 3 of a batch of 4 \(a str of length 8\)"):
        pipeline.run(state_dir=state, quiet=True, restart=ALONE)


def test_a_failure_in_the_middle_is_restored_exactly_once(state: Path) -> None:
    def fail() -> None:
        raise ValueError("once")

    parse = once_after_a_checkpoint(state, fail)
    result = digits(sink := Collect(), Held(COUNT, state, 1), parse).run(
        state_dir=state, quiet=True, restart=TWICE, **QUICK
    )

    assert (result.state, result.attempts) == ("finished", 2)
    assert result.restored_from is not None
    assert "ValueError: once" in result.failures[0]
    assert_exactly_once(sink.values)


def test_at_least_once_loses_nothing(state: Path) -> None:
    def fail() -> None:
        raise ValueError("once")

    parse = once_after_a_checkpoint(state, fail)
    digits(sink := Collect(), Held(COUNT, state, 1), parse).run(
        state_dir=state, quiet=True, restart=TWICE, checkpoint_mode="at-least-once", **QUICK
    )

    assert {digit for digit, _ in sink.values} == set(range(10))
    assert all(
        max(n for digit, n in sink.values if digit == wanted) >= COUNT // 10 for wanted in range(10)
    )


def test_the_last_output_leaves_once_although_the_job_fails_after_it(state: Path) -> None:
    def fail() -> None:
        raise ValueError("once")

    pipeline, totals, others = Pipeline("two"), Collect(), Collect()
    short = pipeline.from_iterable([1, 2, 1], name="short").key_by(lambda n: n, name="by")
    short.count(emit="final", name="totals").sink(totals, name="out")
    held = pipeline.source(Held(COUNT, state, 5), name="held")
    held.map(once_after_a_checkpoint(state, fail), name="fail").sink(others, name="rest")

    result = pipeline.run(state_dir=state, quiet=True, restart=TWICE, **QUICK)

    assert (result.state, result.attempts) == ("finished", 2)
    assert sorted(totals.values) == [(1, 2), (2, 1)]
    assert sorted(others.values) == list(range(COUNT))


def test_a_job_in_this_process_is_released_when_the_users_code_leaves_it(state: Path) -> None:
    pipeline = digits(Collect(), parse=lambda _: sys.exit(3))

    with pytest.raises(SystemExit) as caught:
        pipeline.run(state_dir=state, quiet=True)
    assert caught.value.code == 3


def test_a_failing_sink_names_itself(state: Path) -> None:
    class Refusing(Collect):
        def write(self, batch: Any) -> None:
            raise OSError("the target is away")

    with pytest.raises(JobFailed, match="operator 'out', subtask 0: OSError: the target is away"):
        digits(Refusing()).run(state_dir=state, quiet=True, restart=ALONE)


# --- stop and cancel


def test_a_stopped_job_goes_on_at_the_next_run(state: Path) -> None:
    handle = half_done(first := Collect(), state)
    handle.stop()
    stopped = handle.wait(60)
    assert (stopped.state, stopped.last_checkpoint) == ("stopped", checkpoints(state)[-1])
    assert 0 < len(first.values) < COUNT

    result = digits(second := Collect()).run(state_dir=state, quiet=True)

    assert (result.state, result.restored_from) == ("finished", stopped.last_checkpoint)
    assert_exactly_once(second.values)


def test_a_cancelled_job_goes_on_from_its_last_checkpoint(state: Path) -> None:
    handle = half_done(Collect(), state)
    handle.cancel()
    assert handle.wait(60).state == "cancelled"

    result = digits(sink := Collect()).run(state_dir=state, quiet=True)

    assert result.restored_from is not None
    assert_exactly_once(sink.values)


def test_an_endless_job_can_be_stopped_and_cancelled(state: Path) -> None:
    handle = begun(digits(Collect(), endless()), state)
    handle.stop()
    assert handle.wait(60).state == "stopped"

    again = begun(digits(Collect(), endless()), state, restore="fresh")
    again.cancel()
    assert again.wait(60).state == "cancelled"


def test_a_job_that_takes_too_long_is_still_there_after_a_timeout(state: Path) -> None:
    handle = begun(digits(Collect(), endless()), state)

    with pytest.raises(TimeoutError, match="has not ended"):
        handle.wait(0)

    handle.cancel()
    handle.wait(60)


# --- again


def test_a_finished_job_that_is_run_again_adds_nothing(state: Path, tmp_path: Path) -> None:
    digits(JsonLinesFiles(tmp_path / "out")).run(state_dir=state, quiet=True)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    result = digits(JsonLinesFiles(tmp_path / "out")).run(state_dir=state, quiet=True)

    assert result.state == "finished"
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def word_counts(tmp_path: Path) -> Pipeline:
    pipeline = Pipeline("words")
    (
        pipeline.source(TextFiles(str(tmp_path / "in" / "*.txt")), name="lines")
        .key_by(lambda word: word)
        .count(name="counts")
        .sink(JsonLinesFiles(tmp_path / "out"), name="out")
    )
    return pipeline


def test_a_file_that_is_new_at_a_rerun_is_counted_in_addition(state: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.txt").write_text("a\nb\na\n")
    word_counts(tmp_path).run(state_dir=state, quiet=True)
    (tmp_path / "in" / "2.txt").write_text("a\nc\n")

    word_counts(tmp_path).run(state_dir=state, quiet=True)

    assert sorted(lines(tmp_path / "out")) == [["a", 1], ["a", 2], ["a", 3], ["b", 1], ["c", 1]]


def test_a_fresh_start_replaces_the_jobs_own_output(state: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    digits(JsonLinesFiles(out)).run(state_dir=state, quiet=True)
    first = checkpoints(state)[-1]

    result = digits(JsonLinesFiles(out)).run(state_dir=state, quiet=True, restore="fresh")

    assert result.restored_from is None
    assert result.last_checkpoint is not None
    assert result.last_checkpoint > first, "an id is never used twice"
    assert_exactly_once(lines(out))


@pytest.mark.parametrize("which", [0, -1])
def test_an_older_checkpoint_gives_exactly_the_right_output(
    state: Path, tmp_path: Path, which: int
) -> None:
    out = tmp_path / "out"
    handle = half_done(JsonLinesFiles(out), state, completed=5)
    handle.stop()
    handle.wait(60)
    wanted = checkpoints(state)[which]

    result = digits(JsonLinesFiles(out)).run(state_dir=state, quiet=True, restore=wanted)

    assert result.restored_from == wanted
    assert_exactly_once(lines(out))


def test_a_job_that_went_back_and_stopped_before_a_checkpoint_stays_there(
    state: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    handle = half_done(JsonLinesFiles(out), state, completed=5)
    handle.stop()
    handle.wait(60)
    wanted = checkpoints(state)[1]
    handle = digits(JsonLinesFiles(out), Held(COUNT, state, NEVER)).start(
        state_dir=state, restore=wanted
    )
    until(lambda: handle.status().state == "running", "the tasks to run")
    handle.cancel()
    handle.wait(60)

    result = digits(JsonLinesFiles(out)).run(state_dir=state, quiet=True)

    assert result.restored_from == wanted
    assert_exactly_once(lines(out))


def test_two_jobs_on_one_directory_do_not_run_at_once(state: Path) -> None:
    handle = begun(digits(Collect(), endless()), state)

    with pytest.raises(ConfigError, match="digits"):
        digits(Collect()).run(state_dir=state, quiet=True)

    handle.cancel()
    handle.wait(60)


# --- what does not fit


def test_a_missing_checkpoint_is_refused_with_those_there_are(state: Path) -> None:
    digits(Collect()).run(state_dir=state, quiet=True)

    with pytest.raises(RestoreError, match=r"there is no checkpoint 77; available: 1"):
        digits(Collect()).run(state_dir=state, quiet=True, restore=77)


def test_a_renamed_stateful_operator_is_refused_with_both_names(state: Path) -> None:
    digits(Collect()).run(state_dir=state, quiet=True)

    with pytest.raises(StateIncompatible, match=r"'counts'.*'totals'") as caught:
        digits(Collect(), name="totals").run(state_dir=state, quiet=True)
    assert "give it its old name" in caught.value.__notes__[0]


def test_the_checkpoint_of_another_pipeline_is_refused_with_operators_of_both(state: Path) -> None:
    digits(Collect()).run(state_dir=state, quiet=True)
    other = Pipeline("digits")
    other.source(FromIterable([1]), name="ones").sink(Collect(), name="elsewhere")

    with pytest.raises(StateIncompatible, match=r"'numbers', .*'counts'.*'ones', 'elsewhere'"):
        other.run(state_dir=state, quiet=True)


def test_a_refused_job_leaves_its_state_as_it_was(state: Path) -> None:
    digits(Collect()).run(state_dir=state, quiet=True)
    before = checkpoints(state)

    with pytest.raises(StateIncompatible):
        digits(Collect(), name="totals").run(state_dir=state, quiet=True)

    assert checkpoints(state) == before
    again = digits(sink := Collect()).run(state_dir=state, quiet=True)
    assert again.restored_from == before[-1]
    assert_exactly_once(sink.values)
