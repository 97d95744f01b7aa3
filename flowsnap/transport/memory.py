"""The data plane in memory: several workers in one process, for tests and for simulation.

The same session as on ZeroMQ numbers and checks every frame, and a test can make the network lose
or repeat one. Batches are handed over as they are, not pickled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import zmq

from flowsnap.core.element import Batch, Element
from flowsnap.core.ids import AttemptId, ChannelId, WorkerId
from flowsnap.errors import ConnectionLost, LocalProtocolError
from flowsnap.transport.frame import FrameKind, Greeting, Header, control_element, control_fields
from flowsnap.transport.plane import Arrival, Granted, Member, Received, Route
from flowsnap.transport.session import PeerSession, by_channel, make_sessions
from flowsnap.transport.turns import Turns

_UNNUMBERED = (FrameKind.GREETING, FrameKind.POSITION, FrameKind.CREDIT)


class MemoryFrame(NamedTuple):
    """What ``transport/frame.py`` lays out in bytes."""

    header: Header
    payload: Greeting | Batch | None = None


class MemoryNetwork:
    """Joins the planes of one attempt, and can be told to misbehave."""

    def __init__(self, routes: Iterable[Route], job: str = "job", attempt: int = 1) -> None:
        self._routes = tuple(routes)
        self._job = job
        self._attempt = AttemptId(attempt)
        self._wires: dict[tuple[WorkerId, WorkerId], deque[MemoryFrame]] = {}
        self._up: set[WorkerId] = set()
        self._drop: dict[ChannelId, int] = {}
        self._duplicate: dict[ChannelId, int] = {}

    def plane(
        self, worker: WorkerId, *, job: str | None = None, attempt: AttemptId | None = None
    ) -> MemoryDataPlane:
        """Return the plane of a worker; ``job`` and ``attempt`` are the network's unless given."""
        return MemoryDataPlane(
            self, Member(job or self._job, attempt or self._attempt, worker), self._routes
        )

    def drop_next(self, channel: ChannelId) -> None:
        """Lose the next element that is sent in a channel."""
        self._drop[channel] = self._drop.get(channel, 0) + 1

    def duplicate_next(self, channel: ChannelId) -> None:
        """Deliver the next element that is sent in a channel twice."""
        self._duplicate[channel] = self._duplicate.get(channel, 0) + 1

    def put(self, source: WorkerId, target: WorkerId, frame: MemoryFrame) -> None:
        """Deliver a frame, which need not be one that ``source`` should send."""
        wire = self._wires.setdefault((source, target), deque())
        channel = ChannelId(frame.header.channel)
        if frame.header.kind in _UNNUMBERED:
            wire.append(frame)
        elif self._drop.get(channel, 0):
            self._drop[channel] -= 1
        else:
            wire.append(frame)
            if self._duplicate.get(channel, 0):
                self._duplicate[channel] -= 1
                wire.append(frame)

    def take(self, source: WorkerId, target: WorkerId) -> MemoryFrame | None:
        """Return the next frame on the wire, or None."""
        wire = self._wires.get((source, target))
        return wire.popleft() if wire else None

    def is_waiting(self, source: WorkerId, target: WorkerId) -> bool:
        """Whether ``take`` has a frame."""
        return bool(self._wires.get((source, target)))

    def is_up(self, worker: WorkerId) -> bool:
        """Whether the worker's plane has been bound and not closed."""
        return worker in self._up

    def raise_up(self, worker: WorkerId) -> None:
        """Account for a plane that was bound."""
        self._up.add(worker)

    def cut(self, worker: WorkerId) -> None:
        """Take a worker off the network, as its death would; what it had sent still arrives."""
        self._up.discard(worker)


class MemoryDataPlane:
    """The channels of one worker in memory; see ``DataPlane`` for the contract."""

    def __init__(self, network: MemoryNetwork, member: Member, routes: Iterable[Route]) -> None:
        self._network = network
        self._worker = member.worker
        routes = tuple(routes)
        self._sessions = make_sessions(member, routes)
        self._turns = Turns(self._sessions.values())
        self._of_channel = by_channel(self._worker, routes, self._sessions)
        self._is_open = False

    def bind(self) -> None:
        self._network.raise_up(self._worker)

    def connect(self) -> None:
        self._is_open = True
        for peer, session in self._sessions.items():
            greeting = session.greeting()
            header = Header(FrameKind.GREETING, greeting.attempt)
            self._network.put(self._worker, peer, MemoryFrame(header, greeting))

    def send(self, channel: ChannelId, element: Element) -> int:
        session = self._session(channel)
        if isinstance(element, Batch):
            header = session.element(channel, FrameKind.BATCH)._replace(records=len(element))
            self._put(session, MemoryFrame(header, element))
        else:
            self._put(session, MemoryFrame(session.element(channel, *control_fields(element))))
        return 0

    def grant(self, channel: ChannelId, credits: int) -> None:
        session = self._session(channel)
        self._put(session, MemoryFrame(session.credit(channel, credits)))

    def receive(self, limit: int = 100) -> list[Received]:
        def take(session: PeerSession, received: list[Received]) -> None:
            while len(received) < limit and (one := self._receive_from(session)) is not None:
                received.append(one)

        return self._turns.receive(limit, take)

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        return []

    @property
    def has_input(self) -> bool:
        """Whether ``receive`` has something to look at, or to raise."""
        return self._is_open and any(
            self._network.is_waiting(peer, self._worker) or not self._network.is_up(peer)
            for peer in self._sessions
        )

    def tell_positions(self, now_ms: int) -> None:
        for session in self._sessions.values():
            for header in session.positions():
                self._put(session, MemoryFrame(header))

    def close(self) -> None:
        if self._is_open:
            self._network.cut(self._worker)
        self._is_open = False

    def _session(self, channel: ChannelId) -> PeerSession:
        session = self._of_channel.get(channel)
        if session is None:
            raise LocalProtocolError(
                f"channel {channel} does not join worker {self._worker} to another"
            )
        if not self._is_open:
            raise LocalProtocolError(f"no connection to worker {session.peer} is open")
        return session

    def _put(self, session: PeerSession, frame: MemoryFrame) -> None:
        if not self._network.is_up(session.peer):
            raise ConnectionLost(f"worker {session.peer} is gone")
        self._network.put(self._worker, session.peer, frame)

    def _receive_from(self, session: PeerSession) -> Received | None:
        while (frame := self._network.take(session.peer, self._worker)) is not None:
            header, payload = frame
            if isinstance(payload, Greeting):
                session.greet(payload)
                continue
            session.accept(header)
            channel = ChannelId(header.channel)
            if header.kind is FrameKind.CREDIT:
                return Granted(channel, header.value)
            if header.kind is not FrameKind.POSITION:
                return Arrival(channel, self._element(frame))
        if self._is_open and not self._network.is_up(session.peer):
            raise ConnectionLost(f"the connection to worker {session.peer} is lost")
        return None

    @staticmethod
    def _element(frame: MemoryFrame) -> Element:
        header, payload = frame
        if isinstance(payload, Batch):  # an empty one is false
            return payload
        return control_element(header.kind, header.value)
