"""Any interleaving of sending, arriving, consuming and granting: bounded, and never stuck."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from flowsnap.core.credit import CreditReceiver, CreditSender


class Channel:
    """A sender and a receiver with a lossless FIFO between them, in both directions."""

    def __init__(self, capacity: int) -> None:
        self.sender, self.receiver = CreditSender(), CreditReceiver(capacity)
        self.batches = 0  # in transit
        self.grants: deque[int] = deque()
        self.held = 0
        self.sent = 0

    def step(self, name: str) -> None:
        if name == "send" and self.sender.has_credit:
            self.sender.spend()
            self.batches += 1
            self.sent += 1
        elif name == "arrive" and self.batches:
            self.receiver.receive()
            self.batches -= 1
            self.held += 1
        elif name == "consume" and self.held:
            self.receiver.release()
            self.held -= 1
        elif name == "grant" and (credits := self.receiver.next_grant()):
            self.grants.append(credits)
        elif name == "granted" and self.grants:
            self.sender.grant(self.grants.popleft())
        self.receiver.check()


STEPS = ["grant", "granted", "send", "arrive", "consume"]


@given(st.integers(1, 9), st.lists(st.sampled_from(STEPS), max_size=200))
def test_what_is_in_flight_and_held_never_exceeds_the_capacity(
    capacity: int, steps: list[str]
) -> None:
    channel = Channel(capacity)

    for step in steps:
        channel.step(step)
        in_flight = channel.sender.available + sum(channel.grants) + channel.batches
        assert in_flight + channel.held <= capacity


@given(st.integers(1, 9), st.lists(st.sampled_from(STEPS), max_size=100))
def test_sender_can_always_go_on_once_all_is_consumed(capacity: int, steps: list[str]) -> None:
    channel = Channel(capacity)
    for step in steps:
        channel.step(step)

    for step in ("arrive", "consume", "grant", "granted"):
        for _ in range(capacity + len(channel.grants)):
            channel.step(step)

    assert channel.sender.has_credit


@given(st.integers(1, 64))
def test_steady_flow_needs_at_most_one_grant_for_half_the_capacity(capacity: int) -> None:
    channel, grants = Channel(capacity), 0
    while channel.sent < 10 * capacity:
        for step in ("grant", "granted", "send", "arrive", "consume"):
            grants += step == "granted" and bool(channel.grants)
            channel.step(step)

    assert grants <= 1 + 10 * capacity / max(1, capacity // 2)
