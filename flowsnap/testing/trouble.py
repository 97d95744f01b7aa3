"""The faults of one world: a list that is drawn once, and can be shortened and replayed."""

from __future__ import annotations

import errno
from random import Random
from typing import Literal

import msgspec

Kind = Literal[
    "kill", "pause", "reset", "drop", "control", "wall", "zombie",  # at a moment, in us
    "stop", "drain", "savepoint", "ask",  # what a user wants, at a moment as well
    "crash",  # at an effect
    "point",  # at the n-th effect of one kind
    "disk", "sink", "user",  # at a call
    "fail",  # at the n-th call of the disk of one kind
]  # fmt: skip

EVERYBODY = -2
MANAGER = -1
"""Whom a fault strikes, where it is no worker's number; a crash may also strike ``SELF``."""
SELF = -3

POINTS: tuple[tuple[str, str], ...] = (
    ("link", "manifest.json"), ("fsync_directory", "checkpoints/"), ("CompleteCheckpoint", ""),
    ("sink commit", ""), ("sink prepare", ""), ("sink abort", ""), ("create", "shared"),
    ("Acknowledged", ""), ("TriggerCheckpoint", ""), ("Deployed", ""), ("Start to", ""),
    ("unlink", "manifest.json"), ("unlink", "shared"), ("link", "attempts"), ("link", "begun"),
    ("Shutdown", ""), ("replace", "outcome.json"), ("Committed", ""), ("replace", "job.json"),
    ("BARRIER", ""), ("END_OF_INPUT", ""), ("Cancelled", ""), ("TaskFailed", ""), ("Deploy to", ""),
    ("TaskEnded", ""), ("fsync_directory", "shared"), ("AbortCheckpoint", ""),
)  # fmt: skip
"""Effects that a crash is put at by name: what they begin with, and what they contain."""

CALLS: tuple[tuple[str, str], ...] = (
    ("link", "manifest.json"), ("fsync_directory", "checkpoints/"), ("create", "checkpoints/"),
    ("unlink", "manifest.json"), ("unlink", "shared"), ("link", "attempts"), ("link", "begun"),
    ("replace", "outcome.json"), ("replace", "shared"), ("fsync_directory", "shared"),
    ("fsync_directory", "attempts"), ("replace", "job.json"), ("make_directory", ""),
)  # fmt: skip
"""Calls of the disk that a failure is put at by name."""

SPANS_US = (60_000, 150_000, 250_000)
"""Half of the jobs end within 200 ms of virtual time if nothing happens to them."""
FAULTS_MAX = 6


class Fault(msgspec.Struct, frozen=True):
    """One fault: ``at`` is a moment in us, or the number of an effect or call.

    ``at`` of a "point" or "fail" counts passages of a place, whose index is ``value`` or ``who``.
    ``who`` is a worker, ``MANAGER``, ``EVERYBODY`` or ``SELF``; of an "ask" it is the alignment,
    and ``value`` decides by whom the checkpoint is begun. A "stop", "drain" or "savepoint" with a
    ``value`` is wanted ``who`` us after passage ``at`` of that place, counted from 1. Otherwise
    ``value`` is a duration in us, a count or an errno; ``is_after``: the call takes effect, and
    then fails.
    """

    kind: Kind
    at: int
    who: int = SELF
    value: int = 0
    is_after: bool = False


def draw_faults(chance: Random, heartbeat_timeout_ms: int) -> list[Fault]:
    """Return the faults of a world; one in ten has none."""
    if chance.random() < 0.1:
        return []
    kinds: list[Kind] = ["kill", "crash", "disk", "sink", "pause", "reset", "drop", "stop"]
    kinds += ["user", "control", "wall", "drop", "zombie", "point", "point", "fail", "fail"]
    kinds += ["ask", "ask", "savepoint", "drain"]
    # Some kinds at a time, as in swarm testing: a world of everything is always restarting.
    chosen = chance.sample(kinds, chance.choice((1, 2, 2, 3, 4)))
    count = chance.randint(1, FAULTS_MAX)
    return [_draw(chance, chance.choice(chosen), heartbeat_timeout_ms) for _ in range(count)]


def _draw(chance: Random, kind: Kind, heartbeat_timeout_ms: int) -> Fault:
    if kind in {"crash", "point", "disk", "sink", "user", "fail"}:
        return _draw_counted(chance, kind)
    moment = chance.randrange(chance.choice(SPANS_US))
    match kind:
        case "pause":
            long_ms = heartbeat_timeout_ms * 2
            pause_ms = chance.choice((chance.randint(1, 40), chance.randint(long_ms // 2, long_ms)))
            who, value = chance.choice((MANAGER, 0, 1, 2)), pause_ms * 1000
        case "zombie":
            who, value = 0, chance.randint(20_000, 150_000)
        case "drop":
            who, value = chance.randrange(6), chance.randint(1, 3)
        case "ask":
            who, value = chance.randrange(3), chance.getrandbits(16)
        case "stop" | "drain" | "savepoint" if chance.random() < 0.5:
            moment, value = chance.choice((1, 1, 2, 3, 5)), 1 + chance.randrange(len(POINTS))
            who = chance.choice((0, 50, 300, 2_000))
        case "wall":
            who, value = 0, chance.choice((-86_400_000, -1, 1, 3_600_000))
        case _:
            who, value = _draw_victim(chance), 0
    return Fault(kind, moment, who, value)


def _draw_counted(chance: Random, kind: Kind) -> Fault:
    is_after = chance.random() < 0.5
    number = chance.choice((errno.EIO, errno.EIO, errno.ENOSPC))
    hit = chance.choice((1, 1, 2, 3, 5))
    match kind:
        case "crash":
            at = chance.randint(1, chance.choice((100, 400, 2_000)))
            who = chance.choice((SELF, SELF, _draw_victim(chance)))
            return Fault(kind, at, who, 0, is_after)
        case "point":
            who = SELF if chance.random() < 0.7 else EVERYBODY
            return Fault(kind, hit, who, chance.randrange(len(POINTS)), is_after)
        case "fail":
            return Fault(kind, hit, chance.randrange(len(CALLS)), number, is_after)
        case "disk":
            at = chance.randint(1, chance.choice((60, 250, 800)))
            return Fault(kind, at, chance.choice((1, 1, 1, 2, 10)), number, is_after)
        case _:  # sink, user
            return Fault(kind, chance.randint(1, 30 if kind == "sink" else 150), 0, 0, is_after)


def _draw_victim(chance: Random) -> int:
    return chance.choice((MANAGER, 0, 0, 1, 1, 2, EVERYBODY))
