"""What object storage does beyond the contract: bars, guards, and what its errors say."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from obstore.store import MemoryStore, S3Store

from flowsnap.bucket.retrying import RetryPolicy
from flowsnap.errors import StorageError
from flowsnap.storage.object_store import ObjectStore
from flowsnap.storage.publish import create_surely
from tests.servers.s3 import KEY_ID, SECRET, Fault, Faults, Server, first, proxy

MANIFEST = "checkpoints/00000003/manifest.json"


@pytest.fixture
def store() -> ObjectStore:
    return ObjectStore(MemoryStore())


def quick(tries_max: int = 3) -> RetryPolicy:
    return RetryPolicy(tries_max=tries_max, sleep=lambda pause_s: None)


def test_a_barred_manifest_can_never_be_made_and_does_not_exist(store: ObjectStore) -> None:
    assert store.bar(MANIFEST)

    assert not store.create(MANIFEST, b"{}")
    assert not store.exists(MANIFEST)
    assert store.list() == []
    with pytest.raises(StorageError, match="no such object"):
        store.get(MANIFEST)


def test_whoever_meets_a_bar_learns_that_nothing_was_written(store: ObjectStore) -> None:
    store.bar(MANIFEST)

    with pytest.raises(StorageError, match="was not written") as raised:
        create_surely(store, MANIFEST, b"{}")
    assert raised.value.is_definite


def test_a_complete_manifest_cannot_be_barred(store: ObjectStore) -> None:
    store.create(MANIFEST, b"{}")

    assert not store.bar(MANIFEST)
    assert store.get(MANIFEST) == b"{}"


def test_a_bar_outlives_deletion_and_cleaning(store: ObjectStore) -> None:
    store.bar(MANIFEST)

    store.delete(MANIFEST)

    assert store.delete_temporaries() == 0
    assert store.bar(MANIFEST)
    assert not store.create(MANIFEST, b"{}")


def test_an_old_bar_is_deleted(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    store.bar(MANIFEST)
    monkeypatch.setattr("flowsnap.storage.object_store.BARS_KEPT", timedelta(0))

    assert store.delete_temporaries() == 1
    assert store.create(MANIFEST, b"{}")


def test_without_leave_nothing_is_changed(tmp_path: Path) -> None:
    def refuse() -> None:
        raise StorageError("the lease is lost")

    remote = MemoryStore()
    ObjectStore(remote).put("a", b"1")
    store = ObjectStore(remote, guard=refuse)
    (tmp_path / "local").write_bytes(b"2")

    for call in (
        lambda: store.put("a", b"2"),
        lambda: store.create("b", b"2"),
        lambda: store.put_file("c", tmp_path / "local"),
        lambda: store.delete("a"),
    ):
        with pytest.raises(StorageError, match="the lease is lost"):
            call()
    assert [file.name for file in ObjectStore(remote).list()] == ["a"]


def test_the_first_parts_of_names_are_listed(store: ObjectStore) -> None:
    for name in ("a/job.json", "b/job.json", "b/shared/x", "top"):
        store.put(name, b"1")

    assert store.directories() == ["a", "b"]


def test_a_name_that_is_none_is_a_stranger(store: ObjectStore) -> None:
    import obstore

    obstore.put(store._remote, "shared/.hidden", b"1")

    assert store.strangers() == ["shared/.hidden"]
    assert store.list() == []


@pytest.mark.parametrize("fault", ["busy", "refuse", "drop"])
def test_a_service_that_never_answers_is_given_up(fault: Fault) -> None:
    faults = Faults(lambda method, path: fault)
    with proxy(Server("http://127.0.0.1:9"), faults) as url:
        store = ObjectStore(Server("").remote("b", url=url), policy=quick())
        with pytest.raises(StorageError, match="cannot write a") as raised:
            store.put("a", b"1")

    assert not raised.value.is_definite
    assert len(faults.failed) == 3


def test_no_error_and_no_name_shows_a_credential() -> None:
    faults = Faults(lambda method, path: "refuse")
    with proxy(Server("http://127.0.0.1:9"), faults) as url:
        remote = S3Store(
            "b",
            access_key_id=KEY_ID,
            secret_access_key=SECRET,
            region="us-east-1",
            endpoint=url,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )
        store = ObjectStore(remote, "s3://b/state", policy=quick(1))
        with pytest.raises(StorageError) as raised:
            store.put("a", b"1")

    shown = "".join(traceback.format_exception(raised.value)) + repr(store) + repr(remote)
    assert SECRET not in shown
    assert KEY_ID not in shown


def test_a_signature_in_a_url_is_taken_out_of_the_error_and_its_cause() -> None:
    from obstore.exceptions import GenericError

    from flowsnap.bucket.requests import plain_errors
    from flowsnap.bucket.retrying import Transient

    url = "https://user:canary@a.blob.core.windows.net/c/x?sv=1&sig=canary"
    with pytest.raises(Transient) as raised, plain_errors("cannot read x"):
        raise GenericError(f"Error performing GET {url} in 5 ms")

    assert str(raised.value) == "Error performing GET https://a.blob.core.windows.net/c/x in 5 ms"
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_an_object_is_copied_within_the_service(store: ObjectStore) -> None:
    store.put("shared/a", b"1")

    store.copy("shared/a", "savepoints/x/shared/a")

    assert store.get("savepoints/x/shared/a") == store.get("shared/a") == b"1"
    with pytest.raises(StorageError, match="cannot copy none to b: there is no such object"):
        store.copy("none", "b")


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def advance(self, pause_s: float) -> None:
        self.now_s += pause_s

    def policy(self) -> RetryPolicy:
        return RetryPolicy(tries_max=99, sleep=self.advance, now_s=lambda: self.now_s)


def test_calls_that_share_a_limit_fail_at_once_when_it_is_over() -> None:
    clock = Clock()
    store = ObjectStore(MemoryStore(), policy=clock.policy())

    with store.within(1_000):
        store.put("a", b"1")
        clock.advance(1.5)
        with store.within(9_000), pytest.raises(StorageError, match="was not tried") as raised:
            store.put("b", b"1")

    assert raised.value.is_definite
    store.put("c", b"1")
    assert [file.name for file in store.list()] == ["a", "c"]


def test_calls_that_share_a_limit_are_not_repeated_beyond_it() -> None:
    clock, faults = Clock(), Faults(lambda method, path: "busy")
    with proxy(Server("http://127.0.0.1:9"), faults) as url:
        store = ObjectStore(Server("").remote("b", url=url), policy=clock.policy())
        with store.within(1_000):
            for _ in range(5):
                with pytest.raises(StorageError):
                    store.put("a", b"1")

    assert 0.5 < clock.now_s <= 1.0


def test_a_plan_of_faults_ends() -> None:
    plan = first(2, "drop", "PUT", "/a")

    asked = [plan("PUT", "/b/a?x=1"), plan("GET", "/b/a"), plan("PUT", "/a"), plan("PUT", "/a")]

    assert asked == ["drop", None, "drop", None]
