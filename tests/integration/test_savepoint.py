"""Savepoints of real jobs: made, stopped with, and restored into the same or another job."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flowsnap import Pipeline
from flowsnap.config import Restart
from flowsnap.connectors import Collect, JsonLinesFiles
from flowsnap.core.operator import Sink
from flowsnap.errors import (
    CheckpointError,
    JobFailed,
    StorageError,
)
from flowsnap.operators.window import Count, Tumbling
from flowsnap.runtime.job import JobHandle
from flowsnap.storage.savepoint import find
from tests.integration.jobs import (
    NEVER,
    QUICK,
    Held,
    checkpoints,
    doubled_and_lost,
    lines,
    until,
)

COUNT = 2_000
ALONE = Restart(strategy="none")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def digits(
    sink: Sink, source: Held, *, name: str = "digits", counts: str = "counts", width: int = 1
) -> Pipeline:
    """Count the numbers by their last digit; every update is written."""
    pipeline = Pipeline(name)
    (
        pipeline.source(source, name="numbers", parallelism=width)
        .key_by(lambda n: n % 10, name="by-digit")
        .count(name=counts, parallelism=width)
        .sink(sink, name="out", parallelism=width)
    )
    return pipeline


def half(sink: Sink, state: Path, completed: int = 2, **settings: Any) -> JobHandle:
    """Start a job that does not come to its end, and wait until it is in the middle."""
    pipeline = digits(sink, Held(COUNT, state, NEVER), **settings.pop("drawn", {}))
    before = len(checkpoints(state))
    handle = pipeline.start(state_dir=state, checkpoints_retained=1_000, **QUICK, **settings)
    until(lambda: len(checkpoints(state)) >= before + completed, "some checkpoints")
    return handle


def whole(state: Path) -> Held:
    """Return the source that reads all there is."""
    return Held(COUNT, state)


def goes_on(handle: JobHandle, state: Path, more: int = 3) -> None:
    before = checkpoints(state)[-1]
    until(lambda: checkpoints(state)[-1] >= before + more, "more checkpoints")


def stopped(handle: JobHandle) -> None:
    handle.stop()
    assert handle.wait(60).state == "stopped"


def assert_exactly_once(found: list[Any], count: int = COUNT) -> None:
    expected = Counter((digit, n) for digit in range(10) for n in range(1, count // 10 + 1))
    seen = Counter((digit, n) for digit, n in found)
    assert doubled_and_lost(seen, expected) == ({}, {})


# --- made ------------------------------------------------------------------------------------


def test_a_running_job_makes_a_savepoint_and_goes_on(state: Path, out: Path) -> None:
    handle = half(JsonLinesFiles(out), state)

    path = handle.savepoint("monday")
    goes_on(handle, state)
    stopped(handle)

    assert path == state / "digits" / "savepoints" / "monday"
    assert find(path).manifest.kind == "savepoint"
    digits(JsonLinesFiles(out), whole(state)).run(state_dir=state, quiet=True)
    assert_exactly_once(lines(out))


def test_a_job_that_is_driven_by_its_caller_makes_savepoints_too(state: Path) -> None:
    from flowsnap.config import JobConfig
    from flowsnap.runtime.job import start_job

    definition = digits(Collect(), Held(COUNT, state, NEVER)).definition()
    handle = start_job(definition, JobConfig(), state_dir=state, in_thread=False)

    path = handle.savepoint()

    assert path.name == "00000001"
    handle.cancel()
    assert handle.wait(60).state == "cancelled"


def test_a_savepoint_of_a_name_that_is_taken_is_refused_and_the_job_goes_on(state: Path) -> None:
    handle = half(Collect(), state)
    handle.savepoint("monday")

    with pytest.raises(CheckpointError, match="has a savepoint 'monday' already"):
        handle.savepoint("monday")

    goes_on(handle, state)
    stopped(handle)


def test_a_job_that_has_ended_makes_no_savepoint(state: Path) -> None:
    handle = half(Collect(), state)
    stopped(handle)

    with pytest.raises(CheckpointError, match="had ended"):
        handle.savepoint()


@pytest.mark.fault("F25", promise="P2 P4", oracles="O5 O7 O8")
def test_what_is_asked_for_at_once_comes_to_exactly_one_end_each(state: Path) -> None:
    handle = half(Collect(), state)
    ends: list[str] = []

    def make(name: str) -> None:
        try:
            ends.append(handle.savepoint(name).name)
        except CheckpointError as error:
            ends.append(str(error))

    askers = [threading.Thread(target=make, args=(name,)) for name in ("x", "x", "y", "z")]
    for asker in askers:
        asker.start()
    handle.stop(savepoint="end")
    handle.cancel()
    for asker in askers:
        asker.join(60)
    state_of_job = _ended(handle)

    assert len(ends) == 4
    assert state_of_job in {"stopped", "cancelled"}
    made = {path.name for path in (state / "digits" / "savepoints").glob("[a-z]*")}
    assert made - {"end"} == {end for end in ends if end in {"x", "y", "z"}}


def _ended(handle: JobHandle) -> str:
    try:
        return handle.wait(60).state
    except CheckpointError:  # The savepoint of the stop was not made, as the job was cancelled.
        return handle.status().state


# --- stopped with ----------------------------------------------------------------------------


def test_a_job_is_stopped_with_a_savepoint_of_its_last_checkpoint(state: Path, out: Path) -> None:
    handle = half(JsonLinesFiles(out), state)

    handle.stop(savepoint="last")
    result = handle.wait(60)

    assert result.state == "stopped"
    assert result.savepoint == str(state / "digits" / "savepoints" / "last")
    assert find(Path(result.savepoint)).manifest.checkpoint_id == result.last_checkpoint


def test_a_stop_that_was_overtaken_by_a_cancel_is_no_error(state: Path) -> None:
    handle = half(Collect(), state)

    handle.stop()
    handle.cancel()

    assert handle.wait(60).state in {"cancelled", "stopped"}


def test_a_savepoint_that_a_cancel_has_prevented_is_missed(state: Path) -> None:
    handle = half(Collect(), state)

    handle.cancel()
    handle.stop(savepoint="last")

    with pytest.raises(CheckpointError, match="the job"):
        handle.wait(60)
    assert not (state / "digits" / "savepoints").exists()


def per_minute(sink: Sink, state: Path, completed: int) -> Pipeline:
    """Count numbers in windows of which the last is open at any time."""
    pipeline = Pipeline("minutes")
    (
        pipeline.source(Held(COUNT, state, completed), name="numbers")
        .assign_timestamps(lambda n: n * 1000, "10s", idle=None)
        .key_by(lambda n: 0, name="all")
        .window(Tumbling("100m"))
        .aggregate(n=Count(), name="windows")
        .sink(sink, name="out")
    )
    return pipeline


def begun(state: Path, out: Path) -> JobHandle:
    pipeline = per_minute(JsonLinesFiles(out), state, NEVER)
    handle = pipeline.start(state_dir=state, **QUICK)
    until(lambda: checkpoints(state)[-1:] > [2], "some checkpoints")
    return handle


def test_windows_stay_open_over_a_stop(state: Path, out: Path) -> None:
    stopped(begun(state, out))
    assert lines(out) == []

    result = per_minute(JsonLinesFiles(out), state, 0).run(state_dir=state, quiet=True)

    assert result.state == "finished"
    assert [line["value"]["n"] for line in lines(out)] == [COUNT]


def test_a_drain_fires_every_window_and_finishes_the_job(state: Path, out: Path) -> None:
    handle = begun(state, out)

    handle.stop(drain=True, savepoint=True)
    result = handle.wait(60)

    assert result.state == "finished"
    [counted] = [line["value"]["n"] for line in lines(out)]
    assert 0 < counted < COUNT
    again = per_minute(JsonLinesFiles(out), state, 0).run(state_dir=state, quiet=True)
    assert (again.state, len(lines(out))) == ("finished", 1), "its input has ended for good"


def test_a_drain_that_fails_half_way_is_done_again_from_before_it(state: Path, out: Path) -> None:
    failed: list[bool] = []

    class FailsOnce(JsonLinesFiles):
        def write(self, batch: Any) -> None:
            if not failed and batch.values:
                failed.append(True)
                raise OSError("not now")
            super().write(batch)

    handle = per_minute(FailsOnce(out), state, NEVER).start(
        state_dir=state, restart=Restart(strategy="fixed", delay_ms=1), **QUICK
    )
    until(lambda: checkpoints(state)[-1:] > [2], "some checkpoints")
    handle.stop(drain=True)

    result = handle.wait(60)

    assert (result.state, result.attempts) == ("finished", 2)
    assert len(lines(out)) == 1


class Refusing(JsonLinesFiles):
    """Commits nothing any more once it is told to."""

    refuses: threading.Event

    def commit(self, committables: Any) -> None:
        if committables and self.refuses.is_set():
            raise StorageError("the target is away")
        super().commit(committables)

    def __deepcopy__(self, memo: object) -> Refusing:
        return self


def test_a_stop_whose_output_is_not_committed_says_so_and_leaves_no_savepoint(
    state: Path, out: Path
) -> None:
    sink = Refusing(out)
    sink.refuses = threading.Event()
    sink.refuses.set()
    pipeline = digits(sink, Held(COUNT, state, NEVER))
    handle = pipeline.start(state_dir=state, restart=ALONE, checkpoint_interval="1h")
    until(lambda: any(one.records_in for one in handle.status().operators), "some output")

    handle.stop(savepoint="last")
    with pytest.raises(JobFailed, match="the target is away") as caught:
        handle.wait(60)

    notes = " ".join(caught.value.__notes__)
    assert "checkpoint 1 is complete, but not all of its output is committed" in notes
    assert not (state / "digits" / "savepoints" / "last").exists()
    sink.refuses.clear()
    digits(sink, whole(state)).run(state_dir=state, quiet=True)
    assert_exactly_once(lines(out))


# --- restored --------------------------------------------------------------------------------


def test_an_older_savepoint_of_its_own_gives_exactly_the_right_output(
    state: Path, out: Path
) -> None:
    handle = half(JsonLinesFiles(out), state)
    path = handle.savepoint("monday")
    goes_on(handle, state)
    stopped(handle)

    for _ in range(2):  # also a second time
        result = digits(JsonLinesFiles(out), whole(state)).run(
            state_dir=state, restore=path, quiet=True
        )

        assert result.state == "finished"
        assert_exactly_once(lines(out))


def test_another_job_writes_what_comes_after_the_savepoint_and_nothing_else(
    state: Path, out: Path, tmp_path: Path
) -> None:
    handle = half(JsonLinesFiles(out), state)
    handle.stop(savepoint=True)
    path = handle.wait(60).savepoint
    shutil.move(str(path), tmp_path / "moved")
    other = digits(JsonLinesFiles(tmp_path / "other"), whole(state), name="other")

    for _ in range(2):  # A second time replaces what it wrote at the first.
        other.run(state_dir=tmp_path / "else", restore=tmp_path / "moved", quiet=True)

        assert_exactly_once(lines(out) + lines(tmp_path / "other"))


def test_two_jobs_from_one_savepoint_may_write_into_one_directory(
    state: Path, out: Path, tmp_path: Path
) -> None:
    handle = half(JsonLinesFiles(out), state)
    path = handle.savepoint()
    goes_on(handle, state)
    stopped(handle)
    before = len(lines(out))

    other = digits(JsonLinesFiles(out), whole(state), name="other")
    other.run(state_dir=tmp_path / "else", restore=path, quiet=True)

    assert len(lines(out)) > before, "nothing of the first job is gone"


def test_after_a_fresh_start_an_old_savepoint_is_that_of_another_life(
    state: Path, out: Path
) -> None:
    handle = half(JsonLinesFiles(out), state)
    path = handle.savepoint("monday")
    stopped(handle)
    digits(JsonLinesFiles(out), whole(state)).run(state_dir=state, restore="fresh", quiet=True)
    before = len(lines(out))

    result = digits(JsonLinesFiles(out), whole(state)).run(
        state_dir=state, restore=path, quiet=True
    )

    assert result.state == "finished"
    assert len(lines(out)) < before == COUNT


def test_a_savepoint_between_incremental_checkpoints_harms_neither(
    state: Path, out: Path, tmp_path: Path
) -> None:
    handle = half(JsonLinesFiles(out), state)
    path = handle.savepoint("monday")
    goes_on(handle, state)
    stopped(handle)
    kept: dict[str, Any] = {"state_dir": state, "checkpoints_retained": 1, "quiet": True}

    digits(JsonLinesFiles(out), whole(state)).run(**kept)
    assert len(checkpoints(state)) == 1
    assert_exactly_once(lines(out))

    digits(JsonLinesFiles(out), whole(state)).run(restore=path, **kept)
    assert_exactly_once(lines(out))


def test_checkpoints_after_a_restore_stand_without_the_savepoint(state: Path, out: Path) -> None:
    handle = half(JsonLinesFiles(out), state)
    path = handle.savepoint("monday")
    stopped(handle)
    again = half(JsonLinesFiles(out), state, restore=path)
    shutil.rmtree(str(path))
    goes_on(again, state)
    stopped(again)

    result = digits(JsonLinesFiles(out), whole(state)).run(
        state_dir=state, checkpoints_retained=1, quiet=True
    )

    assert result.state == "finished"
    assert_exactly_once(lines(out))
