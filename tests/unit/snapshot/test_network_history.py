from __future__ import annotations

from typing import Any

import pytest

from flowsnap.errors import ConfigError
from flowsnap.snapshot.network import (
    Channel,
    Event,
    GlobalState,
    NetworkSnapshot,
    as_happened,
    global_states,
    passes_through,
    reordered,
)
from flowsnap.snapshot.network_snapshot import States


def event(process: str, number: int, at_ns: int, **what: Any) -> Event:
    kind = "message" if "channel" in what else "start"
    return Event(process, number, kind, state={"at": number}, at_ns=at_ns, **what)


# P and Q start, each sends to the other, and each takes what comes.
P1 = event("P", 1, 10, sent=(("Q", 1, "m"),))
Q1 = event("Q", 1, 20, sent=(("P", 1, "n"),))
P2 = event("P", 2, 30, channel="Q", message_number=1, message="n")
Q2 = event("Q", 2, 40, channel="P", message_number=1, message="m")
HISTORY = [P1, Q1, P2, Q2]


def cut(p: int, q: int, *channels: Channel) -> NetworkSnapshot:
    states = States({"P": {"at": p}, "Q": {"at": q}})
    return NetworkSnapshot("pq", 1, states, channels, {"P": p, "Q": q})


def test_events_are_put_in_the_order_in_which_they_happened() -> None:
    assert as_happened([Q2, P2, Q1, P1]) == HISTORY


def test_history_goes_through_global_states() -> None:
    states = list(global_states(HISTORY[:3]))

    assert states == [
        GlobalState({}, {}),
        GlobalState({"P": {"at": 1}}, {("P", "Q"): ("m",)}),
        GlobalState({"P": {"at": 1}, "Q": {"at": 1}}, {("P", "Q"): ("m",), ("Q", "P"): ("n",)}),
        GlobalState({"P": {"at": 2}, "Q": {"at": 1}}, {("P", "Q"): ("m",)}),
    ]


def test_state_that_has_occurred_is_found_where_it_has() -> None:
    taken = cut(2, 1, Channel("P", "Q", 1, 0, (1,), ("m",)))

    assert passes_through(HISTORY, taken) == 3


def test_state_that_has_not_occurred_is_passed_through_by_a_permutation() -> None:
    taken = cut(1, 2, Channel("Q", "P", 1, 0, (1,), ("n",)))

    assert passes_through(HISTORY, taken) is None
    assert reordered(HISTORY, taken) == [P1, Q1, Q2, P2]
    assert passes_through(reordered(HISTORY, taken), taken) == 3


def test_state_that_cannot_be_is_passed_through_by_none() -> None:
    wrong = cut(2, 1, Channel("P", "Q", 1, 1))

    assert passes_through(reordered(HISTORY, wrong), wrong) is None


def test_message_cannot_be_received_before_it_is_sent() -> None:
    with pytest.raises(ConfigError, match=r"'Q' cannot receive message 1 of 'P' now: .* nothing"):
        list(global_states([Q1, Q2, P1]))


def test_messages_of_a_channel_come_in_order() -> None:
    twice = event("P", 1, 10, sent=(("Q", 1, "m"), ("Q", 2, "o")))
    second = event("Q", 2, 40, channel="P", message_number=2, message="o")

    with pytest.raises(ConfigError, match="the channel holds message 1 first"):
        list(global_states([twice, Q1, second]))


def test_events_of_a_process_come_in_its_order() -> None:
    with pytest.raises(ConfigError, match=r"'P' cannot happen now: its next one is 1") as caught:
        list(global_states([Q1, P2]))

    assert "whole only once its network has ended" in caught.value.__notes__[0]
