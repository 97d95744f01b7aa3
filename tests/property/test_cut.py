"""Random graphs, delays, alignments and initiators: recorded channel state is what it must be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.core.aligner import Mode
from flowsnap.core.ids import ChannelId, CheckpointId
from tests.property.network_of_tasks import Network, Wire, network_of

ONE, TWO = CheckpointId(1), CheckpointId(2)


@st.composite
def graphs(draw: st.DrawFn) -> list[Wire]:
    """Draw a graph in which every cycle goes through a task that only feedback leads to."""
    count = draw(st.integers(2, 5))
    forward: list[tuple[int, int, bool]] = []
    for target in range(1, count):
        sources = draw(st.lists(st.integers(0, target - 1), min_size=1, max_size=3, unique=True))
        forward += [(source, target, draw(st.booleans())) for source in sources]
    is_looped = draw(st.booleans())
    wires = [
        Wire(ChannelId(number), source, target, is_broadcast=is_broadcast and draw(st.booleans()))
        for number, (source, target, is_broadcast) in enumerate(forward)
    ]
    if is_looped:
        head, tail = count, draw(st.integers(1, count - 1))
        into = draw(st.integers(1, tail))
        wires.append(Wire(ChannelId(len(wires)), tail, head, is_feedback=True))
        wires.append(Wire(ChannelId(len(wires)), head, into))
    return wires


def play(network: Network, choices: st.DataObject, steps: int) -> None:
    """Let ``steps`` things happen: sends, arrivals, takes."""
    channels = sorted(network.wires)
    acts = [network.send, network.force, network.arrive, network.arrive, network.take, network.take]
    for _ in range(steps):
        act = choices.draw(st.sampled_from(acts))
        act(choices.draw(st.sampled_from(channels)))
        network.now_ms += choices.draw(st.sampled_from([0, 0, 1, 5]))


def check(network: Network, checkpoint_id: CheckpointId) -> None:
    """Check every channel of a checkpoint against the definition of its state."""
    for channel, wire in network.wires.items():
        sent = network.nodes[wire.source].cuts[checkpoint_id].sent[channel]
        taken = network.nodes[wire.target].cuts[checkpoint_id].taken[channel]
        assert sent >= taken, "the cut is consistent: nothing was received before it was sent"
        assert network.recorded(checkpoint_id, channel) == list(range(taken + 1, sent + 1))


@pytest.mark.parametrize("timeout_ms", [None, 0, 3], ids=["aligned", "unaligned", "timed"])
@settings(max_examples=25)
@given(wires=graphs(), choices=st.data())
def test_channel_state_is_what_was_sent_before_and_received_after_the_cut(
    timeout_ms: int | None, wires: list[Wire], choices: st.DataObject
) -> None:
    with network_of(wires) as network:
        initiators = choices.draw(st.sets(st.integers(0, len(network.nodes) - 1), max_size=3))
        play(network, choices, 30)
        network.trigger(ONE, timeout_ms, initiators)
        play(network, choices, 40)
        network.settle()

        check(network, ONE)
        assert not any(node.declined for node in network.nodes)


@settings(max_examples=25)
@given(wires=graphs(), choices=st.data())
def test_a_second_checkpoint_after_the_first_one_is_as_consistent(
    wires: list[Wire], choices: st.DataObject
) -> None:
    with network_of(wires) as network:
        for checkpoint_id in (ONE, TWO):
            timeout_ms = choices.draw(st.sampled_from([None, 0, 3]))
            network.trigger(checkpoint_id, timeout_ms, set())
            play(network, choices, 30)
            network.settle()
            check(network, checkpoint_id)


@settings(max_examples=25)
@given(wires=graphs(), choices=st.data())
def test_two_aligned_checkpoints_may_be_under_way_at_once(
    wires: list[Wire], choices: st.DataObject
) -> None:
    with network_of(wires) as network:
        play(network, choices, 15)
        network.trigger(ONE, None, set())
        play(network, choices, 15)
        network.trigger(TWO, None, set())
        play(network, choices, 15)
        network.settle()

        check(network, ONE)
        check(network, TWO)


@settings(max_examples=25)
@given(wires=graphs(), choices=st.data(), timeout_ms=st.sampled_from([None, 0, 3]))
def test_what_is_aborted_leaves_nothing_blocked_and_nothing_open(
    wires: list[Wire], choices: st.DataObject, timeout_ms: int | None
) -> None:
    with network_of(wires) as network:
        network.trigger(ONE, timeout_ms, set())
        play(network, choices, 20)
        for node in network.nodes:
            node.checkpoints.abort(ONE)
        play(network, choices, 20)
        network.settle()

        assert not any(node.blocked for node in network.nodes)
        assert not any(node.checkpoints.has_open for node in network.nodes)


@pytest.mark.parametrize("mode", ["exactly-once", "at-least-once"])
@settings(max_examples=20)
@given(wires=graphs(), choices=st.data())
def test_feedback_is_recorded_in_every_mode(
    mode: Mode, wires: list[Wire], choices: st.DataObject
) -> None:
    with network_of(wires, mode) as network:
        play(network, choices, 20)
        network.trigger(ONE, None, set())
        play(network, choices, 20)
        network.settle()

        for channel, wire in network.wires.items():
            sent = network.nodes[wire.source].cuts[ONE].sent[channel]
            taken = network.nodes[wire.target].cuts[ONE].taken[channel]
            if wire.is_feedback:
                assert network.recorded(ONE, channel) == list(range(taken + 1, sent + 1))
