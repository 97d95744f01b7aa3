"""Named places in the protocol where a test can make the process die, stop, raise or wait.

``FLOWSNAP_FAILPOINTS="jm.manifest_renamed=kill@2;op.file_written=raise:OSError(28)"`` arms two of
them. An entry is ``NAME=ACTION[@HIT][,worker=ID]``; it fires at the ``HIT``-th passage (1 by
default), once. A worker that replaces a dead one is started with no failpoints, or it would die
of the same one for ever.

Unarmed, ``failpoint(name)`` is one dictionary look-up in an empty dict.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from dataclasses import dataclass

from flowsnap.errors import ConfigError

VARIABLE = "FLOWSNAP_FAILPOINTS"

POINTS: frozenset[str] = frozenset(
    {
        "src.read", "src.offset_recorded", "src.barrier_injected",
        "ch.frame_sent", "ch.barrier_sent", "ch.barrier_recv_first", "ch.aligned",
        "uc.channel_state_open", "uc.channel_state_sealed",
        "op.pre_snapshot", "op.frozen", "op.file_written", "op.checkpointed",
        "op.file_stored", "op.ack_sent",
        "sink.prepared", "sink.notify_recv", "sink.commit_called", "sink.committed",
        "jm.id_persisted", "jm.triggered", "jm.ack", "jm.manifest_tmp", "jm.manifest_fsynced",
        "jm.manifest_renamed", "jm.dir_fsynced", "jm.notify_sent", "jm.subsumed_deleted",
        "jm.finish_recorded",
        "rs.attempt_persisted", "rs.manifest_read", "rs.files_verified", "rs.state_opened",
        "rs.recommitted", "rs.running",
        "gc.listed", "gc.deleted",
    }
)  # fmt: skip

_ENTRY = re.compile(
    r"(?P<name>[a-z]+\.[a-z_]+)=(?P<action>kill|stop|hang|exit|raise|delay)"
    r"(?::(?P<argument>[A-Za-z]*\(?\d+\)?))?(?:@(?P<hit>\d+))?(?:,worker=(?P<worker>-?\d+))?"
)


@dataclass(slots=True)
class _Armed:
    action: str
    argument: str
    hits_left: int
    worker: int | None


_armed: dict[str, _Armed] = {}
_worker: int = -1


def arm(text: str, *, worker: int = -1) -> None:
    """Arm the failpoints of ``text`` in this process; ``worker`` is -1 in the job manager.

    Raises:
        ConfigError: an entry does not parse, or names no failpoint.
    """
    global _worker  # noqa: PLW0603 - one process, one registry
    _worker = worker
    _armed.clear()
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        match = _ENTRY.fullmatch(entry)
        if match is None or match["name"] not in POINTS:
            raise ConfigError(f"failpoint {entry!r} is not NAME=ACTION[@HIT][,worker=ID]")
        _armed[match["name"]] = _Armed(
            match["action"],
            match["argument"] or "",
            int(match["hit"] or 1),
            None if match["worker"] is None else int(match["worker"]),
        )


def arm_from_environment(*, worker: int = -1) -> None:
    """Arm what the environment variable says, if anything."""
    arm(os.environ.get(VARIABLE, ""), worker=worker)


def failpoint(name: str) -> None:
    """Pass the place ``name``: does nothing unless a test has armed it."""
    armed = _armed.get(name)
    if armed is None or (armed.worker is not None and armed.worker != _worker):
        return
    armed.hits_left -= 1
    if armed.hits_left == 0:
        del _armed[name]
        _fire(name, armed)


def _fire(name: str, armed: _Armed) -> None:
    match armed.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "exit":
            os._exit(int(armed.argument or 1))
        case "hang":
            while True:
                time.sleep(3600)
        case "delay":
            time.sleep(int(armed.argument or 100) / 1000)
        case _:
            number = int(re.sub(r"\D", "", armed.argument) or errno.EIO)
            raise OSError(number, f"failpoint {name}")
