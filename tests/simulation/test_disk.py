"""The simulated disk forgets what a disk may forget, and nothing else."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

import pytest

from flowsnap.errors import StorageError
from flowsnap.testing.disk_files import DiskFileSystem
from flowsnap.testing.faults import SimulatedCrash
from flowsnap.testing.world import Point
from tests.simulation.rig import Rig, Somebody


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_what_a_store_has_returned_survives_every_loss_of_power(rig: Rig) -> None:
    rig.store.put("checkpoints/1/a", b"one")
    rig.store.put("checkpoints/1/a", b"two")

    for seed in range(20):
        rig.lose_power(seed)

    assert rig.store.get("checkpoints/1/a") == b"two"


def test_a_name_without_a_sync_of_its_directory_may_be_gone(tmp_path: Path) -> None:
    survived = set()
    for seed in range(20):
        rig = Rig(tmp_path)
        rig.files.close(rig.files.create(rig.root / "a"))
        rig.lose_power(seed)
        survived.add(rig.files.is_file(rig.root / "a"))

    assert survived == {True, False}


def test_content_without_a_sync_is_cut_off(tmp_path: Path) -> None:
    lengths = set()
    for seed in range(30):
        rig = Rig(tmp_path)
        descriptor = rig.files.create(rig.root / "a")
        rig.files.write(descriptor, b"0123456789")
        rig.files.fsync_directory(rig.root)
        rig.lose_power(seed)
        lengths.add(len(rig.store.get("a")))

    assert min(lengths) < 10
    assert len(lengths) > 3


def test_synced_content_is_not_cut_off(rig: Rig) -> None:
    descriptor = rig.files.create(rig.root / "a")
    rig.files.write(descriptor, b"0123456789")
    rig.files.fsync(descriptor)
    rig.files.fsync_directory(rig.root)

    rig.lose_power(0)

    assert rig.store.get("a") == b"0123456789"


def test_a_deletion_without_a_sync_may_come_back(tmp_path: Path) -> None:
    found = set()
    for seed in range(20):
        rig = Rig(tmp_path)
        rig.store.put("a", b"1")
        rig.store.delete("a", is_durable=False)
        rig.lose_power(seed)
        found.add(rig.store.exists("a"))

    assert found == {True, False}


def test_a_crash_of_one_process_leaves_the_changes_of_another(rig: Rig) -> None:
    other = Somebody()
    files = DiskFileSystem(rig.disk, other)
    files.close(files.create(rig.root / "a"))

    rig.disk.crash([rig.actor], Random(0), is_power_lost=False)

    assert files.is_file(rig.root / "a")


def test_a_failing_call_says_why(rig: Rig) -> None:
    rig.disk.points.append((Point("replace", "", 1), errno.ENOSPC, False))

    with pytest.raises(StorageError, match="No space left"):
        rig.store.put("a", b"1")


def test_a_failing_call_may_have_taken_effect(rig: Rig) -> None:
    rig.disk.points.append((Point("replace", "", 1), errno.EIO, True))

    with pytest.raises(StorageError) as caught:
        rig.store.put("a", b"1")

    assert not caught.value.is_definite
    assert rig.store.get("a") == b"1"


def test_nothing_of_a_dead_process_takes_effect(rig: Rig) -> None:
    rig.actor.is_alive = False

    with pytest.raises(SimulatedCrash):
        rig.store.put("a", b"1")

    assert not rig.files.scan(rig.root)


def test_local_scratch_is_real(rig: Rig) -> None:
    (rig.root / "work").mkdir()
    (rig.root / "work" / "local").write_bytes(b"1")

    rig.store.put_file("a", rig.root / "work" / "local")

    assert rig.store.get("a") == b"1"
    assert not (rig.root / "a").exists()


def written(rig: Rig) -> int:
    descriptor = rig.files.create(rig.root / "a")
    rig.files.write(descriptor, b"0123")
    return descriptor


def test_a_failed_sync_may_drop_what_was_written_and_the_next_one_says_nothing(rig: Rig) -> None:
    rig.disk.lost_syncs.add(1)
    descriptor = written(rig)

    with pytest.raises(OSError, match="Input/output error"):
        rig.files.fsync(descriptor)
    rig.files.fsync(descriptor)
    rig.files.fsync_directory(rig.root)

    assert rig.store.get("a") == b"0123"
    rig.lose_power(0)
    assert rig.store.get("a") == b"\0\0\0\0"


def test_what_is_written_after_a_failed_sync_is_not_lost(rig: Rig) -> None:
    rig.disk.lost_syncs.add(1)
    descriptor = written(rig)
    with pytest.raises(OSError, match="Input/output error"):
        rig.files.fsync(descriptor)

    rig.files.write(descriptor, b"4567")
    rig.files.fsync(descriptor)
    rig.files.fsync_directory(rig.root)
    rig.lose_power(0)

    assert rig.store.get("a") == b"\0\0\0\0004567"


def test_a_store_never_trusts_a_file_whose_sync_has_failed(rig: Rig) -> None:
    rig.disk.lost_syncs.add(1)

    with pytest.raises(StorageError, match="Input/output error"):
        rig.store.put("a", b"one")
    rig.store.put("a", b"one")

    rig.lose_power(0)
    assert rig.store.get("a") == b"one"


def test_a_sync_with_nothing_to_write_loses_nothing(rig: Rig) -> None:
    rig.disk.lost_syncs.add(2)
    descriptor = written(rig)

    rig.files.fsync(descriptor)
    rig.files.fsync(descriptor)

    rig.files.fsync_directory(rig.root)
    rig.lose_power(0)
    assert rig.store.get("a") == b"0123"


def test_a_quota_is_used_up_until_something_is_deleted(rig: Rig) -> None:
    rig.store.put("a", b"0123456789")
    rig.disk.quota_bytes = 12

    with pytest.raises(StorageError, match="No space left"):
        rig.store.put("b", b"012")
    rig.store.delete("a")
    rig.store.put("b", b"012")

    assert rig.store.get("b") == b"012"
    assert rig.disk.used_bytes() == 3
    assert rig.world.trace.situations["space comes back"] == 1


# --- rot, and links to what lies outside ---------------------------------------------------------


def test_a_file_that_rots_differs_in_one_bit_now_and_after_every_loss_of_power(rig: Rig) -> None:
    rig.store.put("a", b"0123456789")

    rig.disk.rot("a", Random(1))

    damaged = rig.store.get("a")
    assert sum((x ^ y).bit_count() for x, y in zip(damaged, b"0123456789", strict=True)) == 1
    for seed in range(10):
        rig.lose_power(seed)
        assert rig.store.get("a") == damaged


def test_a_rotten_file_is_put_back_only_where_it_is_named(rig: Rig) -> None:
    rig.store.put("shared/a", b"0123456789")
    rig.disk.rot("shared/a", Random(1))

    assert not rig.disk.repair("shared/b is damaged")
    assert rig.disk.still_rotten() == ["shared/a"]

    assert rig.disk.repair("shared/a is damaged")
    assert rig.disk.still_rotten() == []
    assert rig.store.get("shared/a") == b"0123456789"


def test_a_rotten_file_that_was_replaced_or_deleted_is_rotten_no_more(rig: Rig) -> None:
    for name in ("a", "b"):
        rig.store.put(name, b"0123456789")
        rig.disk.rot(name, Random(1))

    rig.store.put("a", b"anew")
    rig.store.delete("b")

    assert rig.disk.still_rotten() == []


def test_only_what_is_durable_and_has_content_can_rot(rig: Rig) -> None:
    rig.store.put("a", b"1")
    rig.store.put("empty", b"")
    rig.store.put("checkpoints/begun", b"2")
    rig.write_without_directory_sync("checkpoints/manifest.json", b"3")

    assert sorted(rig.disk.whole()) == ["a"]


@pytest.mark.parametrize("links", [True, False])
def test_a_local_file_is_stored_and_fetched_by_link_or_by_copy(rig: Rig, *, links: bool) -> None:
    rig.disk.links_outside = links
    outside = rig.root / "work"
    outside.mkdir()
    (outside / "one").write_bytes(b"0123456789")

    rig.store.put_file("shared/a", outside / "one")
    rig.store.fetch("shared/a", outside / "two", is_immutable=True)

    entries = [what for _, _, what in rig.world.trace.entries]
    assert ("write " in entries) is not links
    assert (outside / "two").read_bytes() == b"0123456789"
    rig.lose_power(0)
    assert rig.store.get("shared/a") == b"0123456789"


def test_a_linked_file_that_nobody_has_synced_may_be_cut_off(tmp_path: Path) -> None:
    lengths = set()
    for seed in range(30):
        rig = Rig(tmp_path)
        rig.disk.links_outside = True
        outside = tmp_path / "work"
        outside.mkdir(exist_ok=True)
        (outside / "one").write_bytes(b"0123456789")
        rig.files.link(outside / "one", tmp_path / "a")
        rig.files.fsync_directory(tmp_path)
        rig.lose_power(seed)
        lengths.add(len(rig.store.get("a")))

    assert min(lengths) < 10
    assert len(lengths) > 3


def test_a_smaller_file_that_still_fits_is_no_space_that_comes_back(rig: Rig) -> None:
    rig.store.put("a", bytes(10))
    rig.disk.quota_bytes = 12
    with pytest.raises(StorageError):
        rig.store.put("b", bytes(3))

    rig.store.put("c", bytes(1))
    before = rig.world.trace.situations["space comes back"]
    rig.store.delete("a")
    rig.store.put("d", bytes(1))

    assert (before, rig.world.trace.situations["space comes back"]) == (0, 1)
