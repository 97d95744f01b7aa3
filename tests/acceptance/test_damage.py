"""Flipped bits, cut and missing files: found in every class of file, before anything is opened."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowsnap.connectors import Collect
from flowsnap.core import manifest as manifests
from flowsnap.core.ids import AttemptId
from flowsnap.errors import ConfigError, FlowsnapError, ManifestCorrupt, RestoreError, StorageError
from flowsnap.serialize import code_sha256, dump_code, load_code
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.storage.writer import CheckpointWriter
from tests.acceptance.digits import NEVER_AGAIN, assert_exactly_once, digits
from tests.acceptance.processes import Run, flat, until
from tests.acceptance.rest import finish
from tests.integration.jobs import NEVER, QUICK

pytestmark = pytest.mark.slow
Told = Callable[[str, object], None]
FLIPS = 250
CUTS = 40
JOB = "digits"

CLASSES: dict[str, str] = {
    "identity": r"job\.json",
    "outcome": r"outcome\.json",
    "attempt": r"attempts/\d+\.json",
    "reservation": r"checkpoints/\d+/begun",
    "manifest": r"checkpoints/\d+/manifest\.json",
    "completion": r"checkpoints/\d+/completion\.json",
    "table": r"shared/[^/]+\.sst",
    "task file": r"checkpoints/\d+/[^/]+\.\d+/[^/]+",
}
"""Every class of file that a job stores for itself, by what its names look like."""

RESTORED = ("manifest", "table", "task file")
"""What a restore reads."""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the state directory of a job that was stopped after some checkpoints."""
    state = tmp_path_factory.mktemp("damage") / "state"
    pipeline, _ = digits(state, NEVER)
    handle = pipeline.start(workers=2, state_dir=state, **QUICK)
    until(lambda: handle.status().checkpoints_completed >= 3, "three checkpoints")
    handle.stop()
    handle.wait(60)
    return state


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    """Return a copy of it that may be damaged."""
    return Path(shutil.copytree(stopped, tmp_path / "state"))


def files_of(state: Path, class_: str) -> list[str]:
    """Return the names of all files of a class, relative to the job's directory."""
    root = state / JOB
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    found = [name for name in names if re.fullmatch(CLASSES[class_], name)]
    assert found, f"the job has no {class_}"
    return found


@contextmanager
def damaged(path: Path, change: Callable[[bytearray], None]) -> Iterator[None]:
    """Change a file in its place for a while; nothing else shares its bytes."""
    data = path.read_bytes()
    changed = bytearray(data)
    change(changed)
    path.write_bytes(changed)
    try:
        yield
    finally:
        path.write_bytes(data)


def flips(state: Path, class_: str, count: int) -> Iterator[tuple[str, Callable[..., None]]]:
    """Yield random single bits of the files of a class; those of small files come again."""
    chance = random.Random(f"flips/{class_}")
    names = files_of(state, class_)
    for _ in range(count):
        name = chance.choice(names)
        size = (state / JOB / name).stat().st_size
        if size:
            yield name, flip(chance.randrange(size * 8))


def flip(bit: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[bit // 8 % len(data)] ^= 1 << bit % 8

    return change


def cut(share: float) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        del data[int(len(data) * share) :]

    return change


def found_by_verify(state: Path) -> set[str]:
    try:
        job = JobDirectory.read(state, JOB)
    except ManifestCorrupt as error:
        return set(re.findall(r"job\.json", str(error)))
    return {finding.name for finding in job.verify() if finding.kind in {"corrupt", "missing"}}


def restore(state: Path, target: Path) -> None:
    """Read the newest checkpoint as the tasks of a new attempt do, without opening it."""
    job = JobDirectory.read(state, JOB)
    newest = job.latest()
    assert newest is not None
    writer = CheckpointWriter(job.root, AttemptId(99))
    for index, task in enumerate(newest.tasks):
        if task.state is not None:
            writer.restore(task.state.files, target / str(index))


def newest_of(state: Path, class_: str) -> str:
    """Return a file of a class that the newest checkpoint needs."""
    manifest = JobDirectory.read(state, JOB).latest()
    assert manifest is not None
    if class_ == "manifest":
        return f"checkpoints/{manifest.checkpoint_id:08d}/manifest.json"
    paths = [handle.path for handle in manifests.files(manifest) if handle.size_bytes]
    return next(path for path in paths if re.fullmatch(CLASSES[class_], path))


# --- everything is found


@pytest.mark.fault("F11", promise="P7", oracles="O8")
@pytest.mark.parametrize("class_", CLASSES)
def test_any_flipped_bit_of_a_stored_file_is_found_and_named(
    copy: Path, class_: str, record_property: Told
) -> None:
    missed, tried = [], 0
    for name, change in flips(copy, class_, FLIPS):
        with damaged(copy / JOB / name, change):
            tried += 1
            if found_by_verify(copy) != {name}:
                missed.append(name)

    record_property("flips", tried)
    assert (missed, tried) == ([], FLIPS)
    assert found_by_verify(copy) == set()


@pytest.mark.fault("F11", promise="P7", oracles="O8")
@pytest.mark.parametrize("class_", CLASSES)
def test_any_cut_of_a_stored_file_is_found_and_named(
    copy: Path, class_: str, record_property: Told
) -> None:
    chance = random.Random(f"cuts/{class_}")
    missed = []
    for _ in range(CUTS):
        name = chance.choice(files_of(copy, class_))
        with damaged(copy / JOB / name, cut(chance.random())):
            if (copy / JOB / name).stat().st_size and found_by_verify(copy) != {name}:
                missed.append(name)

    record_property("cuts of files", CUTS)
    assert missed == []


# --- before it is opened


@pytest.mark.fault("F11", promise="P7 P8", oracles="O6 O8")
@pytest.mark.parametrize("class_", RESTORED)
def test_nothing_of_a_damaged_checkpoint_is_put_where_it_would_be_opened(
    copy: Path, class_: str, tmp_path: Path, record_property: Told
) -> None:
    name, chance, told = newest_of(copy, class_), random.Random(class_), []
    size, target = (copy / JOB / name).stat().st_size, tmp_path / "restored"
    for _ in range(FLIPS):
        with damaged(copy / JOB / name, flip(chance.randrange(size * 8))):
            with pytest.raises(ManifestCorrupt) as caught:
                restore(copy, target)
            told.append(str(caught.value))
        shutil.rmtree(target, ignore_errors=True)

    record_property("flips", FLIPS)
    assert all(name in one for one in told)
    assert all("expected" in one or class_ == "manifest" for one in told)
    restore(copy, target)


@pytest.mark.fault("F11", promise="P7 P8", oracles="O6")
@pytest.mark.parametrize("class_", ["table", "task file"])
def test_no_directory_of_state_is_made_from_a_file_that_is_not_what_it_was(
    copy: Path, class_: str, tmp_path: Path
) -> None:
    name, target = newest_of(copy, class_), tmp_path / "restored"
    with damaged(copy / JOB / name, flip(77)), pytest.raises(ManifestCorrupt):
        restore(copy, target)
    made = {path.name for path in target.iterdir()}
    (copy / JOB / name).unlink()

    with pytest.raises(ManifestCorrupt, match=f"{re.escape(name)} is missing"):
        restore(copy, tmp_path / "again")

    assert [one for one in made if one.endswith(".partial")] != []
    assert all(name_is_unopened(target / one) for one in made)


def name_is_unopened(directory: Path) -> bool:
    """Whether RocksDB has not been here: it would have left its log and its lock."""
    return not (directory / "LOG").exists() and not (directory / "LOCK").exists()


class Trap:
    """What runs code as soon as it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.mark.fault("F11", promise="P8", oracles="O6")
def test_code_with_a_flipped_bit_is_never_unpickled(tmp_path: Path, record_property: Told) -> None:
    marker = tmp_path / "was-run"
    blob = dump_code(Trap(marker))
    sha256, chance = code_sha256(blob), random.Random("code")
    for _ in range(FLIPS):
        changed = bytearray(blob)
        flip(chance.randrange(len(blob) * 8))(changed)
        with pytest.raises(ConfigError, match="announced sha256"):
            load_code(bytes(changed), sha256)

    record_property("flips", FLIPS)
    assert not marker.exists()
    load_code(blob, sha256)
    assert marker.exists(), "the trap works"


@pytest.mark.fault("F11", promise="P2 P8", oracles="O6")
def test_collected_output_with_a_flipped_bit_is_never_returned(
    state: Path, record_property: Told
) -> None:
    pipeline, sink = digits(state, 2)
    handle = pipeline.start(workers=2, state_dir=state, **QUICK)
    handle.wait(60)
    parts = [path for path in (state / JOB / "collect").rglob("*.batches") if path.stat().st_size]
    chance = random.Random("parts")
    for _ in range(FLIPS // 4):
        part = chance.choice(parts)
        with damaged(part, flip(chance.randrange(part.stat().st_size * 8))):
            reread = Collect()
            reread.__dict__.update(sink.__dict__, _is_finished=False, _loaded={})
            with pytest.raises(StorageError, match="does not hold what was committed"):
                _ = reread.values

    record_property("flips", FLIPS // 4)


# --- as a user meets it


@pytest.mark.fault("F11", promise="P5 P7", oracles="O3 O6")
@pytest.mark.parametrize("class_", ["identity", *RESTORED])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_job_does_not_start_from_damage_and_goes_on_once_it_is_mended(
    copy: Path, class_: str, workers: int
) -> None:
    name = "job.json" if class_ == "identity" else newest_of(copy, class_)
    pipeline, sink = digits(copy)
    settings: dict[str, Any] = {
        "workers": workers,
        "state_dir": copy,
        "quiet": True,
        "restart": NEVER_AGAIN,
    }

    with damaged(copy / JOB / name, flip(801)), pytest.raises(FlowsnapError) as caught:
        pipeline.run(**settings)

    assert name.rpartition("/")[2] in str(caught.value)
    assert isinstance(caught.value, RestoreError) or "is damaged" in str(caught.value)
    mended, sink = digits(copy)
    assert mended.run(**settings).restored_from is not None
    assert_exactly_once(sink)


@pytest.mark.fault("F11", promise="P2 P5 P7", oracles="O3 O6 O8")
def test_an_older_checkpoint_is_restored_only_when_it_is_asked_for(tmp_path: Path) -> None:
    first = Run(tmp_path, "--workers", "2")
    first.kill_at(checkpoints=3)
    *_, older, newest = first.checkpoints()
    manifest = first.state / "per-user" / "checkpoints" / newest / "manifest.json"
    data = bytearray(manifest.read_bytes())
    flip(8_001)(data)
    manifest.write_bytes(data)

    code, text = Run(tmp_path, "--workers", "2").wait()
    asked = finish(Run(tmp_path, "--workers", "2", "--restore", str(int(older))))

    assert code == 3
    assert "is damaged" in text
    assert f"older checkpoints that can be restored by number: {int(older)}" in flat(text)
    assert f"restored from checkpoint {int(older)}" in asked
