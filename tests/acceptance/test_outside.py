"""The world outside fails: sinks that refuse or do not answer, sources that go, full disks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from flowsnap import Pipeline
from flowsnap.connectors import Collect, JsonLinesFiles, TextFiles
from flowsnap.core.element import Batch
from flowsnap.core.operator import Sink, SinkContext
from flowsnap.errors import FlowsnapError, JobFailed, RestoreError
from tests.acceptance.digits import COUNT, NEVER_AGAIN, TWICE, assert_exactly_once, digits
from tests.acceptance.ledger import Ledger, LedgerSink, Outcome
from tests.acceptance.processes import until
from tests.integration.jobs import (
    NEVER,
    QUICK,
    Held,
    checkpoints,
    lines,
    once_after_a_checkpoint,
    same,
)

pytestmark = pytest.mark.slow
Told = Callable[[str, object], None]
OUTCOMES: tuple[Outcome, ...] = ("refused", "applied", "not applied")
SETTINGS: dict[str, Any] = {"workers": 2, "quiet": True, **QUICK}


# --- sinks


def to_ledger(state: Path, ledger: Path, completed: int = 4) -> Pipeline:
    pipeline = Pipeline("digits")
    (
        pipeline.source(Held(COUNT, state, completed, splits=4), name="numbers")
        .key_by(lambda n: n % 10, name="by-digit")
        .count(name="counts")
        .sink(LedgerSink(ledger), name="ledger")
    )
    return pipeline


def assert_seen_exactly_once(ledger: Ledger) -> None:
    expected = Counter((digit, n) for digit in range(10) for n in range(1, COUNT // 10 + 1))
    assert Counter(ledger.seen()) == expected
    assert ledger.count("prepared") == 0, "a transaction of ours is left open"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db")


@pytest.mark.fault("F23", promise="P1 P2", oracles="O3 O4")
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("call", [*product(["prepare", "commit"], OUTCOMES)], ids="-".join)
def test_a_sink_that_fails_or_does_not_answer_loses_and_doubles_nothing(
    state: Path,
    tmp_path: Path,
    ledger: Ledger,
    call: tuple[str, Outcome],
    times: int,
    record_property: Told,
) -> None:
    ledger.arm(*call, times)

    result = to_ledger(state, tmp_path / "ledger.db").run(
        state_dir=state, restart=TWICE, **SETTINGS
    )

    record_property("failed calls", times)
    assert result.state == "finished"
    assert result.attempts > 1
    assert "the ledger" in result.failures[0]
    assert_seen_exactly_once(ledger)


@pytest.mark.fault("F23", promise="P2 P4 P5", oracles="O3 O4 O6")
def test_a_sink_that_stays_down_fails_the_job_and_keeps_what_was_prepared(
    state: Path, tmp_path: Path, ledger: Ledger, record_property: Told
) -> None:
    ledger.arm("commit", "refused", 1_000)
    with pytest.raises(JobFailed, match="the ledger refuses to commit") as caught:
        to_ledger(state, tmp_path / "ledger.db").run(state_dir=state, restart=TWICE, **SETTINGS)
    prepared = ledger.count("prepared")

    ledger.disarm()
    result = to_ledger(state, tmp_path / "ledger.db").run(state_dir=state, **SETTINGS)

    record_property("failed calls", len(caught.value.history))
    assert len(caught.value.history) == 3
    assert prepared > 0
    assert result.restored_from is not None
    assert_seen_exactly_once(ledger)


@pytest.mark.fault("F23", promise="P2 P5", oracles="O4 O6")
def test_a_transaction_that_the_system_dropped_is_a_loud_loss_and_never_passed_over(
    state: Path, tmp_path: Path, ledger: Ledger
) -> None:
    ledger.arm("commit", "refused", 1_000)
    with pytest.raises(JobFailed):
        to_ledger(state, tmp_path / "ledger.db").run(
            state_dir=state, restart=NEVER_AGAIN, **SETTINGS
        )
    ledger.disarm()
    dropped = ledger.expire()

    with pytest.raises(JobFailed, match="DATA LOSS: transaction") as caught:
        to_ledger(state, tmp_path / "ledger.db").run(
            state_dir=state, restart=NEVER_AGAIN, **SETTINGS
        )

    assert dropped > 0
    assert any("longer than the system keeps" in note for note in caught.value.__notes__)


class WriteThrough(Sink):
    """Shows every record at once, and knows nothing of checkpoints."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self, context: SinkContext) -> None:
        self._directory.mkdir(exist_ok=True)
        self._path = self._directory / f"{context.subtask}-{context.attempt}"

    def write(self, batch: Batch) -> None:
        with self._path.open("a", encoding="ascii") as file:
            file.writelines(f"{digit} {n}\n" for digit, n in batch.values)


@pytest.mark.fault("F1", promise="P3", oracles="O3 O4")
def test_a_sink_that_only_writes_has_every_record_at_least_once(
    state: Path, tmp_path: Path, record_property: Told
) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    out, act = tmp_path / "out", once_after_a_checkpoint(state, die)
    pipeline = Pipeline("digits")
    numbers = pipeline.source(Held(COUNT, state, 2, splits=4), name="numbers")
    keyed = numbers.map(act, name="act").key_by(lambda n: n % 10, name="by-digit")
    keyed.count(name="counts").sink(WriteThrough(out), name="out")

    result = pipeline.run(state_dir=state, restart=TWICE, **SETTINGS)

    written = Counter(line for path in out.iterdir() for line in path.read_text().splitlines())
    record_property("crashes", len(result.failures))
    assert result.attempts == 2
    assert written.keys() == {f"{d} {n}" for d in range(10) for n in range(1, COUNT // 10 + 1)}


# --- sources

LINES = 20_000


def by_word(files: Path, act: Callable[[Any], Any] = same) -> tuple[Pipeline, Collect]:
    pipeline, sink = Pipeline("digits"), Collect()
    (
        pipeline.source(TextFiles(f"{files}/*.txt", batch_bytes=4096), name="lines")
        .map(int, name="parse")
        .map(act, name="act")
        .key_by(lambda n: n % 10, name="by-digit")
        .count(name="counts")
        .sink(sink, name="out")
    )
    return pipeline, sink


@pytest.fixture
def files(tmp_path: Path) -> Path:
    directory = tmp_path / "in"
    directory.mkdir()
    for part in range(2):
        numbers = range(part * LINES, (part + 1) * LINES)
        (directory / f"{part}.txt").write_text("".join(f"{n}\n" for n in numbers))
    return directory


def stop_half_way(state: Path, files: Path) -> None:
    """Let a job fail once it has a checkpoint, so that it has more to read."""

    def fail(n: int) -> int:
        if n % 100 == 0:
            threading.Event().wait(0.002)
            if n % LINES > LINES // 4 and checkpoints(state):
                raise ValueError("a part of it")
        return n

    pipeline, _ = by_word(files, fail)
    with pytest.raises(JobFailed, match="a part of it"):
        pipeline.run(
            state_dir=state, workers=2, quiet=True, restart=NEVER_AGAIN, checkpoint_interval="1ms"
        )


def cut_short(path: Path) -> None:
    os.truncate(path, 10)


@pytest.mark.fault("F22", promise="P1 P4 P5", oracles="O3 O6")
@pytest.mark.parametrize("harm", [Path.unlink, cut_short], ids=["removed", "cut short"])
def test_a_source_that_has_lost_its_input_fails_with_its_name_and_keeps_its_place(
    state: Path, files: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    stop_half_way(state, files)
    shutil.copytree(files, tmp_path / "kept")
    harm(files / "0.txt")

    pipeline, _ = by_word(files)
    with pytest.raises(FlowsnapError, match=r"0\.txt") as caught:
        pipeline.run(state_dir=state, restart=TWICE, **SETTINGS)
    shutil.copy(tmp_path / "kept" / "0.txt", files / "0.txt")
    again, sink = by_word(files)
    again.run(state_dir=state, **SETTINGS)

    assert isinstance(caught.value, RestoreError | JobFailed)
    assert Counter(digit for digit, _ in sink.values) == dict.fromkeys(range(10), LINES // 5)


# --- the disk

DISK_MIB = 24


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of its own; only root can make one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=700", "flowsnap", str(place)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True, check=False)
        why = made.stderr.strip() if made.returncode else ""
    except OSError as error:
        why = str(error)
    if why:
        pytest.skip(f"NOT TESTED HERE: a full disk needs a file system of its own ({why})")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place: Path) -> int:
    """Leave no byte free; return how many it took."""
    taken = 0
    with (place / "filler").open("wb", buffering=0) as file:
        for size in (2**16, 4096, 1):
            while True:
                try:
                    taken += file.write(bytes(size))
                except OSError:
                    break
    return taken


@pytest.mark.fault("F8", promise="P1 P2 P4 P5", oracles="O1 O3 O4 O6")
def test_a_full_disk_costs_checkpoints_and_attempts_but_no_record(
    small_disk: Path, tmp_path: Path, record_property: Told
) -> None:
    state = small_disk / "state"
    pipeline, sink = digits(state, 12)
    handle = pipeline.start(workers=2, state_dir=state, restart={"attempts_max": 100}, **QUICK)
    until(lambda: handle.status().checkpoints_completed >= 3, "three checkpoints")
    before = checkpoints(state)[-1]

    filled = fill(small_disk)
    until(lambda: handle.status().checkpoints_failed or handle.status().failures, "a failure")
    whole = checkpoints(state)
    (small_disk / "filler").unlink()
    result = handle.wait(60)

    record_property("bytes filled", filled)
    assert whole[-1] >= before
    assert result.state == "finished"
    assert all("space" in line or "StateError" in line for line in result.failures[:1])
    assert_exactly_once(sink)
    assert not list(state.rglob(".tmp-*"))


@pytest.mark.fault("F8", promise="P1 P2 P5", oracles="O3 O6")
def test_a_disk_that_stays_full_fails_the_job_and_the_next_run_goes_on(
    small_disk: Path, tmp_path: Path
) -> None:
    state, out = small_disk / "state", tmp_path / "out"

    def counts(completed: int, act: Callable[[int], Any]) -> Pipeline:
        pipeline = Pipeline("digits")
        source = pipeline.source(Held(COUNT, state, completed, splits=4), name="numbers")
        keyed = source.map(act, name="act").key_by(lambda n: n % 10, name="by-digit")
        keyed.count(name="counts").sink(JsonLinesFiles(out), name="out")
        return pipeline

    def fill_it() -> None:
        fill(small_disk)

    full = counts(NEVER, once_after_a_checkpoint(state, fill_it))
    with pytest.raises(FlowsnapError, match="space"):
        full.run(state_dir=state, checkpoint_failures_max=1, restart=TWICE, **SETTINGS)
    (small_disk / "filler").unlink()
    result = counts(0, same).run(state_dir=state, **SETTINGS)

    assert result.restored_from is not None
    found = Counter((digit, n) for digit, n in lines(out))
    assert found == Counter((d, n) for d in range(10) for n in range(1, COUNT // 10 + 1))
