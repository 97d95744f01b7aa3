"""Flipped bits in what unaligned checkpoints keep of the channels, and in savepoints."""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowsnap import Pipeline
from flowsnap.connectors import Discard, Generator
from flowsnap.errors import FlowsnapError, ManifestCorrupt, RestoreError
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.savepoint import bring_in, find
from tests.acceptance.digits import COUNT, NEVER_AGAIN, digits
from tests.acceptance.processes import until
from tests.acceptance.test_damage import JOB, damaged, flip, found_by_verify
from tests.integration.jobs import NEVER, QUICK

pytestmark = pytest.mark.slow
Told = Callable[[str, object], None]
FLIPS = 60
CHANNELS = "channels.bin"
UNALIGNED: dict[str, Any] = {"checkpoint_alignment": "unaligned", "checkpoint_interval": "50ms"}


def slow(n: int) -> int:
    threading.Event().wait(0.0005)
    return n


def backlogged() -> Pipeline:
    """Return a job of which much is always in transit."""
    pipeline = Pipeline(JOB)
    source = pipeline.source(Generator(lambda n: n, splits=2), name="endless")
    source.key_by(lambda n: n % 10, name="by-digit").map(slow, name="slow").sink(Discard())
    return pipeline


def in_transit(state: Path) -> list[Path]:
    return sorted(path for path in state.rglob(CHANNELS) if path.stat().st_size)


@pytest.fixture
def cut_through(state: Path) -> Path:
    """Return the state directory of a job whose newest checkpoint holds what was in transit."""
    handle = backlogged().start(workers=2, state_dir=state, **UNALIGNED)
    until(
        lambda: handle.status().checkpoints_completed >= 2 and in_transit(state),
        "a checkpoint with something in transit",
    )
    handle.cancel()
    handle.wait(60)
    return state


@pytest.mark.fault("F11", promise="P5 P7 P8", oracles="O6 O8")
def test_a_flipped_bit_in_what_was_in_transit_is_found_and_nothing_of_it_is_restored(
    cut_through: Path, record_property: Told
) -> None:
    job = JobDirectory.read(cut_through, JOB)
    own = f"{job.checkpoints()[-1]:08d}"
    files = [path for path in in_transit(cut_through) if own in path.parts]
    chance, missed = random.Random("transit"), []
    for _ in range(FLIPS):
        path = chance.choice(files)
        with damaged(path, flip(chance.randrange(path.stat().st_size * 8))):
            if str(path.relative_to(job.root)) not in found_by_verify(cut_through):
                missed.append(path)

    with damaged(files[0], flip(99)), pytest.raises(FlowsnapError, match=CHANNELS):
        backlogged().run(
            workers=2, state_dir=cut_through, quiet=True, restart=NEVER_AGAIN, **UNALIGNED
        )

    record_property("flips", FLIPS + 1)
    assert missed == []


@pytest.fixture
def savepoint(state: Path) -> Path:
    handle = digits(state, NEVER)[0].start(workers=2, state_dir=state, **QUICK)
    until(lambda: handle.status().checkpoints_completed >= 3, "three checkpoints")
    path = handle.savepoint("kept", timeout_s=60)
    assert isinstance(path, Path)
    handle.cancel()
    handle.wait(60)
    return path


@pytest.mark.fault("F11", promise="P5 P7 P8", oracles="O6 O8")
def test_nothing_is_brought_in_from_a_savepoint_with_a_flipped_bit(
    savepoint: Path, tmp_path: Path, record_property: Told
) -> None:
    files = sorted(path for path in savepoint.rglob("*") if path.is_file() and path.stat().st_size)
    chance = random.Random("savepoint")
    with JobDirectory.open(tmp_path / "other", JOB) as job:
        for path in files * (1 + FLIPS // len(files)):
            bit = chance.randrange(path.stat().st_size * 8)
            with damaged(path, flip(bit)), pytest.raises(ManifestCorrupt) as caught:
                bring_in(job, find(savepoint))
            assert re.search(re.escape(path.name), str(caught.value))
        brought = job.checkpoints()

    record_property("flips", len(files) * (1 + FLIPS // len(files)))
    assert brought == []


@pytest.mark.fault("F11", promise="P2 P5 P7", oracles="O3 O6")
def test_a_damaged_savepoint_is_refused_and_a_sound_one_restored(
    savepoint: Path, state: Path, tmp_path: Path
) -> None:
    fresh = tmp_path / "fresh"
    settings: dict[str, Any] = {
        "workers": 2, "state_dir": fresh, "restore": savepoint, "quiet": True,
    }  # fmt: skip

    with damaged(savepoint / "manifest.json", flip(4_321)), pytest.raises(RestoreError) as caught:
        digits(state)[0].run(**settings)
    pipeline, sink = digits(state)
    result = pipeline.run(**settings)

    assert "manifest.json is damaged" in str(caught.value)
    assert result.restored_from is not None
    last = dict(sink.values)  # what came before was the other job's to write
    first = {digit: n for digit, n in reversed(sink.values)}
    assert last == dict.fromkeys(range(10), COUNT // 10)
    assert Counter(sink.values) == Counter(
        (digit, n) for digit in range(10) for n in range(first[digit], COUNT // 10 + 1)
    )
