"""A one-way partition: nothing is lost, all that is sent meanwhile comes late and in order."""

from __future__ import annotations

import pytest

from flowsnap.core.ids import AttemptId, ChannelId, WorkerId
from flowsnap.core.message import LookRound
from flowsnap.testing.network import ControlHub, ControlLink, DataNetwork, _View
from flowsnap.testing.world import World
from flowsnap.transport.frame import FrameKind, Header
from flowsnap.transport.memory import MemoryFrame
from flowsnap.transport.message import encode_message
from flowsnap.transport.plane import Route
from tests.simulation.rig import Endpoint

ONE, OTHER = WorkerId(0), WorkerId(1)
OPEN_US = 50_000


class Data:
    """Two workers, with a wire in each direction."""

    def __init__(self) -> None:
        self.world = World(1)
        routes = [Route(ChannelId(0), ONE, OTHER), Route(ChannelId(1), OTHER, ONE)]
        self.network = DataNetwork(self.world, routes, "job", AttemptId(1))
        self._views = {worker: _View(self.network, Endpoint(), worker) for worker in (ONE, OTHER)}

    def send(self, source: WorkerId, target: WorkerId, count: int) -> None:
        for sequence in range(1, count + 1):
            frame = MemoryFrame(Header(FrameKind.BARRIER, 1, sequence=sequence))
            self._views[source].put(source, target, frame)

    def received(self, source: WorkerId, target: WorkerId, at_us: int) -> list[int]:
        self.world.time.now_us = at_us
        found = []
        while (frame := self._views[target].take(source, target)) is not None:
            found.append(frame.header.sequence)
        return found


def control() -> tuple[World, ControlHub, ControlLink]:
    world = World(1)
    hub = ControlHub(world, Endpoint(), lambda worker, message: None, lambda message: None)
    return world, hub, hub.link(Endpoint(), ONE)


def run_until(world: World, moment_us: int) -> None:
    world.at(moment_us, lambda: None)
    while world.now_us < moment_us:
        world.advance()


def test_one_direction_between_two_workers_is_blocked_and_the_other_is_open() -> None:
    data = Data()
    data.network.block(ONE, OTHER, OPEN_US)

    data.send(ONE, OTHER, 3)
    data.send(OTHER, ONE, 3)

    assert data.received(OTHER, ONE, OPEN_US - 1) == [1, 2, 3]
    assert data.received(ONE, OTHER, OPEN_US - 1) == []


def test_what_was_sent_during_a_partition_comes_after_it_in_order() -> None:
    data = Data()
    data.network.block(ONE, OTHER, OPEN_US)
    data.send(ONE, OTHER, 3)

    assert data.received(ONE, OTHER, 2 * OPEN_US) == [1, 2, 3]


def test_a_healed_network_delays_nothing_that_is_sent_from_then_on() -> None:
    data = Data()
    data.network.block(ONE, OTHER, OPEN_US)

    data.network.heal()
    data.send(ONE, OTHER, 1)

    assert data.received(ONE, OTHER, OPEN_US - 1) == [1]


def test_a_worker_behind_a_partition_is_told_late() -> None:
    world, _, link = control()
    link.block(OPEN_US, is_up=False)
    for number in (1, 2, 3):
        link._send_down(encode_message(LookRound(attempt=AttemptId(1), number=number)))

    run_until(world, OPEN_US - 1)
    assert link.receive() == []
    run_until(world, 2 * OPEN_US)

    assert [getattr(message, "number", 0) for message in link.receive()] == [1, 2, 3]


def test_a_worker_behind_a_partition_is_not_heard_and_hears_everything() -> None:
    world, hub, link = control()
    link.block(OPEN_US, is_up=True)
    link.greet()
    link._send_down(encode_message(LookRound(attempt=AttemptId(1), number=1)))

    run_until(world, OPEN_US - 1)

    assert link.is_unheard
    assert not hub.inbox
    assert len(link.receive()) == 1


def test_a_partition_of_a_control_connection_heals() -> None:
    world, hub, link = control()
    link.block(OPEN_US, is_up=True)
    link.greet()
    link.beat(1)

    run_until(world, 2 * OPEN_US)

    assert not link.is_unheard
    assert len(hub.inbox) == 3


@pytest.mark.parametrize("is_up", [True, False])
def test_a_block_that_is_over_delays_nothing(is_up: bool) -> None:
    world, hub, link = control()
    link.block(0, is_up=is_up)
    link.greet()
    link._send_down(encode_message(LookRound(attempt=AttemptId(1), number=1)))

    run_until(world, OPEN_US)

    assert (len(hub.inbox), len(link.receive())) == (2, 1)
