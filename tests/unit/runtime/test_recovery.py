from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowsnap.config import JobConfig
from flowsnap.core.graph import JobGraph, build_execution_graph
from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.core.operator import Split
from flowsnap.errors import ConfigError, RestoreError, StateIncompatible, StorageError
from flowsnap.runtime.attempt import Deployment
from flowsnap.runtime.definition import PipelineDefinition
from flowsnap.runtime.recovery import Recovery, Wanted
from flowsnap.serialize import load_code
from flowsnap.storage.job_directory import JobDirectory
from tests import manifests
from tests.manifests import COUNT, LINES, OUT, changed, words
from tests.unit.runtime.parts import Holding, ListSource, MemorySink

ONE, TWO, THREE = CheckpointId(1), CheckpointId(2), CheckpointId(3)


class Lives:
    """One life of a job after the other, on one job directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = ListSource({"a": [1, 2], "b": [3, 4]})
        self.sink = MemorySink()
        self._open: list[Recovery] = []

    def begin(self, restore: Wanted = "latest", graph: JobGraph | None = None) -> Recovery:
        """Open the directory and submit; the life before is over."""
        self.end()
        graph = graph or words()
        code = dict(zip((s.name for s in graph.operators), self._code(), strict=True))
        scratch = self.root / "scratch"
        scratch.mkdir()
        recovery = Recovery(
            JobDirectory.open(self.root / "state", graph.name),
            PipelineDefinition(graph, code),
            scratch,
            restore,
        )
        self._open.append(recovery)
        recovery.submit()
        return recovery

    def end(self) -> None:
        while self._open:
            self._open.pop().close()
        shutil.rmtree(self.root / "scratch", ignore_errors=True)

    def _code(self) -> list[Any]:
        return [self.source, Holding(), self.sink]


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    made = Lives(tmp_path)
    yield made
    made.end()


def attempt(recovery: Recovery) -> Deployment:
    graph = build_execution_graph(recovery.job_graph, 0)
    return recovery.begin_attempt(graph, JobConfig())


def complete(recovery: Recovery, number: int, *positions: int | None) -> CheckpointManifest:
    """Write the manifest of a checkpoint in which the splits have been read so far."""
    splits = [
        manifests.at(name, position, is_finished=position == 2)
        for name, position in zip("ab", positions, strict=False)
    ]
    made = manifests.checkpoint(words(), {"lines/0": {"splits": tuple(splits)}}, number=number)
    directory = JobDirectory.read(recovery._directory.root.parent, recovery.job)
    newest = directory.newest_attempt()
    assert newest is not None
    made = msgspec.structs.replace(made, run_id=recovery.run_id, attempt=newest)
    recovery.reserve(CheckpointId(number))
    recovery.write_manifest(made)
    return made


def read_so_far(deployment: Deployment) -> dict[str, Any]:
    return {split.split: split.position for task in deployment.assignments for split in task.splits}


def test_a_new_job_begins_without_a_checkpoint(lives: Lives) -> None:
    first = attempt(lives.begin())

    assert (first.restored_from, first.attempt, first.next_checkpoint_id) == (None, 1, 1)
    assert read_so_far(first) == {"a": None, "b": None}
    assert lives.sink.submissions[0].is_fresh


def test_every_attempt_has_a_higher_number_over_all_lives(lives: Lives) -> None:
    recovery = lives.begin()
    numbers = [attempt(recovery).attempt, attempt(recovery).attempt]

    numbers.append(attempt(lives.begin()).attempt)

    assert numbers == [1, 2, 3]


def test_the_next_life_goes_on_from_the_newest_checkpoint(lives: Lives) -> None:
    first = lives.begin()
    attempt(first)
    complete(first, 1, 1, None)
    complete(first, 2, 2, 1)

    second = lives.begin()

    assert second.restored_from == TWO
    assert second.run_id == first.run_id
    assert read_so_far(attempt(second)) == {"b": 1, "a": 2}
    assert not lives.sink.submissions[-1].is_fresh


def test_the_next_attempt_goes_on_from_what_the_attempt_before_has_completed(lives: Lives) -> None:
    recovery = lives.begin()
    attempt(recovery)
    complete(recovery, 1, 1, 1)

    again = attempt(recovery)

    assert (again.restored_from, again.next_checkpoint_id) == (ONE, 2)
    assert read_so_far(again) == {"a": 1, "b": 1}


def test_an_older_checkpoint_is_restored_by_its_id(lives: Lives) -> None:
    first = lives.begin()
    attempt(first)
    complete(first, 1, 1, None)
    complete(first, 2, 2, 1)

    second = lives.begin(restore=1)

    assert [attempt(second).restored_from for _ in range(2)] == [ONE, ONE]
    assert attempt(second).next_checkpoint_id == THREE
    assert lives.sink.submissions[-1].restored_from == ONE


def test_after_a_restore_by_id_a_new_checkpoint_is_newer_than_all(lives: Lives) -> None:
    first = lives.begin()
    attempt(first)
    complete(first, 1, 1, None)
    complete(first, 2, 2, 1)
    second = lives.begin(restore=1)
    attempt(second)
    complete(second, 3, 1, 1)

    assert attempt(second).restored_from == THREE
    assert lives.begin().restored_from == THREE


def test_going_back_gives_up_what_came_after_for_its_output_is_removed(lives: Lives) -> None:
    first = lives.begin()
    attempt(first)
    for number in (1, 2, 3):
        complete(first, number, 1, None)

    lives.begin(restore=2)

    again = lives.begin()
    assert again.restored_from == TWO
    assert attempt(again).next_checkpoint_id == 4


def test_a_pipeline_that_is_refused_gives_up_no_checkpoint(lives: Lives) -> None:
    first = lives.begin()
    attempt(first)
    complete(first, 1, 1, None)
    complete(first, 2, 1, None)

    with pytest.raises(StateIncompatible):
        lives.begin(restore=1, graph=changed(words(), LINES, name="rows"))

    assert lives.begin().restored_from == TWO


def test_a_checkpoint_that_does_not_exist_is_refused_with_those_that_do(lives: Lives) -> None:
    first = lives.begin()
    attempt(first)
    complete(first, 1, 1, None)

    with pytest.raises(RestoreError, match="there is no checkpoint 7; available: 1"):
        lives.begin(restore=7)


def test_a_fresh_start_has_a_new_run_and_tells_the_sinks_of_the_former(lives: Lives) -> None:
    first = lives.begin()
    attempt(first)
    complete(first, 1, 1, None)

    fresh = lives.begin(restore="fresh")

    assert attempt(fresh).restored_from is None
    assert fresh.run_id != first.run_id
    assert lives.sink.submissions[-1].former_run_ids == (first.run_id,)
    assert lives.sink.submissions[-1].is_fresh


def test_a_checkpoint_of_a_former_run_is_not_taken_for_the_newest(lives: Lives) -> None:
    first = lives.begin()
    attempt(first)
    complete(first, 1, 1, None)
    attempt(lives.begin(restore="fresh"))

    third = lives.begin()

    assert third.restored_from is None
    assert attempt(third).next_checkpoint_id == TWO


def test_a_checkpoint_of_a_former_run_can_be_asked_for_by_its_id(lives: Lives) -> None:
    first = lives.begin()
    attempt(first)
    complete(first, 1, 1, None)
    attempt(lives.begin(restore="fresh"))

    back = lives.begin(restore=1)

    assert attempt(back).restored_from == ONE
    assert lives.sink.submissions[-1].restored_from == ONE


def test_a_manifest_of_unknown_outcome_is_found_by_the_next_attempt(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    recovery = lives.begin()
    attempt(recovery)
    write = recovery._directory.write_manifest

    def write_and_fail(manifest: CheckpointManifest) -> None:
        write(manifest)
        raise StorageError("the directory could not be synced", is_definite=False)

    monkeypatch.setattr(recovery._directory, "write_manifest", write_and_fail)
    with pytest.raises(StorageError, match="synced"):
        complete(recovery, 1, 2, 1)

    assert attempt(recovery).restored_from == ONE


def test_a_source_that_discovers_is_asked_again_at_every_submission(lives: Lives) -> None:
    first = lives.begin()
    attempt(first)
    complete(first, 1, 2, 1)
    lives.source = ListSource({"a": [1, 2], "b": [3, 4], "c": [5]})

    assert read_so_far(attempt(lives.begin())) == {"a": 2, "b": 1, "c": None}


def test_the_splits_of_a_source_that_does_not_discover_are_those_of_the_checkpoint(
    lives: Lives,
) -> None:
    first = lives.begin()
    attempt(first)
    complete(first, 1, 2, 1)
    lives.source = ListSource({"other": [1]}, discovers=False)

    assert read_so_far(attempt(lives.begin())) == {"a": 2, "b": 1}
    assert lives.source.asked == 0


def test_a_source_with_two_splits_of_one_name_is_refused(lives: Lives) -> None:
    class Twins(ListSource):
        def splits(self, parallelism: int) -> list[Split]:
            return [Split("a"), Split("b"), Split("a")]

    lives.source = Twins({})

    with pytest.raises(ConfigError, match="source 'lines' has two splits with the id 'a'"):
        lives.begin()


def test_a_pipeline_that_does_not_fit_its_checkpoint_is_refused(lives: Lives) -> None:
    first = lives.begin()
    attempt(first)
    complete(first, 1, 1, None)

    with pytest.raises(StateIncompatible, match=r"'lines'.*the pipeline has 'rows'"):
        lives.begin(graph=changed(words(), LINES, name="rows"))


def test_input_that_is_gone_is_found_before_anything_is_removed(lives: Lives) -> None:
    first = lives.begin()
    attempt(first)
    complete(first, 1, 1, None)
    complete(first, 2, 2, None)
    lives.source = ListSource({"a": [1, 2]})

    with pytest.raises(RestoreError, match="split 'b'"):
        lives.begin(restore=1)

    assert len(lives.sink.submissions) == 1
    assert JobDirectory.read(lives.root / "state", first.job).checkpoints() == [ONE, TWO]


def test_a_refused_submission_has_told_no_sink(lives: Lives) -> None:
    first = lives.begin()
    attempt(first)
    complete(first, 1, 1, None)

    with pytest.raises(RestoreError):
        lives.begin(restore=9)

    assert len(lives.sink.submissions) == 1


def test_the_code_is_published_with_its_hash(lives: Lives) -> None:
    from flowsnap.runtime.definition import pickle_definition

    recovery = lives.begin()
    recovery.publish_code(pickle_definition(recovery._definition))

    code = attempt(recovery).code
    loaded = load_code(Path(code.path).read_bytes(), code.sha256)
    assert [type(loaded[name]).__name__ for name in (LINES, COUNT, OUT)] == [
        "ListSource",
        "Holding",
        "MemorySink",
    ]


def test_the_end_releases_the_directory_and_removes_what_only_this_run_needed(
    lives: Lives, tmp_path: Path
) -> None:
    recovery = lives.begin()
    deployment = attempt(recovery)
    assert deployment.work_directory.is_dir()

    recovery.finish()
    recovery.close()

    assert lives.sink.finished == 1
    assert not recovery.scratch.exists()
    assert not deployment.work_directory.exists()
    JobDirectory.open(tmp_path / "state", "words").close()
