"""Uploads of minutes are repeated as short ones are: their limit counts from the first failure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from flowsnap.bucket.retrying import RetryPolicy, Transient
from flowsnap.bucket.url import ObjectUrl
from flowsnap.connectors.object_bucket import Bucket
from flowsnap.errors import StorageError
from flowsnap.storage.object_store import ObjectStore

UPLOAD_S = 90


class World:
    """A clock that pauses move, and uploads, of which the first ``failures`` fail in the end."""

    def __init__(self, failures: int) -> None:
        self.now_s, self.uploads, self._failures = 0.0, 0, failures

    def policy(self, total_ms_max: int = 60_000) -> RetryPolicy:
        return RetryPolicy(total_ms_max=total_ms_max, sleep=self._pass, now_s=lambda: self.now_s)

    def upload(self, *_: Any, **__: Any) -> None:
        self._pass(UPLOAD_S)
        self.uploads += 1
        if self.uploads <= self._failures:
            raise GenericError("part 12 of 16: status code: 503 Slow Down")

    def _pass(self, pause_s: float) -> None:
        self.now_s += pause_s


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(failures=1)
    monkeypatch.setattr(obstore, "put", made.upload)
    return made


def output(path: Path, policy: RetryPolicy) -> None:
    with open(path, "rb") as file:
        Bucket(ObjectUrl("s3", "b", ""), MemoryStore(), policy).put_file("k", file, 4)


def state(path: Path, policy: RetryPolicy) -> None:
    ObjectStore(MemoryStore(), policy=policy).put_file("k", path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"data")
    return tmp_path / "file"


@pytest.mark.parametrize("store", [output, state])
def test_upload_of_minutes_that_fails_once_is_repeated(
    world: World, path: Path, store: Callable[[Path, RetryPolicy], None]
) -> None:
    store(path, world.policy())

    assert world.uploads == 2


def test_upload_is_not_repeated_behind_the_limit_of_the_caller(world: World, path: Path) -> None:
    store = ObjectStore(MemoryStore(), policy=world.policy())

    with pytest.raises(StorageError, match="503"), store.within(UPLOAD_S * 1000 - 1):
        store.put_file("k", path)

    assert world.uploads == 1


def test_limit_is_over_at_last_where_it_counts_from_the_first_failure() -> None:
    world = World(failures=99)
    policy = world.policy(total_ms_max=200_000)

    def call() -> None:
        try:
            world.upload()
        except GenericError as error:
            raise Transient(str(error)) from error

    with pytest.raises(Transient):
        policy.run(call, from_failure=True)

    assert world.uploads == 4  # The third failure is 180 s after the first, the fourth 270 s.
