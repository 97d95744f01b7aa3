"""Where the sockets of one host live: files in a directory that nobody else may enter."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import zmq

from flowsnap.errors import ConfigError

VIA_VARIABLE = "FLOWSNAP_SOCKETS_VIA"
FRAME_BYTES_MAX = 64 * 2**20
LINGER_MS = 1_000
HANDSHAKE_MS = 5_000
SEND_TIMEOUT_MS = 1_000

# Never, for us. ZeroMQ's own "never" (-1) throws away what has come and is not read yet.
RECONNECT_MS = 24 * 3_600_000

# sockaddr_un.sun_path, less the NUL at its end
_PATH_BYTES_MAX = 103 if sys.platform == "darwin" else 107


def ipc_endpoint(directory: Path, name: str) -> str:
    """Return the ZeroMQ endpoint of the socket file ``name`` in ``directory``.

    Raises:
        ConfigError: the path is too long, or others than the owner may enter the directory.
    """
    path = os.fsencode(directory / name)
    if len(path) > _PATH_BYTES_MAX:
        raise ConfigError(
            f"socket path {directory / name} has {len(path)} bytes, at most {_PATH_BYTES_MAX} work"
        ).hint("choose a shorter directory for sockets, for example by setting TMPDIR=/tmp")
    try:
        status = directory.stat()
    except OSError as error:
        raise ConfigError(f"socket directory {directory}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077:
        raise ConfigError(f"socket directory {directory} is open to others than its owner").hint(
            "whoever can connect to a socket can run code: make the directory with mode 0700"
        )
    if status.st_uid != os.geteuid():
        raise ConfigError(f"socket directory {directory} belongs to user {status.st_uid}")
    return f"ipc://{os.fsdecode(path)}"


def peer_endpoint(directory: Path, name: str) -> str:
    """Return where to connect in order to reach the socket file ``name`` of ``directory``.

    That is the socket itself, unless ``FLOWSNAP_SOCKETS_VIA`` names a directory in which a test's
    proxy listens under the same names. It must be as private as the real one.

    Raises:
        ConfigError: as ``ipc_endpoint``.
    """
    via = os.environ.get(VIA_VARIABLE)
    return ipc_endpoint(Path(via) if via else directory, name)


def limit(socket: zmq.Socket[bytes], bytes_max: int) -> None:
    """Bound what a socket accepts and how long it lingers, and forbid it to reconnect.

    A connection made again may have lost what the old one carried; so a lost one stays lost.
    """
    socket.set(zmq.MAXMSGSIZE, bytes_max)
    socket.set(zmq.LINGER, LINGER_MS)
    socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)


def has_input(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message can be read now; a third of the price of trying, where there is none."""
    return bool(int(socket.get(zmq.EVENTS)) & zmq.POLLIN)
