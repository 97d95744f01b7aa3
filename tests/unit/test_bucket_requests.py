"""What is repeated of the requests to object storage, and what is told where that does not help."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from flowsnap.bucket.requests import REASON_CHARS_MAX, answered
from flowsnap.bucket.retrying import RetryPolicy
from flowsnap.errors import StorageError

ANSWER = "Error performing GET http://host/b?prefix=canary in 5 ms - Server returned non-2xx"


def asked(error: Exception) -> tuple[Callable[[], None], list[int]]:
    """Return a request that always fails, and how often it was made."""
    tries: list[int] = []

    def request() -> None:
        tries.append(len(tries))
        raise error

    return request, tries


@pytest.fixture
def policy() -> RetryPolicy:
    return RetryPolicy(tries_max=3, sleep=lambda pause_s: None)


@pytest.mark.parametrize(
    "status",
    [
        "401 Unauthorized",
        "403 Forbidden",
        "404 Not Found",
        "405 Method Not Allowed",
        "501 Not Implemented",
    ],
)
def test_refusal_is_told_at_once(policy: RetryPolicy, status: str) -> None:
    request, tries = asked(GenericError(f"{ANSWER} status code: {status}: no"))

    with pytest.raises(StorageError, match=f"cannot list b: .*{status}") as raised:
        answered(policy, "cannot list b", request)

    assert len(tries) == 1
    assert "canary" not in str(raised.value)
    assert any("check the credentials" in note for note in raised.value.__notes__)


@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Slow Down", "429 Too Many"])
def test_what_may_pass_is_tried_again(policy: RetryPolicy, status: str) -> None:
    request, tries = asked(GenericError(f"{ANSWER} status code: {status}: later"))

    with pytest.raises(StorageError, match=status):
        answered(policy, "cannot list b", request)

    assert len(tries) == 3


def test_outcome_of_a_change_without_an_answer_is_not_definite(policy: RetryPolicy) -> None:
    request, _ = asked(GenericError("the connection was reset"))

    with pytest.raises(StorageError) as raised:
        answered(policy, "cannot copy a", request, is_definite=False)

    assert not raised.value.is_definite


def test_lasting_refusal_is_told_at_once(policy: RetryPolicy) -> None:
    request, tries = asked(PermissionDeniedError("not yours"))

    with pytest.raises(StorageError, match="cannot read a: not yours"):
        answered(policy, "cannot read a", request)

    assert len(tries) == 1


@pytest.mark.parametrize("error", [GenericError, PermissionDeniedError])
def test_secret_at_the_place_where_an_answer_is_cut_is_not_shown(
    policy: RetryPolicy, error: type[Exception]
) -> None:
    answer = "Error performing GET http://".rjust(REASON_CHARS_MAX - 6) + "canary@host/b"
    request, _ = asked(error(answer))

    with pytest.raises(StorageError, match="cannot read a") as raised:
        answered(policy, "cannot read a", request)

    assert "canary" not in "".join(traceback.format_exception(raised.value))


def test_answer_is_not_shown_where_there_is_no_object(policy: RetryPolicy) -> None:
    request, _ = asked(FileNotFoundError("Error performing GET http://ann:canary@host/b"))

    with pytest.raises(StorageError, match="cannot read a: there is no such object") as raised:
        answered(policy, "cannot read a", request)

    assert "canary" not in "".join(traceback.format_exception(raised.value))
