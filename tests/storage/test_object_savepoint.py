"""Savepoints in buckets: made of and for jobs wherever they are, whole or absent, and refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from obstore.exceptions import PermissionDeniedError

from flowsnap.bucket.url import ObjectUrl
from flowsnap.core import manifest as manifests
from flowsnap.core.ids import CheckpointId
from flowsnap.errors import ConfigError, ManifestCorrupt, RestoreError, StorageError
from flowsnap.snapshot import SavepointBuilder, Snapshot
from flowsnap.storage import keeping, object_export
from flowsnap.storage.object_remote import connect
from flowsnap.storage.object_url import StateDir
from flowsnap.storage.opening import open_job, read_job
from flowsnap.storage.savepoint import SavepointFiles, bring_in
from flowsnap.testing.faults import SimulatedCrash
from tests.jobs import damage
from tests.manifests import words
from tests.storage import buckets
from tests.storage.buckets import WHOLE, contents, dies_at, fails_at, made, names

ONE = CheckpointId(1)
KEPT = ObjectUrl.parse("s3://backup/2026=11/monday")
STATE = ObjectUrl.parse("s3://bucket/state")
CHANGES = 4  # of a savepoint in a bucket: who makes it, two files, the manifest
CLEARINGS = 5  # of one that is deleted: nobody makes it, the manifest, two files, who made it


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    buckets.serve_from(tmp_path / "objects", monkeypatch)
    return tmp_path / "objects"


@pytest.fixture(params=["disk", "bucket"])
def state(request: pytest.FixtureRequest, tmp_path: Path, root: Path) -> StateDir:
    return tmp_path / "state" if request.param == "disk" else STATE


@pytest.fixture(params=["disk", "bucket", "same bucket"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> StateDir:
    if request.param == "disk":
        return tmp_path / "kept"
    return KEPT if request.param == "bucket" else STATE.root / "kept"


@pytest.fixture
def source(tmp_path: Path, root: Path) -> SavepointFiles:
    """A savepoint of a job on the disk."""
    with open_job(tmp_path / "disk", "words") as job:
        buckets.complete(job, tmp_path)
        return keeping.find(keeping.export(job, ONE, "monday"))


def test_savepoint_is_whole_without_the_job(state: StateDir, root: Path, tmp_path: Path) -> None:
    savepoint = made(state, tmp_path)
    with open_job(state, "words") as job:
        for file in job.store.list("checkpoints/") + job.store.list("shared/"):
            job.store.delete(file.name)
        assert keeping.of_job(job) == {"monday": state / "words" / "savepoints" / "monday"}

    found = keeping.find(savepoint.path)

    assert contents(found) == WHOLE
    assert (found.base, found.manifest.kind) == (savepoint.path, "savepoint")


def test_savepoint_goes_from_any_place_to_any_other_and_into_a_job(
    state: StateDir, target: StateDir, root: Path, tmp_path: Path
) -> None:
    savepoint = made(state, tmp_path)

    keeping.copy(savepoint, target)

    assert contents(keeping.find(target)) == WHOLE
    for elsewhere in (tmp_path / "other", STATE / "other", KEPT.root / "other"):
        with open_job(elsewhere, "letters") as job:
            brought = bring_in(job, keeping.find(target))
            files = [job.store.get(handle.path) for handle in manifests.files(brought)]
            assert files == list(WHOLE.values())
            assert damage(job) == []
            assert brought.tasks[0].prepared == ()


def test_what_lies_in_a_bucket_is_what_would_lie_in_a_directory(
    source: SavepointFiles, root: Path
) -> None:
    assert isinstance(source.path, Path)

    keeping.copy(source, KEPT)

    kept = buckets.on_disk(root, KEPT)
    assert names(root, KEPT) == sorted(["begun", *names(root, source.path)])
    for name in names(root, source.path):
        assert (kept / name).read_bytes() == (source.path / name).read_bytes()


def test_savepoint_is_built_in_a_bucket(root: Path) -> None:
    built = SavepointBuilder.new(words()).add_state("count", "balance", {"a": 1})

    built.write(str(KEPT))

    with Snapshot.open(KEPT) as snapshot:
        assert dict(snapshot.state("count", "balance").items()) == {"a": 1}
    with pytest.raises(ConfigError, match="there is a savepoint at s3://"):
        built.write(str(KEPT))


def test_savepoint_without_a_name_is_made_once(root: Path, tmp_path: Path) -> None:
    with open_job(STATE, "words") as job:
        buckets.complete(job, tmp_path)
        place = keeping.export(job, ONE)

        assert keeping.export(job, ONE) == place == STATE / "words/savepoints/00000001"


# --- killed, and failing ---------------------------------------------------------------------


@pytest.mark.parametrize("at", range(1, CHANGES + 1))
def test_savepoint_whose_maker_is_killed_is_absent_and_named(
    source: SavepointFiles, root: Path, at: int
) -> None:
    with pytest.raises(SimulatedCrash):
        object_export.write(KEPT, source, guard=dies_at(at))

    expected = RestoreError if at == 1 else ManifestCorrupt
    with pytest.raises(expected) as raised:
        keeping.find(KEPT)
    assert at == 1 or "began it at" in str(raised.value)
    if at > 1:
        with pytest.raises(ConfigError, match=r"not finished: process .* of checkpoint 1"):
            keeping.check_target(KEPT)


def test_maker_that_is_killed_after_the_manifest_has_made_it(
    source: SavepointFiles, root: Path
) -> None:
    object_export.write(KEPT, source, guard=dies_at(CHANGES + 1))

    assert contents(keeping.find(KEPT)) == WHOLE


@pytest.mark.parametrize("at", range(1, CHANGES + 1))
def test_savepoint_that_fails_leaves_nothing(source: SavepointFiles, root: Path, at: int) -> None:
    error = StorageError("no luck")

    with pytest.raises(StorageError, match="no luck"):
        object_export.write(KEPT, source, guard=fails_at(at, error))

    assert names(root, KEPT) == []
    keeping.copy(source, KEPT)


@pytest.mark.parametrize("at", range(1, CHANGES))
def test_savepoint_that_is_interrupted_leaves_nothing(
    source: SavepointFiles, root: Path, at: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        object_export.write(KEPT, source, guard=fails_at(at, KeyboardInterrupt()))

    assert names(root, KEPT) == []


def test_savepoint_whose_fate_is_unknown_is_left_alone(
    source: SavepointFiles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def unanswered() -> None:
        nonlocal calls
        calls += 1
        if calls == CHANGES:
            monkeypatch.setattr("obstore.head", denied)
            raise StorageError("no answer", is_definite=False)

    with pytest.raises(StorageError, match=r"cannot tell whether manifest.json was") as raised:
        object_export.write(KEPT, source, guard=unanswered)

    assert not raised.value.is_definite
    assert len(names(root, KEPT)) == 3


def denied(*_: object) -> None:
    raise PermissionDeniedError("not now")


@pytest.mark.parametrize("at", range(2, CHANGES + 1))
def test_job_deletes_what_a_killed_one_has_left_and_makes_it_anew(
    root: Path, tmp_path: Path, at: int
) -> None:
    place = made(STATE, tmp_path).path
    assert isinstance(place, ObjectUrl)
    keeping.remove(place)
    with open_job(STATE, "words") as job:
        checkpoint = keeping.find(STATE / "words" / "checkpoints" / "00000001")
        with pytest.raises(SimulatedCrash):
            object_export.write(place, checkpoint, guard=dies_at(at))
        assert "began it at" in keeping.unfinished(job)["monday"]
        assert keeping.of_job(job) == {}

    with open_job(STATE, "words") as job:
        assert "savepoints/monday" in job.clean_leftovers()
        assert names(root, place) == []
        assert keeping.export(job, ONE, "monday") == place


def test_savepoint_whose_end_is_not_heard_of_may_be_there(
    source: SavepointFiles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obstore.get", denied)

    with pytest.raises(StorageError, match="cannot tell whether the savepoint at") as raised:
        object_export.write(KEPT, source)

    assert not raised.value.is_definite
    monkeypatch.undo()
    assert "manifest.json" in names(root, KEPT)


def test_one_who_was_taken_for_dead_does_not_leave_half_a_savepoint(
    source: SavepointFiles, root: Path
) -> None:
    calls = 0

    def cleared() -> None:
        nonlocal calls
        calls += 1
        if calls == CHANGES:  # It has looked, and is about to create the manifest.
            object_export.clear(connect(KEPT))

    with pytest.raises(StorageError, match="was given up by another process"):
        object_export.write(KEPT, source, guard=cleared)
    assert names(root, KEPT) == []
    keeping.copy(source, KEPT)


@pytest.mark.parametrize("at", range(2, CLEARINGS + 1))
def test_one_who_is_being_cleared_away_has_not_made_it(
    source: SavepointFiles, root: Path, at: int
) -> None:
    calls = 0

    def cleared_by_half() -> None:
        nonlocal calls
        calls += 1
        if calls == CHANGES:  # It has looked, and is about to create the manifest.
            with pytest.raises(SimulatedCrash):
                object_export.clear(connect(KEPT, guard=dies_at(at)))

    with pytest.raises(StorageError, match="was given up by another process"):
        object_export.write(KEPT, source, guard=cleared_by_half)
    with pytest.raises(ManifestCorrupt, match="is no savepoint: somebody began it"):
        keeping.find(KEPT)


def test_savepoint_that_somebody_else_has_put_there_meanwhile_is_left_alone(
    source: SavepointFiles, root: Path
) -> None:
    calls = 0

    def put() -> None:
        nonlocal calls
        calls += 1
        if calls == CHANGES:
            connect(KEPT).put("shared/theirs", b"their file")
            connect(KEPT).put("manifest.json", b"their savepoint")

    with pytest.raises(StorageError, match="another savepoint was made at s3://backup"):
        object_export.write(KEPT, source, guard=put)
    assert {"manifest.json", "shared/theirs"} <= set(names(root, KEPT))


def test_of_two_makers_at_one_place_one_is_refused(source: SavepointFiles, root: Path) -> None:
    calls = 0

    def other() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            keeping.copy(source, KEPT)

    with pytest.raises(ConfigError, match=r"a savepoint is being made at s3://backup/.*process"):
        object_export.write(KEPT, source, guard=other)

    assert contents(keeping.find(KEPT)) == WHOLE


# --- refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["manifest.json", "shared/", "checkpoints/"])
@pytest.mark.parametrize("how", ["flip", "remove"])
def test_damage_is_found_before_anything_is_begun(
    source: SavepointFiles, root: Path, tmp_path: Path, name: str, how: str
) -> None:
    keeping.copy(source, KEPT)
    place = buckets.on_disk(root, KEPT)
    path = next(place / n for n in names(root, KEPT) if n.startswith(name))
    path.unlink() if how == "remove" else path.write_bytes(b"x" + path.read_bytes()[1:])

    with (
        open_job(STATE, "letters") as job,
        pytest.raises(ManifestCorrupt, match=r"s3://backup/2026=11/monday.* (missing|damaged|no)"),
    ):
        bring_in(job, keeping.find(KEPT))
    with read_job(STATE, "letters") as job:
        assert job.checkpoints() == []


@pytest.mark.parametrize("copied_to", ["disk", "bucket"])
def test_damaged_savepoint_is_not_copied(
    source: SavepointFiles, root: Path, tmp_path: Path, copied_to: str
) -> None:
    keeping.copy(source, KEPT)
    shared = next(buckets.on_disk(root, KEPT).glob("shared/*"))
    shared.write_bytes(b"other")
    target = tmp_path / "kept" if copied_to == "disk" else KEPT.root / "again"

    with pytest.raises(ManifestCorrupt, match=f"{shared.name} is damaged: expected 15 bytes"):
        keeping.copy(keeping.find(KEPT), target)

    assert isinstance(target, ObjectUrl) or not target.exists()
    assert names(root, target) == []


@pytest.mark.parametrize("there", ["manifest.json", "shared/x.sst"])
def test_savepoint_is_not_made_where_something_is(
    source: SavepointFiles, root: Path, there: str
) -> None:
    connect(KEPT).put(there, b"{}")

    for call in (keeping.check_target, partial(keeping.copy, source)):
        with pytest.raises(ConfigError, match=r"there is (a savepoint|something) at s3://backup"):
            call(KEPT)
    assert names(root, KEPT) == [there]


def test_what_is_no_savepoint_is_refused(root: Path) -> None:
    with pytest.raises(RestoreError, match="there is no savepoint at s3://backup"):
        keeping.find(KEPT)
    connect(KEPT).put("notes.txt", b"1")

    with pytest.raises(ManifestCorrupt, match=r"is no savepoint: it has no manifest\.json"):
        keeping.find(KEPT / "manifest.json")


@pytest.mark.parametrize("name", ["monday", "../x", "a/b", ".hidden"])
def test_name_that_is_taken_or_none_is_refused(root: Path, tmp_path: Path, name: str) -> None:
    made(STATE, tmp_path)

    with open_job(STATE, "words") as job, pytest.raises(ConfigError, match=r"cannot be|already"):
        keeping.check_new(job, name)


def test_checkpoint_of_another_job_in_a_bucket_is_a_savepoint(root: Path, tmp_path: Path) -> None:
    made(STATE, tmp_path)

    found = keeping.find(STATE / "words" / "checkpoints" / "00000001")

    assert (found.base, contents(found)) == (STATE / "words", WHOLE)


def test_savepoint_that_is_removed_is_gone(source: SavepointFiles, root: Path) -> None:
    keeping.copy(source, KEPT)

    keeping.remove(KEPT)

    assert names(root, KEPT) == []
    with pytest.raises(RestoreError):
        keeping.find(KEPT)


def test_savepoint_that_is_removed_by_half_is_none(source: SavepointFiles, root: Path) -> None:
    keeping.copy(source, KEPT)

    with pytest.raises(SimulatedCrash):
        object_export.clear(connect(KEPT, guard=dies_at(3)))

    with pytest.raises(ManifestCorrupt, match="is no savepoint: somebody began it, and"):
        keeping.find(KEPT)
    keeping.remove(KEPT)
    assert names(root, KEPT) == []


def test_savepoint_is_not_collected_with_checkpoints(root: Path, tmp_path: Path) -> None:
    savepoint = made(STATE, tmp_path)
    with open_job(STATE, "words") as job:
        buckets.complete(job, tmp_path)
        job.retire(1)
        job.clean_leftovers()
        assert job.checkpoints() == [2]

    assert contents(keeping.find(savepoint.path)) == WHOLE
