"""Whatever fails, dies or is forgotten: the newest complete checkpoint is there, and whole.

Each test runs one life of a job for k = 1, 2, ... and lets the k-th system call that changes
something fail, until a life goes through without a fault.
"""

from __future__ import annotations

import errno
import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import FileHandle
from flowsnap.errors import ConfigError, StorageError
from flowsnap.storage.filesystem import FileSystem
from flowsnap.storage.job_directory import JobDirectory
from flowsnap.testing.faults import (
    FaultyFileSystem,
    PowerLossFileSystem,
    SimulatedCrash,
    UnsyncedFileSystem,
)
from tests.jobs import COUNT, Local
from tests.manifests import checkpoint, keyed_state, words


@dataclass
class Life:
    """One life of a job: what it was promised by the store, and what it was refused."""

    directory: Path
    files: FileSystem
    complete: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    reusable: tuple[FileHandle, ...] = ()

    def run(self) -> None:
        """Write two checkpoints, the second upon the first, and retire; go on after an error."""
        with JobDirectory.open(self.directory / "state", "words", filesystem=self.files) as job:
            job.clean_leftovers()
            if not job.run_id:
                job.begin_run()
            job.begin_attempt()
            for _ in range(4):
                try:
                    self.checkpoint(job)
                    job.retire(1)
                except StorageError:
                    continue
                if len(self.complete) == 2:
                    job.record_outcome("finished")
                    return

    def checkpoint(self, job: JobDirectory) -> None:
        number = job.next_checkpoint_id()
        job.reserve_checkpoint(number)
        handles = (*self.store(job, number), *self.reusable[:1])
        state = msgspec.structs.replace(keyed_state(0, 128), files=handles)
        manifest = msgspec.structs.replace(
            checkpoint(words(), {COUNT: {"state": state}}, number=number),
            run_id=job.run_id,
            attempt=job.newest_attempt(),
        )
        try:
            job.write_manifest(manifest)
        except StorageError as error:
            if error.is_definite:
                self.refused.append(number)
            raise
        self.complete.append(number)
        self.reusable = handles

    def store(self, job: JobDirectory, number: CheckpointId) -> Iterator[FileHandle]:
        attempt = job.newest_attempt()
        assert attempt is not None
        for name in ("000001.sst", "000002.sst", "CURRENT"):
            path = self.directory / f"{number}-{name}"
            path.write_text(f"{name} of {number}")
            local = Local(name, path, name.endswith(".sst"))
            yield job.writer(attempt).store(number, COUNT, local)


def lives(tmp_path: Path, **fault: object) -> Iterator[tuple[Life, FaultyFileSystem]]:
    """Yield one life after the other, each in a directory of its own, until nothing fails."""
    for fail_at in itertools.count(1):
        directory = tmp_path / str(fail_at)
        directory.mkdir()
        fault.setdefault("below", UnsyncedFileSystem())
        files = FaultyFileSystem(fail_at, **fault)  # type: ignore[arg-type]
        yield Life(directory, files), files
        shutil.rmtree(directory)
        if not files.has_failed:
            assert fail_at > 100
            return


def check(life: Life) -> None:
    """Open the directory afresh, and hold the store to what it has promised."""
    state = life.directory / "state"
    with JobDirectory.open(state, "words", filesystem=UnsyncedFileSystem()) as job:
        complete = job.checkpoints()
        assert [f for f in job.verify() if f.kind in {"corrupt", "missing", "foreign"}] == []
        assert max(life.complete, default=0) <= max(complete, default=0)
        assert not set(life.refused) & set(complete)
        assert job.next_checkpoint_id() > max([*life.complete, *complete, *life.refused, 0])
        newest = job.latest() if complete else None
        assert (newest.checkpoint_id if newest else 0) == max(complete, default=0)


def check_that_it_goes_on(life: Life) -> None:
    """Let the next life, without faults, work on what the last has left, and clean it up."""
    next_life = Life(life.directory, UnsyncedFileSystem())
    next_life.run()

    check(next_life)
    job = JobDirectory.read(life.directory / "state", "words")
    assert len(next_life.complete) == 2
    assert job.checkpoints() == next_life.complete[-1:]
    assert {finding.kind for finding in job.verify()} == {"ok"}


@pytest.mark.fault("F8", promise="P7", oracles="O7 O8")
@pytest.mark.fault("F9", promise="P7", oracles="O7 O8")
@pytest.mark.parametrize(
    ("error", "is_lasting", "takes_effect"),
    [
        pytest.param(errno.ENOSPC, False, False, id="once full"),
        pytest.param(errno.ENOSPC, True, False, id="full from here on"),
        pytest.param(errno.EIO, False, True, id="carried out once but reported as failed"),
        pytest.param(errno.EIO, True, True, id="carried out but broken from here on"),
    ],
)
def test_no_failing_system_call_costs_a_complete_checkpoint(
    tmp_path: Path, error: int, is_lasting: bool, takes_effect: bool
) -> None:
    fault = {"error": error, "is_lasting": is_lasting, "takes_effect": takes_effect}

    for life, _ in lives(tmp_path, **fault):
        # Raised in ``open`` or ``begin_attempt``: no job manager goes on without those.
        with suppress(ConfigError, StorageError):
            life.run()

        check(life)
        check_that_it_goes_on(life)


@pytest.mark.fault("F34", promise="P7", oracles="O7 O8")
@pytest.mark.parametrize("takes_effect", [False, True], ids=["before", "after"])
def test_no_death_between_two_steps_costs_a_complete_checkpoint(
    tmp_path: Path, takes_effect: bool
) -> None:
    for life, files in lives(tmp_path, error=None, takes_effect=takes_effect):
        try:
            life.run()
        except SimulatedCrash:
            assert files.has_failed

        check(life)
        check_that_it_goes_on(life)


def nothing(directory: Path) -> bool:
    return False


def all_but_checkpoints(directory: Path) -> bool:
    return not directory.name.isdigit()


def the_files_of_tasks(directory: Path) -> bool:
    return directory.name in {"count.0", "shared"}


@pytest.mark.fault("F10", promise="P7", oracles="O7 O8")
@pytest.mark.parametrize("is_written_out", [nothing, all_but_checkpoints, the_files_of_tasks])
def test_no_loss_of_power_costs_a_complete_checkpoint(
    tmp_path: Path, is_written_out: Callable[[Path], bool]
) -> None:
    (tmp_path / "attic").mkdir()
    power = PowerLossFileSystem(tmp_path / "attic")

    for life, files in lives(tmp_path, error=None, below=power):
        try:
            life.run()
        except SimulatedCrash:
            assert files.has_failed
        power.lose_power(life.directory, is_written_out)

        check(life)
        check_that_it_goes_on(life)


def test_what_was_never_synced_is_lost_with_the_power(tmp_path: Path) -> None:
    (tmp_path / "attic").mkdir()
    power = PowerLossFileSystem(tmp_path / "attic")
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "new").write_bytes(b"new")

    power.replace(tmp_path / "new", tmp_path / "old")
    power.unlink(tmp_path / "old")
    power.lose_power(tmp_path)

    assert (tmp_path / "old").read_bytes() == b"old"
    assert (tmp_path / "new").read_bytes() == b"new"
