"""Who is heard? Whoever has shown the token, and nobody else.

A worker process speaks with one or two identities: its own, and that of its heartbeats, which come
from a thread and so from a socket of their own. Each begins with ``WorkerReady`` and the token. A
worker process that replaces a dead one makes the identities of the old one unheard.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from flowsnap.core.ids import WorkerId
from flowsnap.core.message import FromWorker, WorkerReady
from flowsnap.errors import PeerProtocolError
from flowsnap.transport.message import decode_from_worker

GREETING_BYTES_MAX = 4096
_HEARTBEAT = b"heartbeat/"
_WORKER = b"worker/"


def make_identity(worker: WorkerId, *, is_heartbeat: bool = False) -> bytes:
    """Return an identity that no other socket has."""
    role = _HEARTBEAT if is_heartbeat else _WORKER
    return role + f"{worker}/{os.getpid()}/{secrets.token_hex(8)}".encode()


class _Speaker(NamedTuple):
    worker: WorkerId
    pid: int


class Admission:
    """The identities that have shown the token; ``refused`` counts the messages of all others."""

    def __init__(self, token: str) -> None:
        self.refused = 0
        self._token = token.encode()
        self._speakers: dict[bytes, _Speaker] = {}
        self._routes: dict[WorkerId, bytes] = {}

    def route(self, worker: WorkerId) -> bytes | None:
        """Return the identity to which messages for a worker go."""
        return self._routes.get(worker)

    def take(self, identity: bytes, parts: Sequence[bytes]) -> tuple[WorkerId, FromWorker] | None:
        """Return the message of an identity with its worker, or None if it's not to be heard.

        Raises:
            PeerProtocolError: an admitted worker sent something malformed, or in another's name.
        """
        speaker = self._speakers.get(identity)
        if speaker is None:
            return self._admit(identity, parts)
        worker = speaker.worker
        try:
            if len(parts) != 1:
                raise PeerProtocolError(f"a message of {len(parts)} parts, expected 1")
            message = decode_from_worker(parts[0])
        except PeerProtocolError as error:
            error.args = (f"worker {worker} sent {error}",)
            raise
        claimed = getattr(message, "worker", worker)
        if claimed != worker:
            raise PeerProtocolError(
                f"worker {worker} sent {type(message).__name__} in the name of worker {claimed}"
            )
        if isinstance(message, WorkerReady) and not self._is_token(message.token):
            self.refused += 1
            return None
        return worker, message

    def _admit(self, identity: bytes, parts: Sequence[bytes]) -> tuple[WorkerId, FromWorker] | None:
        ready = self._greeting(parts)
        if ready is None:
            self.refused += 1
            return None
        self._speakers[identity] = _Speaker(ready.worker, ready.pid)
        if identity.startswith(_HEARTBEAT):
            return None
        for other, speaker in list(self._speakers.items()):
            is_replaced = speaker.worker == ready.worker and speaker.pid != ready.pid
            if is_replaced or other == self._routes.get(ready.worker):
                del self._speakers[other]
        self._routes[ready.worker] = identity
        return ready.worker, ready

    def _greeting(self, parts: Sequence[bytes]) -> WorkerReady | None:
        if len(parts) != 1 or len(parts[0]) > GREETING_BYTES_MAX:
            return None
        try:
            message = decode_from_worker(parts[0])
        except PeerProtocolError:
            return None
        if not isinstance(message, WorkerReady):
            return None
        return message if self._is_token(message.token) else None

    def _is_token(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token)
