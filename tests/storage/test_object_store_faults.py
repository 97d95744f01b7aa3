"""Object storage against a real server, through a proxy that fails before or after the effect."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flowsnap.bucket.requests import PART_BYTES
from flowsnap.bucket.retrying import RetryPolicy
from flowsnap.errors import StorageError
from flowsnap.storage.object_store import ObjectStore
from flowsnap.storage.publish import create_surely, put_surely
from tests.servers.s3 import Fault, Faults, Server, first, proxy

pytestmark = pytest.mark.slow

BEFORE: list[Fault] = ["refuse", "busy", "drop"]
AFTER: list[Fault] = ["lose", "slow"]


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def near(s3: Server) -> ObjectStore:
    return ObjectStore(s3.remote(s3.new_bucket()))


@pytest.fixture
def far(s3: Server, near: ObjectStore, faults: Faults) -> Iterator[ObjectStore]:
    """The same bucket, through the proxy."""
    with proxy(s3, faults) as url:
        remote = s3.remote(f"bucket-{s3.buckets}", url=url, timeout="700ms")
        yield ObjectStore(remote, policy=RetryPolicy(tries_max=4, sleep=lambda pause_s: None))


@pytest.mark.parametrize("fault", [*BEFORE, *AFTER])
def test_a_put_is_repeated_until_it_is_answered(
    near: ObjectStore, far: ObjectStore, faults: Faults, fault: Fault
) -> None:
    faults.plan = first(2, fault, "PUT", "/a")

    put_surely(far, "a", b"1")

    assert near.get("a") == b"1"
    assert len(faults.failed) == 2


@pytest.mark.parametrize("fault", BEFORE)
def test_a_create_that_failed_before_it_took_effect_is_made_the_next_time(
    near: ObjectStore, far: ObjectStore, faults: Faults, fault: Fault
) -> None:
    faults.plan = first(1, fault, "PUT", "/a")

    assert create_surely(far, "a", b"1")

    assert near.get("a") == b"1"


@pytest.mark.parametrize("fault", AFTER)
def test_a_create_without_an_answer_is_ambiguous_and_read_back(
    near: ObjectStore, far: ObjectStore, faults: Faults, fault: Fault
) -> None:
    faults.plan = first(1, fault, "PUT", "/a")
    with pytest.raises(StorageError, match="cannot tell who wrote a") as raised:
        far.create("a", b"mine")
    faults.plan = first(1, fault, "PUT", "/b")

    assert not raised.value.is_definite
    assert create_surely(far, "b", b"mine")
    assert near.get("a") == near.get("b") == b"mine"


@pytest.mark.parametrize("fault", AFTER)
def test_a_create_without_an_answer_never_takes_the_place_of_another(
    near: ObjectStore, far: ObjectStore, faults: Faults, fault: Fault
) -> None:
    def plan(method: str, path: str) -> Fault | None:
        if method == "PUT" and not near.exists("a"):
            near.create("a", b"theirs")
            return fault
        return None

    faults.plan = plan

    assert not create_surely(far, "a", b"mine")
    assert near.get("a") == b"theirs"


def test_of_many_creators_over_a_bad_connection_one_learns_that_it_won(
    near: ObjectStore, far: ObjectStore, faults: Faults
) -> None:
    faults.plan = first(4, "lose", "PUT", "/a")

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(lambda n: create_surely(far, "a", b"%d" % n), range(6)))

    assert won.count(True) == 1
    assert near.get("a") == b"%d" % won.index(True)


@pytest.mark.parametrize("fault", ["refuse", "drop", "lose"])
def test_a_download_that_breaks_off_is_begun_again(
    near: ObjectStore, far: ObjectStore, faults: Faults, tmp_path: Path, fault: Fault
) -> None:
    data = os.urandom(3 * 2**20)
    near.put("shared/a.sst", data)
    faults.plan = first(2, fault, "GET", "/a.sst")

    far.fetch("shared/a.sst", tmp_path / "out", is_immutable=True)

    assert (tmp_path / "out").read_bytes() == data


def test_a_download_that_never_succeeds_leaves_no_file(
    near: ObjectStore, far: ObjectStore, faults: Faults, tmp_path: Path
) -> None:
    near.put("shared/a.sst", b"1")
    faults.plan = first(99, "drop", "GET", "/a.sst")

    with pytest.raises(StorageError, match=r"cannot fetch shared/a\.sst") as raised:
        far.fetch("shared/a.sst", tmp_path / "out", is_immutable=True)

    assert raised.value.is_definite
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["refuse", "drop", "lose"])
def test_a_large_file_goes_up_in_parts_and_is_whole_or_not_there(
    near: ObjectStore, far: ObjectStore, faults: Faults, tmp_path: Path, fault: Fault
) -> None:
    data = os.urandom(2 * PART_BYTES + 12_345)
    (tmp_path / "large").write_bytes(data)
    faults.plan = first(1, fault, "PUT", "/large")

    far.put_file("shared/large", tmp_path / "large")

    assert near.get("shared/large") == data
    assert sum("uploadId=" in line for line in faults.seen) >= 3
    assert near.list() == far.list("shared/")


def test_a_large_file_that_cannot_be_finished_is_not_there(
    near: ObjectStore, far: ObjectStore, faults: Faults, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(bytes(2 * PART_BYTES))
    faults.plan = lambda method, path: "refuse" if method == "POST" and "uploadId" in path else None

    with pytest.raises(StorageError, match="cannot store") as raised:
        far.put_file("shared/large", tmp_path / "large")

    assert not raised.value.is_definite
    assert near.list() == []


@pytest.mark.parametrize("fault", [*BEFORE, "lose"])
def test_a_delete_is_repeated_until_it_is_answered(
    near: ObjectStore, far: ObjectStore, faults: Faults, fault: Fault
) -> None:
    near.put("a", b"1")
    faults.plan = first(2, fault, "DELETE")

    far.delete("a")

    assert near.list() == []


def test_a_bucket_that_is_not_there_is_said_at_once(s3: Server) -> None:
    store = ObjectStore(s3.remote("there-is-no-such-bucket"))

    with pytest.raises(StorageError, match="no such object"):
        store.put("a", b"1")


def test_more_files_are_listed_than_a_service_returns_at_once(s3: Server) -> None:
    store = ObjectStore(s3.remote(s3.new_bucket()))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.put(f"shared/{n:05d}", b""), range(1_050)))

    assert [file.name for file in store.list()] == [f"shared/{n:05d}" for n in range(1_050)]
