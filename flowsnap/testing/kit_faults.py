"""Which kinds of fault strike the worlds in which a user's pipeline is simulated."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import get_args

import msgspec

from flowsnap.errors import ConfigError
from flowsnap.testing.substitute import unknown
from flowsnap.testing.trouble import CALLS, EVERYBODY, MANAGER, POINTS, SELF, Fault, draw_faults
from flowsnap.testing.trouble import Kind as FaultKind

DRAWS_MAX = 200
DEADLY: tuple[FaultKind, ...] = ("kill", "crash", "point", "pause")
HEARTBEAT_TIMEOUT_MS = 200
COMMITS = [
    index
    for index, (begins, _) in enumerate(POINTS)
    if begins in {"sink commit", "sink prepare", "CompleteCheckpoint"}
]
"""Places at which a sink is in between."""


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What may go wrong; everything, unless it is switched off.

    ``workers``, ``manager``: one is killed, or sleeps for a while and wakes up as a zombie.
    ``power``: all die at once, and the disk forgets what was not synced. ``network``: connections
    and frames are lost, or late. ``disk``: calls fail, with or without having taken effect, there
    is no space, and a file rots, is named and put back. ``sinks``: prepare and commit fail, or take
    effect late. ``sources``: a read raises. ``clock``: the wall clock jumps. ``rescale``: a job
    that is started again may have another parallelism and another number of workers.
    """

    workers: bool = True
    manager: bool = True
    power: bool = True
    network: bool = True
    disk: bool = True
    sinks: bool = True
    sources: bool = True
    clock: bool = True
    rescale: bool = True

    def draw(self, chance: Random) -> list[Fault]:
        """Return the faults of one world; where some are allowed, one world in ten has none."""
        is_any = any(self._allows(kind) for kind in get_args(FaultKind))
        if not is_any or chance.random() < 0.1:
            return []
        count, found = chance.randint(1, 5), self._aimed(chance)
        for _ in range(DRAWS_MAX):
            drawn = draw_faults(chance, HEARTBEAT_TIMEOUT_MS)
            found += [fault for fault in drawn if self._permits(fault)]
            if len(found) >= count:
                break
        return found[:count]

    def _aimed(self, chance: Random) -> list[Fault]:
        """Return a death around the commit of a sink, in one world of three: seldom hit by chance.

        It takes the process that does it, whichever that is.
        """
        if not (self.workers and self.manager) or chance.random() > 1 / 3:
            return []
        place, hit = chance.choice(COMMITS), chance.randint(1, 6)
        return [Fault("point", hit, SELF, place, chance.random() < 0.5)]

    def _permits(self, fault: Fault) -> bool:
        if not self._allows(fault.kind):
            return False
        if fault.kind in DEADLY:
            return {
                EVERYBODY: self.power,
                MANAGER: self.manager,
                SELF: self.workers and self.manager,  # whoever it is that comes by
            }.get(fault.who, self.workers)
        return True

    def _allows(self, kind: FaultKind) -> bool:
        is_deadly = self.workers or self.manager or self.power
        allowed: dict[FaultKind, bool] = {
            **dict.fromkeys(DEADLY, is_deadly),
            "zombie": self.workers and self.manager,
            "stop": self.manager,
            "cancel": self.manager,
            "reset": self.network,
            "partition": self.network,
            "drop": self.network,
            "control": self.network,
            "disk": self.disk,
            "fail": self.disk,
            "sync": self.disk,
            "quota": self.disk,
            "rot": self.disk,
            "sink": self.sinks,
            "late": self.sinks,
            "user": self.sources,
            "wall": self.clock,
        }
        return allowed.get(kind, False)


def faults_of(wanted: Faults | str | Iterable[str] | None) -> Faults:
    """Return the kinds of fault that ``simulate`` was given, by name or as a whole.

    Raises:
        ConfigError: a name is unknown.
    """
    if isinstance(wanted, Faults):
        return wanted
    if wanted is None:
        return Faults()
    names = {wanted} if isinstance(wanted, str) else set(wanted)
    known = Faults.__struct_fields__
    for name in names:
        if name not in known:
            error = unknown("faults", name, known)
            raise ConfigError(f"faults: there is no kind {name!r}").hint(error.__notes__[0])
    return Faults(**{name: name in names for name in known})


def describe(fault: Fault) -> str:
    """Return one fault in words."""
    moment = f"at {fault.at / 1000:.1f} ms"
    side = f"{'after' if fault.is_after else 'before'} it takes effect"
    if fault.kind in DEADLY:
        return _describe_death(fault, moment)
    return {
        "fail": f"number {fault.at} of {_place(CALLS, fault.who)} fails, {side}",
        "disk": f"call {fault.at} of the disk fails, {side}",
        "sink": f"call {fault.at} of a sink fails, {side}",
        "user": f"read {fault.at} of a source raises",
        "sync": f"sync {fault.at} of a file fails, and what was written is lost",
        "quota": f"there are {fault.value} bytes of space left {moment}",
        "late": f"{'prepare' if fault.is_after else 'commit'} {fault.at} of a sink takes effect "
        f"{fault.value / 1000:g} ms late",
        "rot": f"one bit of a file is turned over {moment}",
        "stop": f"the job is stopped in order {_when(fault)}, and resumed",
        "cancel": f"the job is cancelled {_when(fault)}, and resumed",
        "partition": f"one direction {_between(fault)} is blocked {moment}",
        "reset": f"two workers lose each other {moment}",
        "drop": f"frames between two workers are lost in silence {moment}",
        "control": f"a worker loses the job manager {moment}",
        "wall": f"the wall clock jumps by {fault.value / 1000:g} s {moment}",
        "zombie": f"the workers sleep while their job manager dies, {moment}",
    }.get(fault.kind, f"{fault.kind} {moment}")


def _when(fault: Fault) -> str:
    if not fault.value:
        return f"at {fault.at / 1000:.1f} ms"
    return f"{fault.who / 1000:g} ms after number {fault.at} of {_place(POINTS, fault.value - 1)}"


def _between(fault: Fault) -> str:
    if fault.who == SELF:
        return "between two workers"
    return f"{'from' if fault.is_after else 'to'} worker {fault.who}"


def _describe_death(fault: Fault, moment: str) -> str:
    names = {EVERYBODY: "everybody", MANAGER: "the job manager", SELF: "whoever does it"}
    who = names.get(fault.who, f"worker {fault.who}")
    side = "after" if fault.is_after else "before"
    if fault.kind == "point":
        return f"kill {who} {side} number {fault.at} of {_place(POINTS, fault.value)}"
    if fault.kind == "crash":
        return f"kill {who} {side} effect {fault.at}"
    return f"{fault.kind} {who} {moment}"


def _place(places: tuple[tuple[str, str], ...], index: int) -> str:
    if not 0 <= index < len(places):
        return "effects"
    return repr(" ".join(filter(None, places[index])))
