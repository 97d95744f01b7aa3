"""Whose turn is it? Takes what several peers have sent, so that none keeps the others waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from flowsnap.errors import FlowsnapError
from flowsnap.transport.plane import Received

P = TypeVar("P")


class Turns(Generic[P]):
    """The peers of a plane, in the order in which they are received from next."""

    def __init__(self, peers: Iterable[P]) -> None:
        self.peers = list(peers)
        self._error: FlowsnapError | None = None

    def receive(self, limit: int, take: Callable[[P, list[Received]], None]) -> list[Received]:
        """Return what ``take`` has appended for each peer, up to ``limit`` in all.

        An error of one peer waits for the next call if something came before it, which counts.

        Raises:
            FlowsnapError: what ``take`` raises, or has raised before.
        """
        if self._error is not None:
            raise self._error
        received: list[Received] = []
        try:
            for peer in self.peers:
                take(peer, received)
        except FlowsnapError as error:
            if not received:
                raise
            self._error = error
        if len(received) == limit:  # the next call begins with another peer
            self.peers.append(self.peers.pop(0))
        return received
