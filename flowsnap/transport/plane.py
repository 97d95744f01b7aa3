"""The contract of the data plane: what carries elements and credit between workers.

A plane serves one worker in one attempt, from one thread, and carries every channel between that
worker and the others; channels that stay inside a worker are none of its business. Each channel is
FIFO and lossless, or the attempt fails: a gap, a duplicate, a foreign attempt, a malformed
frame or a lost tail raises ``PeerProtocolError``, a lost peer ``ConnectionLost``; nothing is ever
skipped or put in order again.

The order of calls: every worker of the attempt has returned from ``bind`` before any of them calls
``connect``. After an error, and at the end, ``close``; a plane that raised carries nothing more.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import zmq

from flowsnap.core.element import Element
from flowsnap.core.ids import AttemptId, ChannelId, WorkerId

GREETING_MS_MAX = 30_000


class Route(NamedTuple):
    """From which worker to which a channel leads."""

    channel: ChannelId
    source: WorkerId
    target: WorkerId


class Member(NamedTuple):
    """The worker that a plane serves, in one attempt of one job."""

    job: str
    attempt: AttemptId
    worker: WorkerId


class Arrival(NamedTuple):
    """An element that came in a channel."""

    channel: ChannelId
    element: Element


class Granted(NamedTuple):
    """The receiver of a channel grants the right to send ``credits`` more batches."""

    channel: ChannelId
    credits: int


Received = Arrival | Granted


class DataPlane(Protocol):
    """All channels between one worker and the others, in one attempt."""

    def bind(self) -> None:
        """Make what the peers connect to.

        Raises:
            ConnectionLost: an endpoint cannot be bound.
        """

    def connect(self) -> None:
        """Connect to the peers and greet every one of them; it does not wait for their answer."""

    def send(self, channel: ChannelId, element: Element) -> int:
        """Send an element and return the bytes it took on the wire (0 in memory); never blocks.

        The caller holds credit for a batch; control elements need none. What is sent before the
        peer has greeted waits here.

        Raises:
            LocalProtocolError: the channel does not lead from this worker to another.
            TypeError: a record cannot be pickled, or is larger than a frame may be; nothing of
                the batch has been sent.
            ConnectionLost: the peer is gone, or has long stopped reading.
        """

    def grant(self, channel: ChannelId, credits: int) -> None:
        """Let the sender of a channel that leads here send ``credits`` more batches.

        Raises:
            LocalProtocolError: no such channel leads here, or ``credits`` is not positive.
            ConnectionLost: as for ``send``.
        """

    def receive(self, limit: int = 100) -> list[Received]:
        """Return what has come, in order for each channel, up to ``limit``; never blocks.

        Raises:
            PeerProtocolError: a peer broke the protocol.
            ConnectionLost: a peer is gone, and all that it had sent before has been returned.
        """

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What to poll for reading before ``receive``; empty in memory."""

    def tell_positions(self, now_ms: int) -> None:
        """Tell every peer how far each channel has come, so that a lost tail is noticed.

        To be called once in every heartbeat interval. ``now_ms`` is monotonic.

        Raises:
            ConnectionLost: as for ``send``, or a peer has not greeted in ``GREETING_MS_MAX``.
        """

    def close(self) -> None:
        """Let go of every connection; what was sent to a peer that has greeted is still delivered.

        That takes a bounded time, in the background. Idempotent. The peers lose the connection.
        """
