from __future__ import annotations

import threading
from typing import Any

import pytest

from flowsnap.connectors import Discard
from flowsnap.errors import ConfigError
from flowsnap.snapshot.network import Network, Process


class Quiet(Process):
    """Does nothing."""

    def on_message(self, channel: str, message: Any) -> None:
        raise AssertionError("nobody sends")


class Keeper(Quiet):
    """Keeps what it is given as its state."""

    def __init__(self, value: Any) -> None:
        self.value = value


def pair() -> Network:
    network = Network("pair")
    network.add("P", Quiet())
    network.add("Q", Quiet())
    return network


def channels_of(network: Network) -> set[tuple[str, str]]:
    edges = network.pipeline().definition().graph.edges
    return {(e.source.removesuffix(".process"), e.target) for e in edges if e.is_feedback}


def test_processes_are_connected_both_ways() -> None:
    network = pair()
    network.connect("P", "Q")

    assert channels_of(network) == {("P", "Q"), ("Q", "P")}


def test_process_without_a_channel_to_it_is_a_loop_all_the_same() -> None:
    network = pair()
    network.connect("P", "Q", one_way=True)

    assert channels_of(network) == {("P", "P"), ("P", "Q")}


def test_process_may_have_a_channel_to_itself() -> None:
    network = pair()
    network.connect("P", "P")
    network.connect("P", "Q", one_way=True)

    assert channels_of(network) == {("P", "P"), ("P", "Q")}


def test_each_process_is_one_task_of_head_and_step() -> None:
    network = pair()
    network.connect("P", "Q")

    graph = network.pipeline().definition(4).graph

    assert {one.name: one.parallelism for one in graph.operators} == dict.fromkeys(
        ["P", "P.process", "Q", "Q.process", "output"], 1
    )


def test_log_is_a_sink_of_its_own() -> None:
    network = Network("logged", log=True, output=Discard())
    network.add("P", Quiet())

    assert "log" in {one.name for one in network.pipeline().definition().graph.operators}


@pytest.mark.parametrize("name", ["", "a b", "-p", "p" * 49, "output", "log", 7], ids=repr)
def test_process_needs_a_name(name: Any) -> None:
    with pytest.raises(ConfigError, match="is not a name for a process"):
        Network("n").add(name, Quiet())


def test_network_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="is not a name"):
        Network("a network")


def test_name_of_a_process_is_taken_once() -> None:
    with pytest.raises(ConfigError, match="two processes named 'P'"):
        pair().add("P", Quiet())


@pytest.mark.parametrize("process", [Quiet, None, "P"], ids=repr)
def test_only_a_process_can_be_added(process: Any) -> None:
    with pytest.raises(ConfigError, match=r"process 'R': .* is not a Process"):
        pair().add("R", process)


def test_state_that_cannot_be_pickled_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match="process 'R': 'value' cannot be pickled"):
        pair().add("R", Keeper(threading.Lock()))


def test_process_that_is_not_there_cannot_be_connected() -> None:
    network = Network("bank")
    network.add("Oakland", Quiet())

    with pytest.raises(ConfigError, match="has no process 'Oakalnd'") as caught:
        network.connect("Oakland", "Oakalnd")
    assert caught.value.__notes__ == ["did you mean 'Oakland'?"]


def test_processes_are_connected_once() -> None:
    network = pair()
    network.connect("P", "Q", one_way=True)

    with pytest.raises(ConfigError, match="there is a channel P to Q already"):
        network.connect("Q", "P")
    assert channels_of(network) == {("P", "P"), ("P", "Q")}


def test_network_without_processes_cannot_run() -> None:
    with pytest.raises(ConfigError, match="'empty' has no processes"):
        Network("empty").pipeline()


def test_output_is_a_sink() -> None:
    with pytest.raises(ConfigError, match="is not a sink"):
        Network("n", output=print)  # type: ignore[arg-type]


def test_invariant_is_a_function() -> None:
    network = pair()
    network.invariant("balance")  # type: ignore[call-overload]

    with pytest.raises(ConfigError, match="is no function"):
        network.pipeline()


def test_process_outside_of_a_network_cannot_send() -> None:
    with pytest.raises(ConfigError, match="a Quiet is in no network that runs"):
        Quiet().send("Q", 1)
