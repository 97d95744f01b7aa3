"""The desk: what is asked moves the job, and whoever asked is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowsnap.core import coordinator as checkpoints
from flowsnap.core import job as life
from flowsnap.core.coordinator import DrainRequested, TriggerRequested, Wish
from flowsnap.core.ids import CheckpointId
from flowsnap.core.job import CancelRequested, StopRequested
from flowsnap.core.requests import Aborted, Completed, Ended, Result, Started, Triggered
from flowsnap.errors import ConfigError, StorageError
from flowsnap.runtime.requests import POLL_MS, Levers, RequestDesk
from flowsnap.storage.requests import Mailbox, RequestSlip

ONE = CheckpointId(1)


class Exporter:
    """Makes no savepoints, but says where they would be."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.error: StorageError | None = None

    def check_savepoint(self, name: str) -> None:
        if name in self.taken:
            raise ConfigError(f"there is a savepoint {name!r} already")

    def export(self, checkpoint_id: CheckpointId, name: str) -> Path:
        if self.error is not None:
            raise self.error
        return Path("/savepoints", name or str(checkpoint_id))


class Desk:
    """A desk, and what it has made the job do."""

    def __init__(self, place: Path) -> None:
        self.moves: list[life.Event | checkpoints.Event] = []
        self.exporter = Exporter()
        self.place = place
        mailbox = Mailbox(place)
        mailbox.open()
        levers = Levers(self.moves.append, self.moves.append)
        self.desk = RequestDesk(self.exporter, mailbox, levers)
        self.desk.tell(Started())

    def complete(self) -> None:
        self.desk.tell(Triggered(ONE))
        self.desk.tell(Completed(ONE, False))


@pytest.fixture
def at(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "requests")


def test_every_kind_of_request_moves_the_job(at: Desk) -> None:
    at.desk.ask("savepoint", savepoint="")
    at.desk.ask("stop")
    at.desk.ask("cancel")

    at.desk.step(0)

    assert at.moves == [TriggerRequested(Wish("savepoint")), StopRequested(), CancelRequested()]


def test_a_drain_is_asked_of_the_coordinator(at: Desk) -> None:
    at.desk.ask("stop", is_drain=True)
    at.desk.step(0)

    assert at.moves == [DrainRequested()]


def test_a_request_of_this_process_is_answered_here(at: Desk) -> None:
    request_id = at.desk.ask("savepoint", savepoint="x")
    at.desk.step(0)
    assert at.desk.result(request_id) is None

    at.complete()

    assert at.desk.result(request_id) == Result("running", savepoint="/savepoints/x")


def test_a_request_of_another_process_is_answered_through_the_mailbox(at: Desk) -> None:
    slip = RequestSlip(at.place)
    slip.post("savepoint", savepoint="", is_drain=False)
    at.desk.step(0)

    at.complete()

    assert slip.result() == Result("running", savepoint="/savepoints/1")


def test_the_mailbox_is_looked_into_only_now_and_then(at: Desk) -> None:
    at.desk.step(0)
    RequestSlip(at.place).post("cancel", savepoint=None, is_drain=False)

    at.desk.step(POLL_MS - 1)
    assert at.moves == []

    at.desk.step(POLL_MS)
    assert at.moves == [CancelRequested()]


def test_a_name_that_is_taken_is_refused_at_once(at: Desk) -> None:
    at.exporter.taken.add("x")
    request_id = at.desk.ask("stop", savepoint="x")

    at.desk.step(0)

    assert at.moves == []
    assert at.desk.result(request_id) == Result("running", error="there is a savepoint 'x' already")


def test_a_savepoint_that_cannot_be_written_is_told_with_advice(at: Desk) -> None:
    at.exporter.error = StorageError("the disk is full").hint("make room")
    request_id = at.desk.ask("savepoint", savepoint="x")
    at.desk.step(0)

    at.complete()

    assert at.desk.result(request_id) == Result(
        "running", error="the disk is full", hint="make room"
    )


def test_an_aborted_checkpoint_is_told(at: Desk) -> None:
    request_id = at.desk.ask("savepoint", savepoint="x")
    at.desk.step(0)
    at.desk.tell(Triggered(ONE))

    at.desk.tell(Aborted(ONE, "late"))

    result = at.desk.result(request_id)
    assert result is not None
    assert result.error == "checkpoint 1 was given up: late"


def test_whoever_asks_at_the_very_end_is_told_that_it_was_the_end(at: Desk) -> None:
    at.desk.tell(Ended("cancelled", "cancelled"))
    slip = RequestSlip(at.place)
    slip.post("stop", savepoint=None, is_drain=False)

    at.desk.close()

    result = slip.result()
    assert result is not None
    assert result.error == "the job has ended: it is cancelled"


def test_a_job_manager_that_goes_without_an_end_answers_all_the_same(at: Desk) -> None:
    request_id = at.desk.ask("savepoint", savepoint="x")
    at.desk.step(0)

    at.desk.close()

    result = at.desk.result(request_id)
    assert result is not None
    assert "its job manager has ended" in result.error
