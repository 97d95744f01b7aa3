from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from flowsnap.errors import ConfigError, StorageError
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.filesystem import FileSystem
from flowsnap.storage.publish import create_surely, put_surely
from flowsnap.testing.faults import FaultyFileSystem


def modes(root: Path) -> set[tuple[str, int]]:
    paths = [root, *root.rglob("*")]
    return {("d" if p.is_dir() else "f", stat.S_IMODE(p.stat().st_mode)) for p in paths}


class WithoutLinks(FileSystem):
    """A file system that has no hard links, as exFAT."""

    def link(self, source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no links here")


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_everything_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"1")
    local.chmod(0o644)
    previous = os.umask(umask)
    try:
        store = DirectoryStore(tmp_path / "root")
        store.put("a/b", b"1")
        store.create("c/d/e", b"1")
        store.put_file("shared/x", local)
    finally:
        os.umask(previous)

    assert modes(tmp_path / "root") == {("d", 0o700), ("f", 0o600)}


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777, 0o720, 0o702])
def test_a_root_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)

    with pytest.raises(ConfigError, match="can be written to by others") as raised:
        DirectoryStore(tmp_path)

    assert raised.value.__notes__ == [f"chmod go-w {tmp_path}"]


class OwnedBySomebodyElse(FileSystem):
    """A file system on which every directory belongs to another user."""

    def directory_status(self, path: Path) -> os.stat_result:
        fields = list(super().directory_status(path))
        fields[stat.ST_UID] = os.geteuid() + 1
        return os.stat_result(fields)


def test_a_root_of_somebody_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="belongs to user") as raised:
        DirectoryStore(tmp_path, OwnedBySomebodyElse())

    assert "a directory of your own" in raised.value.__notes__[0]


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(ConfigError, match="cannot be used"):
        DirectoryStore(tmp_path / "file")


def test_a_link_in_the_store_is_never_followed(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "root")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "secret")

    for is_immutable in (True, False):
        with pytest.raises(StorageError, match="link"):
            store.fetch("link", tmp_path / "out", is_immutable=is_immutable)
    with pytest.raises(StorageError, match="link"):
        store.get("link")
    assert not store.exists("link")
    assert store.list() == []
    assert store.strangers() == ["link"]


def test_a_directory_behind_a_link_is_not_written_to(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "root")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root" / "shared").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StorageError, match="no directory"):
        store.put("shared/a", b"1")

    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_pipe_in_the_store_does_not_make_a_reader_wait(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "root")
    os.mkfifo(tmp_path / "root" / "pipe")

    with pytest.raises(StorageError, match="no regular file"):
        store.get("pipe")


def test_a_large_file_is_linked_and_not_copied(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "root")
    (tmp_path / "local").write_bytes(b"1")
    store.put_file("shared/x", tmp_path / "local")
    store.fetch("shared/x", tmp_path / "out", is_immutable=True)
    store.fetch("shared/x", tmp_path / "copy", is_immutable=False)

    inode = (tmp_path / "root" / "shared" / "x").stat().st_ino

    assert (tmp_path / "local").stat().st_ino == (tmp_path / "out").stat().st_ino == inode
    assert (tmp_path / "copy").stat().st_ino != inode


def test_where_there_are_no_links_files_are_copied(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "root", WithoutLinks())
    (tmp_path / "local").write_bytes(b"1")

    store.put_file("shared/x", tmp_path / "local")
    store.fetch("shared/x", tmp_path / "out", is_immutable=True)

    assert (tmp_path / "out").read_bytes() == b"1"
    assert store.create("a", b"first")
    assert not store.create("a", b"second")
    assert store.get("a") == b"first"
    assert store.strangers() == []


def test_a_write_is_synced_before_it_is_visible_and_its_directory_after(tmp_path: Path) -> None:
    files = FaultyFileSystem()
    store = DirectoryStore(tmp_path / "root", files)
    files.calls.clear()

    store.create("a", b"1")

    assert [call.split()[0] for call in files.calls] == [
        "create", "write", "fsync", "link", "fsync_directory", "unlink",
    ]  # fmt: skip


class FailsToSyncOnce(FileSystem):
    """The first file that is synced is lost; ``synced`` lists the inodes of all tries."""

    def __init__(self) -> None:
        self.synced: list[int] = []

    def fsync(self, descriptor: int) -> None:
        self.synced.append(os.fstat(descriptor).st_ino)
        if len(self.synced) == 1:
            self.kept = os.dup(descriptor)  # So that the number is not used again.
            raise OSError(errno.EIO, "the disk is ill")


def test_a_file_whose_sync_failed_is_abandoned_for_a_new_one(tmp_path: Path) -> None:
    files = FailsToSyncOnce()
    store = DirectoryStore(tmp_path / "root", files)

    with pytest.raises(StorageError, match="the disk is ill") as raised:
        store.put("a", b"1")
    assert raised.value.is_definite
    assert list((tmp_path / "root").iterdir()) == []

    store.put("a", b"1")
    os.close(files.kept)
    assert len(set(files.synced)) == 2


def test_a_local_file_whose_sync_failed_is_never_stored_again(tmp_path: Path) -> None:
    files = FailsToSyncOnce()
    store = DirectoryStore(tmp_path / "root", files)
    (tmp_path / "local").write_bytes(b"1")

    with pytest.raises(StorageError, match="the disk is ill"):
        store.put_file("shared/x", tmp_path / "local")
    os.close(files.kept)
    with pytest.raises(StorageError, match="is abandoned"):
        store.put_file("shared/y", tmp_path / "local")
    assert store.list() == []


def test_a_rename_that_failed_after_it_took_effect_is_ambiguous(tmp_path: Path) -> None:
    store = store_that_fails(tmp_path, "replace", takes_effect=True)

    with pytest.raises(StorageError, match="cannot tell") as raised:
        store.put("a", b"1")

    assert not raised.value.is_definite
    assert store.get("a") == b"1"


@pytest.mark.parametrize("takes_effect", [True, False])
@pytest.mark.parametrize("call", ["link", "fsync_directory"])
def test_an_unknown_outcome_is_read_back_and_decided(
    tmp_path: Path, call: str, takes_effect: bool
) -> None:
    store = store_that_fails(tmp_path, call, takes_effect=takes_effect)

    if call == "link" and not takes_effect:
        with pytest.raises(StorageError, match="was not written") as raised:
            create_surely(store, "a", b"1")
        assert raised.value.is_definite
        assert not store.exists("a")
    else:
        assert create_surely(store, "a", b"1")
        assert store.get("a") == b"1"


def test_what_somebody_else_created_is_not_ours(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "root")
    store.create("a", b"theirs")

    assert not create_surely(store, "a", b"ours")
    assert create_surely(store, "a", b"theirs")


def test_an_outcome_that_stays_unknown_is_said_to_be(tmp_path: Path) -> None:
    store = store_that_fails(tmp_path, "link", takes_effect=True, is_lasting=True)

    with pytest.raises(StorageError, match="cannot tell") as raised:
        create_surely(store, "a", b"1")

    assert not raised.value.is_definite


def test_a_put_of_unknown_outcome_is_repeated(tmp_path: Path) -> None:
    store = store_that_fails(tmp_path, "fsync_directory", takes_effect=True)

    put_surely(store, "a", b"1")

    assert store.get("a") == b"1"


def test_only_our_temporaries_are_deleted(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("shared/a", b"1")
    ours = tmp_path / "shared" / ".tmp-0123456789abcdef"
    theirs = [tmp_path / ".tmp-mine", tmp_path / "shared" / ".DS_Store", tmp_path / "my notes"]
    for path in (ours, *theirs):
        path.write_bytes(b"")

    assert store.delete_temporaries() == 1
    assert not ours.exists()
    assert store.strangers() == [".tmp-mine", "my notes", "shared/.DS_Store"]


def test_empty_directories_of_deleted_files_go(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("checkpoints/00000001/task.0/CURRENT", b"1")

    store.delete("checkpoints/00000001/task.0/CURRENT")

    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoints"]


def test_a_delete_is_synced_also_where_the_file_was_missing(tmp_path: Path) -> None:
    files = FaultyFileSystem()
    store = DirectoryStore(tmp_path, files)

    store.delete("a")

    assert files.calls[-1] == f"fsync_directory {tmp_path.name}"


def store_that_fails(
    tmp_path: Path, call: str, *, takes_effect: bool, is_lasting: bool = False
) -> DirectoryStore:
    """Return a store of which the first ``call`` that publishes fails."""
    counting = FaultyFileSystem()
    rehearsal = DirectoryStore(tmp_path / "rehearsal", counting)
    if call == "replace":
        rehearsal.put("a", b"1")
    else:
        rehearsal.create("a", b"1")
    at = max(index for index, made in enumerate(counting.calls, 1) if made.startswith(call))
    files = FaultyFileSystem(at, takes_effect=takes_effect, is_lasting=is_lasting)
    return DirectoryStore(tmp_path / "root", files)
