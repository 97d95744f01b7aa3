"""Which life goes on from a savepoint, and what its sinks are told of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from flowsnap.core.ids import CheckpointId
from flowsnap.errors import RestoreError, StateIncompatible
from flowsnap.runtime.recovery import Recovery
from flowsnap.storage.job_directory import JobDirectory
from tests.manifests import LINES, changed, words
from tests.unit.runtime.test_recovery import Lives, attempt, complete, read_so_far

ONE, TWO = CheckpointId(1), CheckpointId(2)


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    made = Lives(tmp_path)
    yield made
    made.end()


def begun(lives: Lives, completed: int = 3) -> Recovery:
    """Begin a life in which checkpoints are completed, and checkpoint 1 is a savepoint too."""
    recovery = lives.begin()
    attempt(recovery)
    for number in range(1, completed + 1):
        complete(recovery, number, 1, None)
        if number == 1:
            recovery.export(ONE, "monday")
    return recovery


def savepoint(lives: Lives) -> Path:
    return lives.root / "state" / "words" / "savepoints" / "monday"


def directory(lives: Lives) -> JobDirectory:
    return JobDirectory.read(lives.root / "state", "words")


def test_its_own_savepoint_is_a_new_checkpoint_of_the_same_run(lives: Lives) -> None:
    first = begun(lives)

    second = lives.begin(savepoint(lives))

    assert (second.restored_from, second.run_id) == (4, first.run_id)
    assert read_so_far(attempt(second)) == {"a": 1, "b": None}
    assert attempt(second).next_checkpoint_id == 5


def test_sinks_are_told_to_go_back_to_the_checkpoint_that_the_savepoint_was(lives: Lives) -> None:
    begun(lives)

    lives.begin(savepoint(lives))

    told = lives.sink.submissions[-1]
    assert (told.restored_from, told.is_fresh) == (ONE, False)


def test_what_came_between_is_given_up_for_its_output_is(lives: Lives) -> None:
    begun(lives)

    lives.begin(savepoint(lives))

    assert directory(lives).checkpoints() == [1, 4]
    with pytest.raises(RestoreError, match="there is no checkpoint 2; available: 1, 4"):
        lives.begin(restore=2)


def test_the_next_life_goes_on_from_there_and_tells_the_sinks_again(lives: Lives) -> None:
    begun(lives)
    lives.begin(savepoint(lives))

    again = lives.begin()

    assert again.restored_from == 4
    assert lives.sink.submissions[-1].restored_from == ONE


def test_after_a_checkpoint_of_its_own_sinks_go_back_no_further_than_that(lives: Lives) -> None:
    begun(lives)
    second = lives.begin(savepoint(lives))
    attempt(second)
    complete(second, 5, 2, None)

    assert lives.begin().restored_from == 5
    assert lives.sink.submissions[-1].restored_from == 5


def test_a_savepoint_from_before_a_fresh_start_begins_another_run(lives: Lives) -> None:
    first = begun(lives)
    fresh = lives.begin("fresh")

    back = lives.begin(savepoint(lives))

    assert back.run_id not in {first.run_id, fresh.run_id}
    assert lives.sink.submissions[-1].restored_from == 0
    assert not lives.sink.submissions[-1].is_fresh
    assert lives.begin().restored_from == back.restored_from


def test_a_savepoint_that_does_not_fit_is_not_brought_in(lives: Lives) -> None:
    begun(lives)

    with pytest.raises(StateIncompatible):
        lives.begin(savepoint(lives), graph=changed(words(), LINES, name="rows"))

    assert directory(lives).checkpoints() == [1, 2, 3]
    assert len(lives.sink.submissions) == 1


def test_a_run_that_did_not_come_to_begin_with_its_savepoint_is_passed_over(lives: Lives) -> None:
    first = begun(lives)
    lives.end()
    with JobDirectory.open(lives.root / "state", "words") as job:
        identity = (job.root / "job.json").read_bytes()
        newest = job.read_manifest(CheckpointId(3))
        job.begin_run(first=msgspec.structs.replace(newest, checkpoint_id=CheckpointId(4)))
        (job.root / "job.json").write_bytes(identity)  # It died before it was written anew.

    again = lives.begin()

    assert (again.restored_from, again.run_id) == (3, first.run_id)


def test_fifty_restarts_and_savepoints_always_go_on_from_the_newest(lives: Lives) -> None:
    newest = 0
    for life in range(50):
        is_back = life % 7 == 6
        recovery = lives.begin(savepoint(lives) if is_back else "latest")
        newest = newest + 1 if is_back else newest
        assert (recovery.restored_from or 0) == newest
        newest = attempt(recovery).next_checkpoint_id
        complete(recovery, newest, 1, None)
        recovery.retire(3)
        if life == 0:
            recovery.export(ONE, "monday")

    assert directory(lives).checkpoints()[-1] == newest
