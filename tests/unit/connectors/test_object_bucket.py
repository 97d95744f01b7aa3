"""A bucket: what its requests are, and what it does not show of their answers."""

from __future__ import annotations

import traceback
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError, PreconditionError
from obstore.store import MemoryStore

from flowsnap.bucket.retrying import RetryPolicy
from flowsnap.bucket.url import ObjectUrl
from flowsnap.connectors.object_bucket import Bucket
from flowsnap.errors import StorageError

AZURE = ObjectUrl("az", "b", "")
DATA = bytes(range(200))


@pytest.fixture
def ranges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int] | None]:
    """The ranges that are asked for; None: an object at once."""
    asked: list[tuple[int, int] | None] = []
    get = obstore.get

    def noting(remote: Any, key: str, **more: Any) -> Any:
        asked.append(more.get("options", {}).get("range"))
        return get(remote, key, **more)

    monkeypatch.setattr(obstore, "get", noting)
    monkeypatch.setattr("flowsnap.connectors.object_bucket.PART_BYTES", 64, raising=False)
    return asked


def test_azure_copy_is_read_in_requests_of_limited_size(
    ranges: list[tuple[int, int] | None],
) -> None:
    remote = MemoryStore()
    obstore.put(remote, "k", DATA)

    assert Bucket(AZURE, remote).copy("k", "target")

    assert ranges == [(0, 64), (64, 128), (128, 192), (192, 200)]
    assert bytes(obstore.get(remote, "target").bytes()) == DATA


def test_azure_copy_of_what_is_gone_tells_so() -> None:
    remote = MemoryStore()

    assert not Bucket(AZURE, remote).copy("k", "target")

    assert obstore.list(remote).collect() == []


def test_azure_copy_of_what_goes_while_it_is_read_tells_so(
    ranges: list[tuple[int, int] | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, get = MemoryStore(), obstore.get
    obstore.put(remote, "k", DATA)

    def losing(*arguments: Any, **more: Any) -> Any:
        if len(ranges) == 2:
            obstore.delete(remote, "k")
        return get(*arguments, **more)

    monkeypatch.setattr(obstore, "get", losing)

    assert not Bucket(AZURE, remote).copy("k", "target")
    assert obstore.list(remote).collect() == []


def test_part_of_an_azure_copy_that_gets_no_answer_is_asked_for_again_alone(
    ranges: list[tuple[int, int] | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, get = MemoryStore(), obstore.get
    obstore.put(remote, "k", DATA)

    def failing(*arguments: Any, **more: Any) -> Any:
        answer = get(*arguments, **more)
        if len(ranges) == 2:
            raise GenericError("the connection was reset")
        return answer

    monkeypatch.setattr(obstore, "get", failing)
    bucket = Bucket(AZURE, remote, RetryPolicy(sleep=lambda pause_s: None))

    assert bucket.copy("k", "target")
    assert ranges == [(0, 64), (64, 128), (64, 128), (128, 192), (192, 200)]


@pytest.mark.parametrize("kind", [FileNotFoundError, PreconditionError])
def test_answer_of_a_service_is_not_shown_where_an_object_is_gone(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise kind("Error performing GET http://user:canary@host/b/k?sig=canary")

    monkeypatch.setattr(obstore, "get", refuse)

    with pytest.raises(StorageError, match="s3://b/k") as raised:
        Bucket(ObjectUrl("s3", "b", ""), MemoryStore()).read("k", 0, 5, "version")

    assert "canary" not in "".join(traceback.format_exception(raised.value))
