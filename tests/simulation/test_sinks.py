"""The simulated transactional system: late commits, and the way back to an older checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest

from flowsnap.core.ids import AttemptId, CheckpointId
from flowsnap.errors import StorageError
from flowsnap.testing.checker import Checker
from flowsnap.testing.sink import Transaction, TransactionalSystem
from flowsnap.testing.workload import Workload
from flowsnap.testing.world import World
from tests.simulation.rig import Somebody

OLD, NEW = AttemptId(1), AttemptId(2)


@dataclass
class Book:
    """Writes down what becomes of transactions."""

    newest_attempt: AttemptId = OLD
    leaves: bool = False
    committed_ids: list[str] = field(default_factory=list)

    def committed(self, transaction: Transaction) -> None:
        self.committed_ids.append(transaction.id)

    def aborted(self, transaction: Transaction) -> None:
        """Look away."""

    def goes_back(self, operator: str, after: int) -> bool:
        return self.leaves


class Place:
    """A system with transactions ``t1`` and ``t2``, of the checkpoints 1 and 2."""

    def __init__(self) -> None:
        self.world, self.book, self.actor = World(0), Book(), Somebody()
        self.system = TransactionalSystem(self.world, self.book)
        for number in (1, 2):
            one = Transaction(f"t{number}", "out", OLD, (number,), checkpoint_id=number)
            self.system.prepare(self.actor, one)

    def commit(self, id: str, attempt: AttemptId = OLD) -> None:
        self.system.commit(self.actor, id, attempt)

    def commit_late(self, id: str) -> None:
        self.system.late_us[self.system.commits + 1] = 5_000
        with pytest.raises(StorageError, match="not answered in time") as caught:
            self.commit(id)
        assert not caught.value.is_definite

    def go_back(self) -> None:
        self.book.leaves = True
        self.system.withdraw(self.actor, "out", 1)

    @property
    def seen(self) -> list[int]:
        return list(self.system.visible("out"))


def test_a_late_commit_takes_effect_although_nobody_waits_for_it() -> None:
    place = Place()
    place.commit_late("t1")
    assert place.seen == []

    assert place.world.advance()

    assert place.seen == [1]
    assert place.world.now_us == 5_000
    assert place.world.trace.situations["sink: commit that is applied later"] == 1


def test_a_late_prepare_is_there_although_its_sink_has_failed() -> None:
    place = Place()
    place.system.late_prepares_us[3] = 5_000
    with pytest.raises(StorageError, match="not answered in time") as caught:
        place.system.prepare(place.actor, Transaction("t3", "out", OLD, (3,), checkpoint_id=3))
    assert not caught.value.is_definite
    assert "t3" not in place.system.transactions

    assert place.world.advance()

    assert place.system.transactions["t3"].state == "prepared"
    assert place.system.transactions["t3"].prepared_at_us == 5_000
    assert place.world.trace.situations["sink: prepare that is applied later"] == 1


def test_a_late_commit_that_was_repeated_changes_nothing() -> None:
    place = Place()
    place.commit_late("t1")
    place.commit("t1")

    assert place.world.advance()

    assert (place.seen, place.book.committed_ids) == ([1], ["t1"])
    assert place.world.trace.situations["sink: late commit finds its work done"] == 1


def test_a_late_commit_of_what_was_aborted_is_a_violation() -> None:
    place = Place()
    place.commit_late("t1")
    place.system.abort_older(place.actor, "out", NEW)

    assert place.world.advance()

    assert place.world.violation == "C4: a late commit commits t1, which is aborted"


def test_the_way_back_takes_away_what_came_after_it() -> None:
    place = Place()
    place.commit("t1")
    place.commit("t2")

    place.go_back()

    assert place.seen == [1]


def test_who_is_left_of_an_abandoned_history_commits_nothing() -> None:
    place = Place()
    place.go_back()

    with pytest.raises(StorageError, match="t2 is of a history that the job has left"):
        place.commit("t2")
    place.commit("t1")

    assert place.seen == [1]
    assert not place.world.violation


def test_who_is_left_of_two_abandoned_histories_commits_nothing() -> None:
    place = Place()
    place.go_back()
    place.book.newest_attempt = NEW
    place.system.withdraw(place.actor, "out", 2)

    with pytest.raises(StorageError, match="t2 is of a history that the job has left"):
        place.commit("t2")

    assert not place.world.violation


def test_a_late_commit_of_an_abandoned_history_is_forgotten() -> None:
    place = Place()
    place.commit_late("t2")
    place.go_back()

    assert place.world.advance()

    assert place.seen == []
    assert not place.world.violation


def test_a_later_attempt_that_commits_what_was_taken_back_is_a_violation() -> None:
    place = Place()
    place.commit("t2")
    place.go_back()

    place.commit("t2", NEW)

    assert place.world.violation == "C4: somebody commits t2, which is withdrawn"


def test_nothing_is_fenced_where_nobody_goes_back() -> None:
    place = Place()
    place.system.withdraw(place.actor, "out", 1)

    place.commit("t2")

    assert place.seen == [2]


def test_a_slow_system_wants_to_be_asked_again() -> None:
    place = Place()
    place.system.slow_us = 25_000
    place.world.sinks = Random(1)

    assert not place.system.has_had_time("t1")
    place.world.time.now_us = 25_000

    assert place.system.has_had_time("t1")
    assert place.world.trace.situations["sink: commit that takes its time"] == 1


def test_a_fast_system_is_asked_once() -> None:
    place = Place()
    place.system.slow_us = 0

    assert place.system.has_had_time("t1")


@pytest.fixture
def checker() -> Checker:
    """One that knows of a durable checkpoint 2, with the transaction ``t2``."""
    world = World(0)
    checker = Checker(world, Workload(world.topology, world.workload))
    checker.system.transactions["t2"] = Transaction("t2", "out", OLD, (2,), checkpoint_id=2)
    checker.covered.add("t2")
    return checker


def test_sinks_that_go_back_although_nobody_wants_it_are_a_violation(checker: Checker) -> None:
    assert checker.goes_back("out", 1)

    assert checker.world.violation == "C6: t2 came after checkpoint 1, which is restored"


def test_what_came_after_the_way_back_may_be_aborted(checker: Checker) -> None:
    checker.has_gone_back = True

    assert checker.goes_back("out", 1)
    checker.system.abort_older(Somebody(), "out", NEW)

    assert not checker.world.violation


def test_a_restart_from_the_newest_checkpoint_is_no_way_back(checker: Checker) -> None:
    assert not checker.goes_back("out", 2)
    assert not checker.goes_back("another", 1)

    assert checker.covered == {"t2"}
    assert not checker.world.violation


@pytest.mark.parametrize("restored", [None, CheckpointId(1)])
def test_another_checkpoint_than_the_one_that_was_wanted_is_a_violation(
    checker: Checker, restored: CheckpointId | None
) -> None:
    checker.went_back(CheckpointId(2), restored)

    assert checker.world.violation.startswith(f"C6: checkpoint 2 was wanted, {restored} is")


def test_a_second_way_back_that_nobody_wants_is_a_violation(checker: Checker) -> None:
    checker.has_gone_back = True
    checker.went_back(CheckpointId(1), CheckpointId(1))

    assert checker.goes_back("out", 1)

    assert checker.world.violation == "C6: t2 came after checkpoint 1, which is restored"
