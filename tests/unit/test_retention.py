from __future__ import annotations

import pytest

from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import CheckpointManifest
from flowsnap.core.retention import checkpoint_directory, collect, manifest_path, retire
from tests.manifests import checkpoint, keyed_state, words


def ids(*numbers: int) -> list[CheckpointId]:
    return [CheckpointId(number) for number in numbers]


def listing(number: int, *names: str) -> CheckpointManifest:
    """Return a checkpoint that lists ``shared/<name>`` for each name."""
    return checkpoint(words(), {"count/0": {"state": keyed_state(0, 128, *names)}}, number=number)


def test_paths_of_a_checkpoint_sort_as_its_numbers_do() -> None:
    assert checkpoint_directory(CheckpointId(42)) == "checkpoints/00000042/"
    assert manifest_path(CheckpointId(42)) == "checkpoints/00000042/manifest.json"


def test_oldest_beyond_the_retained_are_retired() -> None:
    assert retire(ids(5, 1, 4, 2), 2, protected=[]) == ids(1, 2)
    assert retire(ids(1, 2), 3, protected=[]) == []
    assert retire([], 3, protected=[]) == []


def test_newest_is_never_retired() -> None:
    assert retire(ids(1, 2), 0, protected=[]) == ids(1)


def test_protected_checkpoint_is_kept_beside_the_retained_ones() -> None:
    assert retire(ids(1, 2, 3, 4), 1, protected=ids(2)) == ids(1, 3)


def test_what_no_kept_checkpoint_lists_is_collected() -> None:
    stored = [
        "checkpoints/00000001/manifest.json",
        "checkpoints/00000002/manifest.json",
        "shared/old",
        "shared/both",
        "shared/new",
    ]

    assert collect([listing(2, "both", "new")], [], stored) == [
        "checkpoints/00000001/manifest.json",
        "shared/old",
    ]


def test_file_that_only_an_older_kept_checkpoint_lists_is_kept() -> None:
    kept = [listing(1, "old"), listing(2, "new")]

    assert collect(kept, [], ["shared/old", "shared/new"]) == []


def test_savepoint_between_two_checkpoints_does_not_cost_a_file() -> None:
    kept = [listing(1, "base"), listing(3, "base", "more")]

    assert collect(kept, [], ["shared/base", "shared/more", "savepoints/mine/base"]) == []


def test_pending_file_and_pending_directory_are_kept() -> None:
    stored = ["shared/a", "shared/b", "checkpoints/00000009/part", "checkpoints/00000009/x/y"]

    assert collect([], ["shared/a", "checkpoints/00000009/"], stored) == ["shared/b"]


def test_pending_file_keeps_no_other_whose_name_begins_alike() -> None:
    assert collect([], ["shared/a"], ["shared/a", "shared/ab"]) == ["shared/ab"]


def test_files_of_an_aborted_checkpoint_are_collected() -> None:
    stored = ["checkpoints/00000003/part-0", "shared/half"]

    assert collect([listing(2, "base")], [], stored) == stored


def test_kept_checkpoint_keeps_its_directory_and_not_that_of_a_longer_number() -> None:
    stored = ["checkpoints/00000001/inline", "checkpoints/000000010/inline"]

    assert collect([listing(1)], [], stored) == ["checkpoints/000000010/inline"]


def test_manifests_go_before_the_files_they_list() -> None:
    stored = ["checkpoints/00000001/a", "checkpoints/00000001/manifest.json", "shared/a"]

    assert collect([], [], stored)[0] == "checkpoints/00000001/manifest.json"


@pytest.mark.parametrize("path", ["job.json", "attempts/3", "savepoints/s/manifest.json", "shared"])
def test_what_is_not_below_checkpoints_or_shared_is_left_alone(path: str) -> None:
    assert collect([], [], [path]) == []
