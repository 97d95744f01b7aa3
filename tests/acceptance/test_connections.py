"""Connections that break, stall or lose something: noticed, and made good by a new attempt."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowsnap.runtime.status import JobResult
from flowsnap.transport.endpoint import VIA_VARIABLE
from flowsnap.transport.frame import FrameKind
from tests.acceptance.chaos import Act, ChaosProxy, Message, Rule
from tests.acceptance.digits import OFTEN, run

pytestmark = pytest.mark.slow
Told = Callable[[str, object], None]
PROMPT: dict[str, Any] = {"heartbeat_interval": "50ms"}  # how often positions are told, too
IMPATIENT: dict[str, Any] = PROMPT | {
    "heartbeat_timeout": "1500ms",
    "checkpoint_timeout": "1500ms",
    "checkpoint_failures_max": 0,
    "cancel_timeout": "500ms",
    "restart": OFTEN,  # so short a patience may be exhausted again on a machine that is busy
}
WHILE = 12  # checkpoints: as long as it takes to exchange some dozens of messages
LONG = 80  # checkpoints: longer than the timeout of heartbeats
LATENCY_S = 0.02
STALL_S = 1.0


@pytest.fixture
def through(state: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Rule], Any]:
    """Return a context in which all connections of workers pass a proxy with this rule."""
    scratch = Path(tempfile.gettempdir())  # the census has made it, short and our own
    via = scratch / "via"
    monkeypatch.setenv(VIA_VARIABLE, str(via))

    @contextmanager
    def through(rule: Rule) -> Iterator[ChaosProxy]:
        with ChaosProxy(via, scratch, rule) as proxy:
            yield proxy
        for path in via.iterdir():
            path.unlink()
        via.rmdir()

    return through


def once(act: Act, when: Callable[[Message], bool]) -> Rule:
    """Return a rule that strikes the first message of which ``when`` is true."""
    turn = threading.Lock()

    def rule(message: Message) -> Act:
        return act if when(message) and turn.acquire(blocking=False) else Act.PASS

    return rule


def is_data(message: Message) -> bool:
    return message.role == "data" and message.attempt == 1 and message.number == 12


def is_answer(message: Message) -> bool:
    return is_data(message) and not message.is_from_connecting_side


def is_control(message: Message) -> bool:
    return message.role == "worker" and message.number == 5


def is_heartbeat(message: Message) -> bool:
    return message.role == "heartbeat" and message.number == 3


def assert_recovered(result: JobResult, told: str, *causes: str) -> None:
    """Hold the job to a restart, and the log to have ``told`` one of these causes (O6)."""
    assert (result.state, result.attempts > 1) == ("finished", True)
    assert any(cause in told for cause in causes), told


def assert_missed(result: JobResult, told: str, proxy: ChaosProxy, record: Told) -> None:
    """Hold the job to a restart because of what the proxy has dropped."""
    record("frames dropped", proxy.acts[Act.DROP])
    assert_recovered(result, told, "a gap in what worker", "has sent up to sequence number")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO", "flowsnap")
    return caplog


@pytest.mark.fault("F12", promise="P1 P2 P4", oracles="O1 O3 O4")
@pytest.mark.parametrize("act", [Act.CUT, Act.RESET], ids=["orderly", "reset"])
@pytest.mark.parametrize(
    "when", [is_data, is_answer, is_control], ids=["data", "data-back", "control"]
)
def test_a_connection_that_breaks_costs_an_attempt_and_no_record(
    state: Path,
    through: Callable[[Rule], Any],
    when: Callable[[Message], bool],
    act: Act,
    log: pytest.LogCaptureFixture,
    record_property: Told,
) -> None:
    with through(once(act, when)) as proxy:
        result = run(state, WHILE, **PROMPT)

    record_property("cuts", proxy.acts[act])
    assert proxy.acts[act] == 1
    assert_recovered(result, log.text, "is lost", "is gone")


@pytest.mark.fault("F12", promise="P1 P2 P4", oracles="O1 O3 O4 O5")
@pytest.mark.parametrize(
    ("when", "cause"),
    [
        pytest.param(is_data, "checkpoint", id="data"),
        pytest.param(is_control, "checkpoint", id="control"),
        pytest.param(is_heartbeat, "silent for 1500 ms", id="heartbeat"),
    ],
)
def test_a_half_open_connection_is_noticed_by_a_deadline(
    state: Path,
    through: Callable[[Rule], Any],
    when: Callable[[Message], bool],
    cause: str,
    log: pytest.LogCaptureFixture,
    record_property: Told,
) -> None:
    with through(once(Act.FREEZE, when)) as proxy:
        result = run(state, LONG, **IMPATIENT)

    record_property("cuts", proxy.acts[Act.FREEZE])
    assert_recovered(result, log.text, cause)


@pytest.mark.fault("F15", promise="P1 P2", oracles="O1 O3")
@pytest.mark.parametrize(
    "kind", [FrameKind.BATCH, FrameKind.BARRIER, FrameKind.CREDIT], ids=lambda kind: kind.name
)
def test_a_message_lost_in_the_middle_is_a_gap(
    state: Path,
    through: Callable[[Rule], Any],
    kind: FrameKind,
    log: pytest.LogCaptureFixture,
    record_property: Told,
) -> None:
    def is_it(message: Message) -> bool:
        return message.attempt == 1 and message.number > 7 and message.kind is kind

    with through(once(Act.DROP, is_it)) as proxy:
        result = run(state, WHILE, **PROMPT)

    assert_missed(result, log.text, proxy, record_property)


@pytest.mark.fault("F15", promise="P1 P2 P4", oracles="O1 O3 O5")
def test_a_lost_tail_is_noticed_though_nothing_follows_it(
    state: Path,
    through: Callable[[Rule], Any],
    log: pytest.LogCaptureFixture,
    record_property: Told,
) -> None:
    def is_end(message: Message) -> bool:
        return message.attempt == 1 and message.kind is FrameKind.END_OF_INPUT

    with through(once(Act.DROP, is_end)) as proxy:
        result = run(state, WHILE, **PROMPT)

    assert_missed(result, log.text, proxy, record_property)


@pytest.mark.fault("F13", promise="P1 P4", oracles="O3 O5")
def test_delays_and_stalls_below_the_timeout_cost_no_attempt(
    state: Path, through: Callable[[Rule], Any], record_property: Told
) -> None:
    turn, stalls = threading.Event(), []  # never set: waiting for it is the delay

    def slow(message: Message) -> Act:
        is_stall = message.number == 10
        turn.wait(STALL_S if is_stall else LATENCY_S)
        stalls.extend([message.role] * is_stall)
        return Act.PASS

    with through(slow):
        result = run(state, WHILE, heartbeat_interval="100ms", heartbeat_timeout="8s")

    record_property("stalls", len(stalls))
    assert result.attempts == 1
    assert {"data", "worker", "heartbeat"} <= set(stalls)


def test_the_proxy_stands_between_all_workers(state: Path, through: Callable[[Rule], Any]) -> None:
    seen: set[tuple[str, bool]] = set()

    def look(message: Message) -> Act:
        seen.add((message.role, message.is_from_connecting_side))
        return Act.PASS

    with through(look) as proxy:
        result = run(state)

    assert result.attempts == 1
    assert proxy.acts[Act.PASS] > 50
    assert seen >= {("data", True), ("data", False), ("worker", False), ("heartbeat", True)}
    assert os.environ[VIA_VARIABLE]
