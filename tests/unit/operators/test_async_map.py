from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from flowsnap.core.element import Batch
from flowsnap.core.operator import Operator, OperatorContext
from flowsnap.core.watermark import MAX_WATERMARK
from flowsnap.errors import ConfigError, OperatorError
from flowsnap.operators import AsyncMap
from tests.unit.operators.gate import Gate, restarted, settle
from tests.unit.operators.rig import Rig


class Rigs:
    """Rigs that are closed in the end."""

    def __init__(self) -> None:
        self.made: list[Rig] = []

    def __call__(self, *operators: Any) -> Rig:
        self.made.append(Rig(*operators))
        return self.made[-1]

    def restored(self, rig: Rig, gate: Gate) -> Rig:
        """Restart from a snapshot taken now."""
        self.made.append(restarted(rig, gate))
        return self.made[-1]


@pytest.fixture
def rigs() -> Iterator[Rigs]:
    made = Rigs()
    yield made
    for rig in made.made:
        rig.chain.close()
    assert [t.name for t in threading.enumerate() if t.name.startswith("flowsnap-async")] == []


@pytest.fixture
def gate() -> Gate:
    return Gate()


class Watching(Operator):
    """Notes which event time has been reached when a batch comes."""

    def __init__(self, times: list[int]) -> None:
        self.times = times

    def open(self, context: OperatorContext) -> None:
        self.context = context

    def process(self, batch: Batch) -> Batch:
        self.times.append(self.context.watermark_ms)
        return batch


async def double(value: int) -> int:
    return 2 * value


def test_results_leave_in_the_order_of_their_records(rigs: Rigs, gate: Gate) -> None:
    rig = rigs(AsyncMap(gate)).push([1, 2, 3])
    gate.answer(3)
    gate.answer(2)
    settle(rig, gate)
    assert rig.values == []

    gate.answer(1)
    settle(rig, gate)

    assert rig.values == [2, 4, 6]


def test_results_leave_as_they_come_where_order_does_not_matter(rigs: Rigs, gate: Gate) -> None:
    rig = rigs(AsyncMap(gate, ordered=False)).push([1, 2, 3])
    for value in (3, 1, 2):
        gate.answer(value)
        settle(rig, gate)

    assert rig.values == [6, 2, 4]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_result_has_the_event_time_of_its_record(rigs: Rigs, ordered: bool) -> None:
    rig = rigs(AsyncMap(double, ordered=ordered)).push([1, 2], [70, 60]).end()

    assert sorted(rig.timed) == [(2, 70), (4, 60)]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_watermark_waits_for_the_records_before_it(rigs: Rigs, gate: Gate, ordered: bool) -> None:
    rig = rigs(AsyncMap(gate, ordered=ordered)).push([1], [5]).watermark(5).push([2], [8])
    gate.answer(2)
    settle(rig, gate)
    assert (rig.values, rig.watermarks) == ([], [])

    rig.watermark(8)
    gate.answer(1)
    settle(rig, gate)

    assert (rig.values, rig.watermarks) == ([2, 4], [8])


def test_a_watermark_with_nothing_before_it_goes_on_at_once(rigs: Rigs) -> None:
    rig = rigs(AsyncMap(double)).watermark(7)

    assert rig.push([]).watermarks == [7]


def test_requests_in_flight_at_a_barrier_are_asked_again(rigs: Rigs, gate: Gate) -> None:
    rig = rigs(AsyncMap(gate)).push([1, 2, 3], [10, 20, 30])
    gate.answer(1)
    settle(rig, gate)
    rig = rigs.restored(rig, gate)

    rig.push([4], [40])
    for value in (2, 3, 4):
        gate.answer(value)
    settle(rig, gate)

    assert rig.timed == [(2, 10), (4, 20), (6, 30), (8, 40)]


def test_a_result_that_waits_for_its_turn_at_a_barrier_is_not_lost(rigs: Rigs, gate: Gate) -> None:
    rig = rigs(AsyncMap(gate)).push([1, 2])
    gate.answer(2)
    settle(rig, gate)
    rig = rigs.restored(rig, gate)

    gate.answer(1)
    gate.answer(2)
    settle(rig, gate)

    assert rig.values == [2, 4]


def test_event_time_is_held_over_a_restart_and_does_not_go_back(rigs: Rigs, gate: Gate) -> None:
    rig = rigs(AsyncMap(gate)).watermark(3).push([1], [5]).watermark(6)
    rig = rigs.restored(rig, gate)
    assert rig.operators[0].watermark_ms == 3

    gate.answer(1)
    settle(rig, gate)

    assert rig.operators[0].watermark_ms == 6
    assert rig.watermarks[-1] == 6


def test_nothing_more_is_accepted_at_capacity_and_no_more_is_asked(rigs: Rigs, gate: Gate) -> None:
    rig = rigs(AsyncMap(gate, 2)).push([1, 2, 3])
    assert not rig.chain.can_accept()
    gate.wait_for(1, 2)
    assert gate.asked == [1, 2]

    gate.answer(1)
    gate.answer(2)
    gate.wait_for(3)
    settle(rig, gate)

    assert rig.chain.can_accept()


def test_the_end_of_input_comes_after_the_last_result_also_for_those_behind(
    rigs: Rigs, gate: Gate
) -> None:
    times: list[int] = []
    rig = rigs(AsyncMap(gate), Watching(times)).push([1, 2], [5, 6])
    outputs = rig.chain.end_input()

    assert not next(outputs).values
    gate.answer(1)
    gate.answer(2)
    assert [value for batch in outputs for value in batch.values] == [2, 4]
    assert max(times) < MAX_WATERMARK


def test_a_failed_request_is_tried_again(rigs: Rigs, gate: Gate) -> None:
    rig = rigs(AsyncMap(gate, retries=2, backoff="1ms")).push([7])
    gate.fail(7, ValueError("busy"))
    gate.fail(7, ValueError("busy"))
    gate.answer(7)
    settle(rig, gate)

    assert rig.values == [14]
    assert gate.asked == [7, 7, 7]
    assert rig.counted("retries") == 2


def test_the_last_error_is_the_users_and_says_which_record(rigs: Rigs, gate: Gate) -> None:
    rig = rigs(AsyncMap(gate, retries=1, backoff="0ms")).push([5, "secret"])
    gate.fail("secret", ValueError("first"))
    gate.fail("secret", ValueError("bad input"))

    with pytest.raises(OperatorError) as failure:
        settle(rig, gate)

    assert str(failure.value) == (
        "operator 'op-0', subtask 0: ValueError: bad input on record 2 of a batch of 2 (a str), "
        "tried 2 times"
    )
    assert isinstance(failure.value.__cause__, ValueError)


def test_a_request_that_takes_too_long_is_given_up(rigs: Rigs, gate: Gate) -> None:
    rig = rigs(AsyncMap(gate, timeout="1ms", retries=0)).push([1])

    with pytest.raises(OperatorError, match="TimeoutError: no answer within 1 ms"):
        rig.end()
    assert (rig.counted("timeouts"), rig.counted("retries")) == (1, 0)


def test_a_request_that_cancels_itself_is_an_error_and_no_hang(rigs: Rigs) -> None:
    async def cancelling(value: int) -> int:
        raise asyncio.CancelledError

    with pytest.raises(OperatorError, match="the request has been cancelled"):
        rigs(AsyncMap(cancelling, retries=0)).push([1]).end()


def test_close_ends_the_thread_with_requests_under_way(rigs: Rigs, gate: Gate) -> None:
    rig = rigs(AsyncMap(gate)).push([1])
    gate.wait_for(1)
    began = time.monotonic()

    rig.chain.close()

    assert time.monotonic() - began < 2


def test_it_is_idle_only_while_it_holds_nothing(rigs: Rigs, gate: Gate) -> None:
    rig = rigs(AsyncMap(gate))
    assert rig.chain.is_idle(True)
    assert not rig.chain.is_idle(False)

    rig.push([1])

    assert not rig.chain.is_idle(True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AsyncMap(len),  # type: ignore[arg-type]
        lambda: AsyncMap(double, 0),
        lambda: AsyncMap(double, True),
        lambda: AsyncMap(double, retries=-1),
        lambda: AsyncMap(double, timeout="0s"),
        lambda: AsyncMap(double, backoff="soon"),
        lambda: AsyncMap(double, ordered="no"),  # type: ignore[arg-type]
    ],
)
def test_wrong_settings_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()
