"""The promises of a checkpoint store, held by a directory, its twin in memory, and object storage.

Object storage is the memory of its client here, and in the slow suite a server that speaks S3 and
the emulator of Azure.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.store import MemoryStore as RemoteMemory

from flowsnap.errors import LocalProtocolError, StorageError
from flowsnap.storage.directory import DirectoryStore
from flowsnap.storage.memory import MemoryStore
from flowsnap.storage.object_cache import FileCache
from flowsnap.storage.object_store import ObjectStore
from flowsnap.storage.store import CheckpointStore, Step, StoredFile
from tests.servers import azure
from tests.servers.s3 import Server

BAD_NAMES = [
    "", "/", "/etc/passwd", "a/", "a//b", ".", "..", "a/../b", "../a", ".hidden", "a/.tmp-1",
    "-dash", "_under", "a b", "a\nb", "a\n", "a\0b", "ä", "a\\b", "%2e%2e/a", "x" * 129,
    "a/b/c/d/e/f/g/h/i", "~root", "C:a", "a:b", "*",
]  # fmt: skip


@pytest.fixture(params=["directory", "memory"])
def tree_store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    return MemoryStore() if request.param == "memory" else DirectoryStore(tmp_path / "root")


SERVERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("s3", "azure")]


@pytest.fixture(params=["directory", "memory", "objects", *SERVERS])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    if request.param == "directory":
        return DirectoryStore(tmp_path / "root")
    if request.param == "memory":
        return MemoryStore()
    cache = FileCache(tmp_path / "cache")
    if request.param == "objects":
        return ObjectStore(RemoteMemory(), cache=cache)
    if request.param == "azure":
        emulator: azure.Server = request.getfixturevalue("azure")
        return ObjectStore(emulator.remote(emulator.new_container()), cache=cache)
    server: Server = request.getfixturevalue("s3")
    return ObjectStore(server.remote(server.new_bucket()), cache=cache)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "000012.sst"
    path.write_bytes(b"rows" * 1000)
    return path


def test_what_was_put_can_be_read(store: CheckpointStore) -> None:
    store.put("checkpoints/00000001/manifest.json", b"one")

    assert store.get("checkpoints/00000001/manifest.json") == b"one"
    assert store.exists("checkpoints/00000001/manifest.json")
    assert not store.exists("checkpoints/00000001")


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20])
def test_contents_of_any_size_survive(store: CheckpointStore, size: int) -> None:
    data = os.urandom(size)

    store.put("a", data)

    assert store.get("a") == data
    assert store.sha256("a") == hashlib.sha256(data).hexdigest()
    assert store.list() == [StoredFile("a", size)]


def test_a_put_replaces_what_was_there(store: CheckpointStore) -> None:
    store.put("a", b"long content")
    store.put("a", b"short")

    assert store.get("a") == b"short"


def test_create_keeps_what_was_there(store: CheckpointStore) -> None:
    assert store.create("attempts/00000001.json", b"first")
    assert not store.create("attempts/00000001.json", b"second")

    assert store.get("attempts/00000001.json") == b"first"


@pytest.mark.parametrize("data", [b"", b"same"])
def test_of_many_creators_of_one_name_exactly_one_succeeds(
    store: CheckpointStore, data: bytes
) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(25):
            won = list(pool.map(lambda _, n=number: store.create(f"n{n}", data), range(8)))

            assert won.count(True) == 1


def test_a_create_tells_its_steps_in_order(store: CheckpointStore) -> None:
    steps: list[Step] = []
    visible: list[bool] = []

    def on_step(step: Step) -> None:
        steps.append(step)
        visible.append(store.exists("a"))

    store.create("a", b"1", on_step=on_step)

    assert steps == ["tmp", "fsynced", "renamed", "dir_fsynced"]
    assert visible == [False, False, True, True]


@pytest.mark.parametrize(
    ("at", "is_definite"),
    [("tmp", True), ("fsynced", True), ("renamed", False), ("dir_fsynced", False)],
)
def test_a_create_that_fails_says_whether_it_can_have_taken_effect(
    store: CheckpointStore, at: Step, is_definite: bool
) -> None:
    def on_step(step: Step) -> None:
        if step == at:
            raise OSError(5, "no luck")

    with pytest.raises(StorageError, match="no luck") as raised:
        store.create("a", b"1", on_step=on_step)

    assert raised.value.is_definite is is_definite
    assert store.exists("a") is not is_definite


def test_a_local_file_is_stored_and_stays(store: CheckpointStore, local: Path) -> None:
    store.put_file("shared/x.sst", local)

    assert store.get("shared/x.sst") == local.read_bytes() == b"rows" * 1000


def test_a_stored_file_outlives_the_local_one(store: CheckpointStore, local: Path) -> None:
    store.put_file("shared/x.sst", local)
    local.unlink()

    assert store.get("shared/x.sst") == b"rows" * 1000


def test_the_same_local_file_can_be_stored_twice(store: CheckpointStore, local: Path) -> None:
    store.put_file("shared/x.sst", local)
    store.put_file("shared/x.sst", local)
    store.put_file("shared/y.sst", local)

    assert [file.name for file in store.list("shared/")] == ["shared/x.sst", "shared/y.sst"]
    assert store.strangers() == []


def test_a_local_file_that_is_no_file_is_refused(
    store: CheckpointStore, local: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(local)
    os.mkfifo(tmp_path / "pipe")

    for path in (link, tmp_path, tmp_path / "pipe", tmp_path / "missing"):
        with pytest.raises(StorageError, match="cannot store") as raised:
            store.put_file("a", path)
        assert raised.value.is_definite
    assert store.list() == []


@pytest.mark.parametrize("is_immutable", [True, False])
def test_a_fetched_file_has_the_content(
    store: CheckpointStore, tmp_path: Path, is_immutable: bool
) -> None:
    store.put("a", b"x" * 100_000)

    store.fetch("a", tmp_path / "out", is_immutable=is_immutable)

    assert (tmp_path / "out").read_bytes() == b"x" * 100_000


def test_writing_to_a_fetched_copy_leaves_the_store_alone(
    store: CheckpointStore, tmp_path: Path
) -> None:
    store.put("CURRENT", b"MANIFEST-1")
    store.fetch("CURRENT", tmp_path / "CURRENT", is_immutable=False)

    (tmp_path / "CURRENT").write_bytes(b"MANIFEST-2")

    assert store.get("CURRENT") == b"MANIFEST-1"


@pytest.mark.parametrize("is_immutable", [True, False])
def test_a_fetch_never_writes_over_a_local_file(
    store: CheckpointStore, local: Path, is_immutable: bool
) -> None:
    store.put("a", b"1")

    with pytest.raises(StorageError, match="cannot fetch a"):
        store.fetch("a", local, is_immutable=is_immutable)

    assert local.read_bytes() == b"rows" * 1000


def test_what_is_missing_is_an_error_that_names_it(store: CheckpointStore, tmp_path: Path) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.get("gone/a"),
        lambda: store.sha256("gone/a"),
        lambda: store.fetch("gone/a", tmp_path / "out", is_immutable=True),
    ]

    for call in calls:
        with pytest.raises(StorageError, match="gone/a"):
            call()
    assert not (tmp_path / "out").exists()


def test_a_list_holds_what_begins_with_the_prefix_by_name(store: CheckpointStore) -> None:
    for name in ("b", "a/2", "a/10", "ab", "a/sub/1"):
        store.put(name, name.encode())

    assert [file.name for file in store.list()] == ["a/10", "a/2", "a/sub/1", "ab", "b"]
    assert [file.name for file in store.list("a")] == ["a/10", "a/2", "a/sub/1", "ab"]
    assert store.list("a/") == [
        StoredFile("a/10", 4),
        StoredFile("a/2", 3),
        StoredFile("a/sub/1", 7),
    ]
    assert store.list("a/sub/x") == store.list("gone/") == []


@pytest.mark.parametrize("is_durable", [True, False])
def test_a_deleted_file_is_gone_and_a_missing_one_is_fine(
    store: CheckpointStore, is_durable: bool
) -> None:
    store.put("checkpoints/00000001/part", b"1")

    for _ in range(2):
        store.delete("checkpoints/00000001/part", is_durable=is_durable)

    assert store.list() == []
    store.put("checkpoints/00000001/part", b"2")
    assert store.get("checkpoints/00000001/part") == b"2"


def test_a_file_cannot_be_the_directory_of_another(tree_store: CheckpointStore) -> None:
    tree_store.put("a", b"1")
    tree_store.put("b/c", b"2")

    for name in ("a/x", "b"):
        with pytest.raises(StorageError, match=name):
            tree_store.put(name, b"3")
    assert [file.name for file in tree_store.list()] == ["a", "b/c"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_lead_astray_is_refused(
    store: CheckpointStore, local: Path, name: str
) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.put(name, b""),
        lambda: store.put_file(name, local),
        lambda: store.create(name, b""),
        lambda: store.get(name),
        lambda: store.fetch(name, local, is_immutable=False),
        lambda: store.exists(name),
        lambda: store.delete(name),
        lambda: store.sha256(name),
    ]
    for call in calls:
        with pytest.raises(LocalProtocolError, match="is not the name"):
            call()
    assert store.list() == []
    assert store.strangers() == []


@pytest.mark.parametrize("prefix", ["/", "../", "a/../", ".", "a//", "a/.b"])
def test_a_prefix_that_could_lead_astray_is_refused(store: CheckpointStore, prefix: str) -> None:
    with pytest.raises(LocalProtocolError, match="does not begin the name"):
        store.list(prefix)


def test_a_long_and_deep_name_is_a_name(store: CheckpointStore) -> None:
    name = "/".join(["d"] * 7 + ["x" * 128])

    store.put(name, b"1")

    assert [file.name for file in store.list()] == [name]


def test_there_are_no_temporaries_after_ordinary_work(store: CheckpointStore, local: Path) -> None:
    store.put("a", b"1")
    store.create("a", b"2")
    store.put_file("a", local)

    assert store.strangers() == []
    assert store.delete_temporaries() == 0
