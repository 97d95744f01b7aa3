"""Files that need not be fetched again, and what happens when the copy is not what it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from flowsnap.storage.object_cache import FileCache
from flowsnap.storage.object_store import ObjectStore


@pytest.fixture
def cache(tmp_path: Path) -> FileCache:
    return FileCache(tmp_path / "cache", bytes_max=100)


def local(tmp_path: Path, name: str, data: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_what_was_added_is_given_out_as_a_link(cache: FileCache, tmp_path: Path) -> None:
    path = local(tmp_path, "a", b"1")
    cache.add("shared/a.sst", path)

    assert cache.link("shared/a.sst", tmp_path / "out")
    assert (tmp_path / "out").samefile(path)


def test_what_was_not_added_is_not_there(cache: FileCache, tmp_path: Path) -> None:
    assert not cache.link("shared/a.sst", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_copy_is_dropped(cache: FileCache, tmp_path: Path) -> None:
    path = local(tmp_path, "a", b"right")
    cache.add("shared/a.sst", path)
    path.write_bytes(b"wrong")

    assert not cache.link("shared/a.sst", tmp_path / "out")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_oldest_go_when_there_is_too_much(cache: FileCache, tmp_path: Path) -> None:
    for number in range(3):
        path = local(tmp_path, f"f{number}", bytes(40))
        os.utime(path, (number, number))
        cache.add(f"shared/{number}.sst", path)

    found = [cache.link(f"shared/{n}.sst", tmp_path / f"out{n}") for n in range(3)]

    assert found == [False, True, True]


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    cache = FileCache(tmp_path / "cache")

    cache.add("shared/a.sst", local(tmp_path, "a", b"1"))

    assert not cache.link("shared/a.sst", tmp_path / "out")


def test_a_stored_or_fetched_file_is_not_fetched_again(cache: FileCache, tmp_path: Path) -> None:
    remote = MemoryStore()
    ObjectStore(remote).put_file("shared/a.sst", local(tmp_path, "a", b"1"))
    ObjectStore(remote, cache=cache).fetch("shared/a.sst", tmp_path / "one", is_immutable=True)

    empty = ObjectStore(MemoryStore(), cache=cache)
    empty.fetch("shared/a.sst", tmp_path / "two", is_immutable=True)

    assert (tmp_path / "two").samefile(tmp_path / "one")


def test_what_may_be_written_to_is_never_shared_with_the_cache(
    cache: FileCache, tmp_path: Path
) -> None:
    store = ObjectStore(MemoryStore(), cache=cache)
    store.put_file("checkpoints/00000001/a.0/CURRENT", local(tmp_path, "a", b"1"))

    store.fetch("checkpoints/00000001/a.0/CURRENT", tmp_path / "out", is_immutable=False)

    assert (tmp_path / "out").stat().st_nlink == 1
