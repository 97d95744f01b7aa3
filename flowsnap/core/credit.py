"""Who may send a batch?

Each channel has a window of its own: the receiver grants *credit*, counted in batches, and the
sender spends one for each batch it sends. Without credit the sending task does not run. So a slow
task slows down those before it, step by step up to the sources, and nothing in between grows;
memory is bounded by the capacities. A channel that is blocked by an alignment uses up its own
credit and no other's, which a shared queue could not do.

Batches need credit, control elements do not: a barrier must never wait for a consumer, and there
are few of them. Credit comes back when the operator has *consumed* a batch, not when it arrived.

Invariant: granted + held <= capacity, where *granted* is what the receiver has given and not seen
used and *held* is what has arrived and is not consumed. It does not retransmit: the channel is
lossless and FIFO, and a gap fails the attempt in the transport.

Source: Kung, Blackwell and Chapman, "Credit-Based Flow Control for ATM Networks" (SIGCOMM 1994);
Flink's credit-based network stack (FLINK-7282). Deviation: grants are held back until half of the
window is free, so that there is one grant for several batches.

Example:
    >>> receiver, sender = CreditReceiver(4), CreditSender()
    >>> sender.grant(receiver.next_grant())
    >>> sender.spend()
    >>> receiver.receive()
    >>> sender.available
    3
"""

from __future__ import annotations

from flowsnap.errors import LocalProtocolError, PeerProtocolError


class CreditReceiver:
    """The receiving end. ``capacity`` is the number of batches it can hold."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise LocalProtocolError(f"a channel of {capacity} batches can never carry one")
        self.capacity = capacity
        self._granted = 0
        self._held = 0

    def receive(self) -> None:
        """Account for one batch which arrived.

        Raises:
            PeerProtocolError: the sender had no credit for it.
        """
        if self._granted == 0:
            raise PeerProtocolError("received a batch beyond the granted credit")
        self._granted -= 1
        self._held += 1

    def release(self) -> None:
        """Account for one batch which the operator has consumed.

        Raises:
            LocalProtocolError: no batch is held.
        """
        if self._held == 0:
            raise LocalProtocolError("released a batch which was never received")
        self._held -= 1

    def next_grant(self) -> int:
        """Return the credits to grant now, or 0; what is returned counts as granted.

        Waits until half the capacity is free, so that grants do not outnumber batches.
        """
        free = self.capacity - self._granted - self._held
        if 2 * free < self.capacity:
            return 0
        self._granted += free
        return free

    def check(self) -> None:
        """Assert the invariants of this machine."""
        assert self._granted >= 0
        assert self._held >= 0
        assert self._granted + self._held <= self.capacity


class CreditSender:
    """The sending end. ``available`` is the number of batches it may send now."""

    def __init__(self) -> None:
        self.available = 0

    @property
    def has_credit(self) -> bool:
        """Whether a batch may be sent now."""
        return self.available > 0

    def grant(self, credits: int) -> None:
        """Take what the receiver grants, on top of what is left.

        Raises:
            PeerProtocolError: it grants nothing, or takes credit back.
        """
        if credits < 1:
            raise PeerProtocolError(f"was granted {credits} credits")
        self.available += credits

    def spend(self) -> None:
        """Account for one batch which is sent.

        Raises:
            LocalProtocolError: there is no credit.
        """
        if self.available == 0:
            raise LocalProtocolError("sent a batch without credit")
        self.available -= 1
