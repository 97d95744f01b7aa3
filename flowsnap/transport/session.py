"""What may one peer say next, and what number does our next frame carry?

Both ends of a channel speak on the connection of their two workers: the source sends elements, the
target sends credit. Each of these two streams is numbered from 1, for each channel apart, so at
every end a channel has exactly one outgoing and one incoming stream. A receiver accepts the next
number and nothing else: a gap, a duplicate and a reordering are all seen at once, a lost tail when
the peer tells its position. The session is pure: planes on ZeroMQ and in memory share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from flowsnap.core.ids import ChannelId, WorkerId
from flowsnap.errors import LocalProtocolError, PeerProtocolError
from flowsnap.transport.frame import FrameKind, Greeting, Header
from flowsnap.transport.plane import Member, Route

CREDITS_MAX = 2**31
T = TypeVar("T")


class PeerSession:
    """The protocol between this worker and one peer, in one attempt."""

    def __init__(self, member: Member, peer: WorkerId, routes: Iterable[Route]) -> None:
        self.peer = peer
        self.is_greeted = False
        self._member = member
        self._outgoing = {
            route.channel
            for route in routes
            if (route.source, route.target) == (member.worker, peer)
        }
        self._incoming = {
            route.channel
            for route in routes
            if (route.source, route.target) == (peer, member.worker)
        }
        channels = sorted(self._outgoing | self._incoming)
        self._sent: dict[ChannelId, int] = dict.fromkeys(channels, 0)
        self._received: dict[ChannelId, int] = dict.fromkeys(channels, 0)

    @property
    def channels(self) -> int:
        """How many channels the two workers have, in both directions."""
        return len(self._sent)

    def greeting(self) -> Greeting:
        """Return what this worker says first."""
        job, attempt, worker = self._member
        return Greeting(job=job, attempt=attempt, source=worker, target=self.peer)

    def element(self, channel: ChannelId, kind: FrameKind, value: int = 0) -> Header:
        """Return the header of the channel's next element.

        Raises:
            LocalProtocolError: the channel does not lead to this peer.
        """
        if channel not in self._outgoing:
            raise LocalProtocolError(f"channel {channel} does not lead to worker {self.peer}")
        return self._next(channel, kind, value)

    def credit(self, channel: ChannelId, credits: int) -> Header:
        """Return the header of the channel's next grant.

        Raises:
            LocalProtocolError: the channel does not come from this peer, or nothing is granted.
        """
        if channel not in self._incoming:
            raise LocalProtocolError(f"channel {channel} does not come from worker {self.peer}")
        if not 0 < credits <= CREDITS_MAX:
            raise LocalProtocolError(f"channel {channel}: a grant of {credits} credits")
        return self._next(channel, FrameKind.CREDIT, credits)

    def positions(self) -> list[Header]:
        """Return, for each channel, a header that tells how much this worker has sent in it."""
        return [
            Header(FrameKind.POSITION, self._member.attempt, channel, sequence)
            for channel, sequence in self._sent.items()
        ]

    def greet(self, greeting: Greeting) -> None:
        """Take the peer's greeting.

        Raises:
            PeerProtocolError: it is not the one expected, or a second one.
        """
        job, attempt, worker = self._member
        expected = Greeting(job=job, attempt=attempt, source=self.peer, target=worker)
        if greeting != expected:
            raise PeerProtocolError(f"expected {_say(expected)}, found {_say(greeting)}")
        if self.is_greeted:
            raise PeerProtocolError(f"worker {self.peer} greeted twice")
        self.is_greeted = True

    def accept(self, header: Header) -> None:
        """Account for a frame that is no greeting; its payload is to be read only after this.

        Raises:
            PeerProtocolError: the peer has not greeted, or this is not what it may send next.
        """
        kind, attempt, number, sequence = header[:4]
        channel = ChannelId(number)
        if not self.is_greeted:
            raise PeerProtocolError(
                f"worker {self.peer} sent a {kind.name.lower()} frame before its greeting"
            )
        if attempt != self._member.attempt:
            raise PeerProtocolError(
                f"channel {channel}: expected attempt {self._member.attempt}, found {attempt} "
                f"from worker {self.peer}"
            )
        if kind is FrameKind.POSITION:
            self._check_position(channel, sequence)
            return
        if channel not in (self._outgoing if kind is FrameKind.CREDIT else self._incoming):
            raise PeerProtocolError(
                f"worker {self.peer} sent a {kind.name.lower()} frame in channel {channel}, "
                "where it has no say"
            )
        expected = self._received[channel] + 1
        if sequence != expected:
            what = "gap" if sequence > expected else "duplicate"
            raise PeerProtocolError(
                f"channel {channel}: a {what} in what worker {self.peer} sent: "
                f"expected sequence number {expected}, found {sequence}"
            )
        if kind is FrameKind.CREDIT and not 0 < header.value <= CREDITS_MAX:
            raise PeerProtocolError(f"channel {channel}: a grant of {header.value} credits")
        self._received[channel] = sequence

    def _check_position(self, channel: ChannelId, sequence: int) -> None:
        received = self._received.get(channel)
        if received is None:
            raise PeerProtocolError(
                f"worker {self.peer} told a position in channel {channel}, where it has no say"
            )
        if sequence != received:
            raise PeerProtocolError(
                f"channel {channel}: worker {self.peer} has sent up to sequence number {sequence}, "
                f"received up to {received}"
            )

    def _next(self, channel: ChannelId, kind: FrameKind, value: int) -> Header:
        sequence = self._sent[channel] + 1
        self._sent[channel] = sequence
        return Header(kind, self._member.attempt, channel, sequence, value)


def make_sessions(member: Member, routes: Iterable[Route]) -> dict[WorkerId, PeerSession]:
    """Return a session for every worker that shares a channel with this one, by worker.

    Raises:
        LocalProtocolError: two routes have the same channel.
    """
    routes = tuple(routes)
    if len({route.channel for route in routes}) != len(routes):
        raise LocalProtocolError("two routes have the same channel")
    ends = {(route.source, route.target) for route in routes if route.source != route.target}
    peers = {
        target if source == member.worker else source
        for source, target in ends
        if member.worker in (source, target)
    }
    return {peer: PeerSession(member, peer, routes) for peer in sorted(peers)}


def by_channel(
    worker: WorkerId, routes: Iterable[Route], of_peer: Mapping[WorkerId, T]
) -> dict[ChannelId, T]:
    """Return for each channel between ``worker`` and another what there is for that other."""
    return {
        route.channel: of_peer[route.target if route.source == worker else route.source]
        for route in routes
        if route.source != route.target and worker in (route.source, route.target)
    }


def _say(greeting: Greeting) -> str:
    return (
        f"a greeting of job {greeting.job!r}, attempt {greeting.attempt}, "
        f"from worker {greeting.source} to worker {greeting.target}"
    )
