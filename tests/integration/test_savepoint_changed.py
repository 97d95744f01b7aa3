"""Savepoints restored at another width, with records in transit, and into changed pipelines."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from flowsnap import Pipeline
from flowsnap.connectors import Collect, JsonLinesFiles
from flowsnap.core.operator import Sink
from flowsnap.errors import ManifestCorrupt, RestoreError, StateIncompatible
from flowsnap.runtime.status import JobResult
from flowsnap.storage.savepoint import find
from tests.integration.jobs import NEVER, QUICK, Held, checkpoints, lines, until
from tests.integration.test_savepoint import COUNT, assert_exactly_once, digits, half, whole

TURN = threading.Event()  # never set


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


# --- at another width ------------------------------------------------------------------------


def test_key_groups_and_splits_are_dealt_out_anew_at_another_width(state: Path, out: Path) -> None:
    paths: list[Path | None] = [None]
    for width in (1, 3, 2):
        handle = half(
            JsonLinesFiles(out),
            state,
            restore=paths[-1] or "latest",
            drawn={"width": width},
        )
        handle.stop(savepoint=True)
        paths.append(Path(str(handle.wait(60).savepoint)))

    digits(JsonLinesFiles(out), whole(state), width=4).run(
        state_dir=state, restore=str(paths[-1]), quiet=True
    )

    assert_exactly_once(lines(out))


def crowded(sink: Sink, width: int, pause_s: float = 0.0) -> Pipeline:
    """Three readers in front of a slower step, so that its channels are full."""

    def slow(seen: int, n: int) -> tuple[int, int]:
        TURN.wait(pause_s)
        return seen + 1, n

    pipeline = Pipeline("crowded")
    numbers = Held(COUNT, Path(), splits=3)
    (
        pipeline.source(numbers, name="numbers", parallelism=3)
        .key_by(lambda n: n % 10, name="by-digit")
        .stateful_map(slow, 0, name="slow", parallelism=width)
        .key_by(lambda n: n % 10, name="again")
        .count(name="counts", parallelism=width)
        .sink(sink, name="out", parallelism=width)
    )
    return pipeline


@pytest.mark.parametrize("width", [3, 1])
def test_records_in_transit_go_to_whoever_owns_their_keys_now(
    state: Path, out: Path, width: int
) -> None:
    handle = crowded(JsonLinesFiles(out), 2, 0.002).start(
        state_dir=state, checkpoint_alignment="unaligned", batch_linger="0ms"
    )
    until(lambda: any(one.records_in for one in handle.status().operators), "some records")
    checkpoint_id = handle.checkpoint(timeout_s=60)
    handle.cancel()
    handle.wait(60)
    path = state / "crowded" / "checkpoints" / f"{checkpoint_id:08d}"
    in_transit = [c.records for task in find(path).manifest.tasks for c in task.channels]

    crowded(JsonLinesFiles(out), width).run(state_dir=state, restore=path, quiet=True)

    assert sum(in_transit) > 0
    assert_exactly_once(lines(out))


# --- with a loop ---------------------------------------------------------------------------------


def collatz(sink: Sink, state: Path, completed: int = 0) -> Pipeline:
    """Send each number round until it has come to 1; tell how many steps it took."""
    pipeline = Pipeline("collatz")
    loop = pipeline.loop("again")
    numbers = pipeline.source(Held(400, state, completed), name="numbers")
    steps = (
        numbers.map(lambda n: (n + 1, n + 1, 0), name="begin")
        .union(loop)
        .map(lambda at: (at[0], follower(at[1]), at[2] + 1), name="step")
    )
    loop.feed(steps.filter(lambda at: at[1] != 1, name="under-way"))
    steps.filter(lambda at: at[1] == 1, name="done").sink(sink, name="out")
    return pipeline


def follower(n: int) -> int:
    return 3 * n + 1 if n % 2 else n // 2


def way(n: int) -> list[int]:
    at, steps = follower(n), 1
    while at != 1:
        at, steps = follower(at), steps + 1
    return [n, 1, steps]


def test_what_goes_round_is_in_a_savepoint_and_comes_to_its_end_in_a_drain(
    state: Path, out: Path
) -> None:
    handle = collatz(JsonLinesFiles(out), state, NEVER).start(state_dir=state, **QUICK)
    until(lambda: len(checkpoints(state)) > 2, "some checkpoints")
    path = handle.savepoint("round")
    handle.stop(drain=True)
    assert handle.wait(60).state == "finished"
    assert 0 < len(lines(out)) < 400
    assert all(line == way(line[0]) for line in lines(out))

    collatz(JsonLinesFiles(out), state).run(state_dir=state, restore=path, quiet=True)

    assert sorted(lines(out)) == [way(n) for n in range(1, 401)]


# --- into a changed pipeline -----------------------------------------------------------------


@pytest.fixture
def saved(state: Path, out: Path) -> Path:
    """Return a savepoint of the digits, from the middle."""
    handle = half(JsonLinesFiles(out), state)
    handle.stop(savepoint="middle")
    return Path(str(handle.wait(60).savepoint))


def with_totals(sink: Sink, state: Path) -> Pipeline:
    """Return the digits, with another count beside."""
    pipeline = Pipeline("digits")
    numbers = pipeline.source(whole(state), name="numbers").key_by(
        lambda n: n % 10, name="by-digit"
    )
    numbers.count(name="counts").sink(sink, name="out")
    numbers.count(name="totals", emit="final").sink(Collect(), name="totals-out")
    return pipeline


def test_an_operator_that_is_new_needs_to_be_allowed(state: Path, out: Path, saved: Path) -> None:
    with pytest.raises(StateIncompatible, match=r"has 'totals', 'totals-out', of which") as caught:
        with_totals(JsonLinesFiles(out), state).run(state_dir=state, restore=saved, quiet=True)
    assert "--allow-added" in caught.value.__notes__[0]

    result = with_totals(JsonLinesFiles(out), state).run(
        state_dir=state, restore=saved, allow_added=True, quiet=True
    )

    assert result.state == "finished"
    assert_exactly_once(lines(out))


def test_an_operator_that_is_gone_needs_to_be_allowed(
    state: Path, out: Path, saved: Path, tmp_path: Path
) -> None:
    def without_counts() -> Pipeline:
        pipeline = Pipeline("digits")
        numbers = pipeline.source(whole(state), name="numbers")
        numbers.map(lambda n: [n % 10, 0], name="bare").sink(JsonLinesFiles(out), name="out")
        return pipeline

    with pytest.raises(StateIncompatible, match="has 'counts', which the pipeline lacks") as caught:
        without_counts().run(state_dir=state, restore=saved, quiet=True)
    assert "--allow-removed" in caught.value.__notes__[0]

    without_counts().run(state_dir=state, restore=saved, allow_removed=True, quiet=True)

    assert len(lines(out)) == COUNT
    assert {n for _, n in lines(out)} > {0, 1}


def test_an_operator_that_was_renamed_is_refused_by_both_names_and_flags(
    state: Path, out: Path, saved: Path
) -> None:
    renamed = digits(JsonLinesFiles(out), whole(state), counts="totals")

    def run(removed: bool, added: bool) -> JobResult:
        return renamed.run(
            state_dir=state,
            restore=saved,
            allow_removed=removed,
            allow_added=added,
            quiet=True,
        )

    with pytest.raises(StateIncompatible, match=r"has 'counts', .*has 'totals'") as caught:
        run(False, False)
    assert "--allow-removed" in caught.value.__notes__[1]
    with pytest.raises(StateIncompatible, match="the pipeline has 'totals'"):
        run(True, False)
    with pytest.raises(StateIncompatible, match="has 'counts', which the pipeline lacks"):
        run(False, True)
    result = run(True, True)
    assert result.state == "finished"


def test_a_refused_savepoint_leaves_the_job_as_it_was(state: Path, out: Path, saved: Path) -> None:
    before = checkpoints(state)

    with pytest.raises(StateIncompatible):
        digits(JsonLinesFiles(out), whole(state), counts="totals").run(
            state_dir=state, restore=saved, quiet=True
        )
    (saved / "manifest.json").write_bytes(b"torn")
    with pytest.raises(ManifestCorrupt, match="is cut off or no manifest"):
        digits(JsonLinesFiles(out), whole(state)).run(state_dir=state, restore=saved, quiet=True)

    assert checkpoints(state) == before
    digits(JsonLinesFiles(out), whole(state)).run(state_dir=state, quiet=True)
    assert_exactly_once(lines(out))


def test_a_path_without_a_savepoint_is_refused(state: Path, tmp_path: Path) -> None:
    with pytest.raises(RestoreError, match="there is no savepoint at"):
        digits(Collect(), whole(state)).run(
            state_dir=state, restore=tmp_path / "nothing", quiet=True
        )
