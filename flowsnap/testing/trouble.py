"""The faults of one world: a list that is drawn once, and can be shortened and replayed."""

from __future__ import annotations

import errno
from random import Random
from typing import Literal

import msgspec

Kind = Literal[
    "kill", "pause", "reset", "drop", "control", "wall", "zombie",  # at a moment, in us
    "rot",  # at a moment, in one file
    "second",  # at a moment, somebody starts the job once more
    "partition", "quota",  # at a moment, and for a while
    "stop", "drain", "savepoint", "cancel", "older", "ask",  # what a user wants, at a moment
    "crash",  # at an effect
    "point",  # at the n-th effect of one kind
    "disk", "sink", "user",  # at a call
    "fail",  # at the n-th call of the disk of one kind
    "sync", "late",  # at the n-th sync of a file, and at the n-th commit or prepare
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
    ("LookRound", ""), ("sink withdraw", ""),
)  # fmt: skip
"""Effects that a crash is put at by name: what they begin with, and what they contain."""

ENDINGS = [
    POINTS.index((begins, "")) for begins in ("END_OF_INPUT", "TaskEnded", "LookRound", "LookRound")
]
"""Places at which a part of the job has ended, and the rest has not; in loops it takes longest."""
OUTCOMES = [
    POINTS.index(place)
    for place in (("link", "manifest.json"), ("CompleteCheckpoint", ""), ("sink commit", ""))
]
"""Places at which a checkpoint is complete, and not everybody knows."""

CALLS: tuple[tuple[str, str], ...] = (
    ("link", "manifest.json"), ("fsync_directory", "checkpoints/"), ("create", "checkpoints/"),
    ("unlink", "manifest.json"), ("unlink", "shared"), ("link", "attempts"), ("link", "begun"),
    ("replace", "outcome.json"), ("replace", "shared"), ("fsync_directory", "shared"),
    ("fsync_directory", "attempts"), ("replace", "job.json"), ("make_directory", ""),
)  # fmt: skip
"""Calls of the disk that a failure is put at by name."""

SPANS_US = (60_000, 150_000, 250_000)
"""Half of the jobs end within 200 ms of virtual time if nothing happens to them."""
FAULTS_MAX = 5
HITS = (1, 1, 2, 3, 5)
PLACED: frozenset[Kind] = frozenset(("point", "fail"))
LASTING: frozenset[Kind] = frozenset(("pause", "zombie", "partition", "quota"))
COUNTED: dict[Kind, tuple[int, ...]] = {
    "crash": (100, 400, 2_000), "disk": (60, 250, 800), "sync": (10, 40, 120),
    "sink": (30,), "late": (3, 15), "user": (150,),
}  # fmt: skip
"""Faults at the n-th effect, call, sync, commit or read, and up to which."""
AT_ENDINGS: dict[Kind, float] = {
    "stop": 0.9, "drain": 0.4, "savepoint": 0.2, "cancel": 0.2, "older": 0.2,
}  # fmt: skip
"""What a user wants, and how often that is when a part of the job has ended."""


class Fault(msgspec.Struct, frozen=True):
    """One fault: ``at`` is a moment in us, or the number of an effect or call.

    ``at`` of a "point" or "fail" counts passages of a place, whose index is ``value`` or ``who``.
    ``who`` is a worker, ``MANAGER``, ``EVERYBODY`` or ``SELF``; of an "ask" it is the alignment,
    and ``value`` decides by whom the checkpoint is begun. Another wish with a ``value`` is wanted
    ``who`` us after passage ``at`` of that place, counted from 1. Who wants an "older" checkpoint
    cancels the job, or kills its job manager (``is_after``). A "partition" lies between a
    worker and the job manager, or for ``SELF`` between two workers; ``is_after``: on the way up. A
    "quota" leaves ``value`` bytes. ``value`` of "rot" decides which bit of which file. It is a
    commit that is "late", or a prepare (``is_after``). Otherwise ``value`` is a duration in us, a
    count or an errno; ``is_after``: the call takes effect, and then fails.
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
    kinds += ["ask", "ask", "savepoint", "drain", "stop", "cancel", "older", "older"]
    kinds += [
        "partition",
        "quota",
        "sync",
        "late",
        "late",
        "sink",
        "rot",
        "zombie",
        "second",
        "partition",
    ]
    # Some kinds at a time, as in swarm testing: a world of everything is always restarting.
    chosen = chance.sample(kinds, chance.choice((1, 2, 2, 3, 4)))
    count = chance.randint(1, FAULTS_MAX)
    return [_draw(chance, chance.choice(chosen), heartbeat_timeout_ms) for _ in range(count)]


def _draw(chance: Random, kind: Kind, heartbeat_timeout_ms: int) -> Fault:
    if kind in PLACED:
        return _draw_placed(chance, kind)
    if kind in COUNTED:
        return _draw_counted(chance, kind)
    moment = chance.randrange(chance.choice(SPANS_US))
    if kind in AT_ENDINGS:
        return _draw_wish(chance, kind, moment)
    if kind in LASTING:
        return _draw_lasting(chance, kind, moment, heartbeat_timeout_ms)
    match kind:
        case "drop":
            who, value = chance.randrange(6), chance.randint(1, 3)
        case "ask" | "rot":
            who, value = chance.randrange(3), chance.getrandbits(16)
        case "wall":
            who, value = 0, chance.choice((-86_400_000, -1, 1, 3_600_000))
        case _:
            who, value = _draw_victim(chance), 0
    return Fault(kind, moment, who, value)


def _draw_lasting(chance: Random, kind: Kind, moment: int, heartbeat_timeout_ms: int) -> Fault:
    is_up = False
    match kind:
        case "pause":
            long_ms = heartbeat_timeout_ms * 2
            pause_ms = chance.choice((chance.randint(1, 40), chance.randint(long_ms // 2, long_ms)))
            who, value = chance.choice((MANAGER, 0, 1, 2)), pause_ms * 1000
        case "partition":
            who, value = chance.choice((SELF, 0, 1, 2)), chance.choice((5_000, 40_000, 300_000))
            is_up = chance.random() < 0.5
        case "quota":
            who, value = 0, chance.choice((0, 3_000, 10_000, 30_000))
        case _:  # zombie
            who, value = 0, chance.randint(20_000, 150_000)
    return Fault(kind, moment, who, value, is_up)


def _draw_wish(chance: Random, kind: Kind, moment: int) -> Fault:
    """A user wants something at a moment, or soon after something has happened."""
    if chance.random() < 0.4:
        return Fault(kind, moment, is_after=chance.random() < 0.5)
    places = ENDINGS if chance.random() < AT_ENDINGS[kind] else range(len(POINTS))
    hit, delay_us = chance.choice(HITS), chance.choice((0, 50, 300, 2_000))
    return Fault(kind, hit, delay_us, 1 + chance.choice(places), chance.random() < 0.5)


def _draw_placed(chance: Random, kind: Kind) -> Fault:
    """A crash or a failure at the n-th passage of a place."""
    is_after, hit = chance.random() < 0.5, chance.choice(HITS)
    if kind == "fail":
        return Fault(kind, hit, chance.randrange(len(CALLS)), _draw_errno(chance), is_after)
    who = SELF if chance.random() < 0.7 else EVERYBODY
    draw = chance.random()
    places = OUTCOMES if draw < 0.3 else ENDINGS if draw < 0.45 else range(len(POINTS))
    return Fault(kind, hit, who, chance.choice(places), is_after)


def _draw_counted(chance: Random, kind: Kind) -> Fault:
    is_after = chance.random() < 0.5
    at = chance.randint(1, chance.choice(COUNTED[kind]))
    match kind:
        case "crash":
            return Fault(kind, at, chance.choice((SELF, SELF, _draw_victim(chance))), 0, is_after)
        case "disk":
            calls = chance.choice((1, 1, 1, 2, 10))
            return Fault(kind, at, calls, _draw_errno(chance), is_after)
        case "late":
            return Fault(kind, at, SELF, chance.choice((500, 5_000, 40_000)), is_after)
        case _:  # sink, sync, user
            return Fault(kind, at, 0, 0, is_after)


def _draw_errno(chance: Random) -> int:
    return chance.choice((errno.EIO, errno.EIO, errno.ENOSPC))


def _draw_victim(chance: Random) -> int:
    return chance.choice((MANAGER, 0, 0, 1, 1, 2, EVERYBODY))
