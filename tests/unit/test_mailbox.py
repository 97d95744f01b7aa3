"""Requests as files: whole or not there, from the owner only, answered once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowsnap.core.requests import Request, Result
from flowsnap.errors import ManifestCorrupt, StorageError
from flowsnap.storage.requests import Mailbox, RequestSlip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "requests"


@pytest.fixture
def mailbox(place: Path) -> Mailbox:
    made = Mailbox(place)
    made.open()
    return made


def posted(place: Path, savepoint: str | None = "monday") -> RequestSlip:
    slip = RequestSlip(place)
    slip.post("savepoint", savepoint=savepoint, is_drain=False)
    return slip


def test_a_request_is_taken_once_as_it_was_posted(mailbox: Mailbox, place: Path) -> None:
    slip = posted(place)

    assert mailbox.take() == [Request(slip.request_id, "savepoint", "monday")]
    assert mailbox.take() == []
    assert slip.is_posted
    assert slip.result() is None


def test_an_answer_is_read_once_and_leaves_nothing(mailbox: Mailbox, place: Path) -> None:
    slip = posted(place)
    [request] = mailbox.take()

    mailbox.answer(request.id, Result("running", savepoint="/x/monday"))

    assert not slip.is_posted
    assert slip.result() == Result("running", savepoint="/x/monday")
    assert list(place.iterdir()) == []


def test_requests_are_taken_in_the_order_in_which_they_were_made(
    mailbox: Mailbox, place: Path
) -> None:
    made = [posted(place).request_id for _ in range(3)]

    assert sorted(request.id for request in mailbox.take()) == sorted(made)


def test_a_withdrawn_request_is_not_taken(mailbox: Mailbox, place: Path) -> None:
    posted(place).withdraw()

    assert mailbox.take() == []


def test_the_mailbox_is_private_whatever_the_umask(place: Path) -> None:
    former = os.umask(0)
    try:
        Mailbox(place).open()
        posted(place)
    finally:
        os.umask(former)

    assert place.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o600}


def test_what_an_earlier_life_has_left_is_removed(mailbox: Mailbox, place: Path) -> None:
    slip = posted(place)
    mailbox.take()
    mailbox.answer(slip.request_id, Result("stopped"))
    other = posted(place)

    Mailbox(place).open()

    assert (slip.result(), other.is_posted) == (None, False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no record of flowsnap"),
        (b"torn", "is no record of flowsnap"),
        (b"x" * 70_000, "has 70000 bytes, more than 65536"),
    ],
)
def test_what_is_no_request_is_answered_with_the_reason(
    mailbox: Mailbox, place: Path, content: bytes, reason: str
) -> None:
    slip = posted(place)
    (place / f"{slip.request_id}.json").write_bytes(content)

    assert mailbox.take() == []
    result = slip.result()
    assert result is not None
    assert reason in result.error


def test_a_request_under_the_name_of_another_is_refused(mailbox: Mailbox, place: Path) -> None:
    slip, other = posted(place), RequestSlip(place)
    os.rename(place / f"{slip.request_id}.json", place / f"{other.request_id}.json")

    assert mailbox.take() == []
    result = other.result()
    assert result is not None
    assert f"holds request '{slip.request_id}'" in result.error


def test_a_link_is_not_followed(mailbox: Mailbox, place: Path, tmp_path: Path) -> None:
    slip = posted(place)
    path = place / f"{slip.request_id}.json"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    assert mailbox.take() == []
    assert slip.result() is not None


def test_other_files_are_passed_over(mailbox: Mailbox, place: Path) -> None:
    (place / "notes.txt").write_text("hello")
    (place / ".tmp-0123456789abcdef").write_text("half a reque")

    assert mailbox.take() == []


def test_nothing_can_be_asked_where_there_is_no_mailbox(place: Path) -> None:
    with pytest.raises(StorageError, match="cannot ask anything in"):
        posted(place)


def test_a_damaged_answer_is_refused(mailbox: Mailbox, place: Path) -> None:
    slip = posted(place)
    mailbox.take()
    mailbox.answer(slip.request_id, Result("running"))
    path = place / f"{slip.request_id}.answer.json"
    path.write_bytes(path.read_bytes().replace(b"running", b"runninG"))

    with pytest.raises(ManifestCorrupt, match="is damaged"):
        slip.result()
