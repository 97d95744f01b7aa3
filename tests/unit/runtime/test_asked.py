"""Who has asked for a checkpoint gets the id of one, or why there is none."""

from __future__ import annotations

import pytest

from flowsnap.core.coordinator import Wish
from flowsnap.core.ids import CheckpointId
from flowsnap.errors import CheckpointError
from flowsnap.runtime.asked import AskedCheckpoints

ONE, TWO = CheckpointId(1), CheckpointId(2)
PLAIN, UNALIGNED, FINAL = Wish(), Wish(alignment="unaligned"), Wish("final")


def test_checkpoint_serves_those_who_wished_for_one_like_it() -> None:
    asked = AskedCheckpoints()
    first, second, other = asked.ask(PLAIN), asked.ask(PLAIN), asked.ask(UNALIGNED)
    assert asked.take() == [PLAIN, PLAIN, UNALIGNED]

    asked.triggered(ONE, PLAIN)
    asked.completed(ONE)

    assert (first.result(0), second.result(0), other.done()) == (ONE, ONE, False)


def test_final_checkpoint_serves_whoever_still_waits() -> None:
    asked = AskedCheckpoints()
    waiting, under_way = asked.ask(PLAIN), asked.ask(UNALIGNED)
    asked.take()
    asked.triggered(ONE, UNALIGNED)
    asked.triggered(TWO, FINAL)
    late = asked.ask(PLAIN)

    asked.completed(TWO, is_final=True)

    assert [one.result(0) for one in (waiting, under_way, late)] == [TWO, TWO, TWO]


def test_who_waits_is_told_when_the_checkpoint_is_given_up_or_the_job_ends() -> None:
    asked = AskedCheckpoints()
    aborted = asked.ask(PLAIN)
    asked.take()
    asked.triggered(ONE, PLAIN)
    asked.aborted(ONE, "disk full")
    left = asked.ask(PLAIN)
    asked.fail("the job has ended")

    with pytest.raises(CheckpointError, match="checkpoint 1 was given up: disk full"):
        aborted.result(0)
    with pytest.raises(CheckpointError, match="the job has ended"):
        left.result(0)


def test_next_attempt_is_asked_for_what_the_one_before_has_not_brought() -> None:
    asked = AskedCheckpoints()
    asked.ask(PLAIN)
    asked.take()
    asked.triggered(ONE, PLAIN)

    asked.start()

    assert asked.take() == [PLAIN]
