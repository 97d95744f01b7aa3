"""The simulated network: delays, lost connections and lost frames, below the real protocol.

Control plane and data plane are the twins in memory, with their real admission, sessions and
sequence numbers; only what lies between the two ends is replaced. Each direction of a connection is
FIFO with random delays. A lost connection loses a suffix of what is under way, and both ends learn
of it a moment later. A dropped frame is lost without anybody being told, as ZeroMQ may do. One
direction may be blocked for a while: TCP sends again until it is open, so all of it comes late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, Protocol, TypeVar

from flowsnap.core.ids import AttemptId, WorkerId
from flowsnap.core.message import FromWorker, Heartbeat, ToWorker, WorkerReady
from flowsnap.errors import ConnectionLost
from flowsnap.testing.world import Actor, World
from flowsnap.transport.admission import make_identity
from flowsnap.transport.control import MemoryControlServer
from flowsnap.transport.memory import MemoryDataPlane, MemoryFrame, MemoryNetwork
from flowsnap.transport.message import decode_to_worker, encode_message
from flowsnap.transport.plane import Member, Route

T = TypeVar("T")
TOKEN = "token"
DELAY_US = (20, 600)
SLOW_US = (2_000, 15_000)
LATE_US = (8_000, 40_000)
"""By how much the last words of a process may be late."""
TOGETHER = 0.7
"""How often what is sent right behind something else arrives with it, as in one packet."""


class Endpoint(Actor, Protocol):
    """A process that can be woken."""

    pid: int

    def wake(self, at_us: int) -> None:
        """Have it step at a moment, or earlier."""


def delay_us(world: World) -> int:
    """Return how long something is under way: short, and sometimes long."""
    chance = world.network.random
    low, high = SLOW_US if chance() < 0.03 else DELAY_US
    return low + int(chance() * (high - low))


# --- control plane -------------------------------------------------------------------------------


class _Outbox(deque[bytes]):
    """What the server has for one worker: on its way, not there yet."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        super().__init__()
        self._send = send

    def append(self, data: bytes) -> None:
        self._send(data)


class ControlHub(MemoryControlServer):
    """The job manager's end."""

    def __init__(
        self,
        world: World,
        owner: Endpoint,
        heard: Callable[[WorkerId, FromWorker], None],
        told: Callable[[ToWorker], None],
    ) -> None:
        super().__init__(TOKEN)
        self.owner = owner
        self.links: list[ControlLink] = []
        self._world = world
        self._heard = heard
        self._told = told
        self._refused = 0

    def receive(self) -> list[tuple[WorkerId, FromWorker]]:
        received = super().receive()
        for worker, message in received:
            if not isinstance(message, Heartbeat):
                self._heard(worker, message)
        if self.refused > self._refused:
            self._refused = self.refused
            self._world.trace.reached("a replaced worker is not heard")
        return received

    def send(self, worker: WorkerId, message: ToWorker) -> None:
        name = f"{type(message).__name__} to {worker} {getattr(message, 'checkpoint_id', '')}"
        number = self._world.begin_effect(self.owner, name)
        self._told(message)
        super().send(worker, message)
        self._world.end_effect(self.owner, number)

    def link(self, process: Endpoint, worker: WorkerId) -> ControlLink:
        """Return the end of a new worker process."""
        link = ControlLink(self, process, worker, self._world)
        self.links.append(link)
        return link


class _Lane(Generic[T]):
    """One direction of a control connection: what is sent arrives in order, some at a time."""

    __slots__ = ("_arrive", "_packet", "_sent_us", "_world", "blocked_us", "last_us")

    def __init__(self, world: World, arrive: Callable[[list[T], int], None]) -> None:
        self.last_us = self.blocked_us = 0
        self._world = world
        self._arrive = arrive
        self._packet: list[T] = []
        self._sent_us = -1

    def send(self, item: T, delay_us: int) -> None:
        """Have ``item`` arrive in ``delay_us`` or later, or with what was sent just before it."""
        world, last_us = self._world, self.last_us
        now_us = world.now_us
        if self._sent_us == now_us < last_us and world.network.random() < TOGETHER:
            self._packet.append(item)
            return
        self._sent_us, self._packet = now_us, [item]
        self.last_us = at_us = max(last_us + 1, self.blocked_us, now_us + delay_us)
        world.at(at_us, partial(self._arrive, self._packet, at_us))


class ControlLink:
    """A worker's end, with the connection of its heartbeats; ``process`` may be the owner's own."""

    def __init__(self, hub: ControlHub, process: Endpoint, worker: WorkerId, world: World) -> None:
        self.process = process
        self.worker = worker
        self.is_lost = False
        self._hub = hub
        self._world = world
        self._identity = make_identity(worker)
        self._beats = make_identity(worker, is_heartbeat=True)
        self._inbox: deque[bytes] = deque()
        self._up = _Lane(world, self._arrive_up)
        self._down = _Lane(world, self._arrive_down)
        self._lost_at_us: int | None = None
        self._late_us = 0
        hub.outboxes[self._identity] = _Outbox(self._send_down)

    def greet(self) -> None:
        """Show the token on both connections."""
        ready = WorkerReady(
            attempt=AttemptId(0), worker=self.worker, token=TOKEN, pid=self.process.pid
        )
        self.send(ready)
        self._send_up(self._beats, encode_message(ready))

    def send(self, message: FromWorker) -> None:
        """Send to the job manager.

        Raises:
            ConnectionLost: it is gone.
        """
        number = self._world.begin_effect(self.process, _name(message))
        if self.is_lost:
            raise ConnectionLost(f"worker {self.worker} has lost the job manager")
        self._send_up(self._identity, encode_message(message))
        self._world.end_effect(self.process, number)

    def beat(self, steps: int) -> None:
        """Send a heartbeat, from a thread of its own, as it were."""
        message = Heartbeat(attempt=AttemptId(0), worker=self.worker, steps=steps)
        self._send_up(self._beats, encode_message(message))

    def receive(self) -> list[ToWorker]:
        """Return what has come.

        Raises:
            ConnectionLost: the job manager is gone.
        """
        if not self._inbox and self.is_lost:
            raise ConnectionLost(f"worker {self.worker} has lost the job manager")
        received = [decode_to_worker(data) for data in self._inbox]
        self._inbox.clear()
        return received

    def lose(self) -> None:
        """Lose the connection: what is under way arrives in part, then both ends learn of it."""
        if self._lost_at_us is not None:
            return
        world = self._world
        self._hub.outboxes.pop(self._identity, None)
        self._lost_at_us = world.now_us + world.network.randint(0, 1_000)
        if world.network.random() < 0.4:
            self._late_us = world.network.randint(*LATE_US)
        world.after(world.network.randint(1_000, 3_000), self._notice)

    def block(self, until_us: int, *, is_up: bool) -> None:
        """Have nothing arrive at one end until a moment; what is sent meanwhile comes then."""
        (self._up if is_up else self._down).blocked_us = until_us

    @property
    def is_unheard(self) -> bool:
        """Whether the way to the job manager is blocked."""
        return self._up.blocked_us > self._world.now_us

    def _notice(self) -> None:
        self.is_lost = True
        self.process.wake(self._world.now_us)

    def _arrives(self, at_us: int) -> bool:
        return self._lost_at_us is None or at_us <= self._lost_at_us

    def _send_up(self, identity: bytes, data: bytes) -> None:
        self._up.send((identity, data), self._delay_us())

    def _arrive_up(self, packet: list[tuple[bytes, bytes]], at_us: int) -> None:
        if self._late_us and self._arrives(at_us):
            self._world.after(self._late_us, partial(self._deliver_up, packet))
        elif self._arrives(at_us):
            self._deliver_up(packet)

    def _deliver_up(self, packet: list[tuple[bytes, bytes]]) -> None:
        hub = self._hub
        if hub.owner.is_alive:
            hub.inbox.extend(packet)
            hub.owner.wake(self._world.now_us)

    def _send_down(self, data: bytes) -> None:
        self._down.send(data, self._delay_us())

    def _arrive_down(self, packet: list[bytes], at_us: int) -> None:
        if self._arrives(at_us) and self.process.is_alive:
            self._inbox.extend(packet)
            self.process.wake(at_us)

    def _delay_us(self) -> int:
        return 0 if self.process is self._hub.owner else delay_us(self._world)


def _name(message: FromWorker) -> str:
    detail = getattr(message, "checkpoint_id", "")
    task = getattr(message, "task", None) or getattr(getattr(message, "snapshot", None), "task", "")
    return f"{type(message).__name__} {task} {detail}"


# --- data plane ----------------------------------------------------------------------------------


class _Wire:
    """One direction between two workers."""

    __slots__ = ("blocked_us", "frames", "is_cut", "last_us", "noticed_us", "sent_us", "to_drop")

    def __init__(self) -> None:
        self.frames: deque[tuple[int, MemoryFrame]] = deque()
        self.last_us = 0
        self.sent_us = -1
        self.to_drop = 0
        self.blocked_us = 0
        self.is_cut = False
        self.noticed_us = 0


class DataNetwork:
    """The connections between the workers of one attempt."""

    def __init__(self, world: World, routes: Iterable[Route], job: str, attempt: AttemptId) -> None:
        self.world = world
        self.members: dict[WorkerId, Endpoint] = {}
        self._routes = tuple(routes)
        self._job = job
        self._attempt = attempt
        self._wires: dict[tuple[WorkerId, WorkerId], _Wire] = {}

    def plane(self, process: Endpoint, worker: WorkerId) -> MemoryDataPlane:
        """Return the plane of a worker."""
        self.members[worker] = process
        view = _View(self, process, worker)
        return MemoryDataPlane(view, Member(self._job, self._attempt, worker), self._routes)

    def wire(self, source: WorkerId, target: WorkerId) -> _Wire:
        """Return one direction of a connection."""
        wire = self._wires.get((source, target))
        if wire is None:
            wire = self._wires[source, target] = _Wire()
        return wire

    def cut(self, source: WorkerId, target: WorkerId, *, is_orderly: bool) -> None:
        """Lose one direction; unless it is orderly, a suffix of what is under way goes with it."""
        wire, world = self.wire(source, target), self.world
        if wire.is_cut:
            return
        if not is_orderly and wire.frames:
            for _ in range(world.network.randint(0, len(wire.frames))):
                wire.frames.pop()
        last_us = wire.frames[-1][0] if wire.frames else world.now_us
        wire.is_cut = True
        wire.noticed_us = max(last_us, world.now_us) + world.network.randint(100, 2_000)
        if target in self.members:
            self.members[target].wake(wire.noticed_us)

    def reset(self, one: WorkerId, other: WorkerId) -> None:
        """Lose the connection of two workers."""
        self.cut(one, other, is_orderly=False)
        self.cut(other, one, is_orderly=False)

    def remove(self, worker: WorkerId, *, is_orderly: bool) -> None:
        """Take a worker off the network."""
        for peer in self.members:
            if peer != worker:
                self.cut(worker, peer, is_orderly=is_orderly)

    def drop(self, source: WorkerId, target: WorkerId, count: int) -> None:
        """Lose the next ``count`` numbered frames of one direction, silently."""
        self.wire(source, target).to_drop += count

    def block(self, source: WorkerId, target: WorkerId, until_us: int) -> None:
        """Have no frame of one direction arrive until a moment; the other one stays open."""
        self.wire(source, target).blocked_us = until_us

    def in_use(self) -> list[tuple[WorkerId, WorkerId]]:
        """Return the directions in which anything was sent, in order."""
        return sorted(ends for ends, wire in self._wires.items() if wire.last_us)

    def heal(self) -> None:
        """Lose and block nothing more."""
        for wire in self._wires.values():
            wire.to_drop = wire.blocked_us = 0


class _View(MemoryNetwork):
    """The network as the plane of one worker sees it."""

    def __init__(self, network: DataNetwork, process: Endpoint, worker: WorkerId) -> None:
        super().__init__(())
        self._network = network
        self._process = process
        self._worker = worker

    def put(self, source: WorkerId, target: WorkerId, frame: MemoryFrame) -> None:
        world, wire = self._network.world, self._network.wire(source, target)
        header = frame.header
        number = world.begin_effect(
            self._process, f"{header.kind.name} {header.channel} #{header.sequence} to {target}"
        )
        if wire.to_drop and header.sequence and not self._is_position(frame):
            wire.to_drop -= 1
            world.note("network", f"drops #{header.sequence} of channel {header.channel}")
        elif not wire.is_cut:
            is_new = wire.sent_us != world.now_us or world.network.random() >= TOGETHER
            if is_new:
                earliest_us = max(wire.last_us, wire.blocked_us)
                wire.last_us = max(earliest_us, world.now_us + delay_us(world))
                wire.sent_us = world.now_us
            wire.frames.append((wire.last_us, frame))
            peer = self._network.members.get(target)
            if peer is not None:
                peer.wake(wire.last_us)
        world.end_effect(self._process, number)

    def take(self, source: WorkerId, target: WorkerId) -> MemoryFrame | None:
        wire = self._network.wire(source, target)
        if wire.frames and wire.frames[0][0] <= self._network.world.now_us:
            return wire.frames.popleft()[1]
        return None

    def is_waiting(self, source: WorkerId, target: WorkerId) -> bool:
        return bool(self._network.wire(source, target).frames)

    def is_up(self, worker: WorkerId) -> bool:
        wire = self._network.wire(worker, self._worker)
        return not wire.is_cut or bool(wire.frames) or self._network.world.now_us < wire.noticed_us

    def raise_up(self, worker: WorkerId) -> None:
        """Nothing to do: a wire is there from the beginning."""

    def cut(self, worker: WorkerId) -> None:
        self._network.remove(worker, is_orderly=True)

    @staticmethod
    def _is_position(frame: MemoryFrame) -> bool:
        return frame.header.kind.name == "POSITION"
