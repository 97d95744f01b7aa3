"""Random networks, delays and initiators: a snapshot is what the definition says it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsnap.examples import bank, token_pair, tokens
from flowsnap.snapshot.network import (
    Event,
    Network,
    NetworkSnapshot,
    Process,
    passes_through,
    reordered,
)
from tests.property.network_world import directory_in_memory, world_of

Pairs = list[tuple[str, str]]


class Gossip(Process):
    """Tells others something new whenever it hears something, ``budget`` times."""

    def __init__(self, seed: int, budget: int) -> None:
        self.seed = seed
        self.budget = budget
        self.heard: list[str] = []

    def on_start(self) -> None:
        self._tell()

    def on_message(self, channel: str, message: Any) -> None:
        self.heard.append(message)
        self._tell()

    def _tell(self) -> None:
        chance = Random(self.seed)
        self.seed = chance.randrange(2**32)
        for _ in range(min(self.budget, chance.randint(1, 2)) if self.outputs else 0):
            self.budget -= 1
            self.send(chance.choice(self.outputs), f"{self.name}-{self.budget}")


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Draw a network of any shape: with channels to oneself, one way, and parts apart."""
    names = [f"P{number}" for number in range(draw(st.integers(1, 5)))]
    pair = st.tuples(st.sampled_from(names), st.sampled_from(names))
    made = Network("gossip", log=True)
    for name in names:
        made.add(name, Gossip(draw(st.integers(0, 999)), budget=draw(st.integers(10, 60))))
    for source, target in draw(st.lists(pair, min_size=1, max_size=9, unique=True)):
        made.connect(source, target, one_way=True)
    return made


def initiators_of(network: Network) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(list(network._processes)), max_size=3, unique=True)


def check(snapshot: NetworkSnapshot, events: Sequence[Event]) -> None:
    """Check every channel against its definition, by what has really happened."""
    before = [event for event in events if event.number <= snapshot.events[event.process]]
    for channel in snapshot.channels:
        ends = (channel.source, channel.target)
        sent = [m for e in before if e.process == ends[0] for to, _, m in e.sent if to == ends[1]]
        received = [e.message for e in before if (e.channel, e.process) == ends]
        assert (channel.sent, channel.received) == (len(sent), len(received))
        assert sent[: len(received)] == received
        assert list(channel.messages) == sent[len(received) :]
    assert snapshot.violations() == []


@settings(max_examples=30)
@given(network=networks(), seed=st.integers(0, 2**16), data=st.data())
def test_every_channel_holds_what_was_sent_before_and_received_behind_the_cut(
    network: Network, seed: int, data: st.DataObject
) -> None:
    with world_of(network, seed) as world:
        asked = []
        for _ in range(2):
            world.step(data.draw(st.integers(4, 20)))
            asked.append(world.ask(data.draw(initiators_of(network))))
        events = world.finish()
        taken = [world.read(one.result()) for one in asked if one.exception() is None]

    for snapshot in taken:
        check(snapshot, events)


@settings(max_examples=25)
@given(network=networks(), seed=st.integers(0, 2**16), data=st.data())
def test_recorded_state_is_reached_when_events_before_the_cut_come_first(
    network: Network, seed: int, data: st.DataObject
) -> None:
    with world_of(network, seed) as world:
        world.step(data.draw(st.integers(3, 20)))
        asked = world.ask(data.draw(initiators_of(network)))
        events = world.finish()
        if asked.exception() is not None:
            return  # The network had come to rest before.
        snapshot = world.read(asked.result())

    order = reordered(events, snapshot)
    assert passes_through(order, snapshot) is not None
    assert sorted(order, key=repr) == sorted(events, key=repr)


def test_recorded_state_need_never_have_occurred() -> None:
    passed = []
    for seed in range(8):
        # In a line the markers take a while: those at its end go on, and so does the initiator.
        with world_of(line("PQRSTUVW", seed), seed) as world:
            world.step(20)
            asked = world.ask(["P"])
            events = world.finish()
            snapshot = world.read(asked.result())
        assert passes_through(reordered(events, snapshot), snapshot) is not None
        passed.append(passes_through(events, snapshot))

    assert None in passed


def line(names: str, seed: int) -> Network:
    network = Network("gossip", log=True)
    for name in names:
        network.add(name, Gossip(seed, budget=30))
    for number, name in enumerate(names[1:]):
        network.connect(names[number], name)
    return network


@pytest.mark.parametrize("initiators", [["p"], ["q"], []], ids=str)
def test_token_is_seen_in_all_its_four_states_and_never_twice(initiators: list[str]) -> None:
    seen = set()
    for seed in range(6):
        with world_of(token_pair.network(turns=10_000), seed) as world:
            world.step(5)
            for _ in range(6):
                world.step(seed + 3)
                seen.add(token_pair.place(world.snapshot(initiators)))

    assert seen == {"in-p", "in-c", "in-q", "in-c'"}


@pytest.mark.parametrize("seed", range(4))
def test_of_five_coloured_tokens_there_is_exactly_one_each(seed: int) -> None:
    with world_of(tokens.network(turns=10_000), seed) as world:
        for number in range(5):
            world.step(17)
            snapshot = world.snapshot(["pq"[number % 2]])

            assert token_pair.tokens_of(snapshot) == dict.fromkeys(tokens.COLOURS, 1)


@pytest.mark.parametrize("seed", range(4))
def test_balances_and_money_in_transit_are_the_total(seed: int) -> None:
    moving = []
    with world_of(bank.network(10_000), seed) as world:
        for number in range(6):
            world.step(20)
            snapshot = world.snapshot([["SF"], ["NY"], ["SF", "NY"]][number % 3])
            moving.append(bank.in_transit(snapshot))
            assert bank.total(snapshot) == 1_000

    assert any(moving)


@pytest.mark.parametrize("seed", range(3))
def test_network_goes_on_from_its_snapshot_after_a_crash(seed: int, tmp_path: Path) -> None:
    with world_of(bank.network(60), seed, tmp_path) as world:
        world.step(20)
        before = world.snapshot(["NY"])
        world.step(15)
        world.crash()
    with world_of(bank.network(60), seed + 1, tmp_path) as world:
        world.step(6)
        after = world.snapshot(["SF"])

    assert bank.total(before) == bank.total(after) == 1_000
    assert all(after.events[name] >= before.events[name] for name in before.events)
    assert after.violations() == []


lives = st.lists(
    st.tuples(
        st.integers(0, 12), st.lists(st.sampled_from(["SF", "NY"]), max_size=2), st.booleans()
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16), lives=lives)
def test_whenever_it_crashes_everything_is_done_once(
    seed: int, lives: list[tuple[int, list[str], bool]]
) -> None:
    with directory_in_memory() as directory:
        for rounds, initiators, is_under_way in lives:
            with world_of(bank.network(100), seed, directory) as world:
                for initiator in initiators:
                    world.step(rounds)
                    world.snapshot([initiator])
                if is_under_way:
                    world.ask(["NY"])
                world.step(rounds)
        with world_of(bank.network(100), seed, directory) as world:
            world.finish()
            last = world.newest()

    # It starts, tells itself 101 times to go on, and receives 100 transfers.
    assert last.events == {"SF": 202, "NY": 202}
    assert bank.total(last) == 1_000
    assert last.in_transit == []


def test_same_seed_does_the_same() -> None:
    def run(seed: int) -> list[NetworkSnapshot]:
        with world_of(line("PQRS", 3), seed) as world:
            world.step(12)
            return [world.snapshot(["Q"]), world.snapshot(["S"])]

    assert run(7) == run(7)
    assert run(7) != run(8)
