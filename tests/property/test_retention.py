"""Any history of checkpoints: what is referred to stays, what is not goes, crash or no crash."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowsnap.core.ids import CheckpointId
from flowsnap.core.manifest import CheckpointManifest, files
from flowsnap.core.retention import collect, manifest_path, retire
from tests.manifests import checkpoint, keyed_state, words

NAMES = st.sets(st.sampled_from("abcdefgh"))
NUMBERS = st.lists(st.integers(1, 99).map(CheckpointId), unique=True)


@st.composite
def histories(draw: st.DrawFn) -> list[CheckpointManifest]:
    return [
        checkpoint(
            words(),
            {"count/0": {"state": keyed_state(0, 128, *sorted(draw(NAMES)))}},
            number=number,
        )
        for number in sorted(draw(NUMBERS))
    ]


def paths_of(manifests: list[CheckpointManifest]) -> set[str]:
    listed = {handle.path for manifest in manifests for handle in files(manifest)}
    return listed | {manifest_path(manifest.checkpoint_id) for manifest in manifests}


@given(histories(), st.data(), NAMES, NAMES)
def test_exactly_what_nothing_kept_refers_to_is_collected(
    history: list[CheckpointManifest], choice: st.DataObject, orphans: set[str], under_way: set[str]
) -> None:
    kept = [manifest for manifest in history if choice.draw(st.booleans())]
    pending = {f"shared/{name}" for name in under_way}
    stored = paths_of(history) | {f"shared/{name}" for name in orphans} | pending

    garbage = collect(kept, pending, sorted(stored))

    assert set(garbage) == stored - paths_of(kept) - pending
    assert len(garbage) == len(set(garbage))


@given(histories(), st.integers(1, 4), st.data())
def test_crash_between_two_deletions_leaves_no_manifest_without_its_files(
    history: list[CheckpointManifest], retained: int, choice: st.DataObject
) -> None:
    numbers = [manifest.checkpoint_id for manifest in history]
    retired = set(retire(numbers, retained, protected=[]))
    kept = [manifest for manifest in history if manifest.checkpoint_id not in retired]
    stored = paths_of(history)
    garbage = collect(kept, [], sorted(stored))

    stored -= set(garbage[: choice.draw(st.integers(0, len(garbage)))])

    there = [manifest for manifest in history if manifest_path(manifest.checkpoint_id) in stored]
    assert paths_of(there) <= stored
    assert set(collect(kept, [], sorted(stored))) == stored - paths_of(kept)


@given(NUMBERS, st.integers(0, 5), st.sets(st.integers(1, 99).map(CheckpointId)))
def test_newest_and_protected_checkpoints_stay_and_so_do_as_many_as_are_retained(
    completed: list[CheckpointId], retained: int, protected: set[CheckpointId]
) -> None:
    retired = retire(completed, retained, protected)

    kept = set(completed) - set(retired)
    assert retired == sorted(retired)
    assert set(retired) <= set(completed)
    assert kept >= protected.intersection(completed)
    assert not completed or max(completed) in kept
    assert set(sorted(completed)[-max(retained, 1) :]) <= kept
    assert len(kept - protected) <= max(retained, 1)
