from __future__ import annotations

import pytest

from flowsnap.core.credit import CreditReceiver, CreditSender
from flowsnap.errors import LocalProtocolError, PeerProtocolError


def test_receiver_grants_its_whole_capacity_at_first_and_only_once() -> None:
    receiver = CreditReceiver(4)

    assert receiver.next_grant() == 4
    assert receiver.next_grant() == 0


def test_receiver_waits_with_a_grant_until_half_the_capacity_is_free() -> None:
    receiver = CreditReceiver(4)
    receiver.next_grant()
    for _ in range(3):
        receiver.receive()

    receiver.release()
    assert receiver.next_grant() == 0
    receiver.release()
    assert receiver.next_grant() == 2
    receiver.check()


def test_batch_that_arrived_but_is_not_consumed_gives_no_credit_back() -> None:
    receiver = CreditReceiver(2)
    receiver.next_grant()
    receiver.receive()
    receiver.receive()

    assert receiver.next_grant() == 0
    receiver.release()
    assert receiver.next_grant() == 1


def test_batch_beyond_the_grant_is_the_fault_of_the_peer() -> None:
    receiver = CreditReceiver(4)

    with pytest.raises(PeerProtocolError, match="beyond the granted credit"):
        receiver.receive()

    assert receiver.next_grant() == 4


def test_release_of_a_batch_that_never_came_is_refused() -> None:
    receiver = CreditReceiver(4)
    receiver.next_grant()

    with pytest.raises(LocalProtocolError, match="never received"):
        receiver.release()

    assert receiver.next_grant() == 0


def test_channel_that_can_hold_nothing_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="channel of 0 batches"):
        CreditReceiver(0)


def test_sender_spends_what_it_was_granted_and_no_more() -> None:
    sender = CreditSender()
    sender.grant(1)
    sender.grant(1)
    assert sender.has_credit

    sender.spend()
    sender.spend()

    assert not sender.has_credit
    with pytest.raises(LocalProtocolError, match="without credit"):
        sender.spend()
    assert sender.available == 0


@pytest.mark.parametrize("credits", [0, -1])
def test_grant_of_nothing_is_the_fault_of_the_peer(credits: int) -> None:
    sender = CreditSender()

    with pytest.raises(PeerProtocolError, match=f"granted {credits} credits"):
        sender.grant(credits)

    assert sender.available == 0
